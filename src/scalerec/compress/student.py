"""Which student a word of a command names."""

import dataclasses
import re

from scalerec.config import require
from scalerec.models.recommender import ModelSpec
from scalerec.models.zoo import ZOO

__all__ = ["check_student", "read_student"]

DROPOUT = re.compile(r"dropout([0-9]*\.?[0-9]+)")


def read_student(text: str, teacher: ModelSpec) -> ModelSpec:
    """The student that a word of a command names.

    Args:
        text: Parts joined by ``+``: the name of a net, ``dim`` with a number, ``dropout`` with a
            share, and the sizes of hidden layers joined by ``-``: ``64-32``, ``dim8+64-32``,
            ``wide-deep+dim8+64+dropout0.2``. What is not named is the teacher's, or the net's
            default where the net is another.
        teacher: The teacher's.

    Raises:
        ConfigError: If a part is none of these, or the net has no such setting.

    Example:
        >>> teacher = ModelSpec(model="deepfm", settings={"dim": 16, "hidden": [400, 400]})
        >>> read_student("dim8+64-32+dropout0.1", teacher).settings
        {'dim': 8, 'hidden': [64, 32], 'dropout': 0.1}
    """
    named, changes = _parse(text)
    model = named or teacher.model
    names = [field.name for field in dataclasses.fields(ZOO[model].config)]
    words = {"hidden": "single row of hidden layers", "dropout": "dropout"}
    for name, word in words.items():
        fits = name in names or name not in changes
        require(fits, f"model {model} has no {word}; it has {', '.join(names)}")
    same = model == teacher.model
    kept = teacher.settings if same else {"dim": teacher.net_config().dim}
    return ModelSpec(model=model, settings={**kept, **changes}, init_std=teacher.init_std)


def check_student(text: str) -> None:
    """Refuse a word that names no student, whoever the teacher is.

    Raises:
        ConfigError: If it does not.
    """
    _parse(text)


def _parse(text: str) -> tuple[str, dict[str, object]]:
    """The net, if one is named, and settings."""
    model = ""
    changes: dict[str, object] = {}
    for part in text.split("+"):
        if part in ZOO:
            model = part
        elif part.startswith("dim") and part[3:].isdecimal():
            changes["dim"] = int(part[3:])
        elif part and all(size.isdecimal() for size in part.split("-")):
            changes["hidden"] = [int(size) for size in part.split("-")]
        elif rate := DROPOUT.fullmatch(part):
            changes["dropout"] = float(rate[1])
            require(float(rate[1]) < 1, f"a student's dropout must be in [0, 1); got {part!r}")
        else:
            require(
                False,
                "a student is hidden sizes such as 64-32, dim8, dropout0.2, or a net's name, "
                f"joined by +; got {part!r}",
            )
    return model, changes

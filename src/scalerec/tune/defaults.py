"""What is searched where nobody says: a space for any net of the zoo, from its settings' names."""

import dataclasses
from typing import Any

from scalerec.models.zoo import ZOO
from scalerec.train import TrainConfig
from scalerec.tune.space import Choice, Domain, Range

__all__ = ["default_space"]

_TOWERS = ([64], [128, 64], [256, 128], [400, 400, 400])
_DROPOUT = Range(0, 0.5, step=0.1)
# Of nets, by the setting's name; settings with other names keep their defaults.
_NET: dict[str, Domain] = {
    "dim": Choice((8, 16, 32, 64)),
    "hidden": Choice(_TOWERS),
    "hidden_one": Choice(_TOWERS),
    "hidden_two": Choice(_TOWERS),
    "attention_hidden": Choice(([36], [80, 40])),
    "expert_hidden": Choice(([64], [128], [256])),
    "tower_hidden": Choice(([32], [64], [128])),
    "dropout": _DROPOUT,
    "dropout_one": _DROPOUT,
    "dropout_two": _DROPOUT,
    "num_layers": Range(1, 4, whole=True),
    "num_heads": Choice((1, 2, 4)),
    "num_experts": Choice((2, 4, 8)),
    "num_levels": Range(1, 3, whole=True),
    "num_task_experts": Range(1, 4, whole=True),
    "num_shared_experts": Range(1, 4, whole=True),
    "vector_dim": Choice((16, 32, 64, 128)),
}
_TRAINING: dict[str, Domain] = {
    "dense.lr": Range(3e-4, 1e-2, log=True),
    "tables.lr": Range(3e-4, 1e-1, log=True),
    "tables.l2": Choice((0.0, 1e-7, 1e-6, 1e-5, 1e-4)),
    "init_std": Range(3e-3, 0.3, log=True),
    "schedule.name": Choice(("constant", "linear")),
}
# A default that does not go with the other values: ten heads do not divide a layer of 64.
_OWN_VALUES = ("model.num_heads",)
# An epoch takes about this many steps, at the most and at the least.
_MOST_STEPS, _LEAST_STEPS = 1_000, 50
_BATCH_SIZES = tuple(2**power for power in range(5, 17))


def default_space(model: str, num_rows: int) -> dict[str, Domain]:
    """The space of a net: learning rates, sizes, what holds it back, batch size.

    The defaults are in it, but for those that do not go with its other values.

    Args:
        model: The net's name in the zoo.
        num_rows: Number of training rows, which bounds the size of a batch.
    """
    space: dict[str, Domain] = {}
    for name, default in ZOO[model].config().to_dict().items():
        # A size of 1 says that there is nothing to size.
        if name in _NET and default != 1:
            space[f"model.{name}"] = _with(_NET[name], default, f"model.{name}")
    space |= _TRAINING
    least, most = num_rows / _MOST_STEPS, max(num_rows / _LEAST_STEPS, _BATCH_SIZES[0])
    sizes = [size for size in _BATCH_SIZES if least <= size <= most]
    own = next(f.default for f in dataclasses.fields(TrainConfig) if f.name == "batch_size")
    space["batch_size"] = _with(Choice(tuple(sizes)), own, "batch_size")
    return {name: domain for name, domain in space.items() if _is_free(domain)}


def _with(domain: Domain, default: Any, name: str) -> Domain:
    """The domain, with the default in it; a tower that a net does without stays out."""
    left_out = name in _OWN_VALUES or default == []
    if isinstance(domain, Range) or domain.holds(default) or left_out:
        return domain
    return Choice((*domain.values, default))


def _is_free(domain: Domain) -> bool:
    return isinstance(domain, Range) or len(domain.values) > 1

"""Chains of steps as words: ``prune=0.8,distil=64-32,quantize=int8``.

A step is its name, ``=``, and its first setting; more settings follow after colons, as
``prune=0.8:what=weights:gradual=0.5``. To add a step, write its file (settings with `apply`) and
add its row to `STEPS`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

from scalerec.compress.distil_step import Distil
from scalerec.compress.other_steps import Recalibrate, Tune
from scalerec.compress.pruning_step import Prune
from scalerec.compress.quantising_step import Quantise
from scalerec.compress.shrinking_step import Shrink
from scalerec.compress.work import Step
from scalerec.config import require
from scalerec.errors import ConfigError

__all__ = ["STEPS", "NamedStep", "StepKind", "read_steps"]


class _Settings(Step, Protocol):
    """Settings that are a step, as every `Config` with `apply` is."""

    @classmethod
    def from_dict(cls, values: Mapping[str, object], place: str = "") -> Self:
        """See `Config.from_dict`."""
        ...


class StepKind(NamedTuple):
    """How a step is named and read.

    Args:
        config: Its settings, which apply themselves.
        first: The setting that stands behind the name; empty for none.
    """

    config: type[_Settings]
    first: str


STEPS: dict[str, StepKind] = {
    "prune": StepKind(Prune, "ratio"),
    "shrink": StepKind(Shrink, "how"),
    "distil": StepKind(Distil, "student"),
    "quantize": StepKind(Quantise, "to"),
    "tune": StepKind(Tune, "epochs"),
    "recalibrate": StepKind(Recalibrate, ""),
}


@dataclass(frozen=True, slots=True)
class NamedStep:
    """A step, and the words that named it."""

    text: str
    step: Step


def read_steps(text: str) -> tuple[NamedStep, ...]:
    """The steps that words name.

    Args:
        text: Steps separated by commas.

    Raises:
        ConfigError: If there is none, or a step or a setting is unknown or out of range.

    Example:
        >>> [own.text for own in read_steps("prune=0.5, quantize=int8:tables=int4")]
        ['prune=0.5', 'quantize=int8:tables=int4']
    """
    words = [word.strip() for word in text.split(",")]
    require(all(words), f"steps must be separated by single commas; got {text!r}")
    return tuple(NamedStep(word, _read(word)) for word in words)


def _read(word: str) -> Step:
    head, *others = word.split(":")
    name, equals, first = head.partition("=")
    require(name in STEPS, f"a step must be one of {', '.join(STEPS)}; got {name!r}")
    kind = STEPS[name]
    settings: dict[str, object] = {}
    if kind.first:
        require(bool(first), f"step {name} needs its {kind.first}: {name}=...; got {word!r}")
        settings[kind.first] = _value(kind.config, kind.first, first)
    else:
        require(not equals, f"step {name} has no setting behind its name; got {word!r}")
    for other in others:
        setting, equals, value = other.partition("=")
        require(
            bool(equals and value), f"step {name} needs NAME=VALUE after a colon; got {other!r}"
        )
        require(setting not in settings, f"step {name} has {setting} twice; got {word!r}")
        settings[setting] = _value(kind.config, setting, value)
    return kind.config.from_dict(settings, f"step {name}")


def _value(config: type, setting: str, text: str) -> Any:
    """A value as TOML has it; text where a setting is text, so that `64` may name a student."""
    if config.__annotations__.get(setting) is str:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if text.isprintable():
            return text
        raise ConfigError(f"cannot read {setting}={text!r}") from error

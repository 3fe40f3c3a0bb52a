"""What a search chooses from: for each setting a list of values, or a range.

As text, on the command line and in TOML: ``a|b|c`` is a choice, each part read as TOML where it can
be (``[64,64]|[128,128]``); ``low..high`` is a range, of whole numbers if both ends are;
``low..high:step`` goes by steps from `low`; ``low..high:log`` has every order of magnitude equally
often.
"""

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from scalerec.config import require
from scalerec.errors import ConfigError

__all__ = ["Choice", "Domain", "Range", "parse_domain", "placed", "read_space", "space_text"]

# The metric is what all trials are compared by; a model's name goes in another option.
NOT_SEARCHED = {"metric": "trials are compared by it", "model": "models go in --model"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some values.

    Args:
        values: JSON values, at least two, all different.
    """

    values: tuple[Any, ...]

    @property
    def text(self) -> str:
        """As it would be written on the command line."""
        return "|".join(_text(value) for value in self.values)

    def samples(self) -> list[Any]:
        """All values."""
        return list(self.values)

    def holds(self, value: object) -> bool:
        """Whether it can give a value."""
        return json.dumps(value) in map(json.dumps, self.values)


@dataclass(frozen=True, slots=True)
class Range:
    """A number in a range, both ends included.

    Args:
        low: The lower end.
        high: The upper end, above `low`.
        log: Whether orders of magnitude are equally likely; then `low` is above 0.
        step: Distance between neighbours, counted from `low`; 0 for none.
        whole: Whether only whole numbers are given.
    """

    low: float
    high: float
    log: bool = False
    step: float = 0
    whole: bool = False

    @property
    def text(self) -> str:
        """As it would be written on the command line."""
        tail = ":log" if self.log else f":{_text(self.step)}" if self.step else ""
        return f"{_text(self.low)}..{_text(self.high)}{tail}"

    def samples(self) -> list[Any]:
        """Both ends."""
        return [self.low, self.high]

    def holds(self, value: object) -> bool:
        """Whether it can give a value."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            return False
        return not self.step or _is_multiple(value - self.low, self.step)


Domain = Choice | Range


def parse_domain(name: str, text: str) -> Domain:
    """Read a domain that is written as text.

    Args:
        name: The setting's, for messages.
        text: ``1e-4..1e-2:log``, ``[64,64]|[128,128]``.

    Raises:
        ConfigError: If it is neither a range nor a choice of at least two values.

    Example:
        >>> parse_domain("dense.lr", "1e-4..1e-2:log")
        Range(low=0.0001, high=0.01, log=True, step=0, whole=False)
        >>> parse_domain("model.hidden", "[64,64]|[128]").values
        ([64, 64], [128])
    """
    if ".." in text and "|" not in text:
        return _parse_range(name, text)
    return _choice(name, [_value(part.strip()) for part in text.split("|")], text)


def read_space(table: Mapping[str, Any]) -> dict[str, Domain]:
    """Read a space from TOML: tables nest, a text is a domain, a list is a choice.

    Args:
        table: As TOML gives it.

    Raises:
        ConfigError: If something in it is no domain, or is not searched.
    """
    space: dict[str, Domain] = {}
    for name, value in _flat(table, ""):
        why = NOT_SEARCHED.get(name)
        require(why is None, f"{name} cannot be searched: {why}")
        if isinstance(value, str):
            space[name] = parse_domain(name, value)
        elif isinstance(value, list):
            space[name] = _choice(name, value, json.dumps(value))
        else:
            raise ConfigError(
                f"{name} needs a range or a choice, such as '1e-4..1e-2:log' or [8, 16]; got "
                f"{value!r}; a setting with one value goes in --set"
            )
    return space


def space_text(space: Mapping[str, Domain]) -> dict[str, str]:
    """A space as a person writes it, by the settings' names."""
    return {name: domain.text for name, domain in space.items()}


def placed(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested settings with some values put in by their dotted names.

    Example:
        >>> placed({"dense": {"lr": 1.0}}, {"dense.name": "sgd", "epochs": 2})
        {'dense': {'lr': 1.0, 'name': 'sgd'}, 'epochs': 2}
    """
    copy = {k: placed(v, {}) if isinstance(v, Mapping) else v for k, v in settings.items()}
    for name, value in values.items():
        place = copy
        *parents, last = name.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            require(isinstance(place, dict), f"{name}: {parent!r} has a value already")
        place[last] = value
    return copy


def _flat(table: Mapping[str, Any], head: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{key}.")
        else:
            yield f"{head}{key}", value


def _choice(name: str, values: Sequence[Any], text: str) -> Choice:
    known = {json.dumps(value) for value in values}
    good = len(values) >= 2 and len(known) == len(values)
    require(good, f"{name} needs at least two different values, or a range; got {text!r}")
    return Choice(tuple(values))


def _parse_range(name: str, text: str) -> Range:
    ends, _, tail = text.partition(":")
    low, _, high = ends.partition("..")
    numbers = [_value(part.strip()) for part in (low, high)]
    step = 0 if tail in ("", "log") else _value(tail)
    for number in (*numbers, step):
        good = isinstance(number, int | float) and not isinstance(number, bool)
        allowed = "LOW..HIGH, LOW..HIGH:STEP or LOW..HIGH:log"
        require(good and math.isfinite(number), f"{name} must be {allowed}; got {text!r}")
    whole = all(isinstance(number, int) for number in (*numbers, step))
    found = Range(numbers[0], numbers[1], tail == "log", step, whole)
    require(found.low < found.high, f"{name}: {text!r} must rise from its low to its high end")
    require(not found.log or found.low > 0, f"{name}: a range by log starts above 0; got {text!r}")
    fits = not step or (step > 0 and _is_multiple(found.high - found.low, step))
    require(fits, f"{name}: {text!r} must be a whole number of steps of {tail} long")
    return found


def _is_multiple(length: float, step: float) -> bool:
    """Whether some steps have a length, as the figures are written: .3 is 3 steps of .1."""
    steps = float(Decimal(str(length)) / Decimal(str(step)))
    return abs(steps - round(steps)) < 1e-9


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

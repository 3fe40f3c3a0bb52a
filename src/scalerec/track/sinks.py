"""What a sink is, and the two members that touch no file.

A value has a name such as ``train/loss``, ``valid/auc`` or ``lr``: what is before the slash groups
values, and no name is ``step``. A number that is not finite is a fact about a run, so every sink
takes it; where a format has no such number it becomes null.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol, runtime_checkable

from scalerec.config import require

__all__ = ["Fanout", "MemorySink", "Row", "Sink", "checked", "merge_rows", "plain_row"]

Row = dict[str, float | int | None]
STEP = "step"


@runtime_checkable
class Sink(Protocol):
    """Takes the numbers of a run as they come."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take values by name.

        Args:
            step: Steps done so far, at least 0. One step may be logged in several calls.
            values: Name to number; NaN and infinities are taken too.

        Raises:
            ConfigError: If the step is negative, or a name or a value is not allowed.
        """
        ...

    def close(self) -> None:
        """Write what is still held back; a second call does nothing."""
        ...


def checked(step: int, values: Mapping[str, float]) -> dict[str, float]:
    """Copy what was given to `Sink.log`, as Python floats.

    Raises:
        ConfigError: If the step is negative, or a name or a value is not allowed.
    """
    whole = isinstance(step, int) and not isinstance(step, bool) and step >= 0
    require(whole, f"step must be a whole number of at least 0; got {step!r}")
    ready = {}
    for name, value in values.items():
        named = isinstance(name, str) and bool(name.strip()) and name != STEP
        require(named, f"the name of a value must be text other than {STEP!r}; got {name!r}")
        try:
            ready[name] = float(value)
        except (TypeError, ValueError):
            require(False, f"value {name!r} must be a number; got {value!r}")
    return ready


def plain_row(step: int, values: Mapping[str, float]) -> Row:
    """Give one row of JSON: the step, then the values, null where a number is not finite.

    Raises:
        ConfigError: As `Sink.log`.
    """
    ready = checked(step, values)
    finite = {name: value if math.isfinite(value) else None for name, value in ready.items()}
    return {STEP: step, **finite}


def merge_rows(rows: Sequence[Row]) -> list[Row]:
    """Join the rows of each step, in the order of steps; of a value given twice the last counts.

    A run that goes on from a checkpoint logs the steps since then anew; this leaves one of each.

    Args:
        rows: Each with its ``step``.

    Example:
        >>> merge_rows([{"step": 1, "lr": 0.1}, {"step": 0, "lr": 0.2}, {"step": 1, "lr": 0.3}])
        [{'step': 0, 'lr': 0.2}, {'step': 1, 'lr': 0.3}]
    """
    merged: dict[float, Row] = {}
    for row in rows:
        step = row[STEP]
        assert step is not None
        merged.setdefault(step, {}).update(row)
    return [merged[step] for step in sorted(merged)]


class MemorySink:
    """Keeps the values in a list, for tests and for the curves of a report.

    Example:
        >>> sink = MemorySink()
        >>> sink.log(10, {"train/loss": 0.5})
        >>> sink.log(10, {"valid/auc": 0.75})
        >>> sink.rows()
        [{'step': 10, 'train/loss': 0.5, 'valid/auc': 0.75}]
    """

    def __init__(self) -> None:
        self.records: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep a copy of the values; see `Sink.log`."""
        self.records.append((step, checked(step, values)))

    def close(self) -> None:
        """Do nothing: the records stay."""

    def series(self, name: str) -> list[tuple[int, float]]:
        """Give one value's steps and numbers, as they came."""
        return [(step, values[name]) for step, values in self.records if name in values]

    def rows(self) -> list[Row]:
        """Give one JSON-ready row a step, as the attachment ``curves.json`` holds them."""
        return merge_rows([plain_row(step, values) for step, values in self.records])


class Fanout:
    """Hands everything to several sinks, in their order.

    Args:
        sinks: Any number, none too.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = tuple(sinks)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand the values to every sink; see `Sink.log`."""
        ready = checked(step, values)
        for sink in self.sinks:
            sink.log(step, ready)

    def close(self) -> None:
        """Close every sink, also when one of them fails; its error is raised at the end."""
        with ExitStack() as stack:
            for sink in reversed(self.sinks):
                stack.callback(sink.close)

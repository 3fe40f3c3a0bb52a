"""Some of a split's events, as one process of several learns from."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scalerec.data.batches import Batch
from scalerec.data.dataset import Events

__all__ = ["EventsPart", "Rows"]


class Rows(Protocol):
    """Events that can be read in stretches: a whole split, or a part of one."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def read(self, start: int, stop: int) -> Batch:
        """The events `start` .. `stop` as one batch, fewer where they end before."""
        ...

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """Events by their numbers, in that order."""
        ...


class EventsPart:
    """Some events of a split, in their order there.

    It holds their numbers, nothing of themselves; a run of events needs no numbers.

    Args:
        events: The whole split.
        rows: Their numbers: a run, or an array of whole numbers in rising order.
    """

    def __init__(self, events: Events, rows: range | NDArray[np.integer[Any]]) -> None:
        self.events = events
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, start: int, stop: int) -> Batch:
        """The part's events `start` .. `stop` as one batch, fewer where they end before."""
        own = self.rows[start : min(stop, len(self))]
        if isinstance(own, range):
            return self.events.read(own.start, max(own.start, own.stop))
        return self.events.take(own.astype(np.int64))

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """The part's events by their numbers in it, in that order."""
        return self.events.take(self.numbers(rows))

    def numbers(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers in the split of events by their numbers in the part."""
        if isinstance(self.rows, range):
            return rows + self.rows.start
        return self.rows[rows].astype(np.int64)

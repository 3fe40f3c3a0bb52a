"""Batches in training order: block-shuffled, the same for the same seed, resumable at any step.

A block of consecutive events is read at a time and shuffled within; blocks come in a shuffled
order. So a data set larger than memory is read in long stretches, and a small one (a single block)
is shuffled whole.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Events

__all__ = ["Loader", "read_in_order", "step_seed", "take_positive"]

BLOCK_ROWS = 262_144


class Loader:
    """Gives the training batches of any epoch.

    Args:
        events: The rows.
        batch_size: B; the last batch of an epoch may be shorter.
        seed: Of the order.
        block_rows: Rows read at a time; memory follows it.

    Raises:
        ConfigError: If the batch size is not positive.
    """

    def __init__(
        self, events: Events, batch_size: int, seed: int, block_rows: int = BLOCK_ROWS
    ) -> None:
        require(batch_size >= 1, f"batch_size must be at least 1; got {batch_size}")
        self.events = events
        self.batch_size = batch_size
        self.seed = seed
        # Whole batches to a block, so that only an epoch's last batch is short.
        self.block_rows = max(1, block_rows // batch_size) * batch_size
        self._kept: Batch | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return sum(-(-(stop - start) // self.batch_size) for start, stop in self._blocks())

    def epoch(self, number: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number`, from 0, without its first `first_step` ones."""
        generator = torch.Generator().manual_seed(_mix(self.seed, number))
        blocks = self._blocks()
        # The short block comes last, as the short batch does.
        order = torch.randperm(len(blocks) - 1, generator=generator).tolist()
        skip = first_step
        for place in [*order, len(blocks) - 1]:
            start, stop = blocks[place]
            shuffled = torch.randperm(stop - start, generator=generator)
            parts = shuffled.split(self.batch_size)
            if skip >= len(parts):
                skip -= len(parts)
                continue
            block = self._read(start, stop)
            for index in parts[skip:]:
                yield block.take(index)
            skip = 0

    def _blocks(self) -> list[tuple[int, int]]:
        size = len(self.events)
        return [(s, min(s + self.block_rows, size)) for s in range(0, size, self.block_rows)]

    def _read(self, start: int, stop: int) -> Batch:
        if stop - start < len(self.events):
            return self.events.read(start, stop)
        if self._kept is None:
            self._kept = self.events.read(start, stop)
        return self._kept


def read_in_order(events: Events, batch_size: int) -> Iterator[Batch]:
    """All events in the order of their files, `batch_size` at a time."""
    for start in range(0, len(events), batch_size):
        yield events.read(start, start + batch_size)


def _mix(seed: int, number: int) -> int:
    """One seed from two, far from those of neighbours (the finaliser of SplitMix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + number + 1) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1


def step_seed(seed: int, step: int) -> int:
    """The seed of one step's noise: a resumed run draws what the undisturbed one would have."""
    return _mix(seed ^ 0x5EED, step)


def take_positive(batch: Batch, task: int = 0) -> Tensor:
    """Numbers of the rows whose label is known and positive, ``[P]``."""
    return (batch.label_mask[:, task] & (batch.labels[:, task] > 0)).nonzero().squeeze(1)

"""Batches in training order: block-shuffled, the same for the same seed, resumable at any step.

A block is gathered from a few stretches of the file, drawn at random, and shuffled whole; while one
block is learned from, the next is read. So a data set larger than memory is read in long stretches
and still well mixed, though its files be in the order of time; a small one (a single block) is
shuffled whole and kept.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Events
from scalerec.data.parts import Rows

__all__ = ["BLOCK_ROWS", "Loader", "read_in_order", "step_seed", "take_positive"]

BLOCK_ROWS = 262_144
STRETCHES = 8

Stretch = tuple[int, int]


class Loader:
    """Gives the training batches of any epoch.

    Args:
        events: The rows; of one of several processes all of them, or a shard of its own.
        batch_size: B; the last batch of an epoch may be shorter.
        seed: Of the order.
        block_rows: Rows that are shuffled together; two blocks are in memory at a time.
        share: Which of how many parts of each batch is given, for one of several processes.
        steps: Batches of an epoch, where other processes have more than the rows here give: the
            last ones are empty. 0 for as many as they give.
        order: In a word, what divides the rows; within an epoch, a run can only go on in the same.

    Raises:
        ConfigError: If the batch size is not positive.
    """

    def __init__(
        self,
        events: Rows,
        batch_size: int,
        seed: int,
        block_rows: int = BLOCK_ROWS,
        share: tuple[int, int] = (0, 1),
        steps: int = 0,
        order: str = "batch",
    ) -> None:
        require(batch_size >= 1, f"batch_size must be at least 1; got {batch_size}")
        self.events = events
        self.batch_size = batch_size
        self.seed = seed
        self.share = share
        self.order = order
        self._own_steps = -(-len(events) // batch_size)
        self._steps = max(steps, self._own_steps)
        self.is_whole = len(events) <= max(block_rows, batch_size)
        # Whole batches to a stretch, so that only an epoch's last batch is short.
        self.stretch_rows = max(1, block_rows // STRETCHES // batch_size) * batch_size
        self.num_stretches = max(1, block_rows // self.stretch_rows)
        self._kept: Batch | None = None
        self._reader: ThreadPoolExecutor | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return self._steps

    def epoch(self, number: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number`, from 0, without its first `first_step` ones."""
        if self._reader is None:
            # Not made anew each epoch: an epoch that is left early ends whenever it is collected.
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="scalerec-loader")
        waiting: list[tuple[Future[Batch], list[int]]] = []
        for stretches, index in self._pieces(number, first_step):
            own, sizes = self._own(index)
            waiting.append((self._reader.submit(self._gather, stretches, own), sizes))
            if len(waiting) > 1:
                yield from self._batches(*waiting.pop(0))
        for last in waiting:
            yield from self._batches(*last)
        for _ in range(max(first_step, self._own_steps), self._steps):
            yield self.events.read(0, 0)

    def rows(self, number: int) -> Iterator[NDArray[np.int64]]:
        """Numbers of the events of epoch `number`, batch by batch as `epoch` gives them, unread."""
        for stretches, index in self._pieces(number, 0):
            own, sizes = self._own(index)
            rows = _numbers(stretches)[own.numpy()]
            yield from np.split(rows, np.cumsum(sizes)[:-1])
        for _ in range(self._own_steps, self._steps):
            yield np.zeros(0, np.int64)

    def _own(self, index: Tensor) -> tuple[Tensor, list[int]]:
        """This process's part of each batch's rows, and the parts' sizes; one may be empty."""
        part, num_parts = self.share
        parts = [rows.tensor_split(num_parts)[part] for rows in index.split(self.batch_size)]
        return index if num_parts == 1 else torch.cat(parts), [len(rows) for rows in parts]

    def _batches(self, reading: Future[Batch], sizes: list[int]) -> Iterator[Batch]:
        piece, start = reading.result(), 0
        for size in sizes:
            yield piece.slice(start, start + size)
            start += size

    def _pieces(self, number: int, skip: int) -> Iterator[tuple[tuple[Stretch, ...], Tensor]]:
        """Which rows of which block come next, block by block; one that is kept comes in pieces."""
        generator = torch.Generator().manual_seed(_mix(self.seed, number))
        whole_steps = max(1, BLOCK_ROWS // self.batch_size)
        for stretches in self._blocks(generator):
            size = sum(stop - start for start, stop in stretches)
            shuffled = torch.randperm(size, generator=generator)
            skipped = min(size, skip * self.batch_size)
            skip -= -(-skipped // self.batch_size)
            most = whole_steps * self.batch_size if self.is_whole else max(1, size)
            for index in shuffled[skipped:].split(most):
                if len(index):
                    yield stretches, index

    def _blocks(self, generator: torch.Generator) -> list[tuple[Stretch, ...]]:
        """The stretches of each block, in this epoch's order."""
        size = len(self.events)
        if self.is_whole:
            return [((0, size),)]
        starts = range(0, size, self.stretch_rows)
        stretches = [(start, min(start + self.stretch_rows, size)) for start in starts]
        # The short stretch comes last, as the short batch does.
        order = torch.randperm(len(stretches) - 1, generator=generator).tolist()
        shuffled = [stretches[place] for place in [*order, len(stretches) - 1]]
        many = self.num_stretches
        return [tuple(shuffled[at : at + many]) for at in range(0, len(shuffled), many)]

    def _gather(self, stretches: tuple[Stretch, ...], index: Tensor) -> Batch:
        """Read a block and put its rows in order; a set that is one block is read once."""
        block = self._kept
        if not self.is_whole and self.share[1] > 1:
            return self._take(stretches, index)
        if block is None:
            parts = [self.events.read(start, stop) for start, stop in stretches]
            block = parts[0] if len(parts) == 1 else Batch.concat(parts)
            if self.is_whole:
                self._kept = block
        return block.take(index)

    def _take(self, stretches: tuple[Stretch, ...], index: Tensor) -> Batch:
        """Read the own rows of a block alone, in the order of the file."""
        rows, back = np.unique(_numbers(stretches)[index.numpy()], return_inverse=True)
        return self.events.take(rows).take(torch.from_numpy(back))


def _numbers(stretches: tuple[Stretch, ...]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(start, stop) for start, stop in stretches])


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


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of one step's noise: a resumed run draws what the undisturbed one would have.

    Args:
        seed: Of the run.
        step: Number of the step.
        rank: Number of the process, whose neighbours draw other noise.
    """
    own = _mix(seed ^ 0x5EED, step)
    return _mix(own, rank) if rank else own


def take_positive(batch: Batch, task: int = 0) -> Tensor:
    """Numbers of the rows whose label is known and positive, ``[P]``."""
    return (batch.label_mask[:, task] & (batch.labels[:, task] > 0)).nonzero().squeeze(1)

"""Tasks and episodes: the rows of a split by user, item or domain, and few of them to adapt on.

A task is everything that is known of one key: a user's rows, an item's, a domain's. An episode
divides the rows of some tasks into a support, on which each adapts, and a query, by which it is
judged.

Shapes: T tasks, N rows of several tasks one after the other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import take_ragged
from scalerec.data.dataset import Events
from scalerec.errors import DataError

__all__ = ["Choose", "Episode", "Ragged", "TaskSet"]

CHUNK_ROWS = 65_536

Choose = Callable[[Tensor, int, torch.Generator], Tensor]
"""Chooses at most so many of a task's rows (their numbers ``[n]`` int64): their places among them,
the most wanted first."""


@dataclass(frozen=True, slots=True)
class Ragged:
    """Rows of several tasks, one task after the other.

    Args:
        rows: Numbers of events of the split, ``[N]`` int64.
        offsets: Where each task's rows start; the last entry is N; ``[T+1]`` int64.
    """

    rows: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Number of rows of each task, ``[T]`` int64."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def tasks(self) -> Tensor:
        """The place, from 0, of the task to which each row belongs, ``[N]`` int64."""
        return torch.repeat_interleave(self.lengths)

    @property
    def ranks(self) -> Tensor:
        """Each row's place among those of its task, from 0, ``[N]`` int64."""
        return torch.arange(len(self.rows)) - self.offsets[self.tasks]

    def of(self, task: int) -> Tensor:
        """The rows of the task at this place."""
        return self.rows[self.offsets[task] : self.offsets[task + 1]]

    def take(self, tasks: Tensor) -> "Ragged":
        """The rows of these tasks, in this order; a task may be taken twice.

        Args:
            tasks: Places, ``[K]`` int64.
        """
        return Ragged(*take_ragged(self.rows, self.offsets, tasks))

    def keep(self, mask: Tensor) -> "Ragged":
        """The rows that a mask ``[N]`` bool names; a task may be left with none."""
        counts = torch.bincount(self.tasks[mask], minlength=len(self))
        return Ragged(self.rows[mask], _offsets(counts))

    def first(self, num: int) -> "Ragged":
        """At most the first `num` rows of each task."""
        return self.keep(self.ranks < num)


@dataclass(frozen=True, slots=True)
class Episode:
    """Some tasks, each with rows to adapt on and rows to be judged by.

    Args:
        keys: The user, item or domain of each task, ``[T]`` int64.
        support: What each adapts on; a row of it is in no query.
        query: What it is judged by.
    """

    keys: Tensor
    support: Ragged
    query: Ragged

    def __len__(self) -> int:
        return len(self.keys)

    def first(self, num_support: int) -> "Episode":
        """The same queries after at most the first `num_support` rows of each support.

        So an episode with the largest support gives a whole curve over the number of examples, on
        fixed query rows and with supports that contain each other.
        """
        return Episode(self.keys, self.support.first(num_support), self.query)

    def take(self, tasks: Tensor) -> "Episode":
        """These tasks, in this order, by their places ``[K]`` int64."""
        return Episode(self.keys[tasks], self.support.take(tasks), self.query.take(tasks))


class TaskSet:
    """All rows of a split by key: a user, an item, or what a categorical column says.

    Args:
        events: The split. It is read once, in chunks, where `by` is a column's name.
        by: `user`, `item`, or an id field of the layout, such as a domain.
        least_rows: A key with fewer rows is no task, at least 1.
        keys: Each row's key, ``[rows]`` int64, where the events do not tell keys apart, since all
            that are new are one out-of-vocabulary id; -1 for nobody's row.

    Raises:
        DataError: If the events have no such column, or no key has so many rows.
    """

    def __init__(
        self, events: Events, by: str, *, least_rows: int = 1, keys: Tensor | None = None
    ) -> None:
        require(least_rows >= 1, f"least_rows must be at least 1; got {least_rows}")
        self.events, self.by = events, by
        numbers, least_key = _keys_of(events, by) if keys is None else (keys, 0)
        good = len(numbers) == len(events)
        require(good, f"keys must be one a row of {len(events)}; got {len(numbers)}")
        there = torch.nonzero(numbers >= least_key).flatten()
        order = there[torch.argsort(numbers[there], stable=True)]
        found, counts = torch.unique_consecutive(numbers[order], return_counts=True)
        wanted = torch.nonzero(counts >= least_rows).flatten()
        if not len(wanted):
            most = int(counts.max()) if len(counts) else 0
            raise DataError(
                f"{events.dataset.directory}: split {events.name!r} has no {by} with at least "
                f"{least_rows} rows; the most that one has is {most}"
            )
        self.keys: Tensor = found[wanted]
        self.rows: Ragged = Ragged(order, _offsets(counts)).take(wanted)

    def __len__(self) -> int:
        return len(self.keys)

    def rows_of(self, task: int) -> Tensor:
        """The numbers of a task's rows in the split, in order, ``[n]`` int64."""
        return self.rows.of(task)

    def take(self, tasks: Tensor) -> "TaskSet":
        """A set of these tasks alone, in this order, by their places ``[K]`` int64."""
        other = object.__new__(TaskSet)
        other.events, other.by = self.events, self.by
        other.keys, other.rows = self.keys[tasks], self.rows.take(tasks)
        return other

    def hold_out(self, share: float, generator: torch.Generator) -> tuple["TaskSet", "TaskSet"]:
        """Divide the tasks by chance into those to learn from and those held out.

        Args:
            share: Of the tasks that are held out, in (0, 1); at least one task is, and one is not.
            generator: Draws them.

        Raises:
            ConfigError: If the share is out of its range, or there is but one task.
        """
        require(0 < share < 1, f"share must be in (0, 1); got {share}")
        require(len(self) >= 2, f"holding tasks out needs at least 2 of them; got {len(self)}")
        num = min(max(1, round(share * len(self))), len(self) - 1)
        drawn = torch.randperm(len(self), generator=generator)
        return self.take(drawn[num:].sort().values), self.take(drawn[:num].sort().values)

    def episode(
        self,
        tasks: Tensor,
        num_support: int | None,
        num_query: int | None,
        generator: torch.Generator,
        *,
        choose: Choose | None = None,
    ) -> Episode:
        """Divide the rows of some tasks by chance into support and query.

        The query is drawn first, so the same state of the generator gives the same query rows for
        any `num_support`, and supports that contain each other. A task with too few rows has its
        query whole and a shorter support.

        Args:
            tasks: Their places in the set, ``[T]`` int64; one may come twice.
            num_support: Rows to adapt on, from 0; None for all that are not in the query.
            num_query: Rows to be judged by, from 1; None for all that are not in the support,
                which is then drawn first.
            generator: Draws them.
            choose: Chooses the support among the rows outside the query; None for chance.

        Raises:
            ConfigError: If a number is out of its range, both are None, or a task is left without
                a query.
        """
        _check_numbers(num_support, num_query)
        shuffled = _shuffle(self.rows.take(tasks), generator)
        pool = shuffled if num_query is None else shuffled.keep(shuffled.ranks >= num_query)
        support = pool if num_support is None else _choose(pool, num_support, choose, generator)
        if num_query is None:
            query = shuffled.keep(~torch.isin(_codes(shuffled), _codes(support)))
        else:
            query = shuffled.first(num_query)
        empty = torch.nonzero(query.lengths == 0).flatten()
        if len(empty):
            key = int(self.keys[tasks[empty[0]]])
            require(False, f"{self.by} {key} has no row left for its query; raise least_rows")
        return Episode(self.keys[tasks], support, query)


def _check_numbers(num_support: int | None, num_query: int | None) -> None:
    both = num_support is None and num_query is None
    require(not both, "one of num_support and num_query must be a number; both are None")
    good = num_support is None or num_support >= 0
    require(good, f"num_support must be at least 0; got {num_support}")
    good = num_query is None or num_query >= 1
    require(good, f"num_query must be at least 1; got {num_query}")


def _keys_of(events: Events, by: str) -> tuple[Tensor, int]:
    """Each row's key, ``[rows]`` int64, and the least that is one: padding and -1 are nobody's."""
    if by in ("user", "item"):
        return torch.from_numpy(np.array(events.column(by), dtype=np.int64)), 0
    names = [field.name for field in events.dataset.layout.ids]
    if by not in names:
        known = ", ".join(["user", "item", *names])
        raise DataError(f"{events.dataset.directory}: tasks are by one of {known}; got {by!r}")
    field, num = names.index(by), len(events)
    chunks = [
        events.read(start, start + CHUNK_ROWS).ids[field] for start in range(0, num, CHUNK_ROWS)
    ]
    return torch.cat(chunks), 1


def _offsets(counts: Tensor) -> Tensor:
    offsets = torch.zeros(len(counts) + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets


def _shuffle(ragged: Ragged, generator: torch.Generator) -> Ragged:
    """Each task's rows in an order of chance."""
    noise = torch.rand(len(ragged.rows), dtype=torch.float64, generator=generator)
    return Ragged(ragged.rows[torch.argsort(ragged.tasks + noise)], ragged.offsets)


def _choose(pool: Ragged, num: int, choose: Choose | None, generator: torch.Generator) -> Ragged:
    if choose is None:
        return pool.first(num)
    chosen = []
    for task in range(len(pool)):
        rows = pool.of(task)
        chosen.append(rows[choose(rows, min(num, len(rows)), generator)])
    counts = torch.tensor([len(rows) for rows in chosen], dtype=torch.int64)
    return Ragged(torch.cat([*chosen, pool.rows[:0]]), _offsets(counts))


def _codes(ragged: Ragged) -> Tensor:
    """A number for each task's row that no other has: a task may be there twice."""
    return ragged.rows * len(ragged) + ragged.tasks

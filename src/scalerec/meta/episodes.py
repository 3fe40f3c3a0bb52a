"""From episodes to examples: rows are read, and those of each task fill a rectangle.

Shapes: T tasks, S rows of each, N rows of all.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.dataset import Events
from scalerec.data.vocabulary import OOV
from scalerec.meta.histories import history_kinds, tell_anew
from scalerec.meta.personal import Examples, PersonalModel
from scalerec.meta.tasks import Episode, Ragged

__all__ = ["Laid", "Mixing", "Opened", "Reader", "draw_mixing", "lay", "rectangle", "shorten"]


@dataclass(frozen=True, slots=True)
class Mixing:
    """Which tasks an update mixes.

    Args:
        partners: The place of the task that each may be mixed with, ``[T]`` int64.
        shares: Share of each one's rows that are the partner's, ``[T]``; 0 for none.
    """

    partners: Tensor
    shares: Tensor


@dataclass(frozen=True, slots=True)
class Laid:
    """The rows of some tasks, side by side; those that only fill a place do not count.

    Args:
        support: Rows, and whether each counts, ``[T, S]``.
        query: Likewise, ``[T, Q]``.
    """

    support: tuple[Tensor, Tensor]
    query: tuple[Tensor, Tensor]

    def __len__(self) -> int:
        return len(self.support[0])

    def take(self, tasks: Tensor) -> "Laid":
        """These tasks, by their places ``[K]`` int64."""
        return Laid(*((rows[tasks], counts[tasks]) for rows, counts in (self.support, self.query)))


@dataclass(frozen=True, slots=True)
class Opened:
    """The examples of an episode.

    Args:
        support: What each task adapts on.
        query: What it is judged by.
        numbers: Rows of the matrix that they read, in order, ``[K]`` int64; None for all.
        counted: Which of the query's examples are rows of the episode, in order, ``[E]`` bool.
    """

    support: Examples
    query: Examples
    numbers: Tensor | None
    counted: Tensor


def rectangle(ragged: Ragged, spare: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of each task side by side; where a task has fewer than others, a row fills up.

    Args:
        ragged: Of T tasks.
        spare: A row of each task that fills up, ``[T]`` int64.

    Returns:
        The rows and whether each counts, ``[T, S]``; S is at least 1.
    """
    lengths = ragged.lengths
    width = max(1, int(lengths.max())) if len(ragged) else 1
    places = torch.arange(width)
    counts = places < lengths.unsqueeze(1)
    rows = spare.unsqueeze(1).repeat(1, width)
    rows[counts] = ragged.rows
    return rows, counts


def shorten(episode: Episode, least: int, drop: float, generator: torch.Generator) -> Episode:
    """Give each task a number of examples by chance.

    Args:
        episode: With the most examples that there may be.
        least: Fewest, unless a task has fewer or is dropped.
        drop: Chance that a task has none.
        generator: Draws them.
    """
    num, support = len(episode), episode.support
    most = max(least, int(support.lengths.max())) if num else least
    lengths = torch.randint(least, most + 1, (num,), generator=generator)
    lengths[torch.rand(num, generator=generator) < drop] = 0
    return Episode(
        episode.keys, support.keep(support.ranks < lengths[support.tasks]), episode.query
    )


def draw_mixing(num_tasks: int, chance: float, generator: torch.Generator) -> Mixing | None:
    """Draw which tasks are mixed, with whom, and how much; None if none may be.

    Args:
        num_tasks: T.
        chance: That a task is mixed.
        generator: Draws them.
    """
    if not chance or num_tasks < 2:
        return None
    shares = torch.rand(num_tasks, generator=generator)
    shares[torch.rand(num_tasks, generator=generator) >= chance] = 0.0
    return Mixing(torch.randperm(num_tasks, generator=generator), shares)


def lay(
    episode: Episode, mixing: Mixing | None = None, generator: torch.Generator | None = None
) -> Laid:
    """Lay the rows of an episode side by side.

    Args:
        episode: The tasks.
        mixing: Mixes them.
        generator: Draws which rows are mixed.
    """
    spare = episode.query.rows[episode.query.offsets[:-1]]
    parts = []
    for ragged in (episode.support, episode.query):
        rows, counts = rectangle(ragged, spare)
        if mixing is not None:
            rows = _mix(rows, counts, mixing, generator)
        parts.append((rows, counts))
    return Laid(*parts)


class Reader:
    """Reads episodes of one split.

    Args:
        model: The model.
        events: The split.
        hidden: Number of the id field that is read as one never seen, or None.
        by: What a task is. Histories of users are told anew; see `scalerec.meta.histories`.
    """

    def __init__(
        self, model: PersonalModel, events: Events, hidden: int | None = None, by: str = ""
    ) -> None:
        self.model, self.events, self._hidden = model, events, hidden
        self._kinds = history_kinds(events.dataset.schema) if by == "user" else {}

    def read(self, episode: Episode | Laid, *, gather: bool = False) -> Opened:
        """Read support and query.

        Args:
            episode: The tasks.
            gather: Whether the examples' places are among those rows alone that they read.
        """
        laid = lay(episode) if isinstance(episode, Episode) else episode
        batches = self._batch(*laid.support), self._batch(*laid.query)
        if self._kinds:
            batches = tell_anew(self.model.layout, self._kinds, *batches, laid.support[1])
        numbers = None
        if gather:
            tables = self.model.recommender.tables
            numbers = torch.unique(torch.cat([tables.rows_of(batch) for batch in batches]))
        support, query = (self.model.read(batch, len(laid), numbers) for batch in batches)
        return Opened(support, query, numbers, laid.query[1].flatten())

    def _batch(self, rows: Tensor, counts: Tensor) -> Batch:
        batch = self.events.take(rows.flatten().numpy())
        if self._hidden is not None:
            batch.ids[self._hidden] = OOV
        return replace(batch, weights=batch.weights * counts.flatten())


def _mix(rows: Tensor, counts: Tensor, mixing: Mixing, generator: torch.Generator | None) -> Tensor:
    """Rows of which some are those of another task, at the same place."""
    drawn = torch.rand(rows.shape, generator=generator) < mixing.shares.unsqueeze(1)
    both = drawn & counts & counts[mixing.partners]
    return torch.where(both, rows[mixing.partners], rows)

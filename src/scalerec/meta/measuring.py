"""What adaptation gains: ranking metrics on fixed query rows, against the number of examples.

A task is ranked by itself: its query rows in the order of their scores. Equal scores keep the order
of the query, which an episode draws by chance.

Shapes: N query rows of T tasks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import require
from scalerec.meta.tasks import Episode, Ragged
from scalerec.metrics import auc

__all__ = [
    "Measured",
    "Score",
    "curve",
    "measure",
    "recovered",
    "standard_error",
    "task_auc",
    "task_ndcg",
    "top_rated",
]

Floats = NDArray[np.float64]

Score = Callable[[Episode], Tensor]
"""Scores ``[N]`` of an episode's query rows, in their order, after adapting on its support."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """How well the query rows are ranked after a number of examples.

    Args:
        num_examples: That each task adapted on, at most.
        ndcg: Mean over tasks with a positive query row.
        auc: Over all query rows together.
        task_auc: Mean over tasks with both classes among their query rows.
        by_task: Metric (`ndcg`, `task_auc`) to each task's value, ``[T]``, NaN where undefined.
    """

    num_examples: int
    ndcg: float
    auc: float
    task_auc: float
    by_task: dict[str, Floats]

    def value(self, metric: str) -> float:
        """One of `ndcg`, `auc`, `task_auc`."""
        return {"ndcg": self.ndcg, "auc": self.auc, "task_auc": self.task_auc}[metric]


def measure(
    scores: Tensor, labels: Tensor, query: Ragged, *, k: int = 10, num_examples: int = 0
) -> Measured:
    """Measure one ranking of all query rows.

    Args:
        scores: ``[N]``, finite; higher ranks earlier.
        labels: Whether a row is positive, ``[N]`` bool.
        query: The rows of each task.
        k: Length of the lists that NDCG looks at.
        num_examples: That the scores come from.
    """
    values, positive = scores.double().numpy(), labels.numpy().astype(bool)
    offsets = query.offsets.numpy()
    ndcg, own_auc = task_ndcg(values, positive, offsets, k), task_auc(values, positive, offsets)
    whole = auc(positive, values)
    return Measured(
        num_examples=num_examples,
        ndcg=_mean(ndcg),
        auc=math.nan if whole is None else whole,
        task_auc=_mean(own_auc),
        by_task={"ndcg": ndcg, "task_auc": own_auc},
    )


def curve(
    score: Score, episode: Episode, labels: Tensor, numbers: Sequence[int], *, k: int = 10
) -> list[Measured]:
    """Measure a method for each number of examples, on the same query rows.

    Args:
        score: The method.
        episode: With the largest supports; each number takes the first rows of them.
        labels: Of the query rows, ``[N]`` bool.
        numbers: Of examples, such as 0, 1, 3, 5, 10, 20.
        k: Length of the lists that NDCG looks at.
    """
    return [
        measure(score(episode.first(num)), labels, episode.query, k=k, num_examples=num)
        for num in numbers
    ]


def recovered(value: float, unadapted: float, ceiling: float) -> float:
    """The share of the distance from the unadapted model to the ceiling that was recovered.

    Returns:
        0 at the unadapted model, 1 at the ceiling; NaN where they are one.
    """
    distance = ceiling - unadapted
    return (value - unadapted) / distance if distance else math.nan


def standard_error(one: Floats, other: Floats) -> float:
    """The standard error of the mean difference of two methods over the same tasks.

    Args:
        one: Each task's metric, ``[T]``, NaN where undefined.
        other: The other method's, undefined for the same tasks.
    """
    difference = (one - other)[~np.isnan(one - other)]
    require(len(difference) >= 2, f"an error needs at least 2 tasks; got {len(difference)}")
    return float(difference.std(ddof=1) / math.sqrt(len(difference)))


def task_ndcg(
    scores: Floats, positive: NDArray[np.bool_], offsets: NDArray[np.int64], k: int
) -> Floats:
    """NDCG of each task's list, binary gains; NaN for a task without a positive row, ``[T]``.

    Args:
        scores: ``[N]``.
        positive: ``[N]``.
        offsets: Where each task's rows start, ``[T+1]``.
        k: Length of the list that counts, at least 1.
    """
    require(k >= 1, f"k must be at least 1; got {k}")
    num, task = len(offsets) - 1, np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((-scores, task))
    rank = np.arange(len(scores)) - offsets[task]
    gains = positive[order] * (rank < k) / np.log2(rank + 2.0)
    found = np.bincount(task, gains, num)
    best = np.concatenate([[math.nan], (1 / np.log2(np.arange(k) + 2.0)).cumsum()])
    counts = np.bincount(task, positive, num).astype(np.int64)
    ndcg: Floats = found / best[np.minimum(counts, k)]
    return ndcg


def task_auc(scores: Floats, positive: NDArray[np.bool_], offsets: NDArray[np.int64]) -> Floats:
    """AUC of each task's rows, a tie counting one half; NaN where one class is absent, ``[T]``.

    Args:
        scores: ``[N]``.
        positive: ``[N]``.
        offsets: Where each task's rows start, ``[T+1]``.
    """
    num, task = len(offsets) - 1, np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((scores, task))
    place = np.arange(len(scores)) - offsets[task] + 1.0
    starts = np.ones(len(scores), bool)
    starts[1:] = (np.diff(scores[order]) != 0) | (np.diff(task) != 0)
    run = np.cumsum(starts) - 1
    rank = (np.bincount(run, place) / np.bincount(run))[run]
    good = np.bincount(task, positive[order], num)
    bad = np.diff(offsets) - good
    total = np.bincount(task, rank * positive[order], num)
    pairs = np.where((good > 0) & (bad > 0), good * bad, math.nan)
    found: Floats = (total - good * (good + 1) / 2) / pairs
    return found


def top_rated(values: Tensor, query: Ragged, num: int) -> Tensor:
    """Which rows are relevant where a label is a number: each task's highest, ``[N]`` bool.

    Args:
        values: Labels, such as ratings, ``[N]``.
        query: The rows of each task.
        num: Relevant rows of each task; of equal labels the first count.
    """
    order = torch.from_numpy(np.lexsort((-values.double().numpy(), query.tasks.numpy())))
    relevant = torch.zeros(len(values), dtype=torch.bool)
    relevant[order] = query.ranks < num
    return relevant


def _mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan

"""What an algorithm is: from the examples of some tasks to how they would have the start move.

That is an `Update` of `scalerec.rounds`, whose weight is the number of tasks. Updates of parts of a
batch, wherever they were computed, have that of the batch as their weighted mean. Its names:

- the recommender's own for parameters outside the tables; that of an adapted one after `RATES` for
  the rate of adapting it, where rates are learned;
- `ROWS` for rows of the matrix of all tables;
- `OWN_ROWS` for rows that moved with a task whose own they are. One row may be that of many tasks,
  and then moves by the mean over those alone, so beside each displacement stands, as one number
  more, the share of tasks that it is of: both are means over all tasks, and `with_own_rows` divides
  one by the other.

Shapes: T tasks, K rows, W a row's width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scalerec.meta.personal import Examples, PersonalModel, Shared
from scalerec.rounds import TableRows, Update, sum_rows

__all__ = [
    "OWN_ROWS",
    "RATES",
    "ROWS",
    "Algorithm",
    "Learned",
    "Lesson",
    "RateKind",
    "against",
    "judged_tasks",
    "mean_of_tasks",
    "with_own_rows",
]

ROWS, OWN_ROWS, RATES = "rows", "own_rows", "rates/"

RateKind = Literal["fixed", "layer", "number"]
"""Rates of adapting: one that stays, one learned for each parameter, one for each number of it."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What an algorithm learns from in one step.

    Args:
        model: The model.
        shared: Where tasks start; leaves whose gradients are wanted.
        rates: Of each adapted parameter; leaves where they are learned.
        support: What each task adapts on.
        query: What it is judged by.
        numbers: Which rows of the matrix `shared.rows` holds, in order; None for all.
        steps: Of adapting.
        second_order: Whether to differentiate through the gradients of adapting.
        prior: As in `scalerec.meta.adapting.adapt`.
    """

    model: PersonalModel
    shared: Shared
    rates: dict[str, Tensor]
    support: Examples
    query: Examples
    numbers: Tensor | None
    steps: int
    second_order: bool
    prior: float = 0.0

    @property
    def row_numbers(self) -> Tensor:
        """The row of the matrix that each of `shared.rows` is, ``[K]`` int64."""
        return torch.arange(len(self.shared.rows)) if self.numbers is None else self.numbers


class Learned(NamedTuple):
    """What an algorithm gives.

    Args:
        update: How the tasks would have the start move; its weight is the number of those that are
            judged, and without any it moves nothing.
        losses: Each task's loss on its query after adapting, ``[T]``.
    """

    update: Update
    losses: Tensor


class Algorithm(NamedTuple):
    """A row of the table.

    Args:
        paper: Name, first author and year.
        learn: Its step.
        second_order: Whether it differentiates through the gradients of adapting.
        adapt: What adapts unless said; see `scalerec.meta.parts`.
        rates: Which rates it has unless said.
    """

    paper: str
    learn: Callable[[Lesson], Learned]
    second_order: bool = False
    adapt: str = "all"
    rates: RateKind = "fixed"


def judged_tasks(query: Examples) -> Tensor:
    """Whether a task has an example, of a weight above 0, to be judged by, ``[T]`` bool."""
    return (query.batch.weights.view(query.num_tasks, -1) > 0).any(1)


def mean_of_tasks(losses: Tensor, query: Examples) -> Tensor:
    """The mean loss of the tasks that are judged; 0 without any.

    Args:
        losses: Of each task, ``[T]``.
        query: Their examples.
    """
    counted = judged_tasks(query).to(losses)
    return (losses * counted).sum() / counted.sum().clamp(min=1)


def against(
    lesson: Lesson,
    dense: Mapping[str, Tensor | None],
    rows: Tensor | None,
    weight: float,
) -> Update:
    """The update that goes against gradients.

    Args:
        lesson: Whose they are.
        dense: By name; None for a parameter that has no part in the loss.
        rows: Of `Lesson.shared`; None likewise.
        weight: The number of tasks behind them.
    """
    moved = {name: -grad for name, grad in dense.items() if grad is not None}
    tables = {} if rows is None else {ROWS: TableRows(rows=lesson.row_numbers, values=-rows)}
    return Update(dense=moved, tables=tables, weight=weight)


def with_own_rows(mean: Update) -> Update:
    """The mean of updates with all rows under `ROWS`.

    What else is known of a row that was a task's own gives way to where that task went.

    Args:
        mean: As algorithms give it, or the mean of such.
    """
    tables = dict(mean.tables)
    own = tables.pop(OWN_ROWS, None)
    if own is None:
        return mean
    moved = TableRows(rows=own.rows, values=own.values[:, :-1] / own.values[:, -1:])
    if ROWS in tables:
        rest = tables[ROWS]
        kept = ~torch.isin(rest.rows, own.rows)
        others = TableRows(rows=rest.rows[kept], values=rest.values[kept])
        moved = sum_rows(ROWS, [others, moved])
    return replace(mean, tables={**tables, ROWS: moved})

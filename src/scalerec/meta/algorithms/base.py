"""What an algorithm is: from the examples of some tasks to the way in which the start moves.

Shapes: T tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from scalerec.meta.personal import Examples, PersonalModel, Shared

__all__ = ["Algorithm", "Lesson", "MetaGradient", "RateKind", "mean_of_tasks"]

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


class MetaGradient(NamedTuple):
    """What the outer optimiser goes against.

    Args:
        dense: By name; none for a parameter that has no part in the loss.
        rows: Of `Shared.rows`.
        rates: Of the rates, by name; empty where they are not learned.
        losses: Each task's loss on its query after adapting, ``[T]``.
    """

    dense: dict[str, Tensor]
    rows: Tensor | None
    rates: dict[str, Tensor]
    losses: Tensor


class Algorithm(NamedTuple):
    """A row of the table.

    Args:
        paper: Name, first author and year.
        gradient: Its step.
        second_order: Whether it differentiates through the gradients of adapting.
        adapt: What adapts unless said; see `scalerec.meta.parts`.
        rates: Which rates it has unless said.
    """

    paper: str
    gradient: Callable[[Lesson], MetaGradient]
    second_order: bool = False
    adapt: str = "all"
    rates: RateKind = "fixed"


def mean_of_tasks(losses: Tensor, query: Examples) -> Tensor:
    """The mean loss of the tasks that have a query.

    Args:
        losses: Of each task, ``[T]``.
        query: Their examples.
    """
    counted = (query.batch.weights.view(query.num_tasks, -1) > 0).any(1).to(losses)
    return (losses * counted).sum() / counted.sum().clamp(min=1)

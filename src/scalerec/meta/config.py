"""Settings of meta-learning."""

from dataclasses import dataclass
from typing import Literal

from scalerec.config import Config, require
from scalerec.meta.algorithms import ALGORITHMS
from scalerec.meta.algorithms.base import RateKind

__all__ = ["METRICS", "MetaConfig"]

METRICS = ("auto", "loss", "ndcg", "auc", "task_auc")


@dataclass(frozen=True, kw_only=True, slots=True)
class MetaConfig(Config):
    """How a start is learned from which tasks adapt well.

    Args:
        algorithm: One of `ALGORITHMS`.
        adapt: What adapts: `head`, `decision`, `own`, `all` or patterns of names, separated by
            commas; `auto` for what the algorithm's paper has. See `scalerec.meta.parts`.
        steps: Of adapting, at least 1.
        rate: Of adapting; the first one where rates are learned.
        prior: Examples that the start is worth, at least 0: fewer examples move a task less. See
            `scalerec.meta.adapting.adapt`.
        rates: `fixed`, `layer` (one learned for each parameter), `number` (one for each number of
            it), or `auto` for what the algorithm's paper has.
        scaled: Whether the first rates of the `own` row, one for each of its numbers, are `rate`
            times that number's variance among known keys: biases then move far, and what hardly
            differs among keys does not. One rate for all suits no film's or user's row.
        moves: What of the start moves. `own`: the row alone that keys never seen read, so that
            known keys are scored as before; it needs `own` among what adapts.
        num_support: Most examples that a task adapts on, at least 1.
        least_support: Fewest; each task's number is drawn anew in every update.
        num_query: Examples by which a task is judged in an update, at least 1.
        tasks: Tasks in an update, at least 1.
        at_once: Tasks that compute at a time; 0 for all of an update. Fewer take less memory and
            more time, and give the same but for the order of sums and for what dropout draws.
        updates: Most updates of the start, at least 1.
        optimiser: Moves the start: `adam` or `sgd`.
        lr: Its rate, for parameters outside the tables.
        rows_lr: Its rate for rows of tables; 0 keeps them as they are.
        rates_lr: Its rate for learned rates.
        l2: Adds so many times each parameter outside the tables to its gradient.
        max_norm: Largest norm of the gradient of these; 0 for no bound.
        task_dropout: Chance that a task adapts on nothing in an update, in [0, 1): the start itself
            stays good.
        mixing: Chance that a task is mixed with another in an update, in [0, 1]: a share of its
            rows, drawn from [0, 1], in support and query alike, is the other's.
        as_new: Whether a task's key is read as one never seen; new keys will be read so.
        held_out: Share of tasks that are kept aside to stop by, where no others are given.
        evaluate_every: Updates between two evaluations, at least 1.
        patience: It stops after more evaluations than so many without a gain, and the best start is
            kept; -1 to go on to the end and keep the last.
        metric: What decides: `loss`, `ndcg` (at 10), `auc` or `task_auc` of held-out tasks after
            adapting; `auto` is `task_auc` for a binary first task and `loss` else.
        most_tasks: Most tasks that an evaluation looks at.
        checkpoint_every: Updates between two checkpoints; 0 for none.
        seed: Of episodes, held-out tasks and dropout.
    """

    algorithm: str = "maml"
    adapt: str = "auto"
    steps: int = 5
    rate: float = 0.1
    prior: float = 0.0
    rates: Literal["auto", "fixed", "layer", "number"] = "auto"
    scaled: bool = False
    moves: Literal["all", "own"] = "all"
    num_support: int = 10
    least_support: int = 1
    num_query: int = 20
    tasks: int = 32
    at_once: int = 0
    updates: int = 2000
    optimiser: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    rows_lr: float = 1e-3
    rates_lr: float = 1e-3
    l2: float = 0.0
    max_norm: float = 10.0
    task_dropout: float = 0.0
    mixing: float = 0.0
    as_new: bool = True
    held_out: float = 0.1
    evaluate_every: int = 50
    patience: int = 5
    metric: str = "auto"
    most_tasks: int = 500
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        known = ", ".join(ALGORITHMS)
        good = self.algorithm in ALGORITHMS
        require(good, f"algorithm must be one of {known}; got {self.algorithm!r}")
        good = self.metric in METRICS
        require(good, f"metric must be one of {', '.join(METRICS)}; got {self.metric!r}")
        for name in ("steps", "num_support", "num_query", "tasks", "updates", "evaluate_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("most_tasks",):
            _at_least(name, getattr(self, name), 1)
        at_least_0 = ("lr", "rows_lr", "rates_lr", "l2", "max_norm", "prior")
        for name in (*at_least_0, "at_once", "checkpoint_every"):
            _at_least(name, getattr(self, name), 0)
        good = self.moves == "all" or self.as_new
        require(good, "moves=own needs as_new: known keys read rows of their own")
        require(self.rate > 0, f"rate must be above 0; got {self.rate}")
        good = 0 <= self.least_support <= self.num_support
        allowed = f"from 0 to num_support={self.num_support}"
        require(good, f"least_support must be {allowed}; got {self.least_support}")
        good = 0 <= self.task_dropout < 1
        require(good, f"task_dropout must be in [0, 1); got {self.task_dropout}")
        require(0 <= self.mixing <= 1, f"mixing must be in [0, 1]; got {self.mixing}")
        require(0 < self.held_out < 1, f"held_out must be in (0, 1); got {self.held_out}")
        require(self.patience >= -1, f"patience must be at least -1; got {self.patience}")

    @property
    def parts(self) -> str:
        """What adapts, in words."""
        return ALGORITHMS[self.algorithm].adapt if self.adapt == "auto" else self.adapt

    @property
    def rate_kind(self) -> RateKind:
        """Which rates there are."""
        return ALGORITHMS[self.algorithm].rates if self.rates == "auto" else self.rates


def _at_least(name: str, value: float, least: float) -> None:
    require(value >= least, f"{name} must be at least {least}; got {value}")

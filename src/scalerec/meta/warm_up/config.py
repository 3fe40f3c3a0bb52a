"""Settings of learning to warm new ids up."""

from dataclasses import dataclass
from typing import Literal

from scalerec.config import Config, require

__all__ = ["WarmUpConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUpConfig(Config):
    """How warming up is learned on known ids.

    Args:
        method: `meta-embedding` (Pan et al., 2019) or `mwuf` (Zhu et al., 2021).
        entity: Whose new ids get rows: `item` or `user`.
        hidden: Sizes of hidden layers; as the papers have them if empty: none, and one of 16.
        epochs: The most passes over the known ids (`mwuf`: over their events).
        patience: Passes without a better loss of the held-out ids after which it stops.
        held_out: Share of the known ids that are held out to tell when to stop, in (0, 1).
        ids_per_step: With `meta-embedding`, ids in a step.
        rows_per_id: Events in each of the two disjoint batches of an id; an id with fewer events
            than both need is not learned from.
        batch_size: With `mwuf`, events in a step.
        alpha: With `meta-embedding`, the share of the loss before refining, in [0, 1].
        lr: Learning rate of the modules, by Adam.
        inner_lr: Learning rate of the rows; if it is not given, the best of a few for rows that
            start as all do, on the ids that are learned from.
        learn_rates: With `meta-embedding`, whether a rate a column is learned from there on, as
            Meta-SGD does (Li et al., 2017, https://arxiv.org/abs/1707.09835).
        steps: Gradient steps by which a row is refined.
        seed: Of initial weights and of what is drawn.

    Raises:
        ConfigError: If a setting is out of its range.
    """

    method: Literal["meta-embedding", "mwuf"] = "meta-embedding"
    entity: Literal["item", "user"] = "item"
    hidden: tuple[int, ...] = ()
    epochs: int = 20
    patience: int = 3
    held_out: float = 0.1
    ids_per_step: int = 32
    rows_per_id: int = 10
    batch_size: int = 512
    alpha: float = 0.1
    lr: float = 1e-3
    inner_lr: float | None = None
    learn_rates: bool = True
    steps: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "ids_per_step", "rows_per_id", "batch_size", "steps"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1; got {value}")
        for name in ("lr", "inner_lr"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be above 0; got {value}")
        require(0 <= self.alpha <= 1, f"alpha must be in [0, 1]; got {self.alpha}")
        require(0 < self.held_out < 1, f"held_out must be in (0, 1); got {self.held_out}")

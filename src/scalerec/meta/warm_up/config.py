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
        ids_per_step: Ids in a step by episodes, which are two batches of an id's events.
        rows_per_id: Events in each of the two disjoint batches of an id; an id with fewer events
            than both need is not learned from.
        varied: Whether the first batch has from 1 to `rows_per_id` events, by chance, so that few
            examples are met in learning too; an id with one more than `rows_per_id` is then learned
            from. In the paper all have as many.
        episodes: With `mwuf`, whether it is learned as `meta-embedding` is: by what few events give
            a cold row, and not by cold rows that all events of their ids have trained, as in the
            paper.
        batch_size: With `mwuf`, events in a step, unless it is learned by episodes.
        alpha: The share of the loss before refining, in [0, 1]; also in what tells when to stop.
        lr: Learning rate of the modules, by Adam.
        inner_lr: Learning rate of the rows; if it is not given, the best of a few for rows that
            start as all do, on the ids that are learned from.
        prior: How many examples the start of a row counts for, at least 0, which is the paper's; if
            it is not given, it is tried beside the rate. See `Pace`.
        learn_rates: By episodes, whether a rate a column and the prior are learned from there on,
            as Meta-SGD does (Li et al., 2017, https://arxiv.org/abs/1707.09835).
        steps: Gradient steps by which a row is refined.
        seed: Of initial weights and of what is drawn.

    Raises:
        ConfigError: If a setting is out of its range.
    """

    method: Literal["meta-embedding", "mwuf"] = "meta-embedding"
    entity: Literal["item", "user"] = "item"
    hidden: tuple[int, ...] = ()
    epochs: int = 50
    patience: int = 5
    held_out: float = 0.1
    ids_per_step: int = 32
    rows_per_id: int = 10
    varied: bool = True
    episodes: bool = False
    batch_size: int = 512
    alpha: float = 0.1
    lr: float = 1e-3
    inner_lr: float | None = None
    prior: float | None = None
    learn_rates: bool = True
    steps: int = 1
    seed: int = 0

    @property
    def by_episodes(self) -> bool:
        """Whether it is learned by what few events give."""
        return self.episodes or self.method == "meta-embedding"

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "ids_per_step", "rows_per_id", "batch_size", "steps"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1; got {value}")
        for name in ("lr", "inner_lr"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be above 0; got {value}")
        good = self.prior is None or self.prior >= 0
        require(good, f"prior must be at least 0; got {self.prior}")
        require(0 <= self.alpha <= 1, f"alpha must be in [0, 1]; got {self.alpha}")
        require(0 < self.held_out < 1, f"held_out must be in (0, 1); got {self.held_out}")

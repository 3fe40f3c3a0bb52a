"""Settings of a search."""

from dataclasses import dataclass
from typing import Literal

from scalerec.config import Config, require

__all__ = ["TuneConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneConfig(Config):
    """How settings are searched.

    Args:
        trials: How many are tried in all, those of a search that is resumed included.
        timeout: Seconds after which no further trial starts; 0 for no limit.
        seed: Of the search.
        sampler: `tpe` learns from the trials so far (Algorithms for Hyper-Parameter Optimization,
            Bergstra et al., 2011); `random` does not.
        startup: Trials that `tpe` draws at random before it starts to learn.
        pruner: What stops a trial early, at an evaluation: `median`, if it is worse than half of
            the earlier ones were at that time; `hyperband` (Li et al., 2018,
            https://arxiv.org/abs/1603.06560); `none`.
    """

    trials: int = 30
    timeout: float = 0.0
    seed: int = 1
    sampler: Literal["tpe", "random"] = "tpe"
    startup: int = 10
    pruner: Literal["median", "hyperband", "none"] = "median"

    def __post_init__(self) -> None:
        for name, bound in {"trials": 1, "timeout": 0, "seed": 0, "startup": 1}.items():
            value = getattr(self, name)
            require(value >= bound, f"{name} must be at least {bound}; got {value}")
        words = {"sampler": ("tpe", "random"), "pruner": ("median", "hyperband", "none")}
        for name, allowed in words.items():
            value = getattr(self, name)
            require(value in allowed, f"{name} must be one of {', '.join(allowed)}; got {value!r}")

"""Warming new ids up: rows from features, refined by the first examples."""

from scalerec.meta.warm_up.adopting import adopt, warm_grown
from scalerec.meta.warm_up.config import WarmUpConfig
from scalerec.meta.warm_up.learning import Learned, learn_warm_up
from scalerec.meta.warm_up.scoring import WarmScore
from scalerec.meta.warm_up.warming import score_with_rows, warm_rows, with_warm_up

__all__ = [
    "Learned",
    "WarmScore",
    "WarmUpConfig",
    "adopt",
    "learn_warm_up",
    "score_with_rows",
    "warm_grown",
    "warm_rows",
    "with_warm_up",
]

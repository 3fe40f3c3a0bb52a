"""Meta-learning: new users, items and domains from a few examples."""

from scalerec.meta.choosing import CHOICES, Candidates, RowChooser, choose
from scalerec.meta.tasks import Choose, Episode, Ragged, TaskSet
from scalerec.meta.warm_up import (
    WarmScore,
    WarmUpConfig,
    adopt,
    learn_warm_up,
    warm_grown,
    warm_rows,
)

__all__ = [
    "CHOICES",
    "Candidates",
    "Choose",
    "Episode",
    "Ragged",
    "RowChooser",
    "TaskSet",
    "WarmScore",
    "WarmUpConfig",
    "adopt",
    "choose",
    "learn_warm_up",
    "warm_grown",
    "warm_rows",
]

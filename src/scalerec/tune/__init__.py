"""Searching settings: a space, a study that survives kills, and the best trial as a bundle."""

from scalerec.tune.config import TuneConfig
from scalerec.tune.plan import Plan, make_plan
from scalerec.tune.search import Tuned, tune
from scalerec.tune.space import Choice, Range, parse_domain, read_space
from scalerec.tune.study import TrialRecord

__all__ = [
    "Choice",
    "Plan",
    "Range",
    "TrialRecord",
    "TuneConfig",
    "Tuned",
    "make_plan",
    "parse_domain",
    "read_space",
    "tune",
]

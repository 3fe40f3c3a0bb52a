"""A model as a function of many parties' parameters, computed for all of them at once.

A party is whoever has parameters of its own: a member of a federation, or a user, an item or a
domain that a model adapts to.
"""

from scalerec.train.cohort.holdings import Holdings, hold, hold_examples
from scalerec.train.cohort.models import PartyModel, RecommenderModel
from scalerec.train.cohort.module_model import ModuleModel, class_losses
from scalerec.train.cohort.moves import Moves

__all__ = [
    "Holdings",
    "ModuleModel",
    "Moves",
    "PartyModel",
    "RecommenderModel",
    "class_losses",
    "hold",
    "hold_examples",
]

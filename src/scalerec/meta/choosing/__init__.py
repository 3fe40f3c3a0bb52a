"""Choosing the few: which examples are taken under a budget."""

from scalerec.meta.choosing.balancing import balanced, quotas
from scalerec.meta.choosing.candidates import Candidates
from scalerec.meta.choosing.choices import CHOICES, choose
from scalerec.meta.choosing.covering import covering_radius, k_centre_greedy
from scalerec.meta.choosing.herding import herding
from scalerec.meta.choosing.representing import cluster, representatives
from scalerec.meta.choosing.rows import RowChooser

__all__ = [
    "CHOICES",
    "Candidates",
    "RowChooser",
    "balanced",
    "choose",
    "cluster",
    "covering_radius",
    "herding",
    "k_centre_greedy",
    "quotas",
    "representatives",
]

"""Compression: smaller and faster models, judged by what a server feels."""

from scalerec.compress.distil import DistilConfig, Distillation
from scalerec.compress.neurons import NeuronConfig, prune_units
from scalerec.compress.pruning import GradualPruning, Masks, PruneConfig, prune_weights
from scalerec.compress.recalibration import calibrate, recalibrated
from scalerec.compress.rows import ColumnConfig, RowConfig
from scalerec.compress.student import read_student
from scalerec.compress.teacher import Teacher, open_teacher

__all__ = [
    "ColumnConfig",
    "DistilConfig",
    "Distillation",
    "GradualPruning",
    "Masks",
    "NeuronConfig",
    "PruneConfig",
    "RowConfig",
    "Teacher",
    "calibrate",
    "open_teacher",
    "prune_units",
    "prune_weights",
    "read_student",
    "recalibrated",
]

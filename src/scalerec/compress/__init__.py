"""Compression: smaller and faster models, judged by what a server feels."""

from scalerec.compress.neurons import NeuronConfig, prune_units
from scalerec.compress.pruning import GradualPruning, Masks, PruneConfig, prune_weights
from scalerec.compress.rows import ColumnConfig, RowConfig

__all__ = [
    "ColumnConfig",
    "GradualPruning",
    "Masks",
    "NeuronConfig",
    "PruneConfig",
    "RowConfig",
    "prune_units",
    "prune_weights",
]

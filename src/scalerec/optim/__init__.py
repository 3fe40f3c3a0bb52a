"""Optimisers: pure ones, ones for table rows, torch's own for the dense part, and schedules."""

from scalerec.optim.dense import OptimiserConfig, build_optimiser
from scalerec.optim.pure import (
    OPTIMISERS,
    Optimiser,
    Transform,
    adagrad,
    adam,
    add_l2,
    by_group,
    chain,
    clip_by_global_norm,
    safe_sqrt,
    sgd,
)
from scalerec.optim.rows import (
    ROW_OPTIMISERS,
    Adagrad,
    LazyAdam,
    RowOptimiser,
    RowwiseAdagrad,
    Sgd,
)
from scalerec.optim.schedules import (
    Plateau,
    Schedule,
    ScheduleConfig,
    cosine_factor,
    linear_factor,
    warmup_factor,
)

__all__ = [
    "OPTIMISERS",
    "ROW_OPTIMISERS",
    "Adagrad",
    "LazyAdam",
    "Optimiser",
    "OptimiserConfig",
    "Plateau",
    "RowOptimiser",
    "RowwiseAdagrad",
    "Schedule",
    "ScheduleConfig",
    "Sgd",
    "Transform",
    "adagrad",
    "adam",
    "add_l2",
    "build_optimiser",
    "by_group",
    "chain",
    "clip_by_global_norm",
    "cosine_factor",
    "linear_factor",
    "safe_sqrt",
    "sgd",
    "warmup_factor",
]

"""Training: the loop, its settings, checkpoints and the runtime it runs in."""

from scalerec.train.config import TableConfig, TrainConfig
from scalerec.train.loop import Trained, train
from scalerec.train.losses import retrieval_loss, row_losses, task_loss
from scalerec.train.runtime import OneProcess, Runtime

__all__ = [
    "OneProcess",
    "Runtime",
    "TableConfig",
    "TrainConfig",
    "Trained",
    "retrieval_loss",
    "row_losses",
    "task_loss",
    "train",
]

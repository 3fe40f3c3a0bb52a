"""Training: the loop, its settings, checkpoints and the runtime it runs in."""

from scalerec.train.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from scalerec.train.config import TableConfig, TrainConfig
from scalerec.train.goal import Goal
from scalerec.train.learner import Learner
from scalerec.train.lesson import Lesson
from scalerec.train.loop import Trained, train
from scalerec.train.losses import retrieval_loss, row_losses, task_loss
from scalerec.train.runtime import OneProcess, Runtime
from scalerec.train.start import Start, open_start

__all__ = [
    "Checkpoint",
    "Goal",
    "Learner",
    "Lesson",
    "OneProcess",
    "Runtime",
    "Start",
    "TableConfig",
    "TrainConfig",
    "Trained",
    "open_start",
    "read_checkpoint",
    "retrieval_loss",
    "row_losses",
    "task_loss",
    "train",
    "write_checkpoint",
]

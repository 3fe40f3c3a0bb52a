"""What a step of compression takes and gives."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from scalerec.compress.distil import DistilConfig, Distillation
from scalerec.compress.teacher import Teacher
from scalerec.compress.tuning import fine_tune
from scalerec.config import require
from scalerec.data.dataset import Dataset
from scalerec.data.schema import TaskKind
from scalerec.models.recommender import Recommender
from scalerec.train import TrainConfig

__all__ = ["Step", "Work", "check_tuning"]

OnProgress = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A model on its way through the steps.

    Args:
        recommender: As it is now; a step gives another and leaves this one as it is.
        teacher: What was given to be compressed, or several models: students learn from it, and
            calibration is compared with it.
        dataset: Training rows to learn from, validation rows to judge by.
        training: How the given model was trained: the settings of students and of fine-tuning,
            where a step says nothing else.
        adaptable: Names and patterns of parameters that the bundle calls adaptable, ``*`` alone for
            any; those named in particular stay in float.
        folder: Where teachers' logits are kept; in memory without one.
        on_progress: As in `scalerec.train.train`.
        notes: What a person should know of the last step, in words.
    """

    recommender: Recommender
    teacher: Teacher
    dataset: Dataset
    training: TrainConfig
    adaptable: tuple[str, ...] = ("*",)
    folder: Path | None = None
    on_progress: OnProgress | None = None
    notes: tuple[str, ...] = ()

    def with_model(self, recommender: Recommender) -> "Work":
        """The same with another model, and without notes."""
        return replace(self, recommender=recommender, notes=())

    def noting(self, *notes: str) -> "Work":
        """The same with further notes; empty ones are left out."""
        return replace(self, notes=(*self.notes, *filter(None, notes)))

    def stays_float(self, name: str) -> bool:
        """Whether a parameter is called adaptable in particular."""
        return any(own != "*" and fnmatchcase(name, own) for own in self.adaptable)

    def tuning(self, epochs: int, rate: float) -> TrainConfig:
        """Settings for training further.

        Args:
            epochs: Passes over the training rows.
            rate: Times the learning rates of the first training.
        """
        config = self.training
        dense = config.dense.replace(lr=config.dense.lr * rate)
        tables = config.tables.replace(lr=config.tables.lr * rate)
        return config.replace(epochs=epochs, dense=dense, tables=tables)

    def train_on(self, recommender: Recommender, epochs: int, rate: float, teach: float) -> "Work":
        """The work with a model that was trained further, in place.

        Args:
            recommender: The model.
            epochs: Passes over the training rows; 0 for none.
            rate: Times the learning rates of the first training.
            teach: Share of the teacher's scores in the loss.
        """
        if epochs:
            config, lesson = self.tuning(epochs, rate), self.lesson(teach)
            recommender = fine_tune(recommender, self.dataset, config, lesson=lesson)
        return self.with_model(recommender)

    def lesson(self, weight: float) -> Distillation | None:
        """What training further learns from beside the labels.

        Args:
            weight: Of the teacher's scores.

        Returns:
            Nothing at weight 0, and where a task is one of retrieval: its scores are no targets.
        """
        tasks = self.dataset.schema.tasks
        if not weight or any(task.kind is TaskKind.RETRIEVAL for task in tasks):
            return None
        settings = DistilConfig(weight=weight)
        seed = self.training.seed
        return Distillation(self.teacher, self.dataset, settings, seed=seed, folder=self.folder)


def check_tuning(epochs: int, rate: float, teach: float, *, name: str = "epochs") -> None:
    """Refuse settings of training further that are out of range.

    Raises:
        ConfigError: If one is.
    """
    require(epochs >= 0, f"{name} must be at least 0; got {epochs}")
    require(rate > 0, f"rate must be above 0; got {rate}")
    require(0 <= teach <= 1, f"teach must be in [0, 1]; got {teach}")


class Step(Protocol):
    """One step: settings, and what they make of a model."""

    def apply(self, work: Work) -> Work:
        """The work with another model.

        Raises:
            ConfigError: If the step does not fit the model or the data.
        """
        ...

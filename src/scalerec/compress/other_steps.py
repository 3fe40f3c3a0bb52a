"""The steps `tune` and `recalibrate`."""

from dataclasses import dataclass

from scalerec.compress.recalibration import calibrate, recalibrated
from scalerec.compress.work import Work, check_tuning
from scalerec.config import Config, require
from scalerec.models.forming import formed

__all__ = ["Recalibrate", "Tune"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tune(Config):
    """Train further.

    Args:
        epochs: Passes over the training rows, at least 1.
        rate: Times the learning rates of the first training.
        teach: Share of the teacher's scores in the loss, in [0, 1].
    """

    epochs: int
    rate: float = 0.3
    teach: float = 0.5

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs must be at least 1; got {self.epochs}")
        check_tuning(self.epochs, self.rate, self.teach)

    def apply(self, work: Work) -> Work:
        """Train a copy further."""
        own = formed(work.recommender, work.recommender.spec.forms)
        return work.train_on(own, self.epochs, self.rate, self.teach)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recalibrate(Config):
    """Scale and shift the logits of tasks whose calibration earlier steps moved; else nothing."""

    def apply(self, work: Work) -> Work:
        """Look at the validation rows, beside the model that was given."""
        reference = work.teacher.recommenders[0]
        found = calibrate(work.recommender, work.dataset, reference)
        told = [f"{own.task}: {own.reason}" for own in found]
        told = told or ["there is no binary task, whose scores could be recalibrated"]
        return work.with_model(recalibrated(work.recommender, found)).noting(*told)

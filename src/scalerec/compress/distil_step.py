"""The step `distil`: a smaller net learns from the teacher."""

from dataclasses import dataclass, replace
from typing import Literal

from scalerec.compress.distil import DistilConfig, distil
from scalerec.compress.student import check_student, read_student
from scalerec.compress.teacher import Teacher
from scalerec.compress.work import Work
from scalerec.config import Config, require
from scalerec.models.forms import Forms
from scalerec.models.recommender import ModelSpec

__all__ = ["Distil"]

Start = Literal["drawn", "teacher"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Distil(Config):
    """Train a smaller net, by the teacher's scores and the labels.

    The teacher is what was given to be compressed; where earlier steps changed the model, the mean
    of both, since two models know more than one. Fields that were left out stay out.

    Args:
        student: The net: hidden sizes such as ``64-32``, ``dim8``, ``dropout0.2``, a net's name,
            joined by ``+``; what it does not say is the teacher's.
        weight: Share of the teacher's scores in the loss; the labels have the rest.
        temperature: What logits are divided by.
        hint: Weight of the hidden layers' term.
        drawn: Rows drawn for each row of a batch, which nobody has labelled.
        tables: What embeddings start from: `drawn`, the `teacher`'s, narrowed, or `auto`: the
            teacher's where there is one, whose tables are plain and at least as wide.
        epochs: Passes over the training rows; 0 for as many as the teacher had.
        rate: Times the learning rates of the teacher's training.
    """

    student: str
    weight: float = 0.5
    temperature: float = 1.0
    hint: float = 0.0
    drawn: float = 0.0
    tables: Literal["auto", "drawn", "teacher"] = "drawn"
    epochs: int = 0
    rate: float = 1.0

    def __post_init__(self) -> None:
        require(self.epochs >= 0, f"epochs must be at least 0; got {self.epochs}")
        require(self.rate > 0, f"rate must be above 0; got {self.rate}")
        check_student(self.student)
        self._settings("drawn")

    def apply(self, work: Work) -> Work:
        """Train the student."""
        teacher = work.teacher
        spec = read_student(self.student, teacher.recommenders[0].spec)
        if work.recommender is not teacher.recommenders[0]:
            spec = replace(spec, forms=Forms(fields=work.recommender.spec.forms.fields))
            teacher = Teacher([*teacher.recommenders, work.recommender], average=teacher.average)
        config = work.tuning(self.epochs or work.training.epochs, self.rate)
        trained = distil(
            work.dataset, teacher, spec, config, self._settings(self._start(teacher, spec)),
            checkpoints=work.folder, on_progress=work.on_progress,
        )  # fmt: skip
        return work.with_model(trained.recommender)

    def _start(self, teacher: Teacher, spec: ModelSpec) -> Start:
        if self.tables != "auto":
            return self.tables
        if len(teacher.recommenders) > 1:
            return "drawn"
        theirs = teacher.recommenders[0].spec
        plain = not any(own.forms.tables or own.forms.fields for own in (theirs, spec))
        fits = plain and spec.net_config().dim <= theirs.net_config().dim
        return "teacher" if fits else "drawn"

    def _settings(self, tables: Start) -> DistilConfig:
        return DistilConfig(
            weight=self.weight,
            temperature=self.temperature,
            hint=self.hint,
            drawn=self.drawn,
            tables=tables,
        )

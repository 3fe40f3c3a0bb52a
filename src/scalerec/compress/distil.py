"""Distillation: a small model learns from a large one, or from several, beside the labels.

The teacher's logits over the training rows are found once. Where rows are drawn, which are those
that nobody has labelled, and where a hidden layer is followed, the teacher runs along.

Shapes: B rows, C columns of logits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scalerec.compress.hints import Listener, hint_loss, last_hidden, make_regressor
from scalerec.compress.inherit import inherit_tables
from scalerec.compress.soft import soft_losses
from scalerec.compress.teacher import Teacher, noted_path
from scalerec.config import Config, require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.loading import step_seed
from scalerec.data.pairing import pair
from scalerec.data.sampling import NegativeSampler
from scalerec.data.schema import TaskKind
from scalerec.models.growing import GrownRows
from scalerec.models.recommender import ModelSpec, Recommender
from scalerec.track import Sink
from scalerec.train import Start, TrainConfig, Trained, task_loss, train
from scalerec.train.learner import AfterStep

__all__ = ["DistilConfig", "Distillation", "distil"]

OnProgress = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilConfig(Config):
    """What a student takes from its teacher.

    The teacher's scores of training rows are found in full precision; those of drawn rows, and of
    all rows where there are hints, in the run's.

    Args:
        weight: Share of the teacher's scores in the loss, the labels have the rest; in [0, 1].
        temperature: What logits are divided by, above 0; at 1 the student learns the teacher's
            probabilities, far above it the differences of their logits.
        hint: Weight of the hidden layers' term, at least 0.
        student_layer: The module of the student that gives the hint's layer; by default the last
            hidden layer of its first multi-layer perceptron.
        teacher_layer: The same of the teacher.
        drawn: Rows drawn for each row of a batch, at least 0: a row's user and context with an item
            drawn as a negative is. They have no label; the teacher's scores are learned.
        drawn_by: `uniform` over the items met in training, or `popularity`.
        tables: What embeddings start from: `drawn`, or the `teacher`'s, narrowed. Of several
            teachers, these and hints are the first one's.
    """

    weight: float = 0.5
    temperature: float = 1.0
    hint: float = 0.0
    student_layer: str = ""
    teacher_layer: str = ""
    drawn: float = 0.0
    drawn_by: Literal["uniform", "popularity"] = "uniform"
    tables: Literal["drawn", "teacher"] = "drawn"

    def __post_init__(self) -> None:
        require(0 <= self.weight <= 1, f"weight must be in [0, 1]; got {self.weight}")
        require(self.temperature > 0, f"temperature must be above 0; got {self.temperature}")
        require(self.hint >= 0, f"hint must be at least 0; got {self.hint}")
        require(self.drawn >= 0, f"drawn must be at least 0; got {self.drawn}")
        words = ("uniform", "popularity")
        require(self.drawn_by in words, f"drawn_by must be one of {words}; got {self.drawn_by!r}")
        starts = ("drawn", "teacher")
        require(self.tables in starts, f"tables must be one of {starts}; got {self.tables!r}")


class Distillation:
    """The lesson of a teacher; see `scalerec.train.lesson`.

    Args:
        teacher: Of the data set's layout.
        dataset: Its training rows are learned from.
        settings: What is taken.
        seed: Of drawn rows and of the hint's regressor.
        folder: Where the teacher's logits are kept; in memory without one.

    Raises:
        ConfigError: If the settings do not fit the teacher or the data.
    """

    def __init__(
        self,
        teacher: Teacher,
        dataset: Dataset,
        settings: DistilConfig,
        *,
        seed: int = 1,
        folder: str | Path | None = None,
    ) -> None:
        self.teacher, self.dataset, self.settings = teacher, dataset, settings
        self.seed, self.folder = seed, folder
        _check_fit(teacher, dataset, settings)
        self._noted: NDArray[np.float32] | None = None
        self._heard: tuple[Listener, Listener] | None = None
        self._regressor: nn.Module = nn.Identity()
        if settings.drawn:
            self._sampler = NegativeSampler.build(settings.drawn_by, dataset.item_counts)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The settings and the teachers' digests."""
        taught = {"teachers": list(self.teacher.digests), "average": self.teacher.average}
        return {**self.settings.to_dict(), **taught}

    def begin(self, recommender: Recommender) -> nn.Module:
        """Listen to the layers of hints, or note the teacher's logits; gives the regressor."""
        device = recommender.tables.matrix.device
        self.teacher.to(device)
        if self.settings.hint:
            self._regressor = self._listen(recommender).to(device)
        elif self.settings.weight:
            self._noted = self.teacher.noted(self.dataset, self.folder)
        return self._regressor

    def _listen(self, recommender: Recommender) -> nn.Module:
        """Find the sizes of both layers by two rows."""
        nets = recommender, self.teacher.recommenders[0]
        names = self.settings.student_layer, self.settings.teacher_layer
        own, other = (
            Listener(net, name or last_hidden(net)) for net, name in zip(nets, names, strict=True)
        )
        self._heard = own, other
        batch = self.dataset.split("train").read(0, 2).to(recommender.tables.matrix.device)
        was_training = recommender.training
        recommender.eval()
        try:
            with torch.no_grad():
                recommender(batch)
        finally:
            recommender.train(was_training)
        self.teacher.logits(batch)
        sizes = own.take().shape[1], other.take().shape[1]
        generator = torch.Generator().manual_seed(self.seed)
        return make_regressor(*sizes, generator)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave both nets as they were; done at the end of a `with`."""
        for listener in self._heard or ():
            listener.close()
        self._heard = None

    def forget(self) -> None:
        """Remove the file of the teacher's logits, and its folder if nothing else is in it."""
        self._noted = None
        if self.folder is not None:
            path = noted_path(self.teacher, self.dataset, self.folder)
            path.unlink(missing_ok=True)
            if path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()

    @torch.no_grad()
    def extend(self, batch: Batch, step: int) -> Batch:
        """The batch with drawn rows, whose labels are unknown."""
        count = round(self.settings.drawn * len(batch))
        if not count:
            return batch
        generator = torch.Generator().manual_seed(step_seed(self.seed + 2, step))
        chosen = torch.randint(len(batch), (count,), generator=generator)
        items = self._sampler.draw((count, 1), generator)
        rows = pair(self.dataset.layout, batch.take(chosen), self.dataset.items, items)
        labels, unknown = torch.zeros_like(rows.labels), torch.zeros_like(rows.label_mask)
        return Batch.concat([batch, replace(rows, labels=labels, label_mask=unknown)])

    def loss(self, logits_bc: Tensor, batch: Batch, rows: Tensor) -> Tensor:
        """Labels' and teacher's loss by their weights, and the hint's beside."""
        share, settings = self.settings.weight, self.settings
        total = logits_bc.new_zeros(())
        if share < 1:
            labels = task_loss(self.dataset.layout, logits_bc, batch)
            # As plain training has it, to the last bit, where the teacher has no share.
            total = labels if not share else (1 - share) * labels
        if share or settings.hint:
            taught_bc = self._taught(batch, rows)
            if share:
                total = total + share * self._soft(logits_bc, taught_bc, batch)
        return total + settings.hint * self._hint() if settings.hint else total

    def _soft(self, logits_bc: Tensor, taught_bc: Tensor, batch: Batch) -> Tensor:
        """The mean over all rows, whoever labelled them, summed over tasks by their weights."""
        layout = self.dataset.layout
        losses_bt = soft_losses(layout, logits_bc, taught_bc, self.settings.temperature)
        means_t = (losses_bt * batch.weights.unsqueeze(1)).sum(0)
        means_t = means_t / batch.weights.sum().clamp(min=1e-12)
        return (means_t * means_t.new_tensor([task.weight for task in layout.tasks])).sum()

    def _taught(self, batch: Batch, rows: Tensor) -> Tensor:
        """The teacher's logits: those of training rows as noted, those of others found now."""
        if self._noted is None:
            return self.teacher.logits(batch, exact=False)
        noted = torch.from_numpy(self._noted[rows.numpy()]).to(batch.weights.device)
        if len(rows) == len(batch):
            return noted
        others = batch.slice(len(rows), len(batch))
        return torch.cat([noted, self.teacher.logits(others, exact=False)])

    def _hint(self) -> Tensor:
        assert self._heard is not None, "the lesson has begun"
        own, other = (listener.take() for listener in self._heard)
        with torch.autocast(own.device.type, enabled=False):
            return hint_loss(self._regressor, own, other)


def _check_fit(teacher: Teacher, dataset: Dataset, settings: DistilConfig) -> None:
    same = teacher.layout == dataset.layout
    require(same, f"the teacher has another layout than {dataset.directory}")
    retrieval = [task.name for task in dataset.schema.tasks if task.kind is TaskKind.RETRIEVAL]
    require(
        not retrieval,
        f"distillation is for binary, multiclass and regression tasks; {retrieval} is of kind "
        "retrieval: train a two-tower model with a binary task from the same labels",
    )
    has_item = bool(dataset.schema.item) or not settings.drawn
    require(has_item, "drawn rows need an item; name one in the schema, or set drawn = 0")


def distil(
    dataset: Dataset,
    teacher: Teacher,
    spec: ModelSpec,
    config: TrainConfig | None = None,
    settings: DistilConfig | None = None,
    *,
    sinks: Sequence[Sink] = (),
    checkpoints: str | Path | None = None,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    start: Start | None = None,
    after_step: AfterStep = lambda _: None,
) -> Trained:
    """Train a student.

    Args:
        dataset: What the teacher was trained on, or more rows of the same encoding.
        teacher: One recommender or several.
        spec: The student's.
        config: How it is trained.
        settings: What it takes from the teacher.
        sinks: As in `scalerec.train.train`.
        checkpoints: As in `scalerec.train.train`; the teacher's logits are kept there too.
        resume: As in `scalerec.train.train`.
        on_progress: As in `scalerec.train.train`.
        start: A student that goes on, such as one that was pruned, in place of a drawn one.
        after_step: As in `scalerec.train.train`.

    Raises:
        ConfigError: If settings do not fit each other, the teacher, the student or the data.
        DataError: As `scalerec.train.train`.
        TrainError: As `scalerec.train.train`.
    """
    config, settings = config or TrainConfig(), settings or DistilConfig()
    if settings.tables == "teacher":
        require(start is None, "tables = 'teacher' is for a new student; got one to start from")
        student = inherit_tables(teacher.recommenders[0], spec, dataset, config.seed)
        start = Start(student, teacher.digests[0], GrownRows({}))
    own = Distillation(teacher, dataset, settings, seed=config.seed, folder=checkpoints)
    with own as lesson:
        trained = train(
            dataset, spec, config, sinks=sinks, checkpoints=checkpoints, resume=resume,
            on_progress=on_progress, start=start, lesson=lesson, after_step=after_step,
        )  # fmt: skip
    own.forget()
    return trained

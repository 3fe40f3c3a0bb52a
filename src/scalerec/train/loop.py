"""The training loop: epochs, evaluation, early stop, checkpoints, tracking."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalerec.bundle.recommenders import copy_tensors
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError, TrainError
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.models.shaping import chosen_forms
from scalerec.optim import Schedule
from scalerec.scoring import evaluate
from scalerec.track import Sink
from scalerec.train.checkpoints import Checkpoint
from scalerec.train.config import TrainConfig
from scalerec.train.diagnosis import check_finite, check_labels
from scalerec.train.goal import Goal
from scalerec.train.learner import AfterStep, Learner
from scalerec.train.lesson import Lesson
from scalerec.train.moving import Moving
from scalerec.train.runtime import OneProcess, Runtime
from scalerec.train.saving import SaveTimes
from scalerec.train.start import Start, restore_state

__all__ = ["Trained", "train"]

REPORT_EVERY_S = 0.5
# Settings that do not touch the weights: a run may be resumed with other ones.
FREE_SETTINGS = ("checkpoint_seconds", "checkpoint_steps")
OnProgress = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training run gave.

    Args:
        recommender: The model with its best weights, in evaluation mode.
        curve: One entry an evaluation: step, epoch, seconds, train/loss, valid/METRIC.
        best: The metric on the validation part, if there is one.
        metric: Its name.
        num_steps: Steps taken.
        seconds: Time taken, earlier parts of a resumed run included.
        state: What optimisers remember at the end, by name, if it was to be kept.
    """

    recommender: Recommender
    curve: list[dict[str, float]]
    best: float | None
    metric: str
    num_steps: int
    seconds: float
    state: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class _Progress:
    """How far a run is: with the tensors, all that a checkpoint holds."""

    epoch: int = 0
    step_in_epoch: int = 0
    best: float | None = None
    num_bad: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    stopped: bool = False
    curve: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Outlets:
    """Where a run tells of itself."""

    sinks: Sequence[Sink]
    folder: Path | None
    on_progress: OnProgress | None


def train(
    dataset: Dataset,
    spec: ModelSpec,
    config: TrainConfig | None = None,
    *,
    runtime: Runtime | None = None,
    sinks: Sequence[Sink] = (),
    checkpoints: str | Path | None = None,
    resume: bool = False,
    on_progress: OnProgress | None = None,
    start: Start | None = None,
    keep_state: bool = False,
    keep_checkpoint: bool = False,
    lesson: Lesson | None = None,
    after_step: AfterStep = lambda _: None,
    moving: Moving | None = None,
) -> Trained:
    """Train a model on a data set's training rows.

    Torch's global generator is as before when it returns.

    Args:
        dataset: Its validation rows, if there are any, decide when to stop and what to keep.
        spec: The model.
        config: The settings.
        runtime: The processes; this one on the CPU by default.
        sinks: Where losses and metrics are tracked.
        checkpoints: The directory of checkpoints; none are written without it.
        resume: Whether to go on from the checkpoint there, if there is one.
        on_progress: Called now and then with the step, the number of steps and the loss.
        start: What to start from in place of drawn weights; its recommender is changed.
        keep_state: Whether to give what optimisers remember at the end.
        keep_checkpoint: Whether the last checkpoint stays, for a caller who has more to write.
        lesson: What is learned from beside the labels; in one process only.
        after_step: Called with the number of steps taken after each one has moved the weights, of
            which it may set some; a resumed run calls it from where it goes on.
        moving: What of the model moves, all unless said; in one process only.

    Raises:
        ConfigError: If settings do not fit each other, the model or the data.
        DataError: If there are no training rows, or a binary task has one class only.
        TrainError: If a loss is not finite, or a checkpoint is of another run.
    """
    config, runtime = config or TrainConfig(), runtime or OneProcess()
    check_labels(dataset, has_negatives=config.negatives > 0)
    devices = [runtime.device] if runtime.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        recommender = _first(dataset, spec, config, start, runtime)
        learner = Learner(recommender, dataset, config, runtime, lesson, after_step, moving)
        if start is not None:
            restore_state(learner, start)
        folder = Path(checkpoints) if checkpoints is not None else None
        outlets = _Outlets(sinks, folder, on_progress)
        run = _Run(dataset, learner, config, outlets, start.digest if start else None)
        if resume:
            run.restore()
        trained = run.finish()
        if folder is not None and not keep_checkpoint:
            runtime.remove_checkpoint(folder)
        return replace(trained, state=learner.optimiser_state()) if keep_state else trained


def _first(
    dataset: Dataset, spec: ModelSpec, config: TrainConfig, start: Start | None, runtime: Runtime
) -> Recommender:
    """The model as it is before the first step."""
    if start is None:
        make_tables = runtime.make_tables(config.tables)
        dim = spec.net_config().dim
        forms = chosen_forms(spec.forms, dataset.schema, dataset.layout, dim)
        spec = replace(spec, forms=forms)
        return build_recommender(dataset.layout, spec, config.seed, make_tables)
    found = start.recommender
    if found.spec != spec:
        raise ConfigError(f"the start is a model {found.spec.to_dict()}; got {spec.to_dict()}")
    if found.layout != dataset.layout:
        raise ConfigError(f"the start has another layout than {dataset.directory}")
    return found


class _Run:
    def __init__(
        self,
        dataset: Dataset,
        learner: Learner,
        config: TrainConfig,
        outlets: _Outlets,
        parent: str | None,
    ) -> None:
        self.dataset, self.learner, self.config, self.outlets = dataset, learner, config, outlets
        self.parent = parent
        self.loader = learner.runtime.make_loader(dataset, config)
        self.num_steps = self.loader.steps_per_epoch * config.epochs
        self.has_valid = dataset.num_rows("valid") > 0
        self.goal = Goal(dataset.schema.tasks, config.metric)
        self.evaluation = self.goal.evaluation
        self.schedule = Schedule(
            config.schedule,
            num_steps=self.num_steps,
            higher_is_better=self.goal.higher_is_better,
        )
        self.at = _Progress()
        self.left_in_round = 0
        self.kept: dict[str, Tensor] | None = None
        self.times = SaveTimes(config, learner.runtime)
        self.started = self.reported = time.perf_counter()

    def finish(self) -> Trained:
        steps, every = self.loader.steps_per_epoch, self.config.evaluate_every
        while self.at.epoch < self.config.epochs and not self.at.stopped:
            for given in self._given():
                self._step(*given)
                done = self.at.step_in_epoch == steps
                if done:
                    self.at.epoch, self.at.step_in_epoch = self.at.epoch + 1, 0
                if done or (every and self.learner.step_number % every == 0):
                    self._evaluate()
                if self.at.stopped:
                    break
                self._save_if_due()
        return self._end()

    def _given(self) -> Iterator[tuple[Batch] | tuple[Batch, Tensor]]:
        """What is left of the epoch; with the numbers of the rows where a lesson asks for them."""
        if self.learner.lesson is None:
            yield from ((batch,) for batch in self._batches())
            return
        rows = islice(self.loader.rows(self.at.epoch), self.at.step_in_epoch, None)
        numbers = (torch.from_numpy(own) for own in rows)
        yield from zip(self._batches(), numbers, strict=True)

    def _batches(self) -> Iterator[Batch]:
        """What is left of the epoch; where processes step alone, announced a round at a time."""
        batches = self.loader.epoch(self.at.epoch, self.at.step_in_epoch)
        if not self.learner.runtime.local_steps:
            yield from batches
        while some := list(islice(batches, self._round_steps())):
            self.left_in_round = len(some)
            self.learner.begin_round(some)
            yield from some

    def _round_steps(self) -> int:
        """Steps until parameters are averaged: before the epoch ends, and before all must agree."""
        steps, every = self.learner.step_number, [self.config.evaluate_every]
        if self.outlets.folder is not None:
            every.append(self.config.checkpoint_steps)
        ends = [number - steps % number for number in every if number]
        left = self.loader.steps_per_epoch - self.at.step_in_epoch
        return max(0, min([self.learner.runtime.local_steps, left, *ends]))

    def _step(self, batch: Batch, *rows: Tensor) -> None:
        loss = self.learner.step(batch, self.schedule.factor(self.learner.step_number), *rows)
        self.at.step_in_epoch += 1
        self.at.loss_sum += loss
        self.at.loss_steps += 1 if len(batch) or not self.learner.runtime.local_steps else 0
        self.left_in_round -= 1
        if self.left_in_round == 0:
            self.learner.end_round()
        now, report = time.perf_counter(), self.outlets.on_progress
        if report and now - self.reported > REPORT_EVERY_S:
            self.reported = now
            seen = {"step": self.learner.step_number, "num_steps": self.num_steps}
            report({**seen, "train/loss": self.at.loss_sum / self.at.loss_steps})

    def _evaluate(self) -> None:
        step = self.learner.step_number
        entry: dict[str, float] = {
            "epoch": step / self.loader.steps_per_epoch,
            "train/loss": self._mean_loss(),
        }
        self.at.loss_sum, self.at.loss_steps = 0.0, 0
        if self.has_valid:
            entry |= self._judge()
        entry["seconds"] = self._elapsed()
        self.at.curve.append({"step": step, **entry})
        for sink in self.outlets.sinks:
            sink.log(step, entry)
        if self.outlets.on_progress:
            self.outlets.on_progress({"step": step, "num_steps": self.num_steps, **entry})

    def _mean_loss(self) -> float:
        """Of the steps since the last evaluation, over all processes."""
        loss, steps = self._losses()
        return loss / max(1, steps)

    def _losses(self) -> tuple[float, int]:
        """The sum and the number of the losses since then, over all processes."""
        runtime = self.learner.runtime
        total = torch.tensor([self.at.loss_sum, self.at.loss_steps], dtype=torch.float64)
        loss, steps = (float(value) for value in runtime.sum(total))
        # A loss is one process's own, or its share of a step that is counted by all.
        return loss, int(steps if runtime.local_steps else steps / runtime.world)

    def _judge(self) -> dict[str, float]:
        """Evaluate on the validation part; keep the best weights, or count towards the stop."""
        if self.config.ema:
            self.learner.swap_average()
        found = self._measure()
        value = self.goal.value(found)
        if self.goal.is_better(value, self.at.best):
            self.at.best, self.at.num_bad = value, 0
            if self.config.patience >= 0:
                self.kept = copy_tensors(self.learner.recommender)
        else:
            self.at.num_bad += 1
            self.at.stopped = 0 <= self.config.patience < self.at.num_bad
        if self.config.ema:
            self.learner.swap_average()
        self.schedule.observe(value)
        return {f"valid/{name}": v for name, v in found.items() if v is not None}

    def _measure(self) -> dict[str, float | None]:
        recommender, step = self.learner.recommender, self.learner.step_number
        try:
            crew = self.learner.runtime
            return evaluate(recommender, self.dataset, self.evaluation, crew).metrics
        except TrainError as error:
            check_finite(recommender, step)
            raise TrainError(f"step {step}: {error}") from error

    def _elapsed(self) -> float:
        return self.at.seconds + time.perf_counter() - self.started

    def _save_if_due(self) -> None:
        # Between two averages each process has weights of its own, which are nobody's checkpoint.
        if self.outlets.folder is None or self.left_in_round > 0:
            return
        if self.times.due(self.learner.step_number):
            self._save(self.outlets.folder)

    def _save(self, folder: Path) -> None:
        tensors = self.learner.tensors()
        tensors |= {f"kept.{name}": tensor for name, tensor in (self.kept or {}).items()}
        progress = {name: getattr(self.at, name) for name in _Progress.__slots__}
        # Of all processes: another number of them may go on.
        progress["loss_sum"], progress["loss_steps"] = self._losses()
        state = {
            "run": self._identity(),
            "step": self.learner.step_number,
            "order": self.loader.order,
            "progress": {**progress, "seconds": self._elapsed()},
            "schedule": self.schedule.state(),
        }
        self.learner.runtime.write_checkpoint(folder, Checkpoint(tensors, state))

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be resumed."""
        config, lesson = self.config.to_dict(), self.learner.lesson
        moving = self.learner.moving
        identity = {
            "data": self.dataset.digest,
            "model": self.learner.recommender.spec.to_dict(),
            "start": self.parent,
            "lesson": None if lesson is None else dict(lesson.identity),
            "moving": None if moving is None else moving.identity,
            **{name: value for name, value in config.items() if name not in FREE_SETTINGS},
        }
        return dict(json.loads(json.dumps(identity)))

    def restore(self) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        if self.outlets.folder is None:
            return
        checkpoint = self.learner.runtime.read_checkpoint(self.outlets.folder)
        if checkpoint is None:
            return
        saved = checkpoint.state["run"]
        for name, value in self._identity().items():
            if saved.get(name) != value:
                raise TrainError(
                    f"{self.outlets.folder}: the checkpoint is of a run with another {name}: "
                    f"{saved.get(name)!r}, now {value!r}; start without --resume, or with the "
                    "settings it was started with"
                )
        self._check_order(checkpoint.state)
        self.learner.load(checkpoint.tensors, checkpoint.state["step"])
        self.at = _Progress(**checkpoint.state["progress"])
        runtime = self.learner.runtime
        if runtime.rank:
            self.at.loss_sum = 0.0
            self.at.loss_steps = 0 if runtime.local_steps else self.at.loss_steps
        self.schedule.restore(checkpoint.state["schedule"])
        kept = {
            name.removeprefix("kept."): tensor
            for name, tensor in checkpoint.tensors.items()
            if name.startswith("kept.")
        }
        self.kept = kept or None

    def _check_order(self, state: Mapping[str, Any]) -> None:
        """Within an epoch, what is left of it is known in the same order alone."""
        before, now = state.get("order", self.loader.order), self.loader.order
        if state["progress"]["step_in_epoch"] and before != now:
            raise TrainError(
                f"{self.outlets.folder}: the checkpoint is within an epoch whose rows were divided "
                f"by {before}, now by {now}; resume in as many processes as before, or train with "
                "partition 'batch', which any number goes on with"
            )

    def _end(self) -> Trained:
        recommender = self.learner.recommender
        if self.kept is not None:
            recommender.load_tensors(self.kept)
        elif self.config.ema:
            self.learner.swap_average()
        recommender.tables.keep_padding_zero()
        check_finite(recommender, self.learner.step_number)
        curve, best, metric = self.at.curve, self.at.best, self.goal.metric
        steps = self.learner.step_number
        return Trained(recommender.eval(), curve, best, metric, steps, self._elapsed())

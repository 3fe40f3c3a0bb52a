"""The training loop: epochs, evaluation, early stop, checkpoints, tracking."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from scalerec.bundle.recommenders import copy_tensors
from scalerec.data.dataset import Dataset
from scalerec.data.loading import Loader
from scalerec.data.schema import TaskKind
from scalerec.errors import ConfigError, DataError, TrainError
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.optim import Schedule
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.track import Sink
from scalerec.train.checkpoints import (
    Checkpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from scalerec.train.config import TrainConfig
from scalerec.train.learner import Learner
from scalerec.train.runtime import OneProcess, Runtime

__all__ = ["Trained", "train"]

LOWER_IS_BETTER = ("log_loss", "ne", "ece", "rmse", "mae")
OWN_METRIC = {
    TaskKind.BINARY: "auc",
    TaskKind.MULTICLASS: "accuracy",
    TaskKind.REGRESSION: "rmse",
    TaskKind.RETRIEVAL: "ndcg@10",
}
REPORT_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training run gave.

    Args:
        recommender: The model with its best weights.
        curve: One entry an evaluation: step, epoch, seconds, train/loss, valid/METRIC.
        best: The metric on the validation part, if there is one.
        metric: Its name.
        num_steps: Steps taken.
        seconds: Time taken, earlier parts of a resumed run included.
    """

    recommender: Recommender
    curve: list[dict[str, float]]
    best: float | None
    metric: str
    num_steps: int
    seconds: float


@dataclass(slots=True)
class _Progress:
    """Where the run stands; all of it goes into a checkpoint."""

    epoch: int = 0
    step_in_epoch: int = 0
    best: float | None = None
    num_bad: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    stopped: bool = False
    curve: list[dict[str, float]] = field(default_factory=list)


def train(
    dataset: Dataset,
    spec: ModelSpec,
    config: TrainConfig | None = None,
    *,
    runtime: Runtime | None = None,
    sinks: Sequence[Sink] = (),
    checkpoints: str | Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Mapping[str, float]], None] | None = None,
) -> Trained:
    """Train a model on a data set's training rows.

    Args:
        dataset: Its validation rows, if there are any, decide when to stop and what to keep.
        spec: The model.
        config: The settings.
        runtime: The processes; this one on the CPU by default.
        sinks: Where losses and metrics are tracked.
        checkpoints: The directory of checkpoints; none are written without it.
        resume: Whether to go on from the checkpoint there, if there is one.
        on_progress: Called now and then with the step, the number of steps and the loss.

    Raises:
        ConfigError: If settings do not fit each other, the model or the data.
        DataError: If there are no training rows, or a binary task has one class only.
        TrainError: If a loss is not finite, or a checkpoint is of another run.
    """
    config = config or TrainConfig()
    _check_labels(dataset, config)
    recommender = build_recommender(dataset.layout, spec, config.seed)
    learner = Learner(recommender, dataset, config, runtime or OneProcess())
    folder = Path(checkpoints) if checkpoints is not None else None
    run = _Run(dataset, learner, config, sinks, folder, on_progress)
    if resume and folder is not None:
        run.restore()
    return run.finish()


def _check_labels(dataset: Dataset, config: TrainConfig) -> None:
    labels = np.asarray(dataset.split("train").column("labels"))
    for i, task in enumerate(dataset.schema.tasks):
        if task.kind is not TaskKind.BINARY or (config.negatives and i == 0):
            continue
        known = labels[:, i][~np.isnan(labels[:, i])]
        if len(known) and known.min() == known.max():
            raise DataError(
                f"{dataset.directory}: task {task.name!r} has only label {known[0]:g} in its "
                f"{len(known)} training rows; a binary task needs both: check at_least/positive in the "
                "schema, draw --negatives, or use kind 'retrieval'"
            )


class _Run:
    def __init__(
        self,
        dataset: Dataset,
        learner: Learner,
        config: TrainConfig,
        sinks: Sequence[Sink],
        folder: Path | None,
        on_progress: Callable[[Mapping[str, float]], None] | None,
    ) -> None:
        self.dataset, self.learner, self.config = dataset, learner, config
        self.sinks, self.folder, self.on_progress = sinks, folder, on_progress
        self.loader = Loader(dataset.split("train"), config.batch_size, config.seed)
        self.num_steps = self.loader.steps_per_epoch * config.epochs
        self.has_valid = dataset.num_rows("valid") > 0
        self.metric = config.metric or "+".join(
            dict.fromkeys(OWN_METRIC[task.kind] for task in dataset.schema.tasks)
        )
        self.sign = -1.0 if self.metric in LOWER_IS_BETTER else 1.0
        self.schedule = Schedule(
            config.schedule, num_steps=self.num_steps, higher_is_better=self.sign > 0
        )
        self.at = _Progress()
        self.kept: dict[str, Tensor] | None = None
        self.started = self.reported = self.saved = time.perf_counter()

    def finish(self) -> Trained:
        steps = self.loader.steps_per_epoch
        while self.at.epoch < self.config.epochs and not self.at.stopped:
            for batch in self.loader.epoch(self.at.epoch, self.at.step_in_epoch):
                self._step(batch)
                due = self.at.step_in_epoch == steps
                every = self.config.evaluate_every
                if due or (every and self.learner.step_number % every == 0):
                    self._evaluate()
                if due or self.at.stopped:
                    break
                self._maybe_save()
            self.at.epoch += 1
            self.at.step_in_epoch = 0
        return self._end()

    def _step(self, batch: Any) -> None:
        loss = self.learner.step(batch, self.schedule.factor(self.learner.step_number))
        self.at.step_in_epoch += 1
        self.at.loss_sum += loss
        self.at.loss_steps += 1
        now = time.perf_counter()
        if self.on_progress and now - self.reported > REPORT_EVERY_S:
            self.reported = now
            seen = {"step": self.learner.step_number, "num_steps": self.num_steps}
            self.on_progress({**seen, "train/loss": self.at.loss_sum / self.at.loss_steps})

    def _evaluate(self) -> None:
        entry: dict[str, float] = {
            "step": self.learner.step_number,
            "epoch": self.learner.step_number / self.loader.steps_per_epoch,
            "train/loss": self.at.loss_sum / max(1, self.at.loss_steps),
        }
        self.at.loss_sum, self.at.loss_steps = 0.0, 0
        if self.has_valid:
            entry |= self._judge()
        entry["seconds"] = self._elapsed()
        self.at.curve.append(entry)
        for sink in self.sinks:
            sink.log(self.learner.step_number, {n: v for n, v in entry.items() if n != "step"})
        if self.on_progress:
            self.on_progress({"num_steps": self.num_steps, **entry})

    def _judge(self) -> dict[str, float]:
        """Evaluate on the validation part; keep the best weights, and stop when they stay the best."""
        if self.config.ema:
            self.learner.swap_average()
        ranking = "yes" if "@" in self.metric else "no"
        config = EvaluateConfig(split="valid", ranking=ranking)
        found = evaluate(self.learner.recommender, self.dataset, config).metrics
        value = _metric(found, self.metric)
        better = self.at.best is None or self.sign * (value - self.at.best) > 0
        if better:
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

    def _elapsed(self) -> float:
        return self.at.seconds + time.perf_counter() - self.started

    def _maybe_save(self) -> None:
        if self.folder is None:
            return
        every, seconds = self.config.checkpoint_steps, self.config.checkpoint_seconds
        due = every and self.learner.step_number % every == 0
        if due or (seconds and time.perf_counter() - self.saved > seconds):
            self.save()
            self.saved = time.perf_counter()

    def save(self) -> None:
        """Write a checkpoint."""
        assert self.folder is not None
        tensors = self.learner.tensors()
        tensors |= {f"kept.{name}": tensor for name, tensor in (self.kept or {}).items()}
        progress = {name: getattr(self.at, name) for name in _Progress.__slots__}
        state = {
            "run": self._identity(),
            "step": self.learner.step_number,
            "progress": {**progress, "seconds": self._elapsed()},
            "schedule": self.schedule.state(),
        }
        write_checkpoint(self.folder, Checkpoint(tensors, state))

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be resumed."""
        return {
            "data": self.dataset.digest,
            "spec": self.learner.recommender.spec.to_dict(),
            "config": self.config.to_dict(),
        }

    def restore(self) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        assert self.folder is not None
        checkpoint = read_checkpoint(self.folder)
        if checkpoint is None:
            return
        own = json.loads(json.dumps(self._identity()))
        for name, value in own.items():
            if checkpoint.state["run"].get(name) != value:
                raise TrainError(
                    f"{self.folder}: the checkpoint is of a run with another {name}; "
                    "start without --resume, or with the settings it was started with"
                )
        tensors = dict(checkpoint.tensors)
        self.learner.load(tensors, checkpoint.state["step"])
        self.at = _Progress(**checkpoint.state["progress"])
        self.schedule.restore(checkpoint.state["schedule"])
        kept = {n.removeprefix("kept."): t for n, t in tensors.items() if n.startswith("kept.")}
        self.kept = kept or None

    def _end(self) -> Trained:
        recommender = self.learner.recommender
        if self.kept is not None:
            recommender.load_tensors(self.kept)
        elif self.config.ema:
            self.learner.swap_average()
        recommender.tables.keep_padding_zero()
        if self.folder is not None:
            remove_checkpoint(self.folder)
        seconds, steps = self._elapsed(), self.learner.step_number
        return Trained(recommender.eval(), self.at.curve, self.at.best, self.metric, steps, seconds)


def _metric(found: Mapping[str, float | None], metric: str) -> float:
    """The metric, or its mean over tasks where there are several."""
    names = metric.split("+")
    own = [v for n, v in found.items() if n in names or n.rpartition(".")[2] in names]
    if not own:
        raise ConfigError(f"metric must be one of {', '.join(found)}; got {metric!r}")
    values = [value for value in own if value is not None]
    if len(values) < len(own):
        raise DataError(f"metric {metric!r} is undefined on the validation part: one class only")
    return float(np.mean(values))

"""Meta-learning: update after update, the start moves to where tasks adapt well from.

Each update draws some tasks and divides each one's rows into support and query; an algorithm gives
an `Update` of all of them, or one for each part of them, and an `Aggregator` moves the start. Every
so often held-out tasks are measured before and after adapting, and beside them as many of those
that are learned from: what lies between the two is how much the start has learned its tasks by
heart.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalerec.data.schema import TaskKind
from scalerec.errors import ConfigError, TrainError
from scalerec.meta.adapting import adapt
from scalerec.meta.config import MetaConfig
from scalerec.meta.episodes import Opened, Reader
from scalerec.meta.measuring import measure
from scalerec.meta.outer import Outer
from scalerec.meta.parts import choose_parts, own_field
from scalerec.meta.personal import Fast, PersonalModel, Shared
from scalerec.meta.sharing import part_of, put_together
from scalerec.meta.tasks import Episode, TaskSet
from scalerec.meta.updating import draw_tasks, learn
from scalerec.models.recommender import Recommender
from scalerec.track import Sink
from scalerec.train.checkpoints import (
    Checkpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from scalerec.train.runtime import OneProcess, Runtime

__all__ = ["MetaTrained", "meta_train"]

# What may differ between a run and the one that goes on from its checkpoint.
FREE_SETTINGS = ("updates", "checkpoint_every", "at_once")
# Of what a checkpoint holds; one of another is refused.
VERSION = 2
# Tasks that an evaluation adapts at a time.
TASKS = 256
NDCG_AT = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class MetaTrained:
    """What meta-learning gives.

    Args:
        recommender: The start, in evaluation mode.
        model: The same as a function of tasks' parameters.
        rates: Of adapting, by the adapted parameter's name.
        field: The id field that holds a task's key, by name, or None.
        updates: That were made, until the start that was kept.
        metric: What decided.
        best: Its value on held-out tasks, after adapting.
        curve: What was measured, evaluation by evaluation.
        seconds: How long it took.
    """

    recommender: Recommender
    model: PersonalModel
    rates: dict[str, Tensor]
    field: str | None
    updates: int
    metric: str
    best: float
    curve: list[dict[str, float]]
    seconds: float


def meta_train(
    recommender: Recommender,
    tasks: TaskSet,
    config: MetaConfig,
    *,
    held_out: TaskSet | None = None,
    sinks: Sequence[Sink] = (),
    on_progress: Callable[[Mapping[str, float]], None] | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    runtime: Runtime | None = None,
) -> MetaTrained:
    """Learn a start from tasks.

    Args:
        recommender: Where it begins, drawn or trained; it is changed.
        tasks: What is learned from, with at least two rows each.
        config: How.
        held_out: Tasks to stop by; a share of `tasks` without them.
        sinks: Are told the numbers.
        on_progress: Is told how far it is.
        checkpoints: A folder for them; none without it.
        resume: Go on from the checkpoint there, if there is one.
        runtime: The processes that divide each update's tasks, each of which calls this; what they
            learn is what one learns, but for the order of sums and for what dropout draws. Process
            0 evaluates, is to have the sinks, and writes the checkpoints. This process alone
            without it.

    Raises:
        ConfigError: If the model cannot adapt, or a setting does not fit it.
        TrainError: If the loss is not finite, or a checkpoint is of another run or is not there for
            all processes.
    """
    run = _Run(recommender, tasks, config, held_out, checkpoints, runtime or OneProcess())
    if resume:
        run.resume()
    return run.go(sinks, on_progress)


class _Run:
    """One run and all that changes while it lasts."""

    def __init__(
        self,
        recommender: Recommender,
        tasks: TaskSet,
        config: MetaConfig,
        held_out: TaskSet | None,
        checkpoints: Path | None,
        runtime: Runtime,
    ) -> None:
        dataset = tasks.events.dataset
        place = own_field(dataset.schema, recommender.layout, tasks.by)
        parts = choose_parts(recommender, config.parts, place)
        self.config, self.model = config, PersonalModel(recommender, parts)
        self.outer = Outer(self.model, config)
        self.field = None if place is None else recommender.layout.ids[place].name
        if held_out is None:
            tasks, held_out = tasks.hold_out(config.held_out, _seeded(config.seed, 1))
        self.tasks, self.held_out = tasks, held_out
        hidden = place if config.as_new else None
        self.readers = [Reader(self.model, t.events, hidden, t.by) for t in (tasks, held_out)]
        self.metric = _metric(config, recommender)
        self.folder, self.runtime = checkpoints, runtime
        self.episodes = [self._fixed(t, number) for number, t in enumerate((tasks, held_out))]
        self.identity = _identity(config, tasks, held_out, recommender)
        self.best: float | None = None
        self.best_update = self.waited = 0
        self.kept: dict[str, Tensor] = {}
        self.curve: list[dict[str, float]] = []
        self.before = 0.0

    def _fixed(self, tasks: TaskSet, number: int) -> Episode:
        """The episode by which tasks are measured, always the same."""
        generator = _seeded(self.config.seed, 2 + number)
        chosen = torch.randperm(len(tasks), generator=generator)[: self.config.most_tasks]
        args = (self.config.num_support, self.config.num_query, generator)
        return tasks.episode(chosen.sort().values, *args)

    def go(
        self, sinks: Sequence[Sink], on_progress: Callable[[Mapping[str, float]], None] | None
    ) -> MetaTrained:
        """Update until the end, or until held-out tasks gain no more."""
        config, began = self.config, time.perf_counter()
        while self.outer.updates < config.updates and not self._is_done():
            loss = self._update()
            step = self.outer.updates
            seen = {"step": step, "num_steps": config.updates, "train/loss": loss}
            for sink in sinks:
                sink.log(step, {"train/query_loss": loss})
            if step % config.evaluate_every == 0 or step == config.updates:
                found = self._evaluate()
                found["seconds"] = self.before + time.perf_counter() - began
                for sink in sinks:
                    sink.log(step, found)
                seen |= found
            if on_progress is not None:
                on_progress(seen)
            if config.checkpoint_every and step % config.checkpoint_every == 0:
                self._save(self.before + time.perf_counter() - began)
        if not self.curve or self.curve[-1]["step"] != self.outer.updates:
            # Gone on from a checkpoint of more updates than are wanted now.
            self._evaluate()
        return self._finish(self.before + time.perf_counter() - began)

    def _is_done(self) -> bool:
        return 0 <= self.config.patience < self.waited

    def _update(self) -> float:
        config, outer = self.config, self.outer
        # Drawn anew from the number of the update, so that a run that went on draws the same.
        generator = _seeded(config.seed, 10 + outer.updates)
        laid = part_of(draw_tasks(self.tasks, config, generator), self.runtime)
        seed = int(torch.randint(2**62, (), generator=generator)) + self.runtime.rank
        learned = learn(outer, self.readers[0], config, laid, seed)
        updates, losses = put_together(learned, outer.parameters, self.runtime)
        loss = float(losses.mean())
        if not torch.isfinite(losses).all():
            raise TrainError(
                f"the loss after adapting is {loss} in update {outer.updates + 1}; lower `rate` or "
                "`lr`, or bound `max_norm`"
            )
        outer.step(updates)
        return loss

    def _evaluate(self) -> dict[str, float]:
        """Measure held-out tasks and tasks that are learned from, and keep the start if better."""
        # So that all stop at once, whatever host they are on.
        found = self.runtime.agree({} if self.runtime.rank else self._measure())
        value = found[f"valid/{self.metric}"]
        if math.isnan(value):
            raise TrainError(
                f"held-out tasks have no {self.metric}: "
                + (
                    "the loss after adapting is not a number; lower `rate` or `lr`"
                    if self.metric == "loss"
                    else f"none of {len(self.held_out)} has query rows of both labels; hold out "
                    "more, or decide by metric=loss"
                )
            )
        found["gap"] = found[f"learned/{self.metric}"] - value
        self.curve.append({"step": self.outer.updates, **found})
        lower = self.metric == "loss"
        better = self.best is None or (value < self.best if lower else value > self.best)
        if better:
            self.best, self.best_update, self.waited = value, self.outer.updates, 0
            if self.config.patience >= 0:
                self.kept = self.outer.start_tensors()
        else:
            self.waited += 1
        return found

    def _measure(self) -> dict[str, float]:
        shared, rates = self.outer.whole(), self.outer.rates
        found: dict[str, float] = {}
        for name, reader, episode in zip(
            ("learned", "valid"), self.readers, self.episodes, strict=True
        ):
            numbers = _measured(self.model, shared, rates, self.config, reader, episode)
            found |= {f"{name}/{key}": value for key, value in numbers.items()}
        return found

    def _finish(self, seconds: float) -> MetaTrained:
        best, update = self.curve[-1][f"valid/{self.metric}"], self.outer.updates
        if self.kept and self.best is not None:
            self.outer.load(self.kept)
            best, update = self.best, self.best_update
        self.outer.settle()
        if self.folder is not None and not self.runtime.rank:
            remove_checkpoint(self.folder)
        return MetaTrained(
            recommender=self.model.recommender.eval(),
            model=self.model,
            rates={name: rate.detach() for name, rate in self.outer.rates.items()},
            field=self.field,
            updates=update,
            metric=self.metric,
            best=best,
            curve=self.curve,
            seconds=seconds,
        )

    def _save(self, seconds: float) -> None:
        if self.folder is None or self.runtime.rank:
            return
        kept = {f"kept.{name}": tensor for name, tensor in self.kept.items()}
        state = {
            "identity": self.identity, "updates": self.outer.updates, "best": self.best,
            "best_update": self.best_update, "waited": self.waited, "curve": self.curve,
            "seconds": seconds,
        }  # fmt: skip
        tensors = {name: t.contiguous() for name, t in self.outer.to_tensors().items()}
        write_checkpoint(self.folder, Checkpoint({**tensors, **kept}, state))

    def resume(self) -> None:
        """Go back to the checkpoint, if there is one."""
        held = None if self.folder is None else read_checkpoint(self.folder)
        own = {"updates": None if held is None else held.state["updates"]}
        if own != (first := self.runtime.agree(own)):
            raise TrainError(
                f"{self.folder}: process 0 finds a checkpoint of {first['updates']} updates there, "
                f"process {self.runtime.rank} one of {own['updates']}; all need the same folder"
            )
        if held is None:
            return
        if held.state["identity"].get("version") != VERSION:
            raise TrainError(
                f"{self.folder}: another version of scalerec wrote the checkpoint, and names its "
                "tensors otherwise; start anew"
            )
        if held.state["identity"] != self.identity:
            raise TrainError(f"{self.folder}: the checkpoint is of another run; start anew")
        self.outer.load(held.tensors)
        self.outer.updates, self.best = held.state["updates"], held.state["best"]
        self.best_update, self.waited = held.state["best_update"], held.state["waited"]
        self.curve, self.before = list(held.state["curve"]), held.state["seconds"]
        head = "kept."
        self.kept = {n.removeprefix(head): t for n, t in held.tensors.items() if n.startswith(head)}


@torch.no_grad()
def _measured(
    model: PersonalModel,
    shared: Shared,
    rates: dict[str, Tensor],
    config: MetaConfig,
    reader: Reader,
    episode: Episode,
) -> dict[str, float]:
    """What queries give before and after adapting."""
    losses: dict[str, list[Tensor]] = {"": [], "start_": []}
    scores: dict[str, list[Tensor]] = {"": [], "start_": []}
    labels: list[Tensor] = []
    for first in range(0, len(episode), TASKS):
        own = episode.take(torch.arange(first, min(first + TASKS, len(episode))))
        opened = reader.read(own)
        for name, number in (("", config.steps), ("start_", 0)):
            fast = adapt(model, shared, opened.support, rates, number, prior=config.prior)
            logits, own_losses = _judged(model, shared, fast, opened)
            losses[name].append(own_losses)
            scores[name].append(logits)
        labels.append(opened.query.batch.labels[opened.counted, 0])
    found = {}
    positive = torch.cat(labels) > 0
    kind = model.layout.tasks[0].kind
    for name, values in losses.items():
        found[f"{name}loss"] = float(torch.cat(values).mean())
        if kind is TaskKind.BINARY:
            ranked = measure(torch.cat(scores[name]), positive, episode.query, k=NDCG_AT)
            for metric in ("ndcg", "auc", "task_auc"):
                found[f"{name}{metric}"] = ranked.value(metric)
    return found


def _judged(
    model: PersonalModel, shared: Shared, fast: Fast, opened: Opened
) -> tuple[Tensor, Tensor]:
    logits = model.open(shared, opened.query, remember=False).logits(fast)
    losses = model.task_losses(logits, opened.query.batch, opened.query.num_tasks)
    return logits[opened.counted, 0], losses


def _metric(config: MetaConfig, recommender: Recommender) -> str:
    binary = recommender.layout.tasks[0].kind is TaskKind.BINARY
    if config.metric == "auto":
        return "task_auc" if binary else "loss"
    if config.metric != "loss" and not binary:
        raise ConfigError(
            f"metric {config.metric!r} needs a binary first task; allowed here: loss, auto"
        )
    return config.metric


def _identity(
    config: MetaConfig, tasks: TaskSet, held_out: TaskSet, recommender: Recommender
) -> dict[str, Any]:
    """What must be equal for a checkpoint to be resumed."""
    identity = {
        "version": VERSION,
        "data": [t.events.dataset.digest for t in (tasks, held_out)],
        "tasks": [len(tasks), len(held_out)],
        "by": tasks.by,
        "model": recommender.spec.to_dict(),
        **{n: value for n, value in config.to_dict().items() if n not in FREE_SETTINGS},
    }
    return dict(json.loads(json.dumps(identity)))


def _seeded(seed: int, purpose: int) -> torch.Generator:
    """A generator for one purpose of a run."""
    return torch.Generator().manual_seed((seed * 1_000_003 + purpose) % 2**63)

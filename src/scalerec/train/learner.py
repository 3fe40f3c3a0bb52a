"""One step of training: forward, loss, backward, optimisers, average."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.loading import step_seed, take_positive
from scalerec.data.pairing import pair
from scalerec.data.sampling import NegativeSampler
from scalerec.data.schema import TaskKind
from scalerec.errors import ConfigError, TrainError
from scalerec.models.net import TwoTowers
from scalerec.models.recommender import Recommender
from scalerec.optim import build_optimiser
from scalerec.train.checkpoints import load_optimiser, optimiser_tensors
from scalerec.train.config import TrainConfig
from scalerec.train.diagnosis import diagnose
from scalerec.train.lesson import Lesson, begin_lesson
from scalerec.train.losses import retrieval_loss, task_loss
from scalerec.train.moving import Mover, Moving
from scalerec.train.runtime import Runtime, has_bf16, seed_device

__all__ = ["AfterStep", "Learner"]

AfterStep = Callable[[int], object]

# Steps by which the moving average lags behind while it is young: after n steps its decay is at
# most n / (n + 10), so that it does not remember the initial weights.
AVERAGE_LAG = 10.0


class Learner:
    """Everything that changes while a model trains, step by step.

    Each step seeds torch's global generator, from which dropout draws; the caller forks it.

    Args:
        recommender: The model; its tables are put into the engine that the config asks for.
        dataset: Gives the catalogue, for negatives and retrieval.
        config: The settings.
        runtime: The processes it runs in.
        lesson: What is learned from beside the labels; of one process only.
        after_step: Called with the number of steps taken, before the average sees the weights.
        moving: What of the model moves, all unless said; of one process only.

    Raises:
        ConfigError: If settings do not fit each other, the model or the data.
    """

    def __init__(
        self,
        recommender: Recommender,
        dataset: Dataset,
        config: TrainConfig,
        runtime: Runtime,
        lesson: Lesson | None = None,
        after_step: AfterStep = lambda _: None,
        moving: Moving | None = None,
    ) -> None:
        self.recommender, self.dataset = recommender, dataset
        self.config, self.runtime = config, runtime
        self.bf16 = config.precision == "bf16" or (
            config.precision == "auto" and has_bf16(runtime.device)
        )
        self.step_number, self.after_step = 0, after_step
        # To the device first: the engine makes its state beside its rows.
        runtime.wrap(recommender)
        self.engine = _use_tables(recommender, config)
        recommender.train()
        self.moving = moving
        self.mover = Mover(recommender, moving, config.seed, runtime.world)
        self.dense = self.mover.dense
        self.optimisers: dict[str, tuple[torch.optim.Optimizer, float]] = {}
        if self.dense:
            optimiser = build_optimiser(config.dense, self.dense)
            self.optimisers["dense"] = (optimiser, config.dense.lr)
        self._parameters = [*self.dense]
        if self.engine == "dense" and self.mover.moves_rows:
            weight = recommender.tables.engine.get_parameter("weight")
            optimiser = build_optimiser(config.tables.dense_optimiser(), [weight])
            self.optimisers["tables"] = (optimiser, config.tables.lr)
            self._parameters.append(weight)
        self._start_average()
        self._prepare_items()
        self.lesson, self._beside = lesson, begin_lesson(lesson, recommender, runtime.world)
        if parameters := list(self._beside.parameters()):
            self.optimisers["lesson"] = build_optimiser(config.dense, parameters), config.dense.lr

    def begin_round(self, batches: Sequence[Batch]) -> None:
        """Announce the batches of the next steps, where those are this process's alone.

        All processes begin a round, and end it, at once.
        """
        ready = [self._ready(batch, self.step_number + n) for n, batch in enumerate(batches)]
        self.runtime.begin_round(self.recommender.tables, self._shared(), ready)

    @torch.no_grad()
    def end_round(self) -> None:
        """Average what the round's steps changed over all processes."""
        trained = {id(parameter) for parameter in self.recommender.parameters()}
        tensors = self.recommender.state_dict(keep_vars=True).values()
        buffers = [t for t in tensors if id(t) not in trained and t.is_floating_point()]
        self.runtime.end_round(self._shared(), buffers)
        self.recommender.tables.keep_padding_zero()

    def _shared(self) -> dict[str, Tensor]:
        """The dense part by name, live, with tables that are whole on every process."""
        own: dict[str, Tensor] = dict(self.recommender.dense_parameters())
        if self.engine == "dense":
            own["tables"] = self.recommender.tables.engine.get_parameter("weight")
        return own

    def _start_average(self) -> None:
        if self.config.ema and self.runtime.local_steps:
            raise ConfigError(
                "ema averages the weights of steps that all processes share; set "
                "ema = 0, or aggregate = 'sync'"
            )
        live = [parameter.data for parameter in self._parameters]
        self._live = live if self.config.ema else []
        self.average = [tensor.clone() for tensor in self._live]

    def _prepare_items(self) -> None:
        """Check that negatives and retrieval fit the data, and prepare what they draw from."""
        tasks = self.dataset.schema.tasks
        self.retrieves = any(task.kind is TaskKind.RETRIEVAL for task in tasks)
        if self.config.negatives:
            _check_negatives(self.dataset)
            self._sampler = NegativeSampler.build(
                self.config.negatives_by, self.dataset.item_counts
            )
        if self.retrieves:
            _check_retrieval(self.recommender, self.dataset)
            # How often an item is in a batch, which rows before these say nothing of.
            counts = self.dataset.own_item_counts
            share = torch.from_numpy(counts / max(1, counts.sum())).float()
            self._log_share = share.clamp(min=1e-9).log().to(self.runtime.device)

    def step(self, batch: Batch, factor: float, rows: Tensor | None = None) -> float:
        """Take one step.

        Args:
            batch: Training rows.
            factor: The schedule's, on both learning rates.
            rows: Their numbers, ``[B]`` int64, where there is a lesson.

        Returns:
            The batch's loss before the step; of several processes, this one's share of it. A
            step of this process alone is skipped, with loss 0, if its batch is empty.

        Raises:
            TrainError: If the loss is not finite, with the rows and the feature that caused it.
        """
        if not len(batch) and self.runtime.local_steps:
            self.step_number += 1
            return 0.0
        # Dropout and negatives of a step depend on seed, step and process alone.
        seed = step_seed(self.config.seed, self.step_number, self.runtime.rank)
        seed_device(self.runtime.device, seed)
        batch = self._ready(batch, self.step_number).to(self.runtime.device)
        for optimiser, lr in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = lr * factor
        self.recommender.tables.engine.lr = self.config.tables.lr * factor
        self.mover.begin(batch)
        loss = self.loss(batch, rows)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainError(diagnose(self.recommender, batch, value, self.step_number + 1))
        if loss.requires_grad:
            loss.backward()
            self.mover.pull()
            self.runtime.sum_gradients(self._parameters)
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.dense, self.config.clip_norm)
        for optimiser, _ in self.optimisers.values():
            optimiser.step()
        self.mover.settle()
        self.step_number += 1
        self.after_step(self.step_number)
        self.recommender.tables.keep_padding_zero()
        if self.average:
            decay = min(self.config.ema, self.step_number / (self.step_number + AVERAGE_LAG))
            torch._foreach_lerp_(self.average, self._live, 1.0 - decay)
        return value

    def loss(self, batch: Batch, rows: Tensor | None = None) -> Tensor:
        """The batch's loss, with the dense part in the config's precision.

        A retrieval batch without a positive row has nothing to learn from: 0, without gradient.
        """
        layout, device = self.recommender.layout, self.runtime.device.type
        together = self.runtime.world > 1 and not self.runtime.local_steps
        total = self.runtime.sum if together else None
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            if not self.retrieves:
                logits_bc = self.recommender(batch).float()
                if self.lesson is not None and rows is not None:
                    return self.lesson.loss(logits_bc, batch, rows)
                return task_loss(layout, logits_bc, batch, total)
            chosen = batch.take(take_positive(batch))
            items, first = self.runtime.join(chosen.items, "items of a batch")
            if not len(items):
                return torch.zeros((), device=self.runtime.device)
            user, item = self.recommender.towers(chosen)
        vectors, _ = self.runtime.join(item.float(), "vectors of items")
        share, weights = self._log_share, chosen.weights
        return retrieval_loss(user.float(), vectors, items, share, weights, total, first)

    def _ready(self, batch: Batch, number: int) -> Batch:
        """What step `number` learns from, given its batch: with negatives and the lesson's rows."""
        ready = self._with_negatives(batch, number) if self.config.negatives else batch
        return self.lesson.extend(ready, number) if self.lesson is not None else ready

    def _with_negatives(self, batch: Batch, number: int) -> Batch:
        chosen = batch.take(take_positive(batch))
        drawn = self._draw(len(chosen), number)
        rows = pair(self.recommender.layout, chosen, self.dataset.items, drawn)
        # That the user did not choose the item says nothing of the other tasks.
        known = torch.zeros_like(rows.label_mask)
        known[:, 0] = True
        labels = torch.zeros_like(rows.labels)
        return Batch.concat([batch, replace(rows, labels=labels, label_mask=known)])

    def _draw(self, num_rows: int, number: int) -> Tensor:
        """Negatives for this process's rows, ``[n, negatives]``.

        In a step of all processes, those that one process would have drawn for the whole batch.
        """
        seed, before, rank = self.config.seed + 1, 0, self.runtime.rank
        if self.runtime.world > 1 and not self.runtime.local_steps:
            counts = self.runtime.gather(torch.tensor([num_rows]), "numbers of positive rows")
            before, rank = sum(int(count) for count in counts[:rank]), 0
        generator = torch.Generator().manual_seed(step_seed(seed, number, rank))
        shape = (before + num_rows, self.config.negatives)
        return self._sampler.draw(shape, generator)[before:]

    def swap_average(self) -> None:
        """Exchange the weights with their moving average; a second call brings them back."""
        for live, average in zip(self._live, self.average, strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)
        self.mover.settle()

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint needs of it."""
        out = {f"model.{name}": t for name, t in self.recommender.to_tensors().items()}
        out |= self.optimiser_state()
        out |= {f"own.{name}": tensor for name, tensor in self.runtime.state().items()}
        out |= {f"shifts.{name}": t for name, t in self.mover.shifts.state_dict().items()}
        out |= {f"lesson.{name}": tensor for name, tensor in self._beside.state_dict().items()}
        return out | {f"average.{i}": t for i, t in enumerate(self.average)}

    def optimiser_state(self) -> dict[str, Tensor]:
        """What optimisers remember, by name; live where they allow it."""
        out: dict[str, Tensor] = {}
        for name, (optimiser, _) in self.optimisers.items():
            out |= optimiser_tensors(f"optimiser.{name}", optimiser)
        engine = self.recommender.tables.engine
        out |= {f"rows.{name}": t for name, t in engine.state.items()}
        # Not `step_number`: a step without anything to learn from leaves the tables alone.
        out["engine.step"] = torch.tensor(engine.step)
        return out

    def load(self, tensors: Mapping[str, Tensor], step_number: int) -> None:
        """Go on from what `tensors` gave, after `step_number` steps."""
        self.recommender.load_tensors(_under("model.", tensors))
        for name, (optimiser, _) in self.optimisers.items():
            load_optimiser(f"optimiser.{name}", optimiser, tensors)
        steps = int(tensors["engine.step"])
        self.recommender.tables.engine.load_state(_under("rows.", tensors), steps)
        for i, average in enumerate(self.average):
            average.copy_(tensors[f"average.{i}"])
        self.runtime.load_state(_under("own.", tensors))
        self.mover.shifts.load_state_dict(_under("shifts.", tensors))
        self._beside.load_state_dict(_under("lesson.", tensors))
        self.step_number = step_number


def _use_tables(recommender: Recommender, config: TrainConfig) -> str:
    """Put the tables into the engine that the config asks for, and give its name."""
    tables, settings = recommender.tables, config.tables
    name, row_optimiser = settings.row_optimiser()
    dense = settings.is_dense(tables.num_weights)
    wanted, half = "dense" if dense else settings.engine, settings.weights == "fp16"
    engine = tables.use(wanted, row_optimiser, name, half=half)
    if config.ema and engine != "dense":
        raise ConfigError(
            f"ema needs tables of engine 'dense', with adam; got engine {engine!r}; "
            "set ema = 0, or tables.engine = 'dense'"
        )
    return engine


def _check_negatives(dataset: Dataset) -> None:
    require(bool(dataset.schema.item), "negatives need an item; name one in the schema")
    first = dataset.schema.tasks[0]
    fits = first.kind is TaskKind.BINARY
    require(fits, f"negatives need a binary first task; got {first.kind} {first.name!r}")


def _check_retrieval(recommender: Recommender, dataset: Dataset) -> None:
    tasks, model = dataset.schema.tasks, recommender.spec.model
    names = ", ".join(task.name for task in tasks)
    require(len(tasks) == 1, f"a retrieval task must be the only one; got {names}")
    require(bool(dataset.schema.item), "a retrieval task needs an item; name one in the schema")
    towers = isinstance(recommender.net, TwoTowers)
    require(towers, f"a retrieval task needs a two-tower model; got {model!r}")


def _under(head: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n[len(head) :]: tensor for n, tensor in tensors.items() if n.startswith(head)}

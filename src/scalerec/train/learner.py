"""One step of training: forward, loss, backward, optimisers, average, and what to do with a NaN."""

from dataclasses import replace

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.loading import step_seed, take_positive
from scalerec.data.pairing import pair
from scalerec.data.sampling import NegativeSampler
from scalerec.data.schema import TaskKind
from scalerec.errors import ConfigError, TrainError
from scalerec.models.recommender import Recommender
from scalerec.optim import build_optimiser
from scalerec.train.checkpoints import load_optimiser, optimiser_tensors
from scalerec.train.config import TrainConfig
from scalerec.train.losses import retrieval_loss, row_losses, task_loss
from scalerec.train.runtime import Runtime, has_bf16

__all__ = ["Learner"]


class Learner:
    """Everything that changes while a model trains, step by step.

    Args:
        recommender: The model; its tables are put into the engine that the config asks for.
        dataset: Gives the catalogue, for negatives and retrieval.
        config: The settings.
        runtime: The processes it runs in.

    Raises:
        ConfigError: If settings do not fit each other or the model.
    """

    def __init__(
        self, recommender: Recommender, dataset: Dataset, config: TrainConfig, runtime: Runtime
    ) -> None:
        self.recommender = recommender
        self.dataset = dataset
        self.config = config
        self.runtime = runtime
        self.bf16 = config.precision == "bf16" or (
            config.precision == "auto" and has_bf16(runtime.device)
        )
        self.step_number = 0
        self._use_tables()
        runtime.wrap(recommender)
        recommender.train()
        self.dense = list(recommender.dense_parameters().values())
        self.optimisers: dict[str, tuple[torch.optim.Optimizer, float]] = {}
        if self.dense:
            optimiser = build_optimiser(config.dense, self.dense)
            self.optimisers["dense"] = (optimiser, config.dense.lr)
        if self.engine == "dense":
            weight = recommender.tables.engine.get_parameter("weight")
            optimiser = build_optimiser(config.tables.dense_optimiser(), [weight])
            self.optimisers["tables"] = (optimiser, config.tables.lr)
        self._start_average()
        self._prepare_negatives()

    def _use_tables(self) -> None:
        tables, settings = self.recommender.tables, self.config.tables
        name, row_optimiser = settings.row_optimiser()
        dense = settings.is_dense(tables.matrix.numel())
        self.engine = tables.use("dense" if dense else settings.engine, row_optimiser, name)
        if self.config.ema and self.engine != "dense":
            raise ConfigError(f"ema needs engine 'dense', small tables; got {self.engine!r}")

    def _start_average(self) -> None:
        live = [*self.dense]
        if self.engine == "dense":
            live.append(self.recommender.tables.engine.get_parameter("weight"))
        self._live = [parameter.data for parameter in live] if self.config.ema else []
        self.average = [tensor.clone() for tensor in self._live]

    def _prepare_negatives(self) -> None:
        kinds = [task.kind for task in self.dataset.schema.tasks]
        self.retrieves = TaskKind.RETRIEVAL in kinds
        if self.config.negatives and not self.dataset.schema.item:
            raise ConfigError("negatives need an item; name one in the schema")
        if self.config.negatives or self.retrieves:
            counts = self.dataset.item_counts
            self._sampler = NegativeSampler.build(self.config.negatives_by, counts)
            share = torch.from_numpy(counts / max(1, counts.sum())).float()
            self._log_share = share.clamp(min=1e-9).log()

    def step(self, batch: Batch, factor: float) -> float:
        """Take one step.

        Args:
            batch: Training rows.
            factor: The schedule's, on both learning rates.

        Returns:
            The batch's loss before the step.

        Raises:
            TrainError: If the loss is not finite, with the rows and the feature that caused it.
        """
        # Dropout and negatives of a step depend on the seed and the step's number alone.
        torch.manual_seed(step_seed(self.config.seed, self.step_number))
        if self.config.negatives:
            batch = self._with_negatives(batch)
        batch = batch.to(self.runtime.device)
        for optimiser, lr in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = lr * factor
        self.recommender.tables.engine.lr = self.config.tables.lr * factor
        loss = self.loss(batch)
        value = float(loss.detach())
        if not abs(value) < float("inf"):
            raise TrainError(self._diagnose(batch, value))
        loss.backward()
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.dense, self.config.clip_norm)
        for optimiser, _ in self.optimisers.values():
            optimiser.step()
        self.recommender.tables.keep_padding_zero()
        self.step_number += 1
        if self.average:
            # Early steps weigh less far back: the average must not remember the initial weights.
            decay = min(self.config.ema, self.step_number / (self.step_number + 10.0))
            torch._foreach_lerp_(self.average, self._live, 1.0 - decay)
        return value

    def loss(self, batch: Batch) -> Tensor:
        """The batch's loss, with the dense part in the config's precision."""
        layout, device = self.recommender.layout, self.runtime.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            if not self.retrieves:
                return task_loss(layout, self.recommender(batch).float(), batch)
            positive = take_positive(batch)
            chosen = batch.take(positive)
            user, item = self.recommender.towers(chosen)
        share = self._log_share.to(user.device)
        return retrieval_loss(user.float(), item.float(), chosen.items, share, chosen.weights)

    def _with_negatives(self, batch: Batch) -> Batch:
        chosen = batch.take(take_positive(batch))
        shape = (len(chosen), self.config.negatives)
        generator = torch.Generator().manual_seed(step_seed(self.config.seed + 1, self.step_number))
        drawn = self._sampler.draw(shape, generator)
        rows = pair(self.recommender.layout, chosen, self.dataset.items, drawn)
        return Batch.concat([batch, replace(rows, labels=torch.zeros_like(rows.labels))])

    def _diagnose(self, batch: Batch, value: float) -> str:
        """Name the rows and the feature behind a loss that is not finite."""
        place = f"step {self.step_number + 1}: the loss is {value}"
        layout = self.recommender.layout
        with torch.no_grad():
            self.recommender.eval()
            logits = self.recommender(batch).float()
            self.recommender.train()
            losses, _ = row_losses(layout, logits, batch)
            rows = (~losses.isfinite()).any(1).nonzero().flatten().tolist()
            fields = self.recommender.inputs(self.recommender.tables(batch), batch).fields
        names = [field.name for field in layout.fields]
        bad = (~fields.isfinite()).any(-1).any(0).nonzero().flatten().tolist()
        if bad:
            cause = f"feature {names[bad[0]]!r} has an embedding that is not finite"
        else:
            largest = int(fields.abs().amax((0, 2)).argmax())
            cause = f"the largest embedding is that of feature {names[largest]!r}"
        shown = ", ".join(map(str, rows[:5])) or "none"
        return f"{place}; rows of the batch: {shown}; {cause}; try a smaller lr or clip_norm"

    def swap_average(self) -> None:
        """Exchange the weights with their moving average; a second call brings them back."""
        for live, average in zip(self._live, self.average, strict=True):
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint needs of it."""
        out = {f"model.{name}": t for name, t in self.recommender.to_tensors().items()}
        for name, (optimiser, _) in self.optimisers.items():
            out |= optimiser_tensors(f"optimiser.{name}", optimiser)
        out |= {f"rows.{name}": t for name, t in self.recommender.tables.engine.state.items()}
        return out | {f"average.{i}": t for i, t in enumerate(self.average)}

    def load(self, tensors: dict[str, Tensor], step_number: int) -> None:
        """Go on from what `tensors` gave."""
        self.recommender.load_tensors(_under("model.", tensors))
        for name, (optimiser, _) in self.optimisers.items():
            load_optimiser(f"optimiser.{name}", optimiser, tensors)
        self.recommender.tables.engine.load_state(_under("rows.", tensors), step_number)
        for i, average in enumerate(self.average):
            average.copy_(tensors[f"average.{i}"])
        self.step_number = step_number


def _under(head: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n[len(head) :]: tensor for n, tensor in tensors.items() if n.startswith(head)}

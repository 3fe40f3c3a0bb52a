"""The steps that a source was taught by meta-learning, taken for a whole target as one task.

Shapes: N training rows of the target, W a row's width.
"""

import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scalerec.bundle.recommenders import copy_tensors
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.vocabulary import OOV
from scalerec.errors import ConfigError, DataError, TrainError
from scalerec.meta.adapting import adapt, dense_after
from scalerec.meta.outer import full_rates
from scalerec.meta.parts import OWN, Parts
from scalerec.meta.personal import PersonalModel
from scalerec.meta.transfer.config import TransferConfig
from scalerec.meta.transfer.source import Source, Transferred
from scalerec.models.recommender import Recommender
from scalerec.scoring import evaluate
from scalerec.train import Goal

__all__ = ["take_learned_steps"]


def take_learned_steps(source: Source, dataset: Dataset, config: TransferConfig) -> Transferred:
    """Adapt a source to a target as it was taught to adapt to a task.

    The target is one task. Its key, such as its domain, is read as one never seen, if the source
    was taught so, and what its row becomes is the row of every such key among the training rows.
    Where there are validation rows, the best number of steps is kept, none included.

    Args:
        source: Its recommender is changed.
        dataset: The target's.
        config: Gives `steps`, `most_examples`, and of `train` the metric, the seed, and whether
            patience is below 0, so that all steps are kept.

    Raises:
        ConfigError: If nobody taught the source, or what was taught does not fit the grown model.
        DataError: If there are no training rows.
        TrainError: If a parameter is not finite after the steps.
    """
    begun = time.perf_counter()
    how, recommender = source.adaptation, source.start.recommender
    if how is None:
        raise ConfigError(
            "the source was not taught to adapt; learn it with `scalerec meta-train`, or take "
            "another method than 'meta'"
        )
    names = [field.name for field in recommender.layout.ids]
    if how.key and how.key not in names:
        raise ConfigError(f"the source adapts by {how.key!r}, which the target has not: {names}")
    place = names.index(how.key) if how.key else None
    model = PersonalModel(recommender, Parts(how.parts, place if how.own else None))
    rates = full_rates(model, source.rates)
    batch = _examples(dataset, config)
    hidden = _as_new(batch, place) if how.as_new and place is not None else batch
    shared = model.shared()
    support = model.read(hidden, 1)
    steps = config.steps or how.steps
    kept, first = None, copy_tensors(recommender)
    goal = Goal(dataset.schema.tasks, config.train.metric)
    curve: list[dict[str, float]] = []
    best, at = None, steps
    judges = dataset.num_rows("valid") > 0 and config.train.patience >= 0
    for step in range(steps + 1) if judges else [steps]:
        recommender.load_tensors(first)
        fast = adapt(model, shared, support, rates, step, prior=how.prior)
        _put(recommender, dense_after(model, shared, fast), batch, place)
        if not judges:
            continue
        found = evaluate(recommender.eval(), dataset, goal.evaluation).metrics
        value = goal.value(found)
        curve.append({"step": step, **{f"valid/{n}": v for n, v in found.items() if v is not None}})
        if goal.is_better(value, best):
            best, at, kept = value, step, copy_tensors(recommender)
    if kept is not None:
        recommender.load_tensors(kept)
    moved = {"whole": list(how.parts), "own": how.own}
    seconds = time.perf_counter() - begun
    return Transferred(
        recommender.eval(), "meta", moved, len(batch), at, goal.metric, best, curve, seconds
    )


def _examples(dataset: Dataset, config: TransferConfig) -> Batch:
    """The training rows, or some of them by chance, ``[N]``."""
    events, num = dataset.split("train"), dataset.num_rows("train")
    if not num:
        raise DataError(f"{dataset.directory}: no training rows to adapt on")
    if num <= config.most_examples:
        return events.read(0, num)
    numbers = np.random.default_rng(config.train.seed)
    return events.take(np.sort(numbers.choice(num, config.most_examples, replace=False)))


def _as_new(batch: Batch, place: int) -> Batch:
    ids = batch.ids.clone()
    ids[place] = OOV
    return replace(batch, ids=ids)


@torch.no_grad()
def _put(
    recommender: Recommender, found: dict[str, Tensor], batch: Batch, place: int | None
) -> None:
    """Write what the one task has of its own into the recommender."""
    for name, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            raise TrainError(f"{name} is not finite after adapting; lower the rates")
        if name != OWN:
            recommender.get_parameter(name).copy_(tensor[0])
    if OWN in found and place is not None:
        table = recommender.layout.ids[place].table
        rows, _ = recommender.tables.addresses(table, batch.ids[place].unique())
        recommender.tables.write(rows, found[OWN].expand(len(rows), -1))

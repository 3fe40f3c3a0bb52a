"""Structured pruning by field: which fields a model can do without.

Shapes: B rows, F fields, D embedding.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from scalerec.config import Config, require
from scalerec.data.batches import Batch
from scalerec.data.layout import Layout
from scalerec.data.schema import TaskKind
from scalerec.errors import ConfigError
from scalerec.models.inputs import Inputs
from scalerec.models.places import field_places
from scalerec.models.recommender import Recommender
from scalerec.scoring.scores import SCORE_BATCH
from scalerec.train.losses import task_loss

__all__ = [
    "FieldConfig",
    "choose_fields",
    "norm_importance",
    "permutation_importance",
    "permute_field",
    "taylor_importance",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldConfig(Config):
    """Which fields go. Exactly one of `ratio` and `number` is given.

    Args:
        ratio: Share of the fields that go, in (0, 1), to the nearest whole number. 0 where a number
            is given.
        number: How many go, at least 1. 0 where a ratio is given.
        by: How much a field matters. `permutation`: how much the loss on validation rows rises when
            the field's values are dealt out anew among them, which is what a model really draws
            from it; one pass over the rows a field. `taylor`: the mean magnitude of the field times
            the loss's gradient for it; one pass in all. `norm`: the field's mean magnitude times
            that of the weights that read it.
        rows: Validation rows that are looked at, at least 2.
        repeats: How often each field is permuted, at least 1.
        seed: Of permutations.
    """

    ratio: float = 0.0
    number: int = 0
    by: Literal["permutation", "taylor", "norm"] = "permutation"
    rows: int = 20_000
    repeats: int = 1
    seed: int = 1

    def __post_init__(self) -> None:
        require(0 <= self.ratio < 1, f"ratio must be in (0, 1); got {self.ratio}")
        require(self.number >= 0, f"number must be at least 1; got {self.number}")
        given = (self.ratio > 0) + (self.number > 0)
        require(
            given == 1,
            "exactly one of ratio and number must be above 0; "
            f"got ratio {self.ratio} and number {self.number}",
        )
        ways = ("permutation", "taylor", "norm")
        require(self.by in ways, f"by must be one of {', '.join(ways)}; got {self.by!r}")
        require(self.rows >= 2, f"rows must be at least 2; got {self.rows}")
        require(self.repeats >= 1, f"repeats must be at least 1; got {self.repeats}")
        require(self.seed >= 0, f"seed must be at least 0; got {self.seed}")


def choose_fields(importance: Mapping[str, float], config: FieldConfig) -> tuple[str, ...]:
    """The fields that matter least, the least first; among equals the first.

    Raises:
        ConfigError: If none would be left.
    """
    number = config.number or round(config.ratio * len(importance))
    left = number < len(importance)
    require(left, f"at least one of {len(importance)} fields must be left; got number {number}")
    return tuple(sorted(importance, key=lambda name: importance[name])[:number])


def permute_field(layout: Layout, batch: Batch, name: str, order: Tensor) -> Batch:
    """The batch with one field's values in another order of the rows.

    Args:
        layout: Of the batch.
        batch: B rows.
        name: The field's.
        order: The row from which each row takes its value, ``[B]`` int64.
    """
    kinds = (
        [field.name for field in layout.ids],
        [field.name for field in layout.numbers],
        [field.name for field in layout.bags],
        [field.name for field in layout.vectors],
    )
    for kind, names in enumerate(kinds):
        if name in names:
            return _permuted(batch, kind, names.index(name), order)
    known = ", ".join(field.name for field in layout.fields)
    raise ConfigError(f"there is no field {name!r} in the layout; there is {known}")


def _permuted(batch: Batch, kind: int, place: int, order: Tensor) -> Batch:
    if kind == 0:
        ids = batch.ids.clone()
        ids[place] = batch.ids[place][order]
        return replace(batch, ids=ids)
    if kind == 1:
        dense = batch.dense.clone()
        dense[:, place] = batch.dense[order, place]
        return replace(batch, dense=dense)
    if kind == 2:
        bags = list(batch.bags)
        bags[place] = bags[place].take(order)
        return replace(batch, bags=tuple(bags))
    vectors = list(batch.vectors)
    vectors[place] = vectors[place].take(order)
    return replace(batch, vectors=tuple(vectors))


@torch.no_grad()
def permutation_importance(
    recommender: Recommender, batch: Batch, *, repeats: int = 1, seed: int = 1
) -> dict[str, float]:
    """How much the loss rises when one field's values are dealt out anew among the rows.

    Breiman: Random Forests, 2001, https://doi.org/10.1023/A:1010933404324, section 10. A field that
    the model does not use gives 0, one that misleads it less than 0. Of two fields that say the
    same, each may seem to matter little.

    Args:
        recommender: In evaluation mode.
        batch: Rows that it was not trained on.
        repeats: How many orders of each field are averaged.
        seed: Of the orders, which are the same for all fields.

    Raises:
        ConfigError: If there is nothing but retrieval, which has no loss a row.
    """
    layout = recommender.layout
    can = any(task.kind is not TaskKind.RETRIEVAL for task in layout.tasks)
    require(can, "fields are permuted for tasks with a loss a row; a retrieval task has none")
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(batch), generator=generator) for _ in range(repeats)]
    start = _loss(recommender, batch)
    rises = {}
    for field in recommender.narrow.layout.fields:
        permuted = (permute_field(layout, batch, field.name, order) for order in orders)
        losses = [_loss(recommender, other) for other in permuted]
        rises[field.name] = math.fsum(losses) / repeats - start
    return rises


def _loss(recommender: Recommender, batch: Batch) -> float:
    parts = range(0, len(batch), SCORE_BATCH)
    logits = [recommender(batch.slice(start, start + SCORE_BATCH)).float() for start in parts]
    return float(task_loss(recommender.layout, torch.cat(logits), batch))


def _fields(recommender: Recommender, batch: Batch) -> Inputs:
    """The embedded fields one by one, which any net reads."""
    with torch.no_grad():
        return recommender.read(batch)


def taylor_importance(recommender: Recommender, batch: Batch) -> dict[str, float]:
    """How much the loss would change to first order if a field were zero, on average over rows.

    Pruning Convolutional Neural Networks for Resource Efficient Inference (Molchanov et al., 2017),
    https://arxiv.org/abs/1611.06440, equation 7, with a field's embedding in the place of a
    feature map; a history that is read item by item counts with all its items.

    Args:
        recommender: In evaluation mode.
        batch: Rows that it was not trained on.
    """
    inputs, layout = _fields(recommender, batch), recommender.narrow.layout
    fields = inputs.fields.detach().requires_grad_()
    items = [history.values.detach().requires_grad_() for history in inputs.histories]
    whole = [replace(own, values=v) for own, v in zip(inputs.histories, items, strict=True)]
    logits = recommender.net(replace(inputs, fields=fields, histories=tuple(whole), pairs=None))
    loss = task_loss(layout, logits.float(), batch)
    grads = torch.autograd.grad(loss, [fields, *items], allow_unused=True)
    if all(grad is None for grad in grads):
        raise ConfigError(f"model {recommender.spec.model!r} does not read the fields' embeddings")
    products_bf = _product(grads[0], fields).sum(-1)
    own_bags = [field.name for field in layout.bags if field.history]
    names = [field.name for field in layout.fields]
    for name, grad, values in zip(own_bags, grads[1:], items, strict=False):
        products_bf[:, names.index(name)] += _product(grad, values).sum((1, 2))
    # The loss is a mean over rows.
    return dict(zip(names, (products_bf.abs().mean(0) * len(batch)).tolist(), strict=True))


def _product(grad: Tensor | None, values: Tensor) -> Tensor:
    return torch.zeros_like(values) if grad is None else grad * values.detach()


@torch.no_grad()
def norm_importance(recommender: Recommender, batch: Batch) -> dict[str, float]:
    """A field's mean magnitude times that of the weights that read it, summed over D.

    Where no weight reads one field alone, as in a factorisation machine, it is the magnitude.

    Args:
        recommender: In evaluation mode.
        batch: Rows that show how often each value comes.
    """
    size_fd = _fields(recommender, batch).fields.abs().mean(0)
    dim = size_fd.shape[1]
    reading_fd = torch.zeros_like(size_fd)
    net = recommender.net
    for name, axes in field_places(net, recommender.narrow.layout, dim).items():
        weight = dict(net.named_parameters())[name].detach().abs()
        for axis, places in axes.items():
            if weight.ndim < 2 or any(len(own) != dim for own in places.values()):
                continue
            for number, own in places.items():
                part = weight.index_select(axis, own).movedim(axis, 0).flatten(1)
                reading_fd[number] += part.sum(1)
    if not bool(reading_fd.any()):
        reading_fd += 1.0
    sums = (size_fd * reading_fd).sum(1).tolist()
    return {field.name: sums[i] for i, field in enumerate(recommender.narrow.layout.fields)}

"""What a step of a model asks for, example by example: products, activations, parameters.

It is counted on the model itself, built over tables of a few rows: no list of formulas has to keep
up with the zoo.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from scalerec.config import Config
from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.layout import BagField, IdField, Layout, NumberField
from scalerec.data.schema import Role, Task, TaskKind
from scalerec.distributed.planning.reads import TableReads
from scalerec.models.net import TwoTowers
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.train.losses import task_loss

__all__ = ["ModelShape", "model_shape", "plain_layout", "random_batch", "with_rows"]

FEW_ROWS = 4
SIZES = (8, 24)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape(Config):
    """What training a model takes.

    Args:
        dim: D, the size of an embedding; a row has one column more, its first-order weight.
        lookups: Ids of an example.
        num_columns: Numbers, labels and the like that an example is read with.
        flops: Of an example, forward and backward, matrix products only.
        activations: Numbers of an example that the forward pass keeps for the backward pass.
        shapes: Sizes of every dense parameter.
    """

    dim: int
    lookups: float
    num_columns: int
    flops: float
    activations: float
    shapes: tuple[tuple[int, ...], ...]

    @property
    def num_parameters(self) -> int:
        """Numbers of the dense part."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def width(self) -> int:
        """W, the columns of a row."""
        return self.dim + 1


def model_shape(layout: Layout, spec: ModelSpec) -> ModelShape:
    """Count what training a model takes.

    Args:
        layout: Of its batches; the sizes of its tables do not matter.
        spec: The model.
    """
    small = with_rows(layout, dict.fromkeys(layout.tables, FEW_ROWS))
    recommender = build_recommender(small, spec, 1)
    counts = [_count(recommender, size) for size in SIZES]
    more = SIZES[1] - SIZES[0]
    flops, activations = (max(0.0, (b - a) / more) for a, b in zip(*counts, strict=True))
    parameters = recommender.dense_parameters().values()
    return ModelShape(
        dim=spec.net_config().dim,
        lookups=len(layout.ids) + float(sum(bag.max_length for bag in layout.bags)),
        num_columns=len(layout.numbers)
        + sum(own.dim for own in layout.vectors)
        + 3 * len(layout.tasks)
        + 2,
        flops=flops,
        activations=activations,
        shapes=tuple(tuple(parameter.shape) for parameter in parameters),
    )


def _count(recommender: Recommender, size: int) -> tuple[float, float]:
    """Products of a step, and numbers kept for its backward pass."""
    batch = random_batch(recommender.layout, size, torch.Generator().manual_seed(1))
    known = {parameter.data_ptr() for parameter in recommender.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in known:
            kept[tensor.data_ptr()] = max(kept.get(tensor.data_ptr(), 0), tensor.numel())
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda held: held):
        _loss(recommender, batch).backward()
    return float(counter.get_total_flops()), float(sum(kept.values()))


def _loss(recommender: Recommender, batch: Batch) -> Tensor:
    """Any loss that reaches all parameters."""
    layout = recommender.layout
    if all(task.kind is TaskKind.RETRIEVAL for task in layout.tasks):
        assert isinstance(recommender.net, TwoTowers)
        user, item = recommender.towers(batch)
        return torch.nn.functional.cross_entropy(user @ item.T, torch.arange(len(batch)))
    return task_loss(layout, recommender(batch).float(), batch)


def plain_layout(tables: Mapping[str, TableReads], num_numbers: int) -> Layout:
    """A layout of one field a table, some numbers and one binary task.

    Args:
        tables: By name; one that is looked up more than once an example is read as a bag.
        num_numbers: N.
    """
    whole = {name: ceil(own.lookups - 1e-9) for name, own in tables.items()}
    # Models of two towers want fields of both sides.
    half = len(whole) // 2
    roles = {name: Role.USER if i < half else Role.ITEM for i, name in enumerate(whole)}
    bags = (
        BagField(name=name, role=roles[name], table=name, max_length=most)
        for name, most in whole.items()
        if most > 1
    )
    ids = (IdField(name=name, role=roles[name], table=name) for name in whole if whole[name] <= 1)
    return Layout(
        ids=tuple(ids),
        numbers=tuple(NumberField(name=f"n{i}", role=Role.CONTEXT) for i in range(num_numbers)),
        bags=tuple(bags),
        tables={name: own.rows for name, own in tables.items()},
        tasks=(Task(name="label"),),
    )


def with_rows(layout: Layout, num_rows: Mapping[str, int]) -> Layout:
    """The layout with tables of other sizes."""
    return replace(layout, tables=dict(num_rows))


def random_batch(
    layout: Layout, size: int, generator: torch.Generator, distinct: int | None = None
) -> Batch:
    """Rows of random ids, numbers and labels.

    Args:
        layout: What they hold; bags are full.
        size: B.
        generator: Draws them.
        distinct: So many first rows of each table are read; all of them unless given.
    """

    def draw(table: str, number: int) -> Tensor:
        most = layout.tables[table] if distinct is None else min(distinct, layout.tables[table])
        return torch.randint(1, max(2, most), (number,), generator=generator)

    def stack(parts: Iterable[Tensor]) -> Tensor:
        found = list(parts)
        return torch.stack(found) if found else torch.zeros(0, size, dtype=torch.int64)

    classes = [max(2, task.num_outputs) for task in layout.tasks]
    labels = torch.stack(
        [torch.randint(0, most, (size,), generator=generator) for most in classes], 1
    )
    every = torch.arange(size)
    return Batch(
        ids=stack(draw(own.table, size) for own in layout.ids),
        dense=torch.randn(size, len(layout.numbers), generator=generator),
        bags=tuple(
            Bag(draw(own.table, size * own.max_length), torch.arange(size + 1) * own.max_length)
            for own in layout.bags
        ),
        vectors=tuple(
            Vectors(torch.randn(size, own.dim, generator=generator), torch.ones(size).bool())
            for own in layout.vectors
        ),
        labels=labels.float(),
        label_mask=torch.ones(size, len(layout.tasks), dtype=torch.bool),
        weights=torch.ones(size),
        groups=every,
        times=every,
        users=every,
        items=every,
    )

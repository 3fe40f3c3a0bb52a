"""Toy layouts, batches and tables for the tests of nets: random rows in place of a table engine."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.layout import BagField, IdField, Layout, NumberField, VectorField
from scalerec.data.schema import Role, Task, TaskKind
from scalerec.models.inputs import FieldEmbedder, Inputs

__all__ = ["LAYOUTS", "Toy", "draw_batch", "make_toy"]

_IDS = (
    IdField(name="user", role=Role.USER, table="user"),
    IdField(name="item", role=Role.ITEM, table="item"),
    IdField(name="day", role=Role.CONTEXT, table="day"),
)
_TABLES = {"user": 12, "item": 14, "day": 5, "genre": 6}
_LIKED = (Task(name="liked"),)
_MIXED = Layout(
    ids=_IDS,
    numbers=(NumberField(name="age", role=Role.USER), NumberField(name="price", role=Role.ITEM)),
    bags=(
        BagField(name="genres", role=Role.ITEM, table="genre", max_length=3),
        BagField(name="seen", role=Role.USER, table="item", max_length=5, history=True),
    ),
    vectors=(VectorField(name="image", role=Role.ITEM, dim=3),),
    tables=_TABLES,
    tasks=_LIKED,
)
_SEVERAL = (
    Task(name="liked"),
    Task(name="stars", kind=TaskKind.REGRESSION),
    Task(name="kind", kind=TaskKind.MULTICLASS, num_classes=3),
)

LAYOUTS: dict[str, Layout] = {
    "ids": Layout(ids=_IDS, tables=_TABLES, tasks=_LIKED),
    "mixed": _MIXED,
    "funnel": Layout(ids=_IDS, tables=_TABLES, tasks=(Task(name="click"), Task(name="bought"))),
    "several": _MIXED.replace(tasks=_SEVERAL),
}


@dataclass(frozen=True)
class Toy:
    """A layout with an embedder and a table of rows for each of its tables."""

    layout: Layout
    embedder: FieldEmbedder
    rows: nn.ParameterDict

    def inputs(self, batch: Batch) -> Inputs:
        """Look the rows up and assemble what a net sees."""
        fields = zip(self.layout.ids, batch.ids, strict=True)
        bags = zip(self.layout.bags, batch.bags, strict=True)
        parts = [self.rows[field.table][ids] for field, ids in fields]
        parts += [self.rows[field.table][bag.values] for field, bag in bags]
        inputs: Inputs = self.embedder(torch.cat(parts), batch)
        return inputs

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is learned beside the net."""
        return [*self.embedder.parameters(), *self.rows.values()]


def make_toy(layout: Layout, dim: int, generator: torch.Generator) -> Toy:
    """Draw the embedder and the tables; the padding row is zero."""
    rows = nn.ParameterDict()
    for name, num in layout.tables.items():
        start = torch.randn(num, dim + 1, generator=generator) * 0.5
        start[0] = 0
        rows[name] = nn.Parameter(start)
    return Toy(layout, FieldEmbedder(layout, dim, generator), rows)


def draw_batch(layout: Layout, num_rows: int, generator: torch.Generator) -> Batch:
    """Draw a batch whose lists may be empty and whose vectors may be absent; labels are zero."""

    def ids(table: str, size: tuple[int, ...]) -> Tensor:
        return torch.randint(1, layout.tables[table], size, generator=generator)

    bags = []
    for field in layout.bags:
        lengths = torch.randint(0, field.max_length + 1, (num_rows,), generator=generator)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        bags.append(Bag(ids(field.table, (int(offsets[-1]),)), offsets))
    vectors = []
    for vector in layout.vectors:
        present = torch.rand(num_rows, generator=generator) < 0.7
        values = torch.randn(num_rows, vector.dim, generator=generator)
        vectors.append(Vectors(values * present.unsqueeze(-1), present))
    num_tasks = len(layout.tasks)
    none = torch.full((num_rows,), -1)
    return Batch(
        ids=torch.stack([ids(field.table, (num_rows,)) for field in layout.ids]),
        dense=torch.randn(num_rows, len(layout.numbers), generator=generator),
        bags=tuple(bags),
        vectors=tuple(vectors),
        labels=torch.zeros(num_rows, num_tasks),
        label_mask=torch.ones(num_rows, num_tasks, dtype=torch.bool),
        weights=torch.ones(num_rows),
        groups=none,
        times=torch.zeros(num_rows, dtype=torch.int64),
        users=none,
        items=none,
    )

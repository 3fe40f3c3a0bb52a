"""What an exported graph is fed: one named input a feature, and the same from a batch.

Shapes: B rows, L length of a padded list, D floats of a vector.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import Config
from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.layout import BagField, IdField, Layout, NumberField, VectorField
from scalerec.data.schema import Role
from scalerec.errors import RequestError

__all__ = ["BATCH", "GraphInput", "draw_batch", "feeds_of", "graph_inputs"]

BATCH = "batch"
Field = IdField | NumberField | BagField | VectorField


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphInput(Config):
    """One input of an exported graph.

    Args:
        name: Its name in the graph.
        field: The field of the layout that it belongs to.
        part: What it holds of the field: the `id`, the `number`, the padded `ids` of a list and its
            `length`, the `vector` and whether it is `present`.
        dtype: Type of its members.
        shape: A number for a fixed size, a name for one that may differ from call to call.
        meaning: What it must hold, for a person.
    """

    name: str
    field: str
    part: Literal["id", "number", "ids", "length", "vector", "present"]
    dtype: Literal["int64", "float32", "bool"]
    shape: tuple[str | int, ...]
    meaning: str


def graph_inputs(layout: Layout, roles: Collection[Role] = tuple(Role)) -> tuple[GraphInput, ...]:
    """The inputs of a graph over a layout, in the order of its fields.

    Args:
        layout: What the model sees.
        roles: Whose fields are wanted.

    Raises:
        RequestError: If two inputs would have one name.
    """
    fields = [field for field in layout.fields if field.role in roles]
    inputs = [own for field in fields for own in _inputs_of(field, layout)]
    names = [own.name for own in inputs]
    for own in inputs:
        if names.count(own.name) > 1:
            raise RequestError(
                f"two inputs of the graph would be named {own.name!r}, one of them for feature "
                f"{own.field!r}; give the feature another name in the schema"
            )
    return tuple(inputs)


def _inputs_of(field: Field, layout: Layout) -> Iterator[GraphInput]:
    name = field.name
    if isinstance(field, NumberField):
        meaning = "the number after its transform; 0 if missing"
        yield _input(name, field, "number", "float32", (BATCH,), meaning)
        return
    if isinstance(field, VectorField):
        shape = (BATCH, field.dim)
        yield _input(name, field, "vector", "float32", shape, "the vector; read where present")
        meaning = "whether the row has a vector"
        yield _input(f"{name}.present", field, "present", "bool", (BATCH,), meaning)
        return
    ids = f"0 for none, 1 for unknown, up to {layout.tables[field.table] - 1}"
    if isinstance(field, IdField):
        yield _input(name, field, "id", "int64", (BATCH,), f"an id: {ids}")
        return
    order = "oldest first, " if field.history else ""
    meaning = f"up to {field.max_length} ids a row, {order}then zeros; an id: {ids}"
    yield _input(name, field, "ids", "int64", (BATCH, f"{name}.size"), meaning)
    yield _input(f"{name}.length", field, "length", "int64", (BATCH,), "how many ids the row has")


def _input(
    name: str, field: Field, part: Any, dtype: Any, shape: tuple[str | int, ...], meaning: str
) -> GraphInput:
    return GraphInput(
        name=name, field=field.name, part=part, dtype=dtype, shape=shape, meaning=meaning
    )


def feeds_of(layout: Layout, batch: Batch, inputs: Sequence[GraphInput]) -> dict[str, NDArray[Any]]:
    """What a graph's inputs hold for a batch, by name.

    Args:
        layout: Of the batch.
        batch: On the CPU.
        inputs: As `graph_inputs` gives them.
    """
    parts: dict[tuple[str, str], Tensor] = {}
    for field, ids in zip(layout.ids, batch.ids, strict=True):
        parts[field.name, "id"] = ids
    for number, values in zip(layout.numbers, batch.dense.unbind(1), strict=True):
        parts[number.name, "number"] = values
    for own, bag in zip(layout.bags, batch.bags, strict=True):
        parts[own.name, "ids"], parts[own.name, "length"] = _padded(bag), bag.lengths
    for one, vectors in zip(layout.vectors, batch.vectors, strict=True):
        parts[one.name, "vector"], parts[one.name, "present"] = vectors.values, vectors.present
    return {own.name: parts[own.field, own.part].contiguous().numpy() for own in inputs}


def _padded(bag: Bag) -> Tensor:
    """The ids of each row, then zeros, ``[B, L]`` with L at least 1."""
    lengths, rows = bag.lengths, bag.rows
    longest = max(1, int(lengths.max())) if len(lengths) else 1
    padded = torch.zeros(len(lengths), longest, dtype=torch.int64)
    places = torch.arange(len(rows)) - bag.offsets[rows]
    padded[rows, places] = bag.values.long()
    return padded


def draw_batch(layout: Layout, num_rows: int, seed: int) -> Batch:
    """Rows by chance: any id of a table, empty and full lists, present and absent vectors.

    Args:
        layout: Of the batch.
        num_rows: B.
        seed: Of the draws.
    """
    draws = np.random.default_rng(seed)

    def ids(table: str, size: int) -> Tensor:
        return torch.from_numpy(draws.integers(0, layout.tables[table], size))

    bags, vectors = [], []
    for field in layout.bags:
        lengths = draws.integers(0, field.max_length + 1, num_rows)
        offsets = torch.from_numpy(np.append(0, np.cumsum(lengths)))
        bags.append(Bag(ids(field.table, int(offsets[-1])), offsets))
    for own in layout.vectors:
        present = torch.from_numpy(draws.random(num_rows) < 0.7)
        values = torch.from_numpy(draws.normal(size=(num_rows, own.dim)).astype(np.float32))
        vectors.append(Vectors(values * present.unsqueeze(1), present))
    numbers = draws.normal(size=(num_rows, len(layout.numbers))).astype(np.float32)
    own_ids = [ids(field.table, num_rows) for field in layout.ids]
    none = torch.full((num_rows,), -1)
    return Batch(
        ids=torch.stack(own_ids) if own_ids else torch.zeros(0, num_rows, dtype=torch.int64),
        dense=torch.from_numpy(numbers),
        bags=tuple(bags),
        vectors=tuple(vectors),
        labels=torch.zeros(num_rows, len(layout.tasks)),
        label_mask=torch.zeros(num_rows, len(layout.tasks), dtype=torch.bool),
        weights=torch.ones(num_rows),
        groups=none,
        times=torch.zeros(num_rows, dtype=torch.int64),
        users=none,
        items=none,
    )

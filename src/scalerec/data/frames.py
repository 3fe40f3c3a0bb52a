"""Batches of users or items as Arrow tables, as bundles and servers keep them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch

from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.layout import Layout
from scalerec.data.schema import Role
from scalerec.errors import DataError

__all__ = ["batch_from_table", "batch_to_table", "empty_batch"]


def batch_to_table(
    layout: Layout, batch: Batch, roles: Sequence[Role], columns: Mapping[str, pa.Array]
) -> pa.Table:
    """The fields of some roles as columns, behind the given ones.

    Args:
        layout: The batch's.
        batch: ``[B]``.
        roles: Whose fields are kept.
        columns: Written first, such as `key` and `title`, B long.
    """
    out: dict[str, pa.Array] = dict(columns)
    for i, field in enumerate(layout.ids):
        if field.role in roles:
            out[f"ids/{field.name}"] = pa.array(batch.ids[i].numpy().astype(np.int32))
    for i, number in enumerate(layout.numbers):
        if number.role in roles:
            out[f"numbers/{number.name}"] = pa.array(batch.dense[:, i].numpy())
    for bag, bag_field in zip(batch.bags, layout.bags, strict=True):
        if bag_field.role in roles:
            values = pa.array(bag.values.numpy().astype(np.int32))
            offsets = pa.array(bag.offsets.numpy(), pa.int64())
            out[f"bags/{bag_field.name}"] = pa.LargeListArray.from_arrays(offsets, values)
    for vectors, vector_field in zip(batch.vectors, layout.vectors, strict=True):
        if vector_field.role in roles:
            flat = pa.array(vectors.values.numpy().ravel())
            name = vector_field.name
            out[f"vectors/{name}"] = pa.FixedSizeListArray.from_arrays(flat, vector_field.dim)
            out[f"present/{name}"] = pa.array(vectors.present.numpy())
    return pa.table(out)


def empty_batch(layout: Layout, size: int) -> Batch:
    """Rows with nothing in them: padding, zeros, empty lists, absent vectors."""
    num_tasks = len(layout.tasks)

    def none() -> torch.Tensor:
        return torch.full((size,), -1, dtype=torch.int64)

    return Batch(
        ids=torch.zeros(len(layout.ids), size, dtype=torch.int64),
        dense=torch.zeros(size, len(layout.numbers)),
        bags=tuple(
            Bag(torch.zeros(0, dtype=torch.int64), torch.zeros(size + 1, dtype=torch.int64))
            for _ in layout.bags
        ),
        vectors=tuple(
            Vectors(torch.zeros(size, field.dim), torch.zeros(size, dtype=torch.bool))
            for field in layout.vectors
        ),
        labels=torch.zeros(size, num_tasks),
        label_mask=torch.zeros(size, num_tasks, dtype=torch.bool),
        weights=torch.ones(size),
        groups=none(),
        times=torch.zeros(size, dtype=torch.int64),
        users=none(),
        items=none(),
    )


def batch_from_table(layout: Layout, table: pa.Table) -> Batch:
    """The rows that `batch_to_table` wrote; fields that it left out are empty.

    Raises:
        DataError: If a column has the wrong type or shape, or an id that its table does not have.
    """
    batch = empty_batch(layout, len(table))
    columns = {name: _whole(table[name]) for name in table.column_names}
    for i, field in enumerate(layout.ids):
        if (name := f"ids/{field.name}") in columns:
            batch.ids[i] = _ids(name, columns[name], layout.tables[field.table])
    for i, number in enumerate(layout.numbers):
        if (name := f"numbers/{number.name}") in columns:
            batch.dense[:, i] = _floats(name, columns[name])
    bags, vectors = list(batch.bags), list(batch.vectors)
    for i, bag in enumerate(layout.bags):
        if (name := f"bags/{bag.name}") in columns:
            bags[i] = _bag(name, columns[name], layout.tables[bag.table])
    for i, vector in enumerate(layout.vectors):
        if (name := f"vectors/{vector.name}") in columns:
            present = columns.get(f"present/{vector.name}")
            vectors[i] = _vectors(name, columns[name], present, vector.dim)
    return replace(batch, bags=tuple(bags), vectors=tuple(vectors))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def _ids(name: str, column: pa.Array, size: int) -> torch.Tensor:
    _check(name, column, pa.types.is_integer(column.type), "whole numbers")
    ids = column.to_numpy(zero_copy_only=False).astype(np.int64)
    if len(ids) and not 0 <= ids.min() <= ids.max() < size:
        raise DataError(
            f"column {name} must hold ids from 0 to {size - 1}; got {ids.min()} to {ids.max()}"
        )
    return torch.from_numpy(ids)


def _floats(name: str, column: pa.Array) -> torch.Tensor:
    _check(name, column, pa.types.is_floating(column.type), "floats")
    return torch.from_numpy(column.to_numpy(zero_copy_only=False).astype(np.float32))


def _bag(name: str, column: pa.Array, size: int) -> Bag:
    _check(name, column, pa.types.is_large_list(column.type), "lists")
    offsets = column.offsets.to_numpy().astype(np.int64)
    return Bag(_ids(name, column.flatten(), size), torch.from_numpy(offsets - offsets[0]))


def _vectors(name: str, column: pa.Array, present: pa.Array | None, dim: int) -> Vectors:
    listed = pa.types.is_fixed_size_list(column.type) and column.type.list_size == dim
    _check(name, column, listed, f"lists of {dim} floats")
    marked = present is not None and pa.types.is_boolean(present.type) and not present.null_count
    _check(name, column, marked, "lists beside a column that tells which are present")
    assert present is not None
    values = _floats(name, column.flatten()).reshape(-1, dim)
    return Vectors(values, torch.from_numpy(present.to_numpy(zero_copy_only=False)))


def _check(name: str, column: pa.Array, good: bool, wanted: str) -> None:
    if not good or column.null_count:
        nulls = f" with {column.null_count} nulls" if column.null_count else ""
        raise DataError(f"column {name} must hold {wanted}, no nulls; got {column.type}{nulls}")

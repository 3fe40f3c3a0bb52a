"""Batches of users or items as Arrow tables, as bundles and servers keep them."""

from collections.abc import Mapping, Sequence

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
    none = torch.full((size,), -1, dtype=torch.int64)
    zeros = torch.zeros(size + 1, dtype=torch.int64)
    num_tasks = len(layout.tasks)
    return Batch(
        ids=torch.zeros(len(layout.ids), size, dtype=torch.int64),
        dense=torch.zeros(size, len(layout.numbers)),
        bags=tuple(Bag(torch.zeros(0, dtype=torch.int64), zeros) for _ in layout.bags),
        vectors=tuple(
            Vectors(torch.zeros(size, field.dim), torch.zeros(size, dtype=torch.bool))
            for field in layout.vectors
        ),
        labels=torch.zeros(size, num_tasks),
        label_mask=torch.zeros(size, num_tasks, dtype=torch.bool),
        weights=torch.ones(size),
        groups=none,
        times=torch.zeros(size, dtype=torch.int64),
        users=none,
        items=none,
    )


def batch_from_table(layout: Layout, table: pa.Table) -> Batch:
    """The rows that `batch_to_table` wrote; fields that it left out are empty.

    Raises:
        DataError: If a column has the wrong shape.
    """
    batch = empty_batch(layout, len(table))
    names = set(table.column_names)
    for i, field in enumerate(layout.ids):
        if f"ids/{field.name}" in names:
            ids = table[f"ids/{field.name}"].to_numpy().astype(np.int64)
            if len(ids) and (ids.min() < 0 or ids.max() >= layout.tables[field.table]):
                raise DataError(
                    f"column ids/{field.name} must hold ids of table {field.table!r}, "
                    f"0 to {layout.tables[field.table] - 1}; got {ids.min()} to {ids.max()}"
                )
            batch.ids[i] = torch.from_numpy(ids)
    for i, number in enumerate(layout.numbers):
        if f"numbers/{number.name}" in names:
            batch.dense[:, i] = torch.from_numpy(table[f"numbers/{number.name}"].to_numpy().copy())
    bags = tuple(
        _bag(table[f"bags/{field.name}"]) if f"bags/{field.name}" in names else bag
        for field, bag in zip(layout.bags, batch.bags, strict=True)
    )
    vectors = tuple(
        _vectors(table, field.name, field.dim) if f"vectors/{field.name}" in names else empty
        for field, empty in zip(layout.vectors, batch.vectors, strict=True)
    )
    return Batch(
        batch.ids, batch.dense, bags, vectors, batch.labels, batch.label_mask, batch.weights,
        batch.groups, batch.times, batch.users, batch.items,
    )  # fmt: skip


def _bag(column: pa.ChunkedArray) -> Bag:
    whole = column.combine_chunks()
    lists = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    offsets = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return Bag(torch.from_numpy(values), torch.from_numpy(offsets - offsets[0]))


def _vectors(table: pa.Table, name: str, dim: int) -> Vectors:
    column = table[f"vectors/{name}"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if flat.size != len(table) * dim:
        raise DataError(
            f"column vectors/{name} must hold {dim} floats a row; got {flat.size} in all"
        )
    present = table[f"present/{name}"].to_numpy().copy()
    return Vectors(torch.from_numpy(flat.reshape(-1, dim).copy()), torch.from_numpy(present))

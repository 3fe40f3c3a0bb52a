"""Users meet items: one op that negatives, full ranking and recommending share."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.layout import IdField, Layout, NumberField
from scalerec.data.schema import Role

__all__ = ["RoleFilter", "pair"]


def pair(layout: Layout, left: Batch, items: Batch, index_bk: Tensor) -> Batch:
    """Put items of the catalogue in the place of the rows' own.

    Args:
        layout: Tells which fields belong to the item.
        left: Rows whose user and context fields are kept, ``[B]``.
        items: The catalogue, ``[I]``.
        index_bk: Numbers of items for each row, ``[B, K]`` int64.

    Returns:
        ``[B * K]`` rows, those of one row of `left` beside each other; labels, masks, weights,
        groups and times are of `left`.
    """
    num_rows, num_items = index_bk.shape
    index = index_bk.flatten()
    rows = torch.arange(num_rows, device=index.device).repeat_interleave(num_items)
    out = left.take(rows)
    ids = [i for i, field in enumerate(layout.ids) if field.role is Role.ITEM]
    out.ids[ids] = items.ids[ids][:, index]
    numbers = [i for i, field in enumerate(layout.numbers) if field.role is Role.ITEM]
    out.dense[:, numbers] = items.dense[index][:, numbers]
    bags = tuple(
        items.bags[i].take(index) if field.role is Role.ITEM else out.bags[i]
        for i, field in enumerate(layout.bags)
    )
    vectors = tuple(
        items.vectors[i].take(index) if field.role is Role.ITEM else out.vectors[i]
        for i, field in enumerate(layout.vectors)
    )
    return replace(out, bags=bags, vectors=vectors, items=index)


class RoleFilter:
    """Keeps the fields of some roles in batches; all others become empty, as padding is.

    Args:
        layout: The batches'.
        roles: Of the fields that are kept.
    """

    def __init__(self, layout: Layout, roles: Collection[Role]) -> None:
        def others(fields: Sequence[IdField | NumberField]) -> Tensor:
            return torch.tensor([field.role not in roles for field in fields], dtype=torch.bool)

        self._ids, self._numbers = others(layout.ids).unsqueeze(1), others(layout.numbers)
        self._bags = [field.role in roles for field in layout.bags]
        self._vectors = [field.role in roles for field in layout.vectors]

    def __call__(self, batch: Batch) -> Batch:
        """The rows with the other fields empty; the batch stays as it is."""
        bags = tuple(
            bag if kept else Bag(bag.values[:0], torch.zeros_like(bag.offsets))
            for bag, kept in zip(batch.bags, self._bags, strict=True)
        )
        vectors = tuple(
            own if kept else Vectors(torch.zeros_like(own.values), torch.zeros_like(own.present))
            for own, kept in zip(batch.vectors, self._vectors, strict=True)
        )
        ids = batch.ids.masked_fill(self._ids, 0)
        dense = batch.dense.masked_fill(self._numbers, 0.0)
        return replace(batch, ids=ids, dense=dense, bags=bags, vectors=vectors)

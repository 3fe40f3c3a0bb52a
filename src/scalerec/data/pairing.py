"""Users meet items: one op that negatives, full ranking and recommending share."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.layout import IdField, Layout, NumberField
from scalerec.data.schema import Role

__all__ = ["keep_roles", "pair"]


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


def keep_roles(layout: Layout, batch: Batch, roles: Collection[Role]) -> Batch:
    """The rows with the fields of some roles alone; all others are empty, as padding is.

    Args:
        layout: The batch's.
        batch: ``[B]``; it stays as it is.
        roles: Of the fields that are kept.
    """

    def others(fields: Sequence[IdField | NumberField]) -> list[int]:
        return [i for i, field in enumerate(fields) if field.role not in roles]

    ids, dense = batch.ids.clone(), batch.dense.clone()
    ids[others(layout.ids)] = 0
    dense[:, others(layout.numbers)] = 0.0
    bags = tuple(
        bag if field.role in roles else Bag(bag.values[:0], torch.zeros_like(bag.offsets))
        for bag, field in zip(batch.bags, layout.bags, strict=True)
    )
    vectors = tuple(
        own
        if field.role in roles
        else Vectors(torch.zeros_like(own.values), torch.zeros_like(own.present))
        for own, field in zip(batch.vectors, layout.vectors, strict=True)
    )
    return replace(batch, ids=ids, dense=dense, bags=bags, vectors=vectors)

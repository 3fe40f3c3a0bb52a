"""Users meet items: one op that negatives, full ranking and recommending share."""

from dataclasses import replace

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.layout import Layout
from scalerec.data.schema import Role

__all__ = ["pair"]


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

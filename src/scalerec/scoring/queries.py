"""Whom to rank for: the users of a split, what they then chose, and what they had met before.

Shapes: U users, V items of all users' lists together.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from scalerec.data.batches import Bag, Batch
from scalerec.data.dataset import Dataset, Events
from scalerec.data.frames import empty_batch
from scalerec.data.splits import SPLITS
from scalerec.scoring.scores import SCORE_BATCH

__all__ = ["Queries", "queries_of"]

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Queries:
    """Users of a split, as they were at their first event in it.

    Args:
        users: Their rows, ``[U]``.
        relevant: Numbers of the items they then chose and had not met before.
        met: Numbers of the items they had met in earlier splits, which no list may hold.
    """

    users: Batch
    relevant: Bag
    met: Bag


def queries_of(dataset: Dataset, split: str) -> Queries:
    """The users of a split that chose something in it, ready to be ranked for.

    Args:
        dataset: Its schema has a user and an item; the first task's label says what was chosen.
        split: `train`, `valid` or `test`.

    Raises:
        DataError: If the split has no rows.
    """
    events = dataset.split(split)
    users = np.asarray(events.column("user")).astype(np.int64)
    items = np.asarray(events.column("item")).astype(np.int64)
    labels = np.nan_to_num(np.asarray(events.column("labels"))[:, 0])
    positive = labels > 0
    times = np.asarray(events.column("time")) if dataset.schema.timestamp else np.arange(len(users))
    order = np.lexsort((np.arange(len(users)), times, users))
    distinct, first = np.unique(users[order], return_index=True)
    chosen = np.isin(distinct, users[positive])
    distinct, rows = distinct[chosen], order[first[chosen]]
    at_first = _rows(events, rows)
    met = _met_before(dataset, split, distinct)
    relevant = _without(_items_of(distinct, users[positive], items[positive]), met)
    return Queries(at_first, relevant, met)


def _rows(events: Events, rows: Numbers) -> Batch:
    """Some events, in the order of `rows`, read block by block."""
    if not len(rows):
        return empty_batch(events.dataset.layout, 0)
    ordered = np.sort(rows)
    parts = []
    for start in range(0, len(events), SCORE_BATCH):
        own = ordered[(ordered >= start) & (ordered < start + SCORE_BATCH)]
        if len(own):
            block = events.read(start, start + SCORE_BATCH)
            parts.append(block.take(torch.from_numpy(own - start)))
    back = torch.from_numpy(np.searchsorted(ordered, rows))
    return Batch.concat(parts).take(back)


def _items_of(wanted: Numbers, users: Numbers, items: Numbers) -> Bag:
    """Distinct items of each wanted user; `wanted` is in order."""
    own = np.isin(users, wanted)
    pairs = np.unique(np.stack([np.searchsorted(wanted, users[own]), items[own]]), axis=1)
    offsets = np.zeros(len(wanted) + 1, np.int64)
    np.cumsum(np.bincount(pairs[0], minlength=len(wanted)), out=offsets[1:])
    return Bag(torch.from_numpy(pairs[1].copy()), torch.from_numpy(offsets))


def _met_before(dataset: Dataset, split: str, users: Numbers) -> Bag:
    earlier = [s for s in SPLITS[: SPLITS.index(split)] if dataset.num_rows(s)]
    stores = [dataset.split(name) for name in earlier]
    before = dataset.met_before
    who = np.concatenate([before[0], *(np.asarray(s.column("user")) for s in stores)])
    what = np.concatenate([before[1], *(np.asarray(s.column("item")) for s in stores)])
    return _items_of(users, who, what)


def _without(bag: Bag, other: Bag) -> Bag:
    """The values of each row of `bag` that the same row of `other` does not hold."""
    if not len(bag.values) or not len(other.values):
        return bag
    width = int(max(bag.values.max(), other.values.max())) + 1
    kept = ~torch.isin(bag.rows * width + bag.values, other.rows * width + other.values)
    lengths = torch.bincount(bag.rows[kept], minlength=len(bag.offsets) - 1)
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return Bag(bag.values[kept], offsets)

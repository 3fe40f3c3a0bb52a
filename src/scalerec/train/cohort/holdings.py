"""What each party holds: its examples, and the rows of embedding tables that they read.

Shapes: n examples of all parties, P parties, K rows of all of them, F id fields.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.data.batches import Bag, Batch
from scalerec.errors import RoundError
from scalerec.models.tables import Tables

__all__ = ["Holdings", "hold", "hold_examples"]

# A table of all keys that there may be is quicker than sorting them, up to so many for each.
KEYS_EACH = 16


@dataclass(frozen=True, slots=True)
class Holdings:
    """Who holds which examples and reads which rows.

    Args:
        order: Numbers of examples, those of each party in turn, ``[n]`` int64.
        offsets: Where each party's start in `order`, ``[P + 1]`` int64.
        rows: Rows of the matrix of all tables: those that each party's examples read, party after
            party, sorted, each once, ``[K]`` int64.
        row_offsets: Where each party's start in `rows`, ``[P + 1]`` int64.
        still: Whether a row is padding, which stays zero, ``[K]`` bool.
    """

    order: NDArray[np.int64]
    offsets: NDArray[np.int64]
    rows: Tensor
    row_offsets: Tensor
    still: Tensor

    @property
    def num_parties(self) -> int:
        """P."""
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Examples of each party, ``[P]``."""
        return np.diff(self.offsets)


def hold_examples(order: NDArray[np.int64], offsets: NDArray[np.int64]) -> Holdings:
    """Holdings of a model without tables.

    Args:
        order: As in `Holdings`.
        offsets: As in `Holdings`.
    """
    none = torch.zeros(0, dtype=torch.int64)
    starts = torch.zeros(len(offsets), dtype=torch.int64)
    return Holdings(order, offsets, none, starts, none.bool())


def hold(
    batch: Batch, tables: Tables, order: NDArray[np.int64], offsets: NDArray[np.int64]
) -> tuple[Holdings, Batch]:
    """Find the rows that each party reads, and number its ids by them.

    Args:
        batch: All examples.
        tables: What the ids read.
        order: Numbers of examples, those of each party in turn; one in no party is left out.
        offsets: Where each party's start, ``[P + 1]``.

    Returns:
        The holdings, and the batch with each id replaced by its row's place among those of its
        party; that of an example of no party is 0.

    Raises:
        RoundError: If an example is in two parties.
    """
    owner = np.full(len(batch), -1, np.int64)
    owner[order] = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if int((owner >= 0).sum()) != len(order):
        raise RoundError(f"{len(order)} places in parties hold {int((owner >= 0).sum())} examples")
    num_rows = len(tables.matrix)
    bag_owners = [np.repeat(owner, bag.lengths.numpy()) for bag in batch.bags]
    owners = np.concatenate([np.tile(owner, len(batch.ids)), *bag_owners])
    keys = owners * num_rows + tables.rows_of(batch).cpu().numpy()
    keys[owners < 0] = -1
    found, places = _distinct(keys, (len(offsets) - 1) * num_rows)
    parties, rows = np.divmod(found, num_rows)
    row_offsets = np.searchsorted(parties, np.arange(len(offsets)))
    local = places - row_offsets[np.maximum(owners, 0)]
    local[owners < 0] = 0
    parts = torch.from_numpy(local).split([batch.ids.numel(), *(len(b.values) for b in batch.bags)])
    ids = parts[0].view(batch.ids.shape)
    bags = zip(parts[1:], batch.bags, strict=True)
    own = replace(batch, ids=ids, bags=tuple(Bag(values, bag.offsets) for values, bag in bags))
    numbers = torch.from_numpy(rows)
    still = torch.isin(numbers, tables.get_buffer("padding").cpu())
    return Holdings(order, offsets, numbers, torch.from_numpy(row_offsets), still), own


def _distinct(
    keys: NDArray[np.int64], num_keys: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The keys that are there, in order, and each one's place among them.

    Args:
        keys: Below `num_keys`; -1 is nobody's, is left out, and its place means nothing; ``[n]``.
        num_keys: How many different keys there may be.
    """
    if num_keys > KEYS_EACH * len(keys):
        found, places = np.unique(keys, return_inverse=True)
        skipped = int(len(found) and found[0] < 0)
        return found[skipped:], places.reshape(-1) - skipped
    # One more, at the end, where -1 points to.
    there = np.zeros(num_keys + 1, np.bool_)
    there[keys] = True
    there[-1] = False
    place = np.cumsum(there, dtype=np.int64)
    return np.flatnonzero(there), place[keys] - 1

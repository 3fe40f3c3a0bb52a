"""Rows of a cohort put together by how many parties hold them, so that ragged work is batched.

Shapes: P parties, K rows of all of them together, U distinct rows, G rows of one group, c parties
that hold each of them, W a table's width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scalerec.rounds.cohort import CohortRows, CohortUpdate, flat

__all__ = ["Holders", "gram"]

# Products of pairs of parties that are in memory at once.
PAIRS = 2**22


@dataclass(frozen=True, slots=True)
class Holders:
    """Who holds which row of one table.

    Args:
        rows: The rows that somebody holds, sorted, each once, ``[U]`` int64.
        counts: How many hold each, ``[U]`` int64.
        entries: Places in the cohort's list, those of each row in turn, ``[K]`` int64.
    """

    rows: Tensor
    counts: Tensor
    entries: Tensor

    @staticmethod
    def of(part: CohortRows) -> "Holders":
        """Find them."""
        ordered, entries = torch.sort(part.rows, stable=True)
        rows, counts = torch.unique_consecutive(ordered, return_counts=True)
        return Holders(rows, counts, entries)

    def groups(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The rows that equally many hold: places in `rows`, ``[G]``, and entries, ``[G, c]``.

        There are at most as many groups as parties, and few where few hold most rows.
        """
        starts = self.counts.cumsum(0) - self.counts
        for count in torch.unique(self.counts).tolist():
            places = (self.counts == count).nonzero().flatten()
            yield places, self.entries[starts[places, None] + torch.arange(count)]


def gram(cohort: CohortUpdate) -> Tensor:
    """The inner products of the parties' updates, an absent row being zero, ``[P, P]`` float64.

    Distances follow from it: no row is filled in for those who do not hold it.

    Args:
        cohort: Its numbers must be finite.
    """
    num = len(cohort)
    products = torch.zeros(num, num, dtype=torch.float64)
    for tensor in cohort.dense.values():
        lines = flat(tensor).double()
        products += lines @ lines.T
    for part in cohort.tables.values():
        owners = part.owners
        for _, entries in Holders.of(part).groups():
            for some in entries.split(max(1, PAIRS // entries.shape[1] ** 2)):
                values = part.values[some].double()
                who = owners[some]
                pairs = who[:, :, None] * num + who[:, None, :]
                inner = values @ values.transpose(1, 2)
                products.view(-1).index_add_(0, pairs.flatten(), inner.flatten())
    return products

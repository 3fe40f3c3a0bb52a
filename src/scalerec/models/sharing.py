"""Rows that ids share: which ones an id reads, and how what was looked up becomes its embedding.

Shapes: K looked-up ids, P stored columns of a row, D embedding, W = D + 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.layout import Layout
from scalerec.data.vocabulary import FIRST_ID, OOV
from scalerec.models.forms import TableForm

__all__ = ["ShapedRows", "Shares", "plan_shares", "stored_layout", "stored_width"]

# Odd numbers far from each other, of 62 bits.
FACTORS = (0x1E3779B97F4A7C15, 0x2545F4914F6CDD1D)
LAST = 0x3F58476D1CE4E5B9


@dataclass(frozen=True, slots=True)
class Shares:
    """Which two rows an id reads of a table whose rows are shared.

    The second row of padding and of out-of-vocabulary is the padding row, which is zero, so both
    read their own row alone.

    Hash: the sum of two rows. Hash Embeddings for Efficient Word Representations (Svenstrup et al.,
    2017), https://arxiv.org/abs/1709.03933, section 2, with two hashes and without weights of
    importance. Quotient: ``r (1 + q)`` elementwise, r and q the rows of the remainder and the
    quotient. Compositional Embeddings Using Complementary Partitions (Shi et al., 2020),
    https://arxiv.org/abs/1909.02107, section 3, with the product; the one is ours: rows of a small
    deviation then start as one row would, and not as a product of two small numbers.

    Args:
        is_hash: Whether by two hashes.
        num_rows: Rows of the table.
        divisor: By quotients, what ids are divided by: the number of rows for remainders.
    """

    is_hash: bool
    num_rows: int
    divisor: int = 0

    def first(self, ids: Tensor) -> Tensor:
        """The first row of each id."""
        if self.is_hash:
            return self._own(ids, self._hash(ids, FACTORS[0]), ids)
        ids = self._known(ids)
        return self._own(ids, FIRST_ID + (ids - FIRST_ID) % self.divisor, ids)

    def second(self, ids: Tensor) -> Tensor:
        """The second row of each id."""
        none = torch.zeros_like(ids)
        if self.is_hash:
            return self._own(ids, self._hash(ids, FACTORS[1]), none)
        ids = self._known(ids)
        quotients = torch.div(ids - FIRST_ID, self.divisor, rounding_mode="floor")
        return self._own(ids, FIRST_ID + self.divisor + quotients, none)

    def join(self, first_kw: Tensor, second_kw: Tensor) -> Tensor:
        """What two looked-up rows give."""
        return first_kw + second_kw if self.is_hash else first_kw + first_kw * second_kw

    def _known(self, ids: Tensor) -> Tensor:
        """Ids whose quotient has a row; others are out-of-vocabulary."""
        quotients = self.num_rows - FIRST_ID - self.divisor
        return torch.where(ids < FIRST_ID + self.divisor * quotients, ids, OOV)

    def _own(self, ids: Tensor, shared: Tensor, own: Tensor) -> Tensor:
        return torch.where(ids < FIRST_ID, own, shared)

    def _hash(self, ids: Tensor, factor: int) -> Tensor:
        # Whole numbers of 64 bits wrap around, which is what a hash by multiplication wants.
        mixed = (ids + 1) * factor
        mixed = (mixed ^ ((mixed >> 31) & 0x1FFFFFFFF)) * LAST
        return FIRST_ID + ((mixed >> 24) & 0x7FFFFFFF) % (self.num_rows - FIRST_ID)


def plan_shares(name: str, form: TableForm, num_ids: int) -> Shares | None:
    """How ids share the rows of a table; none where each has its own.

    Args:
        name: The table's.
        form: Its form.
        num_ids: How many ids it has.

    Raises:
        ConfigError: If there are too few rows to tell the ids apart by quotient and remainder.
    """
    if form.sharing == "own":
        return None
    if form.sharing == "hash":
        return Shares(True, form.rows)
    if form.divisor:
        return Shares(False, form.rows, form.divisor)
    to_share, ids = form.rows - FIRST_ID, max(1, num_ids - FIRST_ID)
    # The fewest quotients: most of the rows are then those of remainders.
    quotients = 1
    while quotients < to_share and quotients * (to_share - quotients) < ids:
        quotients += 1
    if quotients == to_share:
        side = -(-ids // max(1, int(ids**0.5)))
        require(
            False,
            f"table {name!r}: {num_ids} ids by quotient and remainder need at least about "
            f"{FIRST_ID + 2 * side} rows; got {form.rows}",
        )
    return Shares(False, form.rows, to_share - quotients)


def stored_layout(layout: Layout, forms: Mapping[str, TableForm]) -> Layout:
    """The layout with the number of rows that are stored in the place of the number of ids."""
    sizes = {
        name: forms[name].rows if name in forms and forms[name].rows else size
        for name, size in layout.tables.items()
    }
    return layout.replace(tables=sizes) if sizes != layout.tables else layout


def stored_width(layout: Layout, forms: Mapping[str, TableForm], dim: int) -> int:
    """P, the columns that the widest table stores: its embedding and the first-order weight."""
    dims = [(forms[name].dim if name in forms else 0) or dim for name in layout.tables]
    return 1 + max(dims, default=dim)


class ShapedRows(nn.Module):
    """Makes embeddings of looked-up rows, where tables share rows or store fewer columns.

    Args:
        layout: Of the batches.
        forms: Table to its form.
        shares: Table to which rows its ids share; none where they do not.
        dim: D.
        generator: Draws the bases, so that embeddings start with the deviation of the rows.
    """

    def __init__(
        self,
        layout: Layout,
        forms: Mapping[str, TableForm],
        shares: Mapping[str, Shares],
        dim: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layout, self.dim, self.shares = layout, dim, dict(shares)
        self.bases = nn.ParameterList()
        self.base_of: dict[str, int] = {}
        for name in layout.tables:
            own = forms[name].dim if name in forms else 0
            if own:
                self.base_of[name] = len(self.bases)
                start = torch.randn(own, dim, generator=generator) / own**0.5
                self.bases.append(nn.Parameter(start))

    def basis(self, name: str) -> Tensor | None:
        """The basis of a table, ``[d, D]``; none where it stores the embedding itself."""
        return self.bases[self.base_of[name]] if name in self.base_of else None

    def forward(self, rows_kp: Tensor, batch: Batch) -> Tensor:
        """Combine and map looked-up rows.

        Args:
            rows_kp: What `Tables.rows_of` names for the batch, ``[K + S, P]``: first rows, then
                the second rows of the fields whose tables share.
            batch: The batch.

        Returns:
            ``[K, W]``.
        """
        sizes = [batch.ids.shape[1]] * len(self.layout.ids)
        sizes += [len(bag.values) for bag in batch.bags]
        names = [field.table for field in self.layout.ids]
        names += [field.table for field in self.layout.bags]
        start, second = 0, sum(sizes)
        parts = []
        for name, size in zip(names, sizes, strict=True):
            part = rows_kp[start : start + size]
            start += size
            if name in self.shares:
                part = self.shares[name].join(part, rows_kp[second : second + size])
                second += size
            parts.append(self._widen(name, part))
        return torch.cat(parts) if parts else rows_kp.new_zeros(0, self.dim + 1)

    def _widen(self, name: str, part_kp: Tensor) -> Tensor:
        basis = self.basis(name)
        if basis is None:
            return part_kp
        return torch.cat([part_kp[:, : len(basis)] @ basis, part_kp[:, -1:]], 1)

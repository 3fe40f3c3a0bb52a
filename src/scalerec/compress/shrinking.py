"""Rows that ids are to share, found so that they give back what each id's own row was.

Shapes: N ids, R shared rows, W columns.
"""

import torch
from torch import Tensor

from scalerec.data.vocabulary import FIRST_ID
from scalerec.models.sharing import Shares

__all__ = ["fit_shared"]

# What is left falls by half or more in each; more change nothing that is seen.
SUM_STEPS, PRODUCT_STEPS = 50, 20


def fit_shared(rows_nw: Tensor, counts_n: Tensor, shares: Shares) -> Tensor:
    """The shared rows by which all ids' rows are best given back, ``[R, W]``.

    Best in the sum of squares, in which each id counts as often as it is read (and one time more,
    so that no id is free). By steps: for two hashes each row takes up half of what is left of its
    ids; by quotients, remainders' and quotients' rows are fitted in turn (alternating least
    squares).

    Args:
        rows_nw: Each id's own row, ``[N, W]``.
        counts_n: How often each is read, ``[N]``.
        shares: Which rows an id will read.
    """
    ids = torch.arange(len(rows_nw))
    shared = rows_nw.new_zeros(shares.num_rows, rows_nw.shape[1], dtype=torch.float64)
    own = min(FIRST_ID, len(rows_nw))
    shared[:own] = rows_nw[:own]
    ids, wanted = ids[own:], rows_nw[own:].double()
    if len(ids):
        weights = counts_n[own:].double().unsqueeze(1) + 1.0
        first, second = shares.first(ids), shares.second(ids)
        if shares.is_hash:
            _fit_sums(shared, wanted, weights, first, second)
        else:
            _fit_products(shared, wanted, weights, first, second)
    return shared.float()


def _fit_sums(
    shared: Tensor, wanted: Tensor, weights: Tensor, first: Tensor, second: Tensor
) -> None:
    total = shared.new_zeros(len(shared), 1)
    total.index_add_(0, first, weights).index_add_(0, second, weights)
    for _ in range(SUM_STEPS):
        left = (wanted - shared[first] - shared[second]) * weights
        step = torch.zeros_like(shared).index_add_(0, first, left).index_add_(0, second, left)
        # Half: an id's two rows both move.
        shared += 0.5 * step / total.clamp(min=1e-12)


def _fit_products(
    shared: Tensor, wanted: Tensor, weights: Tensor, first: Tensor, second: Tensor
) -> None:
    """Rows r and q with ``r (1 + q)`` near what is wanted; they start from q = 0."""
    for _ in range(PRODUCT_STEPS):
        factor = 1.0 + shared[second]
        _solve(shared, first, weights, factor, wanted)
        factor = shared[first]
        _solve(shared, second, weights, factor, wanted - factor)


def _solve(shared: Tensor, rows: Tensor, weights: Tensor, factor: Tensor, wanted: Tensor) -> None:
    """Set rows so that, times the factors, they are nearest to what is wanted of them."""
    above, below = (torch.zeros_like(shared) for _ in range(2))
    above.index_add_(0, rows, weights * factor * wanted)
    below.index_add_(0, rows, weights * factor.square())
    held = torch.zeros(len(shared), dtype=torch.bool)
    held[rows] = True
    shared[held] = (above / below.clamp(min=1e-12))[held]

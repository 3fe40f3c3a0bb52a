"""From looked-up rows to fields, in one pass over the batch.

Shapes: B rows of the batch, I id fields, N numbers, J bags, X other fields, F = I + N + J + X, D
embedding, W = D + 1, K looked-up rows.

Folded, a number takes one column and not D; see `scalerec.models.inputs.Folded`.
"""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import load, prefetch, store

__all__ = ["assemble"]

# How many rows of the batch ahead the memory is asked for.
AHEAD = 2


@njit(inline="always")
def _add(fields: Any, b: Any, at: Any, value: Any, total: Any, square: Any, d: Any) -> None:
    """Store one value of a field, and count it in the sums over fields."""
    total[d] += value
    square[d] += value * value
    store(fields, b, at, value)


@njit(inline="always")
def _fold(fields: Any, b: Any, at: Any, dense: Any, numbers: Any, total: Any, square: Any) -> Any:
    """Store the numbers of one row, and zeros after them; give their first-order weight."""
    dim, weight = len(total), np.float32(0.0)
    for n in range(len(numbers)):
        x = dense[b, n]
        for d in range(dim):
            value = x * numbers[n, d]
            total[d] += value
            square[d] += value * value
        store(fields, b, at + n, x)
        weight += x * numbers[n, dim]
    for column in range(at + len(numbers), fields.shape[1]):
        store(fields, b, column, np.float32(0.0))
    return weight


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def assemble(
    rows: Any,
    matrix: Any,
    dense: Any,
    numbers: Any,
    offsets: Any,
    others: Any,
    fields: Any,
    linear: Any,
    totals: Any,
    pairs: Any,
    folded: Any,
    share: Any,
    num_shares: Any,
) -> None:
    """Fill one share of the batch's rows.

    Args:
        rows: Rows of the matrix, ``[K]`` int64: I stretches of B, then the values of each bag.
        matrix: ``[R, W]``.
        dense: The batch's numbers, ``[B, N]`` float32.
        numbers: What a number is multiplied with, ``[N, W]`` float32.
        offsets: Where each bag's values start within `rows`, ``[J, B + 1]`` int64.
        others: Fields that were embedded before, ``[B, X, W]`` float32.
        fields: To be filled, ``[B, F * D]``; folded, ``[B, (F - N) * D + M]`` with the numbers
            themselves, and zeros up to M, after all else.
        linear: To be filled: sum of the first-order weights, ``[B]`` float32.
        totals: To be filled: sum of the fields, ``[B, D]`` float32.
        pairs: To be filled: sum of the products of all pairs of fields, ``[B, D]`` float32.
        folded: Whether numbers are.
        share: Number of this share.
        num_shares: Number of shares.
    """
    size, dim = totals.shape
    num_ids = (len(rows) if len(offsets) == 0 else offsets[0, 0]) // max(1, size)
    first_bag = num_ids if folded else num_ids + len(numbers)
    first_other = first_bag + len(offsets)
    first_column = (first_other + others.shape[1]) * dim
    total, square, mean = np.zeros((3, dim), np.float32)
    start, stop = size * share // num_shares, size * (share + 1) // num_shares
    for b in range(start, stop):
        weight = np.float32(0.0)
        total[:] = 0.0
        square[:] = 0.0
        if b + AHEAD < stop:
            for i in range(num_ids):
                prefetch(matrix, rows[i * size + b + AHEAD])
        for i in range(num_ids):
            row = rows[i * size + b]
            for d in range(dim):
                value = load(matrix, row, d)
                _add(fields, b, i * dim + d, value, total, square, d)
            weight += load(matrix, row, dim)
        if folded:
            weight += _fold(fields, b, first_column, dense, numbers, total, square)
        for n in range(0 if folded else len(numbers)):
            x = dense[b, n]
            for d in range(dim):
                _add(fields, b, (num_ids + n) * dim + d, x * numbers[n, d], total, square, d)
            weight += x * numbers[n, dim]
        for j in range(len(offsets)):
            first, last = offsets[j, b], offsets[j, b + 1]
            factor = np.float32(1.0) / np.float32(max(1, last - first))
            mean[:] = 0.0
            for k in range(first, last):
                for d in range(dim):
                    mean[d] += load(matrix, rows[k], d)
                weight += factor * load(matrix, rows[k], dim)
            for d in range(dim):
                value = mean[d] * factor
                _add(fields, b, (first_bag + j) * dim + d, value, total, square, d)
        for x in range(others.shape[1]):
            for d in range(dim):
                value = others[b, x, d]
                _add(fields, b, (first_other + x) * dim + d, value, total, square, d)
            weight += others[b, x, dim]
        linear[b] = weight
        for d in range(dim):
            totals[b, d] = total[d]
            pairs[b, d] = np.float32(0.5) * (total[d] * total[d] - square[d])

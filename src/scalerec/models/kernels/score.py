"""Sums of rows of one matrix, candidate by candidate.

Shapes: K candidates, F rows that are summed for each, R rows of the matrix, S columns.
"""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import load, prefetch

__all__ = ["sum_rows"]

# How many candidates ahead the memory is asked for.
AHEAD = 2


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def sum_rows(
    ids: Any, starts: Any, matrix: Any, base: Any, out: Any, share: Any, num_shares: Any
) -> None:
    """Add rows of a matrix to a base, one share of the candidates.

    Args:
        ids: Which rows are summed, each counted from a start, ``[F, K]`` int64.
        starts: Where the rows of each of the F begin, ``[F]`` int64.
        matrix: ``[R, S]`` float32, or float16 as int16.
        base: What each candidate starts from, ``[K, S]`` float32, or one for all, ``[1, S]``.
        out: To be filled, ``[K, S]`` float32.
        share: Number of this share.
        num_shares: Number of shares.
    """
    num_fields, num = ids.shape
    width = matrix.shape[1]
    total = np.zeros(width, np.float32)
    start, stop = num * share // num_shares, num * (share + 1) // num_shares
    for k in range(start, stop):
        if k + AHEAD < stop:
            for f in range(num_fields):
                prefetch(matrix, starts[f] + ids[f, k + AHEAD])
        own = k if len(base) > 1 else 0
        for s in range(width):
            total[s] = base[own, s]
        # Four rows at a time: the total is read and written once for all of them.
        for f in range(0, num_fields - 3, 4):
            one, two = starts[f] + ids[f, k], starts[f + 1] + ids[f + 1, k]
            three, four = starts[f + 2] + ids[f + 2, k], starts[f + 3] + ids[f + 3, k]
            for s in range(width):
                first = load(matrix, one, s) + load(matrix, two, s)
                total[s] += first + (load(matrix, three, s) + load(matrix, four, s))
        for f in range(num_fields - num_fields % 4, num_fields):
            row = starts[f] + ids[f, k]
            for s in range(width):
                total[s] += load(matrix, row, s)
        for s in range(width):
            out[k, s] = total[s]

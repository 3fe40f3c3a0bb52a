"""Sums of rows, candidate by candidate.

Shapes: K candidates, S rows that are summed for each, R rows of the matrix, H columns of it that a
net reads, T columns of totals, C columns of the logits.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from scalerec.models.kernels.bits import load

__all__ = ["sum_rows"]


def _number(array: Any, i: Any, j: Any) -> Any:
    """Read ``array[i, j]`` of float32, float16 as int16, or int8 as float32."""
    raise NotImplementedError  # compiled code only


@overload(_number, inline="always")
def _number_of(array: Any, i: Any, j: Any) -> Any:
    return _number_int8 if array.dtype == types.int8 else _number_float


def _number_int8(array: Any, i: Any, j: Any) -> Any:
    return types.float32(array[i, j])


def _number_float(array: Any, i: Any, j: Any) -> Any:
    return load(array, i, j)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def sum_rows(
    rows: Any, first: Any, scales: Any, rest: Any, base: Any, out: Any, share: Any, num_shares: Any
) -> None:
    """Add rows of two matrices to a base, one share of the candidates.

    Args:
        rows: Which rows are summed, ``[S, K]`` int64.
        first: ``[R, H]`` float32, float16 as int16, or int8.
        scales: What a row of `first` is multiplied with, ``[R]`` float32; empty for one.
        rest: ``[R, T + C]`` float32.
        base: What all start from, ``[H + T + C]`` float32, or each, ``[K, H + T + C]``.
        out: To be filled, ``[K, H + T + C]`` float32.
        share: Number of this share.
        num_shares: Number of shares.
    """
    num, wide, tail = rows.shape[1], first.shape[1], rest.shape[1]
    for k in range(num * share // num_shares, num * (share + 1) // num_shares):
        for h in range(wide + tail):
            out[k, h] = base[k if len(base) > 1 else 0, h]
        for s in range(len(rows)):
            row = rows[s, k]
            scale = scales[row] if len(scales) else np.float32(1.0)
            for h in range(wide):
                out[k, h] += scale * _number(first, row, h)
            for t in range(tail):
                out[k, wide + t] += rest[row, t]

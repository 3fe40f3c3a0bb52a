"""Sums of rows, and a small net over them, candidate by candidate.

Shapes: K candidates, S rows that are summed for each, R rows of the matrix, H columns of it that a
net reads, T columns of totals, C columns of the logits.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from scalerec.models.kernels.bits import load

__all__ = ["score_rows", "sum_rows"]

# Candidates that go through a layer together: each weight is read once for all of them.
TOGETHER = 8


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


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def score_rows(
    rows: Any,
    first: Any,
    scales: Any,
    rest: Any,
    base: Any,
    pairs: Any,
    sizes: Any,
    weights: Any,
    biases: Any,
    out: Any,
    share: Any,
    num_shares: Any,
) -> None:
    """Sum rows and run a small net over the sums, one share of the candidates.

    Args:
        rows: Which rows are summed, ``[S, K]`` int64.
        first: ``[R, H]`` float32, float16 as int16, or int8.
        scales: What a row of `first` is multiplied with, ``[R]`` float32; empty for one.
        rest: Totals and what is added to the logits, ``[R, T + C]`` float32.
        base: What all start from, ``[1, H + T + C]`` float32, or each, ``[K, H + T + C]``.
        pairs: What half of the squared totals is multiplied with, ``[C, T]`` float32.
        sizes: Widths of the layers: H, the hidden ones, C, int64; each layer but the last is
            followed by a ReLU, and so are the sums. Only H where the sums are the logits.
        weights: Of the layers after each other, each ``[in, out]``, one dimension, float32.
        biases: Likewise.
        out: To be filled, ``[K, C]`` float32.
        share: Number of this share.
        num_shares: Number of shares.
    """
    num, wide, tail = rows.shape[1], first.shape[1], rest.shape[1]
    outputs, totals = pairs.shape
    most = max(sizes.max(), wide) if len(sizes) else wide
    x = np.empty((TOGETHER, most), np.float32)
    y = np.empty((TOGETHER, most), np.float32)
    ends = np.empty((TOGETHER, tail), np.float32)
    start, stop = num * share // num_shares, num * (share + 1) // num_shares
    for low in range(start, stop, TOGETHER):
        size = min(TOGETHER, stop - low)
        for n in range(size):
            k = low + n
            own = k if len(base) > 1 else 0
            for h in range(wide):
                x[n, h] = base[own, h]
            for t in range(tail):
                ends[n, t] = base[own, wide + t]
            for s in range(len(rows)):
                row = rows[s, k]
                scale = scales[row] if len(scales) else np.float32(1.0)
                for h in range(wide):
                    x[n, h] += scale * _number(first, row, h)
                for t in range(tail):
                    ends[n, t] += rest[row, t]
        at, bias_at = 0, 0
        for layer in range(len(sizes) - 1):
            width, after = sizes[layer], sizes[layer + 1]
            for n in range(size):
                for i in range(width):
                    x[n, i] = max(x[n, i], np.float32(0.0))
                for o in range(after):
                    y[n, o] = biases[bias_at + o]
            for i in range(width):
                here = at + i * after
                for n in range(size):
                    value = x[n, i]
                    for o in range(after):
                        y[n, o] += value * weights[here + o]
            at += width * after
            bias_at += after
            x, y = y, x
        for n in range(size):
            for c in range(outputs):
                value = ends[n, totals + c]
                if wide:
                    value += x[n, c]
                for t in range(totals):
                    value += np.float32(0.5) * pairs[c, t] * ends[n, t] * ends[n, t]
                out[low + n, c] = value

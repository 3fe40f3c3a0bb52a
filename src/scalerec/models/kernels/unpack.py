"""Rows of few bits as float32; see `scalerec.models.packed` for how they lie in memory."""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import bits_to_float, half_to_float

__all__ = ["unpack"]

FAST = {"reassoc", "contract", "nsz", "arcp"}


@njit(inline="always")
def _half(flat: Any, at: Any) -> Any:
    """The float16 at a byte, as float32."""
    return half_to_float(np.int16(np.uint16(flat[at]) | np.uint16(flat[at + 1]) << 8))


@njit(inline="always")
def _single(flat: Any, at: Any) -> Any:
    """The float32 at a byte."""
    low = np.uint32(flat[at]) | np.uint32(flat[at + 1]) << np.uint32(8)
    high = np.uint32(flat[at + 2]) << np.uint32(16) | np.uint32(flat[at + 3]) << np.uint32(24)
    return bits_to_float(np.uint32(low | high))


@njit(nogil=True, cache=True, fastmath=FAST)
def unpack(
    rows: Any,
    starts: Any,
    places: Any,
    kinds: Any,
    flat: Any,
    out: Any,
    share: Any,
    shares: Any,
) -> None:
    """Fill one share of the looked-up rows.

    Args:
        rows: Rows of all tables, ``[K]`` int64.
        starts: First row of each table, and the number of rows, ``[T + 1]`` int64.
        places: The byte at which each table begins, ``[T]`` int64.
        kinds: Bits, stored columns of the embedding, and bytes of a row of each table, ``[T, 3]``.
        flat: All tables, uint8.
        out: To be filled, ``[K, P]`` float32: the embedding, zeros, and the first-order weight.
        share: Number of this share.
        shares: Number of shares.
    """
    num, last = out.shape[0], out.shape[1] - 1
    t = 0
    for k in range(num * share // shares, num * (share + 1) // shares):
        row, own = rows[k], out[k]
        if row < starts[t] or row >= starts[t + 1]:
            t = np.searchsorted(starts, row, side="right") - 1
        bits, dim, size = kinds[t, 0], kinds[t, 1], kinds[t, 2]
        at = places[t] + (row - starts[t]) * size
        if bits == 8:
            scale = _half(flat, at)
            own[last] = _half(flat, at + 2)
            codes = flat[at + 4 : at + 4 + dim]
            for d in range(dim):
                own[d] = np.float32(np.int8(codes[d])) * scale
        elif bits == 4:
            scale, offset = _half(flat, at), _half(flat, at + 2)
            own[last] = _half(flat, at + 4)
            codes = flat[at + 6 : at + size]
            for pair in range(dim // 2):
                own[2 * pair] = np.float32(codes[pair] & 15) * scale + offset
                own[2 * pair + 1] = np.float32(codes[pair] >> 4) * scale + offset
            if dim % 2:
                own[dim - 1] = np.float32(codes[dim // 2] & 15) * scale + offset
        elif bits == 16:
            for d in range(dim):
                own[d] = _half(flat, at + 2 * d)
            own[last] = _half(flat, at + 2 * dim)
        else:
            for d in range(dim):
                own[d] = _single(flat, at + 4 * d)
            own[last] = _single(flat, at + 4 * dim)
        own[dim:last] = np.float32(0.0)

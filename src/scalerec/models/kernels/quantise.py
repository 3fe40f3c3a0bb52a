"""Rows as bytes with one scale each, and back."""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import mix

__all__ = ["SCALE_BYTES", "dequantise", "quantise"]

SCALE_BYTES = 4
LARGEST = 127.0
UNIT = 1.0 / (1 << 24)


@njit(nogil=True, cache=True)
def quantise(rows: Any, noise: Any, codes: Any, scales: Any) -> None:
    """Give each number of a row as a share of the row's largest, from -127 to 127.

    Args:
        rows: ``[K, W]`` float32; a row with a number that is not finite gets a scale of NaN.
        noise: Random bits for rounding up or down by chance, which is right on average; 0 rounds to
            the nearest.
        codes: To be filled, ``[K, W]`` int8.
        scales: To be filled, ``[K]`` float32; a row is its codes times its scale.
    """
    width = rows.shape[1]
    for k in range(len(rows)):
        most = np.float32(0.0)
        is_finite = True
        for w in range(width):
            size = abs(rows[k, w])
            is_finite &= size < np.float32(np.inf)
            most = max(most, size)
        scales[k] = most / np.float32(LARGEST) if is_finite else np.float32(np.nan)
        inverse = np.float32(LARGEST) / most if is_finite and most > 0 else np.float32(0.0)
        for w in range(width):
            share = rows[k, w] * inverse if is_finite else np.float32(0.0)
            up = np.float32(0.5)
            if noise != 0:
                bits = mix(np.uint64(noise) + np.uint64(k * width + w))
                up = np.float32(np.int64(bits >> np.uint64(40)) * UNIT)
            # Against the fraction: 127 and a draw just below 1 would round to 128, which wraps.
            low = np.floor(share)
            code = low + np.float32(1.0) if share - low + up >= np.float32(1.0) else low
            codes[k, w] = np.int8(min(max(code, np.float32(-LARGEST)), np.float32(LARGEST)))


@njit(nogil=True, cache=True)
def dequantise(codes: Any, scales: Any, rows: Any) -> None:
    """Fill rows ``[K, W]`` float32 with their codes times their scales; see `quantise`."""
    for k in range(len(rows)):
        scale = scales[k]
        for w in range(rows.shape[1]):
            rows[k, w] = np.float32(codes[k, w]) * scale

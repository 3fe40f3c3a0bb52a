"""Rows of float32 as whole numbers from 0 to 255, and back from sums of products."""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import bits_to_float, float_to_bits

__all__ = ["encode_rows", "finish_rows"]

LARGEST = 255.0
SIGN = -0x80000000
FAST = {"reassoc", "contract", "nsz", "arcp"}


@njit(nogil=True, cache=True, fastmath=FAST)
def encode_rows(
    rows: Any, bits: Any, fixed: Any, codes: Any, scales: Any, zeros: Any, share: Any, shares: Any
) -> None:
    """Give each number of a row as a step between the row's lowest and highest, zero among them.

    Args:
        rows: ``[N, I]`` float32.
        bits: Their bits, ``[N, I]`` int32: whole numbers have a maximum that is quickly found.
        fixed: Lowest and highest for all rows, ``[2]`` float32; ``[0]`` to find each row's.
        codes: To be filled, ``[N, I]`` uint8.
        scales: To be filled, ``[N]`` float32; a number is its code less the zero, times the scale.
            A row with a number that is not finite gets a scale that is none either.
        zeros: To be filled, ``[N]`` float32, whole: the code of zero.
        share: Number of this share of the rows.
        shares: Number of shares.
    """
    num, size = rows.shape
    for n in range(num * share // shares, num * (share + 1) // shares):
        row, own, out = rows[n], bits[n], codes[n]
        # Floats above zero are ordered as their bits are. Low is the most below zero.
        low_bits = high_bits = np.int32(0)
        for i in range(size):
            high_bits = max(high_bits, own[i])
            low_bits = max(low_bits, np.int32(own[i] ^ np.int32(SIGN)))
        low = bits_to_float(np.uint32(low_bits))
        high = bits_to_float(np.uint32(high_bits))
        scale = (high + low) / np.float32(LARGEST)
        if len(fixed) and scale < np.float32(np.inf):
            low, high = -fixed[0], fixed[1]
            scale = (high + low) / np.float32(LARGEST)
        inverse = np.float32(1.0) / scale if scale > np.float32(0.0) else np.float32(0.0)
        zero = np.rint(low * inverse)
        scales[n], zeros[n] = scale, zero
        least, most = -zero, np.float32(LARGEST) - zero
        for i in range(size):
            step = min(max(np.rint(row[i] * inverse), least), most)
            out[i] = np.uint8(np.int32(step + zero))


@njit(nogil=True, cache=True, fastmath=FAST)
def finish_rows(
    rows: Any,
    scales: Any,
    zeros: Any,
    weight_scales: Any,
    sums: Any,
    bias: Any,
    relu: Any,
    share: Any,
    shares: Any,
) -> None:
    """Turn sums of products of codes into a layer's result, in their own memory.

    Args:
        rows: ``[N, O]`` float32: the bits of sums, which are int32, and then the result.
        scales: Of the rows, ``[N]`` float32.
        zeros: Of the rows, ``[N]`` float32.
        weight_scales: ``[O]`` float32.
        sums: Of the weights' codes, ``[O]`` float32.
        bias: ``[O]`` float32.
        relu: Whether what is below zero becomes zero.
        share: Number of this share of the rows.
        shares: Number of shares.
    """
    num, size = rows.shape
    floor = np.float32(0.0) if relu else np.float32(-np.inf)
    for n in range(num * share // shares, num * (share + 1) // shares):
        scale, zero, row = scales[n], zeros[n], rows[n]
        for o in range(size):
            product = np.float32(np.int32(float_to_bits(row[o])))
            value = (product - zero * sums[o]) * (scale * weight_scales[o])
            value += bias[o]
            # A value that is not a number stays none.
            row[o] = floor if value < floor else value

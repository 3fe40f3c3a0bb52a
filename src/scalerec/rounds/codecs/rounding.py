"""Kernels: numbers rounded to few levels by chance, several of them to a byte."""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import mix

__all__ = ["round_to_levels", "round_to_signs", "values_of_codes"]

UNIT = 1.0 / (1 << 24)


@njit(nogil=True, cache=True)
def round_to_levels(
    values: Any,
    counts: Any,
    bucket: Any,
    bits: Any,
    seeds: Any,
    codes: Any,
    starts: Any,
    scales: Any,
) -> None:
    """Give each number as a level between minus and plus the largest of its bucket.

    Args:
        values: The parties' numbers, one party after the other, float32.
        counts: Numbers of each party.
        bucket: How many numbers share a scale.
        bits: Of a level: 1 (minus and plus), or 2, 4, 8 (an odd number of levels, 0 among them).
        seeds: Of each party, uint64; what is drawn depends on it and on the number's place.
        codes: To be filled, zeros, uint8.
        starts: Where in it each party's begin.
        scales: To be filled, float32; NaN for a bucket with a number that is not finite.
    """
    at, s, per_byte = 0, 0, 8 // bits
    half = np.float32((1 << (bits - 1)) - 1) if bits > 1 else np.float32(0.5)
    least = half if bits > 1 else np.float32(0.0)
    for p in range(len(counts)):
        for low in range(0, counts[p], bucket):
            high = min(low + bucket, counts[p])
            most, is_finite = np.float32(0.0), True
            for i in range(at + low, at + high):
                size = abs(values[i])
                is_finite &= size < np.float32(np.inf)
                most = max(most, size)
            scales[s] = most if is_finite else np.float32(np.nan)
            s += 1
            if not is_finite or most == 0:
                continue
            for i in range(low, high):
                level = values[at + i] / most * half
                if bits == 1:
                    level += half
                # Whether to go up is drawn against the fraction itself: adding the draw to the
                # level could round up past the largest one.
                floor = np.floor(level)
                drawn = np.float32(np.int64(mix(seeds[p] + np.uint64(i)) >> np.uint64(40)) * UNIT)
                code = np.uint8(floor + least) + np.uint8(drawn < level - floor)
                codes[starts[p] + i // per_byte] |= np.uint8(code << (i % per_byte * bits))
        at += counts[p]


@njit(nogil=True, cache=True)
def round_to_signs(
    values: Any, counts: Any, bucket: Any, codes: Any, starts: Any, scales: Any
) -> None:
    """Give each number's sign, and of each bucket the mean magnitude; as in `round_to_levels`."""
    at, s = 0, 0
    for p in range(len(counts)):
        for low in range(0, counts[p], bucket):
            high = min(low + bucket, counts[p])
            total = 0.0
            for i in range(low, high):
                total += abs(np.float64(values[at + i]))
                codes[starts[p] + i // 8] |= np.uint8(np.uint8(values[at + i] >= 0) << (i % 8))
            mean = total / (high - low)
            scales[s] = np.float32(mean) if mean < np.inf else np.float32(np.nan)
            s += 1
        at += counts[p]


@njit(nogil=True, cache=True)
def values_of_codes(
    codes: Any, starts: Any, counts: Any, bucket: Any, bits: Any, scales: Any, values: Any
) -> None:
    """Fill in the numbers that codes and scales stand for; see `round_to_levels`."""
    at, s, per_byte, mask = 0, 0, 8 // bits, (1 << bits) - 1
    half = np.float32((1 << (bits - 1)) - 1) if bits > 1 else np.float32(0.5)
    for p in range(len(counts)):
        for low in range(0, counts[p], bucket):
            scale = scales[s]
            s += 1
            for i in range(low, min(low + bucket, counts[p])):
                code = (codes[starts[p] + i // per_byte] >> (i % per_byte * bits)) & mask
                # A level of at most 1 first: their product overflows nowhere.
                level = (np.float32(code) - half) / half
                values[at + i] = level * scale if scale != 0 else np.float32(0.0)
        at += counts[p]

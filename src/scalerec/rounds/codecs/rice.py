"""Kernels: sorted whole numbers in few bits, by the Rice code of their gaps."""

from typing import Any

import numpy as np
from numba import njit

__all__ = ["rice_decode", "rice_encode", "rice_sizes"]

# A gap is below 2^63, so its low part has at most 62 bits.
MOST_LOW_BITS = 62
CANDIDATES = 3
LARGEST = 2**62


@njit(cache=True, inline="always")
def _put(out: Any, place: Any, bit: Any) -> Any:
    out[place >> 3] |= np.uint8(bit << (place & 7))
    return place + 1


@njit(nogil=True, cache=True)
def rice_sizes(numbers: Any, lengths: Any, low_bits: Any, sizes: Any) -> Any:
    """Choose how many bits of each list's gaps are written as they are, and count the bytes.

    Args:
        numbers: The lists one after the other, each ascending without repeats and at least 0.
        lengths: Numbers of each list.
        low_bits: To be filled: the choice for each list.
        sizes: To be filled: bytes of each list, with one for the choice; an empty list has none.

    Returns:
        Whether every list is ascending and at least 0.
    """
    at = 0
    for p in range(len(lengths)):
        n = lengths[p]
        low_bits[p], sizes[p] = 0, 0
        if n == 0:
            continue
        before = np.int64(-1)
        for i in range(at, at + n):
            if numbers[i] <= before:
                return False
            before = np.int64(numbers[i])
        # A gap is what lies between two numbers; on average this many.
        mean = (before + 1 - n) // n
        first = 0
        while first < MOST_LOW_BITS and (np.int64(1) << first) <= mean:
            first += 1
        fewest = np.int64(-1)
        for low in range(max(first - CANDIDATES + 1, 0), first + 1):
            bits, before = np.int64(n) * (low + 1), np.int64(-1)
            for i in range(at, at + n):
                bits += (np.int64(numbers[i]) - before - 1) >> low
                before = np.int64(numbers[i])
            if fewest < 0 or bits < fewest:
                fewest, low_bits[p] = bits, low
        sizes[p] = 1 + (fewest + 7) // 8
        at += n
    return True


@njit(nogil=True, cache=True)
def rice_encode(numbers: Any, lengths: Any, low_bits: Any, sizes: Any, out: Any) -> None:
    """Write each gap: its high part as so many ones and a zero, then its low bits.

    Args:
        numbers: As in `rice_sizes`.
        lengths: Numbers of each list.
        low_bits: From `rice_sizes`.
        sizes: From `rice_sizes`.
        out: To be filled, zeros, as many bytes as the sizes sum to; a list's first is its choice.
    """
    at, start = 0, 0
    for p in range(len(lengths)):
        if lengths[p] == 0:
            continue
        low, before, place = low_bits[p], np.int64(-1), np.int64(start + 1) * 8
        out[start] = low
        for i in range(at, at + lengths[p]):
            gap = np.int64(numbers[i]) - before - 1
            before = np.int64(numbers[i])
            for _ in range(gap >> low):
                place = _put(out, place, 1)
            place += 1
            for bit in range(low):
                place = _put(out, place, (gap >> bit) & 1)
        at += lengths[p]
        start += sizes[p]
        # What is left of the last byte is ones: a gap that never ends.
        while place < start * 8:
            place = _put(out, place, 1)


@njit(cache=True, inline="always")
def _gap(code: Any, place: Any, end: Any, low: Any) -> Any:
    """The gap that is written at a place, and the place after it; -1 at the end, -2 if wrong."""
    high = np.int64(0)
    while place < end and (code[place >> 3] >> (place & 7)) & 1:
        high += 1
        place += 1
    if place >= end:
        return np.int64(-1), place
    place += 1
    if place + low > end or high > (LARGEST >> low):
        return np.int64(-2), place
    gap = high << low
    for bit in range(low):
        gap |= np.int64((code[place >> 3] >> (place & 7)) & 1) << bit
        place += 1
    return gap, place


@njit(nogil=True, cache=True)
def rice_decode(code: Any, sizes: Any, lengths: Any, numbers: Any) -> Any:
    """Read lists back, from bytes that may hold anything.

    Args:
        code: The lists' bytes one after the other.
        sizes: Bytes of each list.
        lengths: To be filled: numbers of each list.
        numbers: To be filled; eight a byte are enough. Empty to count only.

    Returns:
        How many numbers there are in all; -1 if a list cannot be one that was written.
    """
    total, start = 0, 0
    for p in range(len(sizes)):
        lengths[p] = 0
        end = np.int64(start + sizes[p]) * 8
        if sizes[p] == 0:
            continue
        low = np.int64(code[start])
        if low > MOST_LOW_BITS:
            return -1
        before, place = np.int64(-1), np.int64(start + 1) * 8
        gap, place = _gap(code, place, end, low)
        while gap >= 0:
            if gap > LARGEST - before:
                return -1
            before += gap + 1
            if len(numbers):
                numbers[total] = before
            total += 1
            lengths[p] += 1
            gap, place = _gap(code, place, end, low)
        if gap == -2:
            return -1
        start += sizes[p]
    return total

"""A table of many keys in little memory: open hashing over one buffer of their text, in Numba.

It takes some 40 bytes a key; a Python dictionary takes four times as much. Keys are compared in
full, so that no two of them can ever share a number, whatever their hashes.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

__all__ = ["KeyTable", "count_many", "first_words"]

# A slot holds 32 bits of a key's hash, then the key's number plus one; 0 is a free slot.
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
# Odd constants of SplitMix64's finaliser (Steele, Lea, Flood, "Fast splittable pseudorandom number
# generators", 2014, https://doi.org/10.1145/2714064.2660195).
FIRST = np.uint64(0x9E3779B97F4A7C15)
SECOND = np.uint64(0xBF58476D1CE4E5B9)
THIRD = np.uint64(0x94D049BB133111EB)


# So many keys are looked for at once.
AHEAD = 64


class KeyTable:
    """Numbers keys in the order in which they come.

    Args:
        slots: For how many slots there is room at first, a power of two.
    """

    def __init__(self, slots: int = 1 << 14) -> None:
        self._slots = np.zeros(slots, np.uint64)
        self._ends = np.zeros(slots // 2 + 1, np.int64)
        self._text = np.zeros(8 * slots, np.uint8)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def keys(self) -> pa.Array:
        """All keys in the order of their numbers, large string; later keys do not change it."""
        size = self._size
        ends = self._ends[: size + 1]
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(self._text[: ends[-1]])]
        return pa.Array.from_buffers(pa.large_string(), size, buffers)

    def add(self, keys: pa.Array) -> NDArray[np.int64]:
        """Give the numbers of keys ``[n]``; new keys get the next numbers, nulls -1."""
        text, offsets, present, numbers = _parts(keys)
        row, marks = 0, np.zeros(AHEAD, np.uint64)
        while True:
            table = self._slots, self._ends, self._text
            row, self._size, _ = _number(
                (text, offsets, present), table, numbers, row, self._size, True, marks
            )
            if row == len(keys):
                return numbers
            self._grow(int(offsets[row + 1] - offsets[row]))

    def find(self, keys: pa.Array) -> NDArray[np.int64]:
        """Give the numbers of keys ``[n]``; -1 for an unknown key and for null."""
        text, offsets, present, numbers = _parts(keys)
        table = self._slots, self._ends, self._text
        marks = np.zeros(AHEAD, np.uint64)
        _number((text, offsets, present), table, numbers, 0, self._size, False, marks)
        return numbers

    def _grow(self, length: int) -> None:
        """Make room for one more key of so many bytes, and for many more."""
        size = self._size
        if 3 * (size + 1) > 2 * len(self._slots):
            slots = np.zeros(2 * len(self._slots), np.uint64)
            _move(self._slots, slots)
            self._slots = slots
        # New arrays: those that `keys` gave away stay as they are.
        if size + 2 > len(self._ends):
            self._ends = _longer(self._ends, size + 1, size + size // 2 + 2)
        end = int(self._ends[size])
        if end + length > len(self._text):
            self._text = _longer(self._text, end, end + end // 2 + length)


def _longer(array: NDArray[Any], used: int, length: int) -> NDArray[Any]:
    longer = np.zeros(length, array.dtype)
    longer[:used] = array[:used]
    return longer


def _parts(
    keys: pa.Array,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """The bytes of keys, where each starts, which are there, and room for their numbers."""
    _, starts, data = keys.buffers()
    large = pa.types.is_large_string(keys.type)
    offsets = np.frombuffer(starts, np.int64 if large else np.int32) if starts else np.zeros(1)
    own = offsets[keys.offset : keys.offset + len(keys) + 1].astype(np.int64)
    text = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    present = np.zeros(0, bool)
    if keys.null_count:
        present = keys.is_valid().to_numpy(zero_copy_only=False)
    return text, own, present, np.empty(len(keys), np.int64)


@njit(nogil=True, cache=True)
def _word(text: Any, start: int, stop: int) -> Any:
    """Up to eight bytes as one number, the first byte lowest."""
    if stop - start >= 8:
        return (
            np.uint64(text[start])
            | np.uint64(text[start + 1]) << np.uint64(8)
            | np.uint64(text[start + 2]) << np.uint64(16)
            | np.uint64(text[start + 3]) << np.uint64(24)
            | np.uint64(text[start + 4]) << np.uint64(32)
            | np.uint64(text[start + 5]) << np.uint64(40)
            | np.uint64(text[start + 6]) << np.uint64(48)
            | np.uint64(text[start + 7]) << np.uint64(56)
        )
    word = np.uint64(0)
    for i in range(stop - start):
        word |= np.uint64(text[start + i]) << np.uint64(8 * i)
    return word


@njit(nogil=True, cache=True)
def _hash(text: Any, start: int, stop: int) -> Any:
    """32 bits of a hash of some bytes."""
    state = np.uint64(stop - start) * FIRST
    for place in range(start, stop, 8):
        state = (state ^ _word(text, place, stop)) * SECOND
        state ^= state >> np.uint64(31)
    state *= THIRD
    return state >> HALF


@njit(nogil=True, cache=True)
def _equal(text: Any, first: int, source: Any, start: int, length: int) -> Any:
    for i in range(0, length, 8):
        if _word(text, first + i, first + length) != _word(source, start + i, start + length):
            return False
    return True


@njit(nogil=True, cache=True)
def _look_ahead(keys: Any, table: Any, row: int, marks: Any) -> Any:
    """Hash the next keys, and touch what they will be compared with, so that it is at hand.

    The processor fetches for all of them at once what it would else wait for one by one.
    """
    source, offsets, _ = keys
    slots, ends, text = table
    mask = np.uint64(len(slots) - 1)
    count = min(len(marks), len(offsets) - 1 - row)
    for k in range(count):
        marks[k] = _hash(source, offsets[row + k], offsets[row + k + 1])
    touched = np.uint64(0)
    for k in range(count):
        slot = slots[marks[k] & mask]
        if slot >> HALF == marks[k] and slot != 0:
            touched += np.uint64(ends[(slot & LOW) - np.uint64(1)])
    for k in range(count):
        slot = slots[marks[k] & mask]
        if slot >> HALF == marks[k] and slot != 0:
            place = ends[(slot & LOW) - np.uint64(1)]
            if place < len(text):
                touched += np.uint64(text[place])
    return touched


@njit(nogil=True, cache=True)
def _number(
    keys: Any, table: Any, numbers: Any, row: int, size: int, insert: bool, marks: Any
) -> Any:
    """Number the keys from `row` on; stop at one for which there is no room.

    Returns:
        The row after the last that was numbered, how many keys the table has, and a number that
        means nothing.
    """
    source, offsets, present = keys
    slots, ends, text = table
    mask = np.uint64(len(slots) - 1)
    touched, first_row = np.uint64(0), row
    while row < len(numbers):
        ahead = (row - first_row) % len(marks)
        if ahead == 0:
            touched += _look_ahead(keys, table, row, marks)
        if len(present) > 0 and not present[row]:
            numbers[row] = -1
            row += 1
            continue
        start, stop = offsets[row], offsets[row + 1]
        length = stop - start
        mark = marks[ahead]
        place = mark & mask
        number: Any = -1
        while slots[place] != 0:
            if slots[place] >> HALF == mark:
                known = np.int64(slots[place] & LOW) - 1
                first = ends[known]
                if ends[known + 1] - first == length and _equal(text, first, source, start, length):
                    number = known
                    break
            place = (place + np.uint64(1)) & mask
        if number < 0 and insert:
            end = ends[size]
            full = size + 2 > len(ends) or end + length > len(text)
            if full or 3 * (size + 1) > 2 * len(slots):
                break
            text[end : end + length] = source[start:stop]
            ends[size + 1] = end + length
            slots[place] = (mark << HALF) | np.uint64(size + 1)
            number = size
            size += 1
        numbers[row] = number
        row += 1
    return row, size, touched


@njit(nogil=True, cache=True)
def _move(old: Any, new: Any) -> None:
    """Put all slots into a table of another length."""
    mask = np.uint64(len(new) - 1)
    for i in range(len(old)):
        if old[i] != 0:
            place = (old[i] >> HALF) & mask
            while new[place] != 0:
                place = (place + np.uint64(1)) & mask
            new[place] = old[i]


@njit(nogil=True, cache=True)
def count_many(numbers: Any, counts: Any) -> None:
    """Add how often each number comes: place ``i + 1`` of `counts` counts number ``i``."""
    for number in numbers:
        counts[number + 1] += 1


@njit(nogil=True, cache=True)
def first_words(text: Any, offsets: Any) -> Any:
    """The first eight bytes of each key as a number that sorts as they do, ``[n]`` uint64."""
    words = np.zeros(len(offsets) - 1, np.uint64)
    for row in range(len(words)):
        start = offsets[row]
        for i in range(min(8, offsets[row + 1] - start)):
            words[row] |= np.uint64(text[start + i]) << np.uint64(56 - 8 * i)
    return words

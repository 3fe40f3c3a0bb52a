"""Stretches of a log copied out in one pass, in Numba.

The same in NumPy takes five passes over numbers that are only made to be read once.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["copy_stretches"]

Array = NDArray[Any]


def copy_stretches(
    items: Array, ids: Array, starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The ids of stretches of a log, one after the other.

    Args:
        items: Numbers of items, ``[E]``.
        ids: The id of each item, ``[I]``.
        starts: Where each stretch starts in the log, ``[n]``.
        lengths: How long each is, ``[n]``; inside the log.

    Example:
        >>> log, ids = np.array([2, 0, 1]), np.array([5, 6, 7])
        >>> copy_stretches(log, ids, np.array([1, 0]), np.array([2, 1])).tolist()
        [5, 6, 7]
    """
    found = np.empty(int(lengths.sum()), np.int64)
    _copy(np.asarray(items), np.asarray(ids), starts, lengths, found)
    return found


@njit(nogil=True, cache=True)
def _copy(
    items: Array,
    ids: Array,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    found: NDArray[np.int64],
) -> None:
    place = 0
    for row in range(len(starts)):
        start = starts[row]
        for step in range(lengths[row]):
            found[place] = ids[items[start + step]]
            place += 1

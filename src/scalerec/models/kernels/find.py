"""Where rows stand in a cache: a hash table from row to place."""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import mix

__all__ = ["enter", "find", "table_size"]


def table_size(num_rows: int) -> int:
    """Room that a hash table for so many rows needs."""
    return 1 << max(4, (2 * num_rows).bit_length())


@njit(nogil=True, cache=True)
def enter(rows: Any, places: Any, keys: Any, values: Any) -> None:
    """Enter rows with their places.

    Args:
        rows: At least 0, in any number and order, ``[K]`` int64.
        places: Of each; the same wherever a row comes again, ``[K]`` int64.
        keys: The table, a power of two long; all -1 at first, int64.
        values: As long as `keys`, int32.
    """
    last = len(keys) - 1
    for k in range(len(rows)):
        row = rows[k]
        at = np.int64(mix(row) >> np.uint64(20)) & last
        while keys[at] >= 0 and keys[at] != row:
            at = (at + 1) & last
        keys[at] = row
        values[at] = places[k]


@njit(nogil=True, cache=True)
def find(rows: Any, keys: Any, values: Any, places: Any) -> Any:
    """Find the places of rows.

    Args:
        rows: ``[K]`` int64.
        keys: As `enter` left them.
        values: As `enter` left them.
        places: To be filled, ``[K]`` int64.

    Returns:
        A row that is not in the table, or -1 if all are.
    """
    last = len(keys) - 1
    for k in range(len(rows)):
        row = rows[k]
        at = np.int64(mix(row) >> np.uint64(20)) & last
        while keys[at] >= 0 and keys[at] != row:
            at = (at + 1) & last
        if keys[at] < 0:
            return row
        places[k] = values[at]
    return np.int64(-1)

"""Which process keeps each row that a batch looks up, and where the row will stand here."""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import mix

__all__ = ["route"]


ROW, COLUMN = -1, -2


@njit(inline="always")
def _keeper(row: Any, starts: Any, homes: Any, bases: Any) -> Any:
    """Whether a row is padding, the group that keeps it, and its number within that one's own."""
    low, high = 0, len(starts)
    while high - low > 1:
        middle = (low + high) // 2
        if starts[middle] <= row:
            low = middle
        else:
            high = middle
    own, home, num_processes = row - starts[low], homes[low], bases.shape[1]
    if home >= 0:
        return own == 0, home, bases[low, home] + own
    if home == ROW:
        keeper = (own + low) % num_processes
        return own == 0, keeper, bases[low, keeper] + own // num_processes
    group = num_processes if home == COLUMN else num_processes + 1
    return own == 0, group, bases[low, 0] + own


@njit(nogil=True, cache=True)
def route(
    rows: Any, starts: Any, homes: Any, bases: Any, places: Any, wanted: Any, counts: Any
) -> Any:
    """Find the distinct rows of a batch, grouped by who keeps them.

    The groups are the P processes, then all of them together by columns, then each for itself. Row
    r of table t is kept by process ``homes[t]``; where that is -1, by ``(r + t) % P``, so that
    neither the rows of a table nor the frequent first ones of all tables lie together; where it is
    -2, every process keeps some of its columns, and where it is -3, all of it.

    Args:
        rows: Rows of the whole matrix, ``[K]`` int64.
        starts: First row of each table in the whole matrix, ``[T]`` int64; it is padding.
        homes: See above, ``[T]`` int64.
        bases: Where the rows of a table begin within a process's own, ``[T, P]`` int64.
        places: To be filled: 0 for padding, else 1 + the row's place in `wanted`, ``[K]``.
        wanted: To be filled from its start: the distinct rows by group, then in the order of
            their first mention, each as its number within that group's own; room for K.
        counts: To be filled: distinct rows by group, ``[P + 2]`` int64.

    Returns:
        The number of distinct rows.
    """
    size = 16
    while size < 2 * len(rows):
        size *= 2
    last = size - 1
    heads = np.full(size, -1, np.int32)
    found, numbers = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    keepers = np.empty(len(rows), np.int32)
    num_found = 0
    counts[:] = 0
    for k in range(len(rows)):
        row = rows[k]
        at = np.int64(mix(row) >> np.uint64(20)) & last
        while heads[at] >= 0 and found[heads[at]] != row:
            at = (at + 1) & last
        if heads[at] < 0:
            heads[at] = num_found
            found[num_found] = row
            is_padding, keeper, numbers[num_found] = _keeper(row, starts, homes, bases)
            keepers[num_found] = -1 if is_padding else keeper
            counts[keeper] += 0 if is_padding else 1
            num_found += 1
        places[k] = heads[at]
    after = np.cumsum(counts) - counts
    for u in range(num_found):
        keeper = keepers[u]
        found[u] = 0
        if keeper >= 0:
            wanted[after[keeper]] = numbers[u]
            after[keeper] += 1
            found[u] = after[keeper]
    for k in range(len(rows)):
        places[k] = found[places[k]]
    return counts.sum()

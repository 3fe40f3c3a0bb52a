"""Where rows stand in a cache."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scalerec.models.kernels.find import enter, find, table_size


def looked_up(entered: list[int], wanted: list[int]) -> tuple[int, list[int]]:
    """What `find` gives for rows whose places are those of their first mention."""
    known: dict[int, int] = {}
    for row in entered:
        known.setdefault(row, len(known))
    size = table_size(len(known))
    keys, values = np.full(size, -1, np.int64), np.empty(size, np.int32)
    places = np.array([known[row] for row in entered], np.int64)
    enter(np.array(entered, np.int64), places, keys, values)
    found = np.full(len(wanted), -2, np.int64)
    missing = int(find(np.array(wanted, np.int64), keys, values, found))
    return missing, found.tolist()


def test_by_hand() -> None:
    assert looked_up([7, 3, 7, 2**40], [2**40, 7, 3, 3]) == (-1, [2, 0, 1, 1])
    missing, found = looked_up([7, 3], [3, 8, 7])
    assert missing == 8
    assert found[0] == 1
    assert looked_up([], [0]) == (0, [-2])


@given(st.lists(st.integers(0, 200), max_size=300))
def test_every_row_is_found(rows: list[int]) -> None:
    order = list(dict.fromkeys(rows))
    missing, found = looked_up(rows, order)
    assert missing == -1
    assert found == list(range(len(order)))
    assert table_size(len(order)) >= 2 * len(order)

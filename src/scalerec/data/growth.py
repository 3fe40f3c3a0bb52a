"""What a vocabulary that grows remembers beside its keys, and how it is stored with encoders."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Growth", "growth_columns", "no_waiting", "split_growth"]

# Padding and out-of-vocabulary, which are ids without a key.
SPECIAL = 2


@dataclass(frozen=True, eq=False, slots=True)
class Growth:
    """What a vocabulary that grows remembers beside its keys; see `scalerec.data.growing`.

    Args:
        last: Moment at which each id was last seen, ``[size]`` int64; 0 for padding,
            out-of-vocabulary and retired ids.
        waiting: Keys that have not been seen often enough for an id: columns `key`, `count` and
            `last`.
        updates: How often the vocabulary has grown.
    """

    last: NDArray[np.int64]
    waiting: pa.Table
    updates: int


def no_waiting() -> pa.Table:
    """No keys that wait."""
    none = pa.array([], pa.int64())
    return pa.table({"key": pa.array([], pa.large_string()), "count": none, "last": none})


def growth_columns(parts: Iterable[tuple[int, Growth | None]]) -> dict[str, pa.ChunkedArray]:
    """The columns `last` and `waiting` of a table of encoders; none where nothing has grown.

    Args:
        parts: For every vocabulary the number of its keys, and its growth.
    """
    known = list(parts)
    if all(growth is None for _, growth in known):
        return {}
    last, waiting = [], []
    for size, growth in known:
        last.append(pa.array(np.zeros(size, np.int64) if growth is None else growth.last[SPECIAL:]))
        waiting.append(pa.array(np.zeros(size, bool)))
        if growth is not None:
            last.extend(growth.waiting["last"].chunks)
            waiting.append(pa.array(np.ones(len(growth.waiting), bool)))
    return {
        "last": pa.chunked_array(last, pa.int64()),
        "waiting": pa.chunked_array(waiting, pa.bool_()),
    }


def split_growth(rows: pa.Table, updates: int) -> tuple[pa.Table, Growth]:
    """Part the rows of a vocabulary that has grown into those of its ids, and what it remembers."""
    known = rows.filter(pc.invert(rows["waiting"]))
    waiting = rows.filter(rows["waiting"]).select(["key", "count", "last"])
    last = np.concatenate([np.zeros(SPECIAL, np.int64), known["last"].to_numpy()])
    return known, Growth(last, waiting, updates)

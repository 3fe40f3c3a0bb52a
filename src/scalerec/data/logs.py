"""Logs: each user's events in time order, stored once; a row's history is a stretch of it.

A history holds only events strictly before the row's time, so it can never hold the row itself, nor
another event of the same second.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Log", "build_log"]

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Log:
    """Events of all users, one user after the other, oldest first.

    Args:
        items: Number of each event's item, ``[E]`` int32.
        offsets: Where each user's events start, ``[U+1]`` int64.
        past: For every row of the data set, how many of its user's events came before, ``[N]``
            int32.
        seen: For every user, how many events came before the last of the user's training rows, or
            at the same time, ``[U]`` int32: the history with which serving starts.
    """

    items: NDArray[np.int32]
    offsets: Numbers
    past: NDArray[np.int32]
    seen: NDArray[np.int32]


def build_log(
    users: Numbers,
    items: Numbers,
    times: Numbers,
    kept: NDArray[np.bool_],
    is_train: NDArray[np.bool_],
    num_users: int,
) -> Log:
    """Build the log of the events in `kept`, and tell each row's place in it.

    Args:
        users: Number of each row's user, ``[N]``.
        items: Number of each row's item, ``[N]``.
        times: Unix seconds, ``[N]``.
        kept: Which events enter the log, ``[N]``: all, or the positive ones.
        is_train: Which rows are training rows, ``[N]``.
        num_users: U.

    Example:
        >>> one = np.array([0, 0, 0])
        >>> every = np.ones(3, bool)
        >>> log = build_log(one, np.array([7, 8, 9]), np.array([5, 5, 6]), every, every, 1)
        >>> log.past.tolist()
        [0, 0, 2]
    """
    order = np.lexsort((times, users))
    users_o, times_o, kept_o = users[order], times[order], kept[order]
    before: Numbers = np.cumsum(kept_o) - kept_o
    new_user = _starts(users_o)
    new_moment = new_user | _starts(times_o)
    past = np.empty(len(order), np.int32)
    past[order] = _at_last(before, new_moment) - _at_last(before, new_user)
    offsets = np.zeros(num_users + 1, np.int64)
    np.cumsum(np.bincount(users[kept], minlength=num_users), out=offsets[1:])
    items_o = items[order][kept_o].astype(np.int32)
    return Log(items_o, offsets, past, _seen(users, times, kept, is_train, num_users))


def _starts(values: Numbers) -> NDArray[np.bool_]:
    """Where a value differs from the one before."""
    starts = np.ones(len(values), dtype=bool)
    starts[1:] = values[1:] != values[:-1]
    return starts


def _at_last(values: Numbers, starts: NDArray[np.bool_]) -> Numbers:
    """The value at the last start at or before each place."""
    found: Numbers = values[starts][np.cumsum(starts) - 1]
    return found


def _seen(
    users: Numbers,
    times: Numbers,
    kept: NDArray[np.bool_],
    is_train: NDArray[np.bool_],
    num_users: int,
) -> NDArray[np.int32]:
    last = np.full(num_users, np.iinfo(np.int64).min)
    np.maximum.at(last, users[is_train], times[is_train])
    early = kept & (times <= last[users])
    return np.bincount(users[early], minlength=num_users).astype(np.int32)

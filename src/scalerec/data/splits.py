"""Splits: which events are for training, validation and test.

A split is told by a number a row: 0 train, 1 valid, 2 test.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.errors import DataError

__all__ = ["SPLITS", "SplitConfig", "assign_splits", "cut_valid"]

SPLITS = ("train", "valid", "test")
Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig(Config):
    """How events are split.

    Args:
        by: `time`: the earliest events train, the latest test, at moments that hold for all users.
            `leave-last-out`: each user's last event tests, the one before validates. `random`: by
            chance, only when asked for, since it lets a model see the future. `auto`: time where
            there is a timestamp, else an error. Given files are never split again, but a missing
            validation part is cut from the training file, at random or, with a timestamp, by time.
        valid: Share of the validation part.
        test: Share of the test part.
        seed: Of the random split.
    """

    by: Literal["auto", "time", "leave-last-out", "random"] = "auto"
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        shares = self.valid >= 0 and self.test >= 0 and self.valid + self.test < 1
        require(
            shares, f"valid and test must leave a share to train; got {self.valid}, {self.test}"
        )


def assign_splits(
    config: SplitConfig, num_rows: int, times: Numbers | None, users: Numbers | None
) -> NDArray[np.int8]:
    """Assign each event to a split.

    Args:
        config: How.
        num_rows: N.
        times: Unix seconds, ``[N]``, if there are any.
        users: Numbers of users, ``[N]``, if there are any.

    Returns:
        0 (train), 1 (valid) or 2 (test), ``[N]``.

    Raises:
        DataError: If the split needs a timestamp or a user and there is none.
    """
    by = config.by
    if by == "auto":
        if times is None:
            raise DataError("no timestamp to split by: name one in the schema, or --split random")
        by = "time"
    if by == "random":
        return _random(config, num_rows)
    if times is None:
        raise DataError(
            f"split {by!r} needs a timestamp; name one in the schema, or --split random"
        )
    if by == "time":
        return _by_time(config, times)
    if users is None:
        raise DataError("split 'leave-last-out' needs a user; name one in the schema")
    return _leave_last_out(times, users)


def cut_valid(
    config: SplitConfig, given: NDArray[np.int8], times: Numbers | None
) -> NDArray[np.int8]:
    """Cut a validation part from the training rows of given files: the latest, else by chance.

    Args:
        config: Tells the share and the seed.
        given: The files' splits, ``[N]``.
        times: Unix seconds, ``[N]``, if there are any.
    """
    train = given == 0
    cut = config.replace(by="random" if times is None else "time", test=0.0)
    splits = given.copy()
    own = None if times is None else times[train]
    splits[train] = assign_splits(cut, int(train.sum()), own, None)
    return splits


def _random(config: SplitConfig, num_rows: int) -> NDArray[np.int8]:
    draws = np.random.default_rng(config.seed).random(num_rows)
    return _cut(draws, 1 - config.valid - config.test, 1 - config.test)


def _by_time(config: SplitConfig, times: Numbers) -> NDArray[np.int8]:
    # A moment belongs to one part whole: events of one second never part.
    ordered = np.append(np.sort(times), times.max(initial=0) + 1)
    shares = (1 - config.valid - config.test, 1 - config.test)
    return _cut(times, *(ordered[round(share * len(times))] for share in shares))


def _cut(values: NDArray[Any], first: float, second: float) -> NDArray[np.int8]:
    """0 below the first cut, 1 from there on, 2 from the second on."""
    return (values >= first).view(np.int8) + (values >= second).view(np.int8)


def _leave_last_out(times: Numbers, users: Numbers) -> NDArray[np.int8]:
    order = np.lexsort((np.arange(len(times)), times, users))
    counts = np.bincount(users)
    count_of_row = counts[users[order]]
    from_end = np.cumsum(counts)[users[order]] - 1 - np.arange(len(order))
    # A user's only event trains, and so does the first of two: there must be something to learn.
    splits = np.zeros(len(times), np.int8)
    splits[order[(from_end == 0) & (count_of_row >= 2)]] = 2
    splits[order[(from_end == 1) & (count_of_row >= 3)]] = 1
    return splits

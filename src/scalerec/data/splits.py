"""Splits: which events are for training, validation and test.

A split is told by a number a row: 0 train, 1 valid, 2 test.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.errors import DataError

__all__ = ["SPLITS", "SplitConfig", "assign_splits"]

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


def _random(config: SplitConfig, num_rows: int) -> NDArray[np.int8]:
    draws = np.random.default_rng(config.seed).random(num_rows)
    cuts = [1 - config.valid - config.test, 1 - config.test]
    return np.digitize(draws, cuts).astype(np.int8)


def _by_time(config: SplitConfig, times: Numbers) -> NDArray[np.int8]:
    if not len(times):
        return np.zeros(0, np.int8)
    # A moment belongs to one part whole: events of one second never part.
    ordered = np.sort(times)
    last = len(times) - 1
    shares = (1 - config.valid - config.test, 1 - config.test)
    cuts = [ordered[min(last, round(share * len(times)))] for share in shares]
    if config.test == 0:
        cuts[1] = ordered[-1] + 1
    if config.valid == 0:
        cuts[0] = cuts[1]
    return np.digitize(times, cuts).astype(np.int8)


def _leave_last_out(times: Numbers, users: Numbers) -> NDArray[np.int8]:
    order = np.lexsort((np.arange(len(times)), times, users))
    counts = np.bincount(users)
    count_of_row = counts[users[order]]
    starts = np.cumsum(counts) - counts
    from_end = count_of_row - 1 - (np.arange(len(order)) - starts[users[order]])
    # A user's only event trains, and so does the first of two: a test needs something to learn from.
    splits = np.zeros(len(times), np.int8)
    splits[order[(from_end == 0) & (count_of_row >= 2)]] = 2
    splits[order[(from_end == 1) & (count_of_row >= 3)]] = 1
    return splits

"""Splits: which events are for training, validation and test.

A split is told by a number a row: 0 train, 1 valid, 2 test.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.errors import DataError

__all__ = [
    "SPLITS",
    "SplitConfig",
    "assign_splits",
    "cut_at",
    "cut_config",
    "cut_ranks",
    "cut_valid",
    "draw_splits",
    "split_kind",
]

SPLITS = ("train", "valid", "test")
Numbers = NDArray[np.int64]
Kind = Literal["time", "leave-last-out", "random", "user", "item"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig(Config):
    """How events are split.

    Args:
        by: `time`: the earliest events train, the latest test, at moments that hold for all users.
            `leave-last-out`: each user's last event tests, the one before validates. `random`: by
            chance, only when asked for, since it lets a model see the future. `user`, `item`: all
            events of one are in one part, by chance, so those of the later parts are new to the
            model. `auto`: time where there is a timestamp, else an error. Given files are never
            split again, but a missing validation part is cut from the training file, at random or,
            with a timestamp, by time.
        valid: Share of the validation part: of users or items where the split is by them.
        test: Share of the test part.
        seed: Of a split by chance.
    """

    by: Literal["auto", "time", "leave-last-out", "random", "user", "item"] = "auto"
    valid: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        shares = self.valid >= 0 and self.test >= 0 and self.valid + self.test < 1
        require(
            shares, f"valid and test must leave a share to train; got {self.valid}, {self.test}"
        )


def assign_splits(
    config: SplitConfig,
    num_rows: int,
    times: Numbers | None,
    users: Numbers | None,
    items: Numbers | None = None,
) -> NDArray[np.int8]:
    """Assign each event to a split.

    Args:
        config: How.
        num_rows: N.
        times: Unix seconds, ``[N]``, if there are any.
        users: Numbers of users, ``[N]``, if there are any.
        items: Numbers of items, ``[N]``, if there are any.

    Returns:
        0 (train), 1 (valid) or 2 (test), ``[N]``.

    Raises:
        DataError: If the split needs a timestamp, a user or an item and there is none.
    """
    by = split_kind(config, times is not None, users is not None, items is not None)
    if by == "random":
        return draw_splits(config, 0, num_rows)
    if by in ("user", "item"):
        keys = users if by == "user" else items
        assert keys is not None
        return _by_key(config, keys)
    assert times is not None
    if by == "time":
        return _by_time(config, times)
    assert users is not None
    return _leave_last_out(times, users)


def split_kind(
    config: SplitConfig, has_times: bool, has_users: bool, has_items: bool = False
) -> Kind:
    """Which split is meant.

    Raises:
        DataError: If the split needs a timestamp, a user or an item and there is none.
    """
    by = config.by
    if by == "auto":
        if not has_times:
            raise DataError("no timestamp to split by: name one in the schema, or --split random")
        return "time"
    if by == "random":
        return by
    if by in ("user", "item"):
        if not (has_users if by == "user" else has_items):
            raise DataError(f"split {by!r} needs one; name the column `{by}` in the schema")
        return by
    if not has_times:
        raise DataError(
            f"split {by!r} needs a timestamp; name one in the schema, or --split random"
        )
    if by == "leave-last-out" and not has_users:
        raise DataError("split 'leave-last-out' needs a user; name one in the schema")
    return by


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
    cut = cut_config(config, times is not None)
    splits = given.copy()
    own = None if times is None else times[train]
    splits[train] = assign_splits(cut, int(train.sum()), own, None)
    return splits


def cut_config(config: SplitConfig, has_times: bool) -> SplitConfig:
    """How a validation part is cut from the training rows of given files."""
    return config.replace(by="time" if has_times else "random", test=0.0)


def draw_splits(config: SplitConfig, first: int, num_rows: int) -> NDArray[np.int8]:
    """Split the rows from number `first` on by chance, ``[n]``."""
    generator = np.random.default_rng(config.seed)
    if first:
        generator = np.random.Generator(np.random.PCG64(config.seed).advance(first))
    return cut_at(generator.random(num_rows), *_shares(config))


def _shares(config: SplitConfig) -> tuple[float, float]:
    return 1 - config.valid - config.test, 1 - config.test


def _by_key(config: SplitConfig, keys: Numbers) -> NDArray[np.int8]:
    """Each key whole in one part, by chance; the parts' numbers of keys are exact."""
    order = np.random.default_rng(config.seed).permutation(int(keys.max(initial=-1)) + 1)
    first, second = cut_ranks(config, len(order))
    return cut_at(order, first, second)[keys]


def _by_time(config: SplitConfig, times: Numbers) -> NDArray[np.int8]:
    # A moment belongs to one part whole: events of one second never part.
    ordered = np.append(np.sort(times), times.max(initial=0) + 1)
    first, second = cut_ranks(config, len(times))
    return cut_at(times, ordered[first], ordered[second])


def cut_ranks(config: SplitConfig, num_rows: int) -> tuple[int, int]:
    """The places, among the sorted times, of those at which the two later parts begin."""
    first, second = _shares(config)
    return round(first * num_rows), round(second * num_rows)


def cut_at(values: NDArray[Any], first: float, second: float) -> NDArray[np.int8]:
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

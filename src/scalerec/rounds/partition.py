"""Partitioners: which rows of a data set belong to which party, and how uneven that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from scalerec.config import Config, require
from scalerec.errors import RoundError

__all__ = [
    "Balanced",
    "ByKey",
    "Contiguous",
    "Hashed",
    "Partitioner",
    "Skew",
    "skew",
    "skew_of",
]

Index = npt.NDArray[np.int64]
Keys = npt.NDArray[np.integer[Any]]


@runtime_checkable
class Partitioner(Protocol):
    """How the rows of a data set are divided."""

    def split(self, num_rows: int, keys: Keys | None = None) -> list[Index]:
        """Divide the rows; each belongs to exactly one part, and a part lists its own in order.

        Args:
            num_rows: Number of rows, at least 0.
            keys: What rows are held together by (the user, the organisation), ``[num_rows]``
                integers; a partitioner that needs none leaves them alone.

        Returns:
            The row numbers of each part, int64; a part may be empty.

        Raises:
            RoundError: If keys are needed and absent, or do not fit.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Contiguous(Config):
    """Runs of rows whose sizes differ by one at most.

    Args:
        num_parts: Number of parts, at least 1.
    """

    num_parts: int

    def __post_init__(self) -> None:
        _check_parts(self.num_parts)

    def split(self, num_rows: int, keys: Keys | None = None) -> list[Index]:  # noqa: ARG002
        """Divide the rows; see `Partitioner.split`."""
        return np.array_split(np.arange(num_rows, dtype=np.int64), self.num_parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class ByKey(Config):
    """One part for each key, in the keys' order: one party per user."""

    def split(self, num_rows: int, keys: Keys | None = None) -> list[Index]:
        """Divide the rows; see `Partitioner.split`."""
        known = _check_keys("ByKey", num_rows, keys)
        if num_rows == 0:
            return []
        _, counts = np.unique(known, return_counts=True)
        return np.split(np.argsort(known, kind="stable"), np.cumsum(counts)[:-1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Hashed(Config):
    """Each key in a part that its hash decides, the same on every machine and for every data set.

    Without keys, the row's number is hashed. The hash is the finaliser of SplitMix64 (Fast
    Splittable Pseudorandom Number Generators, Steele et al., 2014,
    https://doi.org/10.1145/2660193.2660195).

    Args:
        num_parts: Number of parts, at least 1.
        seed: Another seed gives another division, at least 0.
    """

    num_parts: int
    seed: int = 0

    def __post_init__(self) -> None:
        _check_parts(self.num_parts)
        require(self.seed >= 0, f"seed must be at least 0; got {self.seed}")

    def split(self, num_rows: int, keys: Keys | None = None) -> list[Index]:
        """Divide the rows; see `Partitioner.split`."""
        known = np.arange(num_rows) if keys is None else _check_keys("Hashed", num_rows, keys)
        return _group(self.parts_of(known), self.num_parts)

    def parts_of(self, keys: Keys) -> Index:
        """The part of each key, ``[n]``, for a data set that is not held whole."""
        return (_mix(keys, self.seed) % np.uint64(self.num_parts)).astype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Balanced(Config):
    """Whole keys dealt out, the dearest first, each to the part that has cost the least so far.

    Paper: Bounds on Multiprocessing Timing Anomalies, Graham, 1969,
    https://doi.org/10.1137/0117039: the dearest part is at most 4/3 of the best possible.

    Args:
        num_parts: Number of parts, at least 1.
    """

    num_parts: int

    def __post_init__(self) -> None:
        _check_parts(self.num_parts)

    def split(
        self, num_rows: int, keys: Keys | None = None, costs: npt.NDArray[Any] | None = None
    ) -> list[Index]:
        """Divide the rows; see `Partitioner.split`.

        Args:
            num_rows: As there.
            keys: As there.
            costs: Of each row, ``[num_rows]``, at least 0; 1 each if None.
        """
        known = _check_keys("Balanced", num_rows, keys)
        if costs is not None and np.shape(costs) != (num_rows,):
            raise RoundError(f"costs must be {num_rows} numbers; got shape {list(np.shape(costs))}")
        _, key_of = np.unique(known, return_inverse=True)
        return _group(self.deal(np.bincount(key_of, weights=costs))[key_of], self.num_parts)

    def deal(self, costs: npt.NDArray[Any]) -> Index:
        """The part of each key, ``[n]``, for a data set that is not held whole.

        Args:
            costs: Of each key, ``[n]``, at least 0. Of equal ones the first key is dealt first.

        Raises:
            RoundError: If a cost is negative, or not a number.
        """
        import heapq

        if not bool((costs >= 0).all()):
            raise RoundError(f"costs must be at least 0; got {costs[~(costs >= 0)][0]}")
        part_of = np.empty(len(costs), dtype=np.int64)
        loads: list[tuple[float, int]] = [(0, part) for part in range(self.num_parts)]
        dearest = np.argsort(-costs, kind="stable")
        for key, cost in zip(dearest.tolist(), costs[dearest].tolist(), strict=True):
            load, part = loads[0]
            part_of[key] = part
            heapq.heapreplace(loads, (load + cost, part))
        return part_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Skew:
    """How uneven a division is.

    Args:
        sizes: Rows of each part.
        label_rates: Mean label of each part; None for an empty one, or where no labels were given.
        num_empty: Parts without rows.
        size_ratio: The largest part against the mean one; 1 is even. None if there are no rows.
        label_spread: Standard deviation of the label rates of parts that have rows; None without.
    """

    sizes: tuple[int, ...]
    label_rates: tuple[float | None, ...]
    num_empty: int
    size_ratio: float | None
    label_spread: float | None


def skew(parts: Sequence[Index], labels: npt.NDArray[Any] | None = None) -> Skew:
    """Measure how uneven a division is.

    Args:
        parts: The row numbers of each part.
        labels: One number per row of the data set.

    Example:
        >>> skew([np.array([0, 1, 2]), np.array([3])], np.array([1, 0, 1, 1])).size_ratio
        1.5
    """
    known = [
        float(labels[part].mean()) if labels is not None and len(part) else None for part in parts
    ]
    return skew_of([len(part) for part in parts], known)


def skew_of(sizes: Sequence[int], label_rates: Sequence[float | None]) -> Skew:
    """As `skew`, of parts that nobody holds together.

    Args:
        sizes: Rows of each part.
        label_rates: Mean label of each; None where there is none.
    """
    rates = [rate for rate in label_rates if rate is not None]
    num_rows = sum(sizes)
    return Skew(
        sizes=tuple(sizes),
        label_rates=tuple(label_rates),
        num_empty=list(sizes).count(0),
        size_ratio=max(sizes) * len(sizes) / num_rows if num_rows else None,
        label_spread=_spread(rates) if rates else None,
    )


def _spread(rates: Sequence[float]) -> float:
    mean = math.fsum(rates) / len(rates)
    return math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates) / len(rates))


def _check_parts(num_parts: int) -> None:
    require(num_parts >= 1, f"num_parts must be at least 1; got {num_parts}")


def _check_keys(who: str, num_rows: int, keys: Keys | None) -> Keys:
    if keys is None:
        raise RoundError(f"{who} needs a key for each row; got none")
    if keys.shape != (num_rows,) or keys.dtype.kind not in "iu":
        raise RoundError(
            f"keys must be {num_rows} integers; got shape {list(keys.shape)} of {keys.dtype}"
        )
    return keys


def _group(part_of: Index, num_parts: int) -> list[Index]:
    """The rows of each part, in order."""
    counts = np.bincount(part_of, minlength=num_parts)
    return np.split(np.argsort(part_of, kind="stable"), np.cumsum(counts)[:-1])


def _mix(keys: Keys, seed: int) -> npt.NDArray[np.uint64]:
    x = keys.astype(np.uint64)
    x += np.uint64(((seed + 1) * 0x9E3779B97F4A7C15) % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

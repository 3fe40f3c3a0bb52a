"""Splits of all events, part by part: what they depend on is counted in all parts first."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scalerec.data.raw import RawData
from scalerec.data.spark.files import save_array
from scalerec.data.spark.reading import Part, given_split
from scalerec.data.spark.session import Cluster
from scalerec.data.splits import (
    SplitConfig,
    cut_at,
    cut_config,
    cut_ranks,
    draw_splits,
    split_kind,
)
from scalerec.errors import DataError

__all__ = ["Splitting", "plan_splits", "write_splits"]

# The bits of a moment by which moments are counted, one pass after the other.
PASSES = (28, 14, 0)
WHOLE = 64
Counted = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Splitting:
    """How the events of a part are split.

    Args:
        kind: `given`: by their files; `last`: each user's last ones, which `histories` finds.
        only_train: Whether only the training rows of given files are cut.
        config: The shares and the seed.
        moments: At which the two later parts begin.
    """

    kind: Literal["given", "time", "random", "last", "user", "item"]
    only_train: bool = False
    config: SplitConfig
    moments: tuple[int, int] = (0, 0)


def plan_splits(
    cluster: Cluster, raw: RawData, config: SplitConfig, parts: Sequence[Part]
) -> Splitting:
    """Find out how events are split.

    Args:
        cluster: Where.
        raw: The tables.
        config: How.
        parts: Those of the events.

    Raises:
        DataError: If the split needs what the schema does not name, or is by user or item.
    """
    has_times, has_users = bool(raw.schema.timestamp), bool(raw.schema.user)
    if raw.splits.keys() == {"all"}:
        if config.by in ("user", "item"):
            raise DataError(f"Spark does not split by {config.by}; prepare with --engine local")
        kind = split_kind(config, has_times, has_users)
        only_train = False
    elif "valid" not in raw.splits:
        config = cut_config(config, has_times)
        kind, only_train = split_kind(config, has_times, has_users), True
    else:
        return Splitting(kind="given", config=config)
    if kind == "leave-last-out":
        return Splitting(kind="last", config=config)
    own = [part for part in parts if not only_train or part.split == "train"]
    moments = (0, 0)
    if kind == "time":
        ranks = cut_ranks(config, sum(part.num_rows for part in own))
        first, second = _moments(cluster, own, ranks)
        moments = first, second
    return Splitting(kind=kind, only_train=only_train, config=config, moments=moments)


def write_splits(part: Part, splitting: Splitting) -> NDArray[np.int8]:
    """Split the events of a part, and keep that, ``[n]``."""
    given = np.full(part.num_rows, max(0, given_split(part)), np.int8)
    splits, config = given, splitting.config
    if splitting.kind != "given" and not (splitting.only_train and part.split != "train"):
        if splitting.kind == "time":
            splits = cut_at(part.array("times"), *splitting.moments)
        else:
            first = part.first_of_split if splitting.only_train else part.first
            splits = draw_splits(config, first, part.num_rows)
    save_array(part.folder / "splits.npy", splits)
    return splits


def _moments(cluster: Cluster, parts: Sequence[Part], ranks: Sequence[int]) -> list[int]:
    """The times at some places among all times, sorted.

    Past the last, it is a second after the last one, which counts as 0 at least. Counts by the
    upper bits find the range in which each lies, then those by lower bits the time.
    """
    total = sum(part.num_rows for part in parts)
    left, bases, above = list(ranks), [0] * len(ranks), WHOLE
    for bits in PASSES:
        found = _counted(cluster, parts, bits, (above, bases))
        for i, (values, counts) in enumerate(found):
            if ranks[i] < total:
                place = int(np.searchsorted(np.cumsum(counts), left[i], side="right"))
                left[i] -= int(counts[:place].sum())
                bases[i] = int(values[place])
        above = bits
    if max(ranks) >= total:
        last = max(cluster.run(_latest, parts))
        return [base if rank < total else last + 1 for rank, base in zip(ranks, bases, strict=True)]
    return bases


def _counted(
    cluster: Cluster, parts: Sequence[Part], bits: int, within: tuple[int, Sequence[int]]
) -> list[Counted]:
    """For each range, the distinct upper bits of the times in it, and how many have them."""

    def count(part: Part) -> list[tuple[int, list[Counted]]]:
        times = part.array("times")
        ranges = _upper(times, within[0])
        own = (times[ranges == base] for base in within[1])
        return [(0, [np.unique(_upper(t, bits), return_counts=True) for t in own])]

    def merge(_: int, found: Iterable[list[Counted]]) -> list[Counted]:
        return [_merged(own) for own in zip(*found, strict=True)]

    return cluster.exchange(count, parts, merge, 1)[0]


def _merged(found: Sequence[Counted]) -> Counted:
    values, places = np.unique(np.concatenate([own[0] for own in found]), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, places, np.concatenate([own[1] for own in found]))
    return values, counts


def _upper(times: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Times without their lower bits; without `WHOLE` of them all are one."""
    return times >> bits if bits < WHOLE else np.zeros_like(times)


def _latest(part: Part) -> int:
    return int(part.array("times").max(initial=0))

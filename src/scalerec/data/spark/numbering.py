"""Numbers of users, items and groups through all parts, in the order in which their keys come."""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.keys import KeyIndex
from scalerec.data.spark.files import index_at, save_array, save_table
from scalerec.data.spark.reading import KINDS, Part
from scalerec.data.spark.session import Cluster

__all__ = ["Numbered", "number_keys", "number_rows", "receiver_of", "split_table"]

# Keys that a task joins at once.
JOINED_KEYS = 1 << 20


@dataclass(frozen=True, slots=True)
class Numbered:
    """The users, items or groups of all parts.

    Args:
        path: Where their keys are kept, column `key`, and titles, column `title`.
        table: Columns `key` and `title`.
        counts: Events of each, ``[n]``.
        num_listed: How many a side table lists; they have the first numbers.
    """

    path: Path
    table: pa.Table
    counts: NDArray[np.int64]
    num_listed: int

    def __len__(self) -> int:
        return len(self.table)


def receiver_of(keys: pa.Array, count: int) -> NDArray[np.int64]:
    """The task that joins each key, ``[n]``: equal keys come to one task."""
    if count == 1:
        return np.zeros(len(keys), np.int64)
    texts = (zlib.crc32(key.encode()) for key in keys.to_pylist())
    return np.fromiter(texts, np.int64, len(keys)) % count


def split_table(table: pa.Table, targets: NDArray[np.int64]) -> Iterator[tuple[int, pa.Table]]:
    """The rows of a table by their target, ``[n]``."""
    order = np.argsort(targets, kind="stable")
    distinct, starts = np.unique(targets[order], return_index=True)
    for target, rows in zip(distinct.tolist(), np.split(order, starts[1:]), strict=True):
        # Taken, not sliced: a slice would travel with all that it is a slice of.
        yield target, table.take(pa.array(rows))


def number_keys(
    cluster: Cluster, parts: Sequence[Part], folder: Path
) -> tuple[dict[str, Numbered], list[Part]]:
    """Number users, items and groups.

    Args:
        cluster: Where.
        parts: All of them.
        folder: Where keys are kept for the tasks.

    Returns:
        By `USER`, `ITEM` and `GROUP`, those that there are; and the parts, those of side tables
        with the numbers of their entities.
    """
    kinds = [kind for kind in KINDS if any(kind in part.num_keys for part in parts)]
    if not kinds:
        return {}, list(parts)
    total = sum(sum(part.num_keys.values()) for part in parts)
    count = -(-total // JOINED_KEYS) or 1

    def send(part: Part) -> Iterable[tuple[int, pa.Table]]:
        return _send(part, count)

    found = pa.concat_tables([_nothing(), *(cluster.exchange(send, parts, _join, count))])
    listed = {part.number for part in parts if part.table != "events"}
    numbered: dict[str, Numbered] = {}
    for kind in kinds:
        own = found.filter(pa.array(found["kind"].to_numpy() == list(KINDS).index(kind)))
        own = own.sort_by([("part", "ascending"), ("number", "ascending")])
        path = folder / f"{KINDS[kind]}.arrow"
        table = own.select(["key", "title"]).combine_chunks()
        save_table(path, table)
        places = own["part"].to_numpy()
        num_listed = int(np.isin(places, list(listed)).sum())
        numbered[kind] = Numbered(path, table, own["count"].to_numpy(), num_listed)
        parts = [_with_numbers(part, kind, places) for part in parts]
    return numbered, list(parts)


def _with_numbers(part: Part, kind: str, places: NDArray[np.int64]) -> Part:
    if part.table != KINDS[kind]:
        return part
    first, end = np.searchsorted(places, [part.number, part.number + 1]).tolist()
    return replace(part, numbers=(first, end))


def _send(part: Part, count: int) -> Iterator[tuple[int, pa.Table]]:
    for kind in part.num_keys:
        keys = part.keys(kind)
        size, counts = len(keys), np.zeros(len(keys), np.int64)
        if part.table == "events":
            counts += np.bincount(part.array(f"own-{KINDS[kind]}"), minlength=size)
        columns = {
            "kind": np.full(size, list(KINDS).index(kind), np.int8),
            "key": keys["key"],
            "part": np.full(size, part.number, np.int32),
            "number": np.arange(size, dtype=np.int32),
            "title": keys["title"] if "title" in keys.column_names else pa.nulls(size, pa.string()),
            "count": counts,
        }
        yield from split_table(pa.table(columns), receiver_of(keys["key"], count))


def _join(_: int, tables: Iterator[pa.Table]) -> pa.Table:
    """Each key once: where it came first, and how often it came."""
    arrived = list(tables)
    if not arrived:
        return _nothing()
    table = pa.concat_tables(arrived)
    by = [(name, "ascending") for name in ("kind", "part", "number")]
    table = table.sort_by(by).combine_chunks()
    kinds, counts, found = table["kind"].to_numpy(), table["count"].to_numpy(), []
    for kind in np.unique(kinds):
        start, stop = np.searchsorted(kinds, [kind, kind + 1]).tolist()
        own = table.slice(start, stop - start).combine_chunks()
        numbers = KeyIndex().add(own["key"].combine_chunks())
        first = np.unique(numbers, return_index=True)[1]
        sums = np.zeros(len(first), np.int64)
        np.add.at(sums, numbers, counts[start:stop])
        place = own.column_names.index("count")
        found.append(own.take(pa.array(first)).set_column(place, "count", pa.array(sums)))
    return pa.concat_tables(found)


def _nothing() -> pa.Table:
    keys = [("kind", pa.int8()), ("key", pa.large_string()), ("part", pa.int32())]
    more = [("number", pa.int32()), ("title", pa.string()), ("count", pa.int64())]
    return pa.schema([*keys, *more]).empty_table()


def number_rows(part: Part, paths: Mapping[str, Path]) -> None:
    """Keep the numbers of a part's users, items and groups among those of all parts, ``[n]``.

    Of a side table's part they are those of its rows.
    """
    for kind in part.num_keys:
        index = index_at(paths[kind])
        known = index.find(part.keys(kind)["key"].combine_chunks()).astype(np.int32)
        own = part.array(f"own-{KINDS[kind]}") if part.table == "events" else slice(None)
        save_array(part.folder / f"{KINDS[kind]}.npy", known[own])

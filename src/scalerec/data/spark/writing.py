"""The files of a data set, written in parts side by side and then joined, a task a column."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.columns import Specs
from scalerec.data.keys import KeyIndex
from scalerec.data.logs import Log
from scalerec.data.parsing import parser_of
from scalerec.data.schema import Schema, TableName
from scalerec.data.spark.counting import Met, met_rows
from scalerec.data.spark.files import encoders_at, load_array, load_table, save_array
from scalerec.data.spark.reading import Part, scan_of
from scalerec.data.spark.session import Cluster
from scalerec.data.splits import SPLITS
from scalerec.data.stores import Described, EventIds, described_ids, write_described, write_events

__all__ = [
    "EntityRange",
    "Written",
    "entity_ranges",
    "join_stores",
    "keep_ids",
    "write_logs",
    "write_part",
    "write_range",
]

# Bytes, or numbers, that are copied at once.
COPIED = 1 << 20
# Users or items that a task writes at once, where no side table lists them.
ENTITIES = 1 << 20
# A store's name, and where a part of it was written.
Written = tuple[Path, Specs]


@dataclass(frozen=True, kw_only=True, slots=True)
class EntityRange:
    """Users or items with consecutive numbers.

    Args:
        table: Which.
        first: The number of the first.
        stop: The number after the last.
        part: What a side table says of them, if it lists them.
    """

    table: TableName
    first: int
    stop: int
    part: Part | None = None


def entity_ranges(
    table: TableName, parts: Sequence[Part], size: int, num_listed: int
) -> Iterator[EntityRange]:
    """All users or items in ranges: those of each part of the side table, then the others.

    Args:
        table: Which.
        parts: All of them.
        size: How many there are.
        num_listed: How many of them the side table lists.
    """
    for part in parts:
        first, stop = part.numbers
        if part.table == table and stop > first:
            yield EntityRange(table=table, first=first, stop=stop, part=part)
    for first in range(num_listed, size, ENTITIES):
        yield EntityRange(table=table, first=first, stop=min(first + ENTITIES, size))


def write_part(part: Part, scratch: Path, kinds: Sequence[str]) -> dict[str, Written]:
    """Encode the events of a part and write them as stores of their own, by split."""
    encoders = encoders_at(scratch / "encoders.arrow")
    schema, intake = encoders.schema, part.intake()
    none = np.zeros(0, np.int32)
    logs = {
        kind: Log(none, none.astype(np.int64), load_array(part.folder / f"past-{kind}.npy"), none)
        for kind in kinds
    }
    words = encoders.vocabularies
    ids = EventIds(
        keys={
            name: np.append(words[name].encode(index.to_arrow()), np.int32(0))
            for name, index in intake.indexes.items()
        },
        entities={
            feature.name: load_array(scratch / f"ids-{place}.npy")
            for place, feature in enumerate(schema.features)
            if feature.table == "events" and schema.is_key(feature)
        },
    )
    folder = part.folder / f"stores-{uuid4().hex[:8]}"
    with ThreadPoolExecutor(1) as pool:
        specs = write_events(folder, encoders, scan_of(part, schema), logs, intake, ids, pool)
    return {split: (folder / split, specs[split]) for split in SPLITS}


def keep_ids(scratch: Path, schema: Schema, table: TableName, index: KeyIndex) -> None:
    """Keep the ids of all users or items, for features on their key, where tasks find them."""
    ids = described_ids(encoders_at(scratch / "encoders.arrow"), table, index)
    for place, feature in enumerate(schema.features):
        if feature.name in ids:
            save_array(scratch / f"ids-{place}.npy", ids[feature.name])


def write_range(
    own: EntityRange,
    scratch: Path,
    out: Path,
    stores: Mapping[str, Specs],
    met: Met,
    kinds: Sequence[str],
) -> Written:
    """Write what is known of some users or items as a store of its own.

    Args:
        own: Which.
        scratch: Where what tasks share is kept.
        out: The data set's directory, with the event stores.
        stores: The columns of these.
        met: Where and how often all were met.
        kinds: Of history.
    """
    encoders = encoders_at(scratch / "encoders.arrow")
    schema, rows = encoders.schema, slice(own.first, own.stop)
    columns = load_table(own.part.folder / "columns.arrow") if own.part else None
    taken = pa.array(met_rows(own.part, None)) if own.part else None
    by_name = {feature.name: feature for feature in schema.of_table(own.table)}

    def column(name: str) -> pa.Array:
        if columns is None:
            kind = parser_of(by_name[name]).parse(pa.array([], pa.string()))[0].type
            return pa.nulls(own.stop - own.first, kind)
        return columns[name].combine_chunks().take(taken)

    ids = {
        feature.name: np.array(load_array(scratch / f"ids-{place}.npy")[rows])
        for place, feature in enumerate(schema.features)
        if (scratch / f"ids-{place}.npy").is_file()
    }
    beside: dict[str, NDArray[Any]] = {
        "train_count": met.count(own.first, own.stop),
        own.table[:-1]: np.arange(own.first, own.stop, dtype=np.int32),
    }
    for kind in kinds if own.table == "users" else ():
        beside[f"past/{kind}"] = np.array(load_array(scratch / f"seen-{kind}.npy")[rows])
    described = Described(
        size=own.stop - own.first,
        ids=ids,
        column=column,
        places=lambda: met.places(own.first, own.stop),
        beside=beside,
    )
    folder = scratch / "entities" / f"{own.table}-{own.first}-{uuid4().hex[:8]}"
    return folder, write_described(folder, out, own.table, encoders, described, stores)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    """A column that is to be joined of its parts."""

    store: str
    name: str
    target: Path
    spec: dict[str, Any]
    sources: tuple[tuple[Path, int], ...]


def join_stores(
    cluster: Cluster, out: Path, written: Mapping[str, Sequence[Written]]
) -> dict[str, Specs]:
    """Join the parts of stores.

    Args:
        cluster: Where.
        out: The data set's directory.
        written: By store, its parts in order.

    Returns:
        By store, its columns; none for one without rows.
    """
    columns: list[_Column] = []
    for store, parts in written.items():
        (out / store).mkdir(parents=True)
        found: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
        for folder, specs in parts:
            for name, spec in specs.items():
                found.setdefault(name, []).append((folder / spec["file"], spec))
        for name, own in found.items():
            spec, sources = own[0][1], tuple((path, spec["rows"]) for path, spec in own)
            target = out / store / spec["file"]
            columns.append(
                _Column(store=store, name=name, target=target, spec=spec, sources=sources)
            )
    stores: dict[str, Specs] = {store: {} for store in written}
    for column, spec in zip(columns, cluster.run(_join_column, columns), strict=True):
        stores[column.store][column.name] = spec
    return stores


def _join_column(column: _Column) -> dict[str, Any]:
    """Join a column, and tell what `ColumnWriter` would."""
    is_offsets = column.name.startswith("bags/") and column.name.endswith("/offsets")
    digest, rows = hashlib.sha256(), 0
    aside = column.target.with_name(f".{column.target.name}.{uuid4().hex}")
    with aside.open("wb") as file:
        for data in _offsets(column.sources) if is_offsets else _bytes(column.sources):
            file.write(data)
            digest.update(data)
            rows += len(data) // 8
    os.replace(aside, column.target)  # noqa: PTH105  both names are in one folder
    total = rows if is_offsets else sum(count for _, count in column.sources)
    return {**column.spec, "rows": total, "sha256": digest.hexdigest()}


def _bytes(sources: Sequence[tuple[Path, int]]) -> Iterator[bytes]:
    for path, _ in sources:
        with path.open("rb") as file:
            while data := file.read(8 * COPIED):
                yield data


def _offsets(sources: Sequence[tuple[Path, int]]) -> Iterator[bytes]:
    """Where lists start: those of each part begin at 0, and are moved on by all before."""
    last = 0
    yield np.zeros(1, "<i8").tobytes()
    for path, count in sources:
        base, done = last, 1
        while done < count:
            size = min(COPIED, count - done)
            values = np.fromfile(path, "<i8", size, offset=8 * done) + base
            last, done = int(values[-1]), done + size
            yield values.tobytes()


def write_logs(
    cluster: Cluster, out: Path, logs: Mapping[str, tuple[Sequence[Path], Sequence[Path]]]
) -> dict[str, Specs]:
    """Write the logs of users.

    Args:
        cluster: Where.
        out: The data set's directory.
        logs: By kind of history, files of items and of each user's number of them, in order.
    """
    jobs = []
    for kind, (items, lengths) in logs.items():
        folder = out / f"log-{kind}"
        folder.mkdir(parents=True)
        jobs += [(folder / "0000.bin", tuple(items), False)]
        jobs += [(folder / "0001.bin", tuple(lengths), True)]
    specs = cluster.run(_write_log, jobs)
    pairs = zip(logs, specs[::2], specs[1::2], strict=True)
    return {f"log-{kind}": {"items": items, "offsets": offsets} for kind, items, offsets in pairs}


def _write_log(job: tuple[Path, Sequence[Path], bool]) -> dict[str, Any]:
    target, sources, is_offsets = job
    digest, rows, last = hashlib.sha256(), 0, 0
    dtype = np.dtype("<i8" if is_offsets else "<i4")
    aside = target.with_name(f".{target.name}.{uuid4().hex}")
    with aside.open("wb") as file:

        def write(values: NDArray[Any]) -> None:
            data = np.ascontiguousarray(values, dtype).tobytes()
            file.write(data)
            digest.update(data)

        if is_offsets:
            write(np.zeros(1, np.int64))
            rows = 1
        for path in sources:
            whole = load_array(path)
            for start in range(0, len(whole), COPIED):
                values = np.array(whole[start : start + COPIED])
                if is_offsets:
                    values = np.cumsum(values) + last
                    last = int(values[-1])
                write(values)
            rows += len(whole)
    os.replace(aside, target)  # noqa: PTH105  both names are in one folder
    return {
        "file": target.name,
        "dtype": dtype.str,
        "shape": [],
        "rows": rows,
        "sha256": digest.hexdigest(),
    }

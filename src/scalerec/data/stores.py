"""What a data set stores: events by split, users, items, logs; each a directory of columns.

Beside the columns that encoders give, events have `labels`, `user`, `item`, `time`, `weight`,
`group` and `past/KIND`, how long the history is; users have `user` and `past/KIND`, items `item`,
and both `train_count`.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.columns import Columns, ColumnWriter, Specs
from scalerec.data.encoding import Encoded, Encoders, keep_last, stored_names
from scalerec.data.entities import Entities
from scalerec.data.intake import LABELS, Intake, is_entity
from scalerec.data.keys import KeyIndex
from scalerec.data.logs import Log
from scalerec.data.scanning import WEIGHT, Scan
from scalerec.data.schema import Categorical, Feature, Numeric, Role, TableName, Text
from scalerec.data.schema import Sequence as SequenceFeature
from scalerec.data.spill import Spill, Stretch
from scalerec.data.splits import SPLITS

__all__ = [
    "Described",
    "EventIds",
    "Places",
    "described_ids",
    "event_ids",
    "write_described",
    "write_entities",
    "write_events",
    "write_log",
]

Array = NDArray[Any]
# Gives the encoded columns of a stretch of rows.
Reader = Callable[[Stretch], list[Encoded]]
# Split to the numbers of the entities that are described there, and the row of each within it.
Places = dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True, slots=True)
class EventIds:
    """The ids of the keys that events hold.

    Args:
        keys: By vocabulary, the ids of the intake's provisional numbers, ``[n+1]`` int32; the last
            one is of number -1.
        entities: By feature on the user's or the item's key, the ids of their numbers.
    """

    keys: Mapping[str, NDArray[np.int32]]
    entities: Mapping[str, NDArray[np.int32]]


def event_ids(encoders: Encoders, intake: Intake, entities: tuple[Entities, Entities]) -> EventIds:
    """The ids of all keys of an intake and of all entities."""
    words, schema = encoders.vocabularies, encoders.schema
    of_entity = {
        feature.name: words[schema.tables_of(feature)[0]].ids_of(
            entities[0 if feature.role is Role.USER else 1].index
        )
        for feature in schema.of_table("events")
        if is_entity(schema, feature)
    }
    return EventIds({name: words[name].ids_of(i) for name, i in intake.indexes.items()}, of_entity)


def write_events(
    out: Path,
    encoders: Encoders,
    scan: Scan,
    logs: Mapping[str, Log],
    intake: Intake,
    ids: EventIds,
    pool: Executor,
) -> dict[str, Specs]:
    """Write the events of all splits; what waits on disk is removed on the way.

    Args:
        out: The data set's directory.
        encoders: Fitted ones.
        scan: Who met what when, and in which split.
        logs: By kind of history; their `past` is written here.
        intake: What was read.
        ids: Those of the keys that were read.
        pool: Writes columns side by side.

    Returns:
        The columns of each split; none for a split without rows.
    """
    writers = [ColumnWriter(out / split) for split in SPLITS]
    parts = [_Part.of(stretch, scan.splits) for stretch in intake.spill.stretches()]
    jobs = _event_columns(encoders, scan, logs, intake, ids)
    for names, _ in jobs:
        for writer in writers:
            writer.reserve(names)

    def write(job: tuple[Sequence[str], Reader]) -> None:
        for part in parts:
            for column in job[1](part.stretch):
                for rows, writer in zip(part.rows, writers, strict=True):
                    if len(part.stretch) and rows is not None:
                        _append(writer, [_taken(column, rows)])

    for _ in pool.map(write, jobs):
        pass
    return {split: w.close() for split, w in zip(SPLITS, writers, strict=True)}


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of rows, and which of them belong to each split; none or all are told as such."""

    stretch: Stretch
    rows: tuple[slice | NDArray[np.int64] | None, ...]

    @classmethod
    def of(cls, stretch: Stretch, splits: NDArray[np.int8]) -> "_Part":
        own = splits[stretch.rows]
        rows: list[slice | NDArray[np.int64] | None] = []
        for number in range(len(SPLITS)):
            chosen = np.flatnonzero(own == number)
            whole = len(chosen) == len(own)
            rows.append(slice(None) if whole else chosen if len(chosen) else None)
        return cls(stretch, tuple(rows))


def _taken(column: Encoded, rows: slice | NDArray[np.int64]) -> Encoded:
    """Some rows of an encoded column."""
    if isinstance(rows, slice):
        return column
    if column.lengths is None:
        return Encoded(column.name, column.values.take(rows, axis=0))
    chosen = np.zeros(len(column.lengths), dtype=bool)
    chosen[rows] = True
    return Encoded(
        column.name, column.values[np.repeat(chosen, column.lengths)], column.lengths[rows]
    )


def _event_columns(
    encoders: Encoders,
    scan: Scan,
    logs: Mapping[str, Log],
    intake: Intake,
    ids: EventIds,
) -> list[tuple[Sequence[str], Reader]]:
    """The names of stored columns in the order of their files, and what gives their values."""
    found: list[tuple[Sequence[str], Reader]] = []
    for feature in encoders.schema.of_table("events"):
        names = _file_names(feature)
        if is_entity(encoders.schema, feature):
            found.append((names, _entity_reader(feature, scan, ids.entities[feature.name])))
        else:
            found.append((names, _feature_reader(feature, encoders, ids.keys, intake.spill)))

    def stored(name: str, waiting: str) -> None:
        read = intake.spill.read
        found.append(([name], lambda rows: [Encoded(name, read(waiting, rows))]))

    def held(name: str, values: Array) -> None:
        found.append(([name], lambda stretch: [Encoded(name, values[stretch.rows])]))

    stored("labels", LABELS)
    numbers = {"user": scan.users, "item": scan.items, "group": scan.groups}
    for name, values in numbers.items():
        if values is not None:
            held(name, values.astype(np.int32, copy=False))
    if scan.times is not None:
        held("time", scan.times)
    if encoders.schema.weight:
        stored("weight", WEIGHT)
    for kind, log in logs.items():
        held(f"past/{kind}", log.past)
    return found


def _file_names(feature: Feature) -> tuple[str, ...]:
    names = stored_names(feature)
    if isinstance(feature, SequenceFeature | Text):
        return tuple(f"{name}/{part}" for name in names for part in ("offsets", "values"))
    return names


def _entity_reader(feature: Feature, scan: Scan, ids: NDArray[np.int32]) -> Reader:
    """The user's or the item's own key: its number tells its id."""
    numbers = scan.users if feature.role is Role.USER else scan.items
    assert numbers is not None
    (name,) = stored_names(feature)
    return lambda stretch: [Encoded(name, ids[numbers[stretch.rows]])]


def _feature_reader(
    feature: Feature, encoders: Encoders, ids: Mapping[str, NDArray[np.int32]], spill: Spill
) -> Reader:
    """What waits on disk, encoded."""
    if isinstance(feature, Numeric):
        return lambda stretch: encoders.encode(
            feature, pa.array(spill.read(feature.name, stretch), from_pandas=True)
        )
    names = stored_names(feature)
    if not isinstance(feature, Categorical | SequenceFeature | Text):
        return lambda stretch: [Encoded(name, spill.read(name, stretch)) for name in names]
    own = ids[encoders.schema.tables_of(feature)[0]]
    if isinstance(feature, Categorical):
        return lambda stretch: [Encoded(names[0], own[spill.read(feature.name, stretch)])]
    most = feature.max_length

    def read_lists(stretch: Stretch) -> list[Encoded]:
        values = own[spill.read(f"{feature.name}/values", stretch)]
        lengths = spill.read(f"{feature.name}/lengths", stretch).astype(np.int64)
        return [Encoded(names[0], *keep_last(values, lengths, most))]

    return read_lists


def write_log(directory: Path, log: Log) -> Specs:
    """Write a log's items, and where each user's start."""
    writer = ColumnWriter(directory)
    writer.append("items", log.items)
    writer.append("offsets", log.offsets)
    return writer.close()


def write_entities(
    out: Path,
    table: TableName,
    entities: Entities,
    encoders: Encoders,
    met: tuple[NDArray[np.int64], NDArray[np.int8]],
    beside: Mapping[str, Array],
    stores: Mapping[str, Specs],
) -> Specs:
    """Write the features of all users or items, one row an entity.

    A key is known of every entity. What a side table says is encoded from it. What the events say
    of an entity is taken from its last training row, or from its first later one if it has none.

    Args:
        out: The data set's directory.
        table: `users` or `items`.
        entities: Them.
        encoders: Fitted ones.
        met: For every event its entity's number and its split, ``[N]`` each.
        beside: More columns, one row an entity.
        stores: The columns of the event stores, already written.
    """
    numbers, splits = met
    in_train = np.bincount(numbers[splits == 0], minlength=len(entities))
    columns: dict[str, Array] = {
        "train_count": in_train.astype(np.int64),
        table[:-1]: np.arange(len(entities), dtype=np.int32),
    }
    described = Described(
        size=len(entities),
        ids=described_ids(encoders, table, entities.index),
        column=entities.column,
        places=lambda: _places(numbers, splits, len(entities)),
        beside={**columns, **beside},
    )
    return write_described(out / table, out, table, encoders, described, stores)


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What is known of users or items: all of them, or some with consecutive numbers.

    Args:
        size: How many they are, n.
        ids: By feature on their key, its ids, ``[n]``.
        column: Gives what the side table says, by feature, as parsed, ``[n]``.
        places: Gives where the events describe them.
        beside: More columns, ``[n, ...]``.
    """

    size: int
    ids: Mapping[str, NDArray[np.int32]]
    column: Callable[[str], pa.Array]
    places: Callable[[], Places]
    beside: Mapping[str, Array]


def described_ids(
    encoders: Encoders, table: TableName, index: KeyIndex
) -> dict[str, NDArray[np.int32]]:
    """By feature on the key of users or items, the ids of all of them, ``[n]``."""
    role, schema = Role.USER if table == "users" else Role.ITEM, encoders.schema
    keys = [f for f in schema.features if f.role is role and schema.is_key(f)]
    words = encoders.vocabularies
    return {f.name: words[schema.tables_of(f)[0]].ids_of(index)[:-1] for f in keys}


def write_described(
    folder: Path,
    out: Path,
    table: TableName,
    encoders: Encoders,
    described: Described,
    stores: Mapping[str, Specs],
) -> Specs:
    """Write the features of some users or items, one row an entity.

    Args:
        folder: Where; is made.
        out: The data set's directory, with the event stores.
        table: `users` or `items`.
        encoders: Fitted ones.
        described: What is known of them.
        stores: The columns of the event stores.
    """
    writer, schema = ColumnWriter(folder), encoders.schema
    role = Role.USER if table == "users" else Role.ITEM
    of_events: list[Feature] = []
    for feature in schema.features:
        if feature in schema.history or feature.role is not role:
            continue
        if schema.is_key(feature):
            writer.append(stored_names(feature)[0], described.ids[feature.name])
        elif feature.table == table:
            _append(writer, encoders.encode(feature, described.column(feature.name)))
        else:
            of_events.append(feature)
    if of_events:
        places = described.places()
        for name in (name for feature in of_events for name in stored_names(feature)):
            # One column at a time: pages of mapped files count as memory while they are mapped.
            opened = {
                split: Columns(out / split, _only(name, stores[split]))
                for split in SPLITS
                if stores[split]
            }
            _append(writer, [_gather(opened, name, places, described.size)])
    for name, values in described.beside.items():
        writer.append(name, values)
    return writer.close()


def _append(writer: ColumnWriter, encoded: list[Encoded]) -> None:
    for column in encoded:
        if column.lengths is None:
            writer.append(column.name, column.values)
        else:
            writer.append_lists(column.name, column.values, column.lengths)


def _only(name: str, specs: Specs) -> Specs:
    """The files of one column."""
    own = name, f"{name}/values", f"{name}/offsets"
    return {key: spec for key, spec in specs.items() if key in own}


def _places(numbers: NDArray[np.int64], splits: NDArray[np.int8], num_entities: int) -> Places:
    place = np.full(num_entities, -1, np.int64)
    later = np.flatnonzero(splits != 0)[::-1]
    place[numbers[later]] = later
    train = np.flatnonzero(splits == 0)
    place[numbers[train]] = train
    found = {}
    for number, split in enumerate(SPLITS):
        own = np.flatnonzero((place >= 0) & (splits[place] == number))
        if len(own):
            rows = np.flatnonzero(splits == number)
            found[split] = own, np.searchsorted(rows, place[own])
    return found


def _gather(opened: Mapping[str, Columns], name: str, places: Places, size: int) -> Encoded:
    """A stored column of the events, one row an entity; empty for those no event describes."""
    if f"{name}/values" in next(iter(opened.values())):
        return _gather_lists(opened, name, places, size)
    like = next(iter(opened.values()))[name]
    values = np.zeros((size, *like.shape[1:]), like.dtype)
    for split, (own, rows) in places.items():
        values[own] = opened[split][name][rows]
    return Encoded(name, values)


def _gather_lists(opened: Mapping[str, Columns], name: str, places: Places, size: int) -> Encoded:
    lengths = np.zeros(size, np.int64)
    parts = []
    for split, (own, rows) in places.items():
        values, offsets = opened[split].lists(name, rows)
        lengths[own] = np.diff(offsets)
        parts.append((own, values, offsets))
    starts = np.cumsum(lengths) - lengths
    gathered = np.zeros(int(lengths.sum()), np.int32)
    for own, values, offsets in parts:
        shift = np.repeat(starts[own] - offsets[:-1], np.diff(offsets))
        gathered[shift + np.arange(len(values))] = values
    return Encoded(name, gathered, lengths)

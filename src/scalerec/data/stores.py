"""What a data set stores: events by split, users, items, logs; each a directory of columns.

Beside the columns that encoders give, events have `labels`, `user`, `item`, `time`, `weight`,
`group` and `past/KIND`, how long the history is; users have `user` and `past/KIND`, items `item`,
and both `train_count`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.columns import Columns, ColumnWriter, Specs
from scalerec.data.encoding import Encoded, Encoders, stored_names
from scalerec.data.entities import Entities
from scalerec.data.logs import Log
from scalerec.data.parsing import Parsed
from scalerec.data.scanning import WEIGHT, Scan, labels_of
from scalerec.data.schema import Feature, Role, TableName
from scalerec.data.splits import SPLITS

__all__ = ["EventWriter", "write_entities", "write_log"]

Array = NDArray[Any]
# Split to the numbers of the entities that are described there, and the row of each within it.
Places = dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]


class EventWriter:
    """Writes the events of all splits.

    Args:
        out: The data set's directory.
        encoders: Fitted ones.
        scan: What the first reading found.
        logs: By kind of history.
    """

    def __init__(self, out: Path, encoders: Encoders, scan: Scan, logs: Mapping[str, Log]) -> None:
        self._encoders = encoders
        self._scan = scan
        self._logs = logs
        self._writers = [ColumnWriter(out / split) for split in SPLITS]

    def append(self, part: Parsed) -> None:
        """Append a chunk, each row to its split."""
        here = slice(part.first, part.first + len(part))
        for number, writer in enumerate(self._writers):
            chosen = self._scan.splits[here] == number
            if chosen.any():
                own = part.filter(chosen)
                for feature in self._encoders.schema.of_table("events"):
                    _append(writer, self._encoders.encode(feature, own.columns[feature.name]))
                for name, values in self._beside(own, np.flatnonzero(chosen) + part.first).items():
                    writer.append(name, values)

    def close(self) -> dict[str, Specs]:
        """Finish, and give the columns of each split; none for a split without rows."""
        return {split: w.close() for split, w in zip(SPLITS, self._writers, strict=True)}

    def _beside(self, part: Parsed, rows: NDArray[np.int64]) -> dict[str, Array]:
        scan, schema = self._scan, self._encoders.schema
        found: dict[str, Array] = {"labels": labels_of(schema, part)}
        numbers = {"user": scan.users, "item": scan.items, "group": scan.groups}
        for name, values in numbers.items():
            if values is not None:
                found[name] = values[rows].astype(np.int32)
        if scan.times is not None:
            found["time"] = scan.times[rows]
        if schema.weight:
            found["weight"] = part.columns[WEIGHT].to_numpy().astype(np.float32)
        for kind, log in self._logs.items():
            found[f"past/{kind}"] = log.past[rows]
        return found


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
    writer = ColumnWriter(out / table)
    role = Role.USER if table == "users" else Role.ITEM
    keys = pa.array(entities.index.keys, pa.string())
    of_events: list[Feature] = []
    for feature in encoders.schema.features:
        if feature in encoders.schema.history or feature.role is not role:
            continue
        if encoders.schema.is_key(feature):
            _append(writer, encoders.encode(feature, keys))
        elif feature.table == table:
            _append(writer, encoders.encode(feature, entities.column(feature.name)))
        else:
            of_events.append(feature)
    numbers, splits = met
    if of_events:
        opened = {split: Columns(out / split, stores[split]) for split in SPLITS if stores[split]}
        places = _places(numbers, splits, len(entities))
        for name in (name for feature in of_events for name in stored_names(feature)):
            _append(writer, [_gather(opened, name, places, len(entities))])
    in_train = np.bincount(numbers[splits == 0], minlength=len(entities))
    writer.append("train_count", in_train.astype(np.int64))
    writer.append(table[:-1], np.arange(len(entities), dtype=np.int32))
    for name, values in beside.items():
        writer.append(name, values)
    return writer.close()


def _append(writer: ColumnWriter, encoded: list[Encoded]) -> None:
    for column in encoded:
        if column.lengths is None:
            writer.append(column.name, column.values)
        else:
            writer.append_lists(column.name, column.values, column.lengths)


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

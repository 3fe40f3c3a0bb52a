"""What a data set stores: events by split, users, items, logs; each a directory of columns.

Column names: `ids/NAME`, `numbers/NAME`, `bags/NAME`, `vectors/NAME` and `present/NAME` for the fields
of the layout, and `labels`, `user`, `item`, `time`, `weight`, `group`, `past/KIND` beside them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.columns import Columns, ColumnWriter
from scalerec.data.encoding import Encoders
from scalerec.data.entities import Entities
from scalerec.data.logs import Log
from scalerec.data.schema import (
    Categorical,
    Feature,
    Numeric,
    Role,
    Sequence,
    Text,
    Timestamp,
    Vector,
)
from scalerec.data.splits import SPLITS

__all__ = ["EventWriter", "Specs", "write_entities", "write_log"]

Specs = dict[str, dict[str, Any]]
Array = NDArray[Any]


def encode_feature(
    encoders: Encoders, feature: Feature, column: pa.Array
) -> Iterator[tuple[str, Array, Array | None]]:
    """Encode a feature's column: its stored names, values, and lengths where it holds lists."""
    if isinstance(feature, Categorical | Timestamp) or (
        isinstance(feature, Numeric) and feature.transform == "quantile"
    ):
        for name, ids in encoders.ids(feature, column).items():
            yield f"ids/{name}", ids, None
    elif isinstance(feature, Numeric):
        yield f"numbers/{feature.name}", encoders.number(feature, column), None
    elif isinstance(feature, Sequence | Text):
        values, lengths = encoders.bag(feature, column)
        yield f"bags/{feature.name}", values, lengths
    elif isinstance(feature, Vector):
        values_nd, present = encoders.vector(feature, column)
        yield f"vectors/{feature.name}", values_nd, None
        yield f"present/{feature.name}", present, None


class EventWriter:
    """Writes the events of one split.

    Args:
        directory: Is made.
        encoders: Fitted ones.
    """

    def __init__(self, directory: Path, encoders: Encoders) -> None:
        self._directory = directory
        self._encoders = encoders
        self._writer = ColumnWriter(directory)
        self._rows = 0

    def append(
        self,
        columns: Mapping[str, pa.Array],
        extra: Mapping[str, Array],
        chosen: NDArray[np.bool_] | None,
    ) -> None:
        """Append the chosen rows of a chunk: features to be encoded, and numbers as they are."""
        for feature in self._encoders.schema.of_table("events"):
            column = columns[feature.name]
            if chosen is not None:
                column = column.filter(pa.array(chosen))
            for name, values, lengths in encode_feature(self._encoders, feature, column):
                if lengths is None:
                    self._writer.append(name, values)
                else:
                    self._writer.append_ragged(name, values, lengths)
        for name, values in extra.items():
            self._writer.append(name, values if chosen is None else values[chosen])
        self._rows += len(extra["labels"]) if chosen is None else int(chosen.sum())

    def close(self) -> Specs:
        """Finish, and give the columns' specs; none for a split without rows."""
        return self._writer.close()


def write_log(directory: Path, log: Log) -> Specs:
    """Write a log's items, offsets and the users' state at the end of training."""
    writer = ColumnWriter(directory)
    writer.append("items", log.items)
    writer.append("offsets", log.offsets)
    writer.append("seen", log.seen)
    return writer.close()


def write_entities(
    out: Path,
    name: str,
    entities: Entities,
    encoders: Encoders,
    met: tuple[NDArray[np.int64], NDArray[np.int8]],
    stores: Mapping[str, Specs],
) -> Specs:
    """Write the features of all users or items, one row an entity.

    What a side table says is encoded from it. What the events say of an entity is taken from its last
    training row, or from its first later one if it has none.

    Args:
        out: The data set's directory.
        name: `users` or `items`.
        entities: Them.
        encoders: Fitted ones.
        met: For every event its entity's number and its split, ``[N]`` each.
        stores: The specs of the event stores, already written.
    """
    writer = ColumnWriter(out / name)
    for feature in encoders.schema.features:
        if feature.table == name:
            column = entities.column(feature.name)
            for key, values, lengths in encode_feature(encoders, feature, column):
                if lengths is None:
                    writer.append(key, values)
                else:
                    writer.append_ragged(key, values, lengths)
    role = Role.USER if name == "users" else Role.ITEM
    of_events = {
        field
        for feature in encoders.schema.of_table("events")
        if feature.role is role
        for field in _stored_names(feature)
    }
    if of_events:
        places = _last_places(met, len(entities.index))
        _copy_from_events(out, writer, of_events, places, stores)
    numbers, splits = met
    in_train = np.bincount(numbers[splits == 0], minlength=len(entities.index))
    writer.append("train_count", in_train.astype(np.int64))
    return writer.close()


def _stored_names(feature: Feature) -> list[str]:
    if isinstance(feature, Timestamp):
        return [f"ids/{feature.name}.{part}" for part in feature.parts]
    if isinstance(feature, Categorical):
        return [f"ids/{feature.name}"]
    if isinstance(feature, Numeric):
        return [f"{'ids' if feature.transform == 'quantile' else 'numbers'}/{feature.name}"]
    if isinstance(feature, Vector):
        return [f"vectors/{feature.name}", f"present/{feature.name}"]
    return [f"bags/{feature.name}"]


def _last_places(
    met: tuple[NDArray[np.int64], NDArray[np.int8]], num_entities: int
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """For every entity, the split and the row within it where its features are read."""
    numbers, splits = met
    row_in_split = np.zeros(len(splits), np.int64)
    for number in range(len(SPLITS)):
        own = splits == number
        row_in_split[own] = np.arange(int(own.sum()))
    place = np.full(num_entities, -1, np.int64)
    later = np.flatnonzero(splits != 0)[::-1]
    place[numbers[later]] = later
    train = np.flatnonzero(splits == 0)
    place[numbers[train]] = train
    known = place >= 0
    split = np.where(known, splits[place], -1).astype(np.int8)
    return split, np.where(known, row_in_split[place], -1)


def _copy_from_events(
    out: Path,
    writer: ColumnWriter,
    names: set[str],
    places: tuple[NDArray[np.int8], NDArray[np.int64]],
    stores: Mapping[str, Specs],
) -> None:
    split_of, row_of = places
    opened = {split: Columns(out / split, stores[split]) for split in SPLITS if stores[split]}
    for name in sorted(names):
        if name.startswith("bags/"):
            lists = [
                _list_at(opened, name, int(split), int(row))
                for split, row in zip(split_of, row_of, strict=True)
            ]
            lengths = np.array([len(one) for one in lists], dtype=np.int64)
            writer.append_ragged(
                name, np.concatenate([*lists, np.zeros(0, np.int32)]).astype(np.int32), lengths
            )
            continue
        like = next(iter(opened.values()))[name]
        values = np.zeros((len(row_of), *like.shape[1:]), like.dtype)
        for number, split in enumerate(SPLITS):
            own = split_of == number
            if own.any():
                values[own] = opened[split][name][row_of[own]]
        writer.append(name, values)


def _list_at(opened: Mapping[str, Columns], name: str, split: int, row: int) -> Array:
    if split < 0:
        return np.zeros(0, np.int32)
    return opened[SPLITS[split]].ragged(name).slice(row, row + 1)[0]

"""The first reading of the events: who met what when, and in which split."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.entities import Entities
from scalerec.data.keys import KeyIndex
from scalerec.data.parsing import (
    Parsed,
    Parser,
    parse_chunks,
    parser_of,
    parser_of_key,
    parser_of_task,
    parser_of_time,
    parser_of_title,
    parser_of_weight,
)
from scalerec.data.problems import Problems
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema
from scalerec.data.splits import SPLITS, SplitConfig, assign_splits, cut_valid
from scalerec.errors import DataError

__all__ = ["ITEM", "USER", "WEIGHT", "Scan", "labels_of", "read_events", "scan_events"]

Numbers = NDArray[np.int64]

# What is read beside the features; no column of a table can bear such a name.
USER, ITEM, GROUP = "\0user", "\0item", "\0group"
TIME, WEIGHT, TITLE, LABEL = "\0time", "\0weight", "\0title", "\0label"


@dataclass(frozen=True, slots=True)
class Scan:
    """A few numbers of every event, in the order of the files.

    Args:
        users: Number of its user, ``[N]``; none if the schema has no user.
        items: Number of its item, ``[N]``; none if the schema has no item.
        times: Unix seconds, ``[N]``; none if there is no timestamp.
        groups: Number of its group, ``[N]``; none if the schema names no group.
        positive: Whether its first label is positive, ``[N]`` bool.
        splits: 0 train, 1 valid, 2 test, ``[N]`` int8.
    """

    users: Numbers | None
    items: Numbers | None
    times: Numbers | None
    groups: Numbers | None
    positive: NDArray[np.bool_]
    splits: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.splits)


def read_events(raw: RawData, problems: Problems) -> Iterator[tuple[str, Parsed]]:
    """Read all files of events in turn, their rows numbered through.

    Returns:
        The split that the file is for (`all` if it is still to be split), and a chunk whose columns
        are named after the features, the constants of this module, and `labels_of`.
    """
    parsers = _parsers(raw.schema)
    first = 0
    for split, source in raw.splits.items():
        size = 0
        for part in parse_chunks(source, parsers, problems):
            yield split, Parsed(part.columns, part.rows, first + part.first)
            size = part.first + len(part)
        first += size


def scan_events(
    raw: RawData, users: Entities, items: Entities, split: SplitConfig, problems: Problems
) -> Scan:
    """Read the events once and split them; users and items that no side table lists are added.

    Raises:
        DataError: If a row does not fit and `problems` is strict, if there are no rows, or none to
            train on.
    """
    found = _Found()
    for name, part in read_events(raw, problems):
        found.add(name, part, raw.schema, users, items)
    if not found.size:
        names = ", ".join(source.name for source in raw.splits.values())
        left = f" left after {problems.num_skipped} were skipped" if problems.num_skipped else ""
        raise DataError(f"{names}: no rows{left}; at least one is needed")
    times, scanned_users = found.joined(TIME), found.joined(USER)
    splits = np.concatenate(found.splits)
    if raw.splits.keys() == {"all"}:
        splits = assign_splits(split, len(splits), times, scanned_users)
    elif "valid" not in raw.splits:
        splits = cut_valid(split, splits, times)
    if not (splits == 0).any():
        raise DataError(
            f"{raw.name}: the split leaves none of {found.size} rows to train on; "
            "choose smaller shares for valid and test, or another way to split"
        )
    return Scan(
        users=scanned_users,
        items=found.joined(ITEM),
        times=times,
        groups=found.joined(GROUP),
        positive=np.concatenate(found.positive),
        splits=splits,
    )


def labels_of(schema: Schema, part: Parsed) -> NDArray[np.float32]:
    """Labels of a chunk, one column a task, NaN where unknown, ``[n, T]`` float32."""
    columns = [
        part.columns[f"{LABEL}{i}"].to_numpy(zero_copy_only=False)
        if task.has_column
        else np.ones(len(part))
        for i, task in enumerate(schema.tasks)
    ]
    return np.stack(columns, axis=1).astype(np.float32)


@dataclass(slots=True)
class _Found:
    """What the chunks gave so far."""

    numbers: dict[str, list[Numbers]] = field(default_factory=dict)
    positive: list[NDArray[np.bool_]] = field(default_factory=list)
    splits: list[NDArray[np.int8]] = field(default_factory=list)
    groups: KeyIndex = field(default_factory=KeyIndex)
    size: int = 0

    def add(
        self, split: str, part: Parsed, schema: Schema, users: Entities, items: Entities
    ) -> None:
        before = len(items)
        for name, index in ((USER, users.index), (ITEM, items.index), (GROUP, self.groups)):
            if name in part.columns:
                self._append(name, index.add(part.columns[name]))
        if TIME in part.columns:
            self._append(TIME, part.columns[TIME].to_numpy())
        if TITLE in part.columns:
            numbers, first = np.unique(self.numbers[ITEM][-1], return_index=True)
            fresh = pa.array(first[numbers >= before])
            items.add_titles(before, part.columns[TITLE].take(fresh))
        self.positive.append(labels_of(schema, part)[:, 0] > 0)
        number = SPLITS.index(split) if split in SPLITS else -1
        self.splits.append(np.full(len(part), number, np.int8))
        self.size += len(part)

    def joined(self, name: str) -> Numbers | None:
        return np.concatenate(self.numbers.pop(name)) if name in self.numbers else None

    def _append(self, name: str, numbers: Numbers) -> None:
        self.numbers.setdefault(name, []).append(numbers)


def _parsers(schema: Schema) -> dict[str, Parser]:
    parsers = {feature.name: parser_of(feature) for feature in schema.of_table("events")}
    keys = {USER: schema.user, ITEM: schema.item, GROUP: schema.group}
    parsers |= {name: parser_of_key(column) for name, column in keys.items() if column}
    if schema.timestamp:
        parsers[TIME] = parser_of_time(schema.timestamp)
    if schema.weight:
        parsers[WEIGHT] = parser_of_weight(schema.weight)
    if schema.title and "items" not in schema.tables:
        parsers[TITLE] = parser_of_title(schema.title)
    for i, task in enumerate(schema.tasks):
        if task.has_column:
            parsers[f"{LABEL}{i}"] = parser_of_task(task)
    return parsers

"""What is read of the events, and in which split each of them is."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
from scalerec.data.splits import SplitConfig, assign_splits, cut_valid
from scalerec.errors import DataError

__all__ = [
    "APART",
    "GROUP",
    "ITEM",
    "TIME",
    "TITLE",
    "USER",
    "WEIGHT",
    "Scan",
    "labels_of",
    "nothing_to_train",
    "read_events",
    "split_events",
]

Numbers = NDArray[np.int64]

# What is read beside the features; no column of a table can bear such a name.
USER, ITEM, GROUP = "\0user", "\0item", "\0group"
APART = "\0apart"
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


def read_events(
    raw: RawData, problems: Problems, pool: Executor | None = None
) -> Iterator[tuple[str, Parsed]]:
    """Read all files of events in turn, their rows numbered through.

    Args:
        raw: The tables.
        problems: Learns of every row that is left out.
        pool: If given, works on columns side by side.

    Returns:
        The split that the file is for (`all` if it is still to be split), and a chunk whose columns
        are named after the features, the constants of this module, and `labels_of`.
    """
    parsers = _parsers(raw.schema)
    if raw.apart:
        parsers[APART] = parser_of_key(raw.apart)
    first = 0
    for split, source in raw.splits.items():
        size = 0
        for part in parse_chunks(source, parsers, problems, pool):
            yield split, Parsed(part.columns, part.rows, first + part.first)
            size = part.first + len(part)
        first += size


def split_events(
    raw: RawData,
    config: SplitConfig,
    given: NDArray[np.int8],
    numbers: Mapping[str, Numbers],
    positive: NDArray[np.bool_],
) -> Scan:
    """Split the events.

    Args:
        raw: The tables.
        config: How.
        given: The split that each row's file is for, ``[N]``; -1 where it is still to be split.
        numbers: By `USER`, `ITEM`, `GROUP` and `TIME`, as far as the schema names them, and by
            `APART` where rows are split apart, ``[N]``.
        positive: Whether each row's first label is positive, ``[N]``.

    Raises:
        DataError: If the split leaves no rows to train on, or needs what the schema does not name.
    """
    times, splits = numbers.get(TIME), given.copy()
    # A user or an item goes whole, wherever it is met.
    apart = None if config.by in ("user", "item") else numbers.get(APART)
    for rows in _parts(apart):
        own = {name: values[rows] for name, values in numbers.items()}
        if raw.splits.keys() == {"all"}:
            who = own.get(TIME), own.get(USER), own.get(ITEM)
            splits[rows] = assign_splits(config, len(given[rows]), *who)
        elif "valid" not in raw.splits:
            splits[rows] = cut_valid(config, given[rows], own.get(TIME))
    if not (splits == 0).any():
        raise nothing_to_train(raw.name, len(given))
    return Scan(
        users=numbers.get(USER),
        items=numbers.get(ITEM),
        times=times,
        groups=numbers.get(GROUP),
        positive=positive,
        splits=splits,
    )


def _parts(apart: Numbers | None) -> Iterator[slice | Numbers]:
    """The rows that are split among themselves."""
    if apart is None:
        yield slice(None)
    else:
        yield from (np.flatnonzero(apart == number) for number in range(int(apart.max()) + 1))


def nothing_to_train(name: str, num_rows: int) -> DataError:
    """The error of a split that leaves no training rows."""
    return DataError(
        f"{name}: the split leaves none of {num_rows} rows to train on; "
        "choose smaller shares for valid and test, or another way to split"
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

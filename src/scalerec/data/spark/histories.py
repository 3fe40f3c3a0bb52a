"""Logs, and splits by each user's last events: each task has some users, with all their events.

Events go to the task of their user, which puts them in order and builds the logs as one machine
does; what each event needs to know of it goes back to the part that it came from.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.logs import build_log
from scalerec.data.spark.files import load_array, save_array
from scalerec.data.spark.reading import POSITIVE, Part
from scalerec.data.spark.session import Cluster
from scalerec.data.spark.splitting import Splitting
from scalerec.data.splits import assign_splits

__all__ = ["Histories", "bounds_of", "read_pieces", "write_histories"]

# Events that a task puts in order at once, unless one user has more.
EVENTS = 1 << 21


@dataclass(frozen=True, slots=True)
class Histories:
    """What tasks that put users' events in order are told.

    Args:
        kinds: Of history: `all`, `positive`.
        bounds: The first user of each task, and the number of users, ``[tasks + 1]``.
        splitting: How events are split.
        folder: Where logs are kept, piece by piece.
    """

    kinds: tuple[str, ...]
    bounds: NDArray[np.int64]
    splitting: Splitting
    folder: Path


def write_histories(
    cluster: Cluster,
    parts: Sequence[Part],
    counts: NDArray[np.int64],
    kinds: tuple[str, ...],
    splitting: Splitting,
    folder: Path,
) -> Histories:
    """Keep the logs piece by piece, and of each event how long its history is, and its split.

    Args:
        cluster: Where.
        parts: Of the events, their users and items numbered.
        counts: Events of each user, ``[U]``.
        kinds: Of history.
        splitting: How events are split; written here if it is by each user's last ones.
        folder: Is made.
    """
    folder.mkdir()
    told = Histories(kinds, bounds_of(counts), splitting, folder)
    numbers = {part.number: place for place, part in enumerate(parts)}
    cluster.exchange_twice(
        partial(_send, told=told),
        parts,
        (partial(_relay, told=told, places=numbers), len(told.bounds) - 1),
        (partial(_receive, folders=[part.folder for part in parts]), len(parts)),
    )
    return told


def read_pieces(told: Histories, name: str) -> list[Path]:
    """The files of what was kept under a name, in the order of users."""
    return [told.folder / f"{name}-{number}.npy" for number in range(len(told.bounds) - 1)]


def bounds_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut users into runs of about `EVENTS` events: the first of each, and their number.

    Args:
        counts: Events of each user, ``[U]``.
    """
    total = int(counts.sum())
    starts = np.arange(0, total, EVENTS)
    cuts = np.searchsorted(np.cumsum(counts), starts[1:], side="left") + 1
    return np.unique(np.concatenate([[0], cuts, [len(counts)]])).astype(np.int64)


def _send(part: Part, told: Histories) -> Iterator[tuple[int, tuple[int, pa.Table]]]:
    users = part.array("users")
    columns = {
        "row": np.arange(len(users), dtype=np.int32),
        "user": users.astype(np.int32),
        "time": part.array("times"),
    }
    if told.kinds:
        columns["item"] = part.array("items").astype(np.int32)
        columns[POSITIVE] = load_array(part.folder / f"{POSITIVE}.npy")
    if told.splitting.kind != "last":
        columns["train"] = load_array(part.folder / "splits.npy") == 0
    table = pa.table({name: np.asarray(values) for name, values in columns.items()})
    targets = np.searchsorted(told.bounds, users, side="right") - 1
    order = np.argsort(targets, kind="stable")
    distinct, starts = np.unique(targets[order], return_index=True)
    for target, rows in zip(distinct.tolist(), np.split(order, starts[1:]), strict=True):
        yield target, (part.number, table.take(pa.array(rows)))


def _relay(
    number: int,
    arrived: Iterable[tuple[int, pa.Table]],
    told: Histories,
    places: dict[int, int],
) -> Iterator[tuple[int, pa.Table]]:
    """Put the events of some users in order, keep their logs, and tell each event its place."""
    tables = sorted(arrived, key=lambda pair: pair[0])
    sizes = [len(table) for _, table in tables]
    first, end = told.bounds[number : number + 2].tolist()
    found = _ordered(tables, told, number, (first, end)) if tables else {}
    if not tables:
        _keep_nothing(told, number, end - first)
    ends = np.cumsum([0, *sizes])
    for place, (part, table) in enumerate(tables):
        rows = slice(ends[place], ends[place + 1])
        columns = {name: values[rows] for name, values in found.items()}
        yield places[part], pa.table({"row": table["row"], **columns})


def _ordered(
    tables: list[tuple[int, pa.Table]], told: Histories, number: int, users: tuple[int, int]
) -> dict[str, NDArray[np.int32]]:
    first, end = users
    whole = pa.concat_tables([table for _, table in tables])
    own = whole["user"].to_numpy().astype(np.int64) - first
    times, found = whole["time"].to_numpy(), {}
    if told.splitting.kind == "last":
        splits = assign_splits(told.splitting.config, len(own), times, own)
        found["splits"], is_train = splits.astype(np.int32), splits == 0
    else:
        is_train = whole["train"].to_numpy()
    for kind in told.kinds:
        items = whole["item"].to_numpy().astype(np.int64)
        kept = whole[POSITIVE].to_numpy() if kind == "positive" else np.ones(len(own), bool)
        log = build_log(own, items, times, kept, is_train, end - first)
        found[f"past-{kind}"] = log.past
        _keep(told, number, kind, (log.items, np.diff(log.offsets), log.seen))
    return found


def _keep(told: Histories, number: int, kind: str, arrays: Sequence[NDArray[Any]]) -> None:
    for name, values in zip(("items", "lengths", "seen"), arrays, strict=True):
        save_array(told.folder / f"{kind}-{name}-{number}.npy", values)


def _keep_nothing(told: Histories, number: int, num_users: int) -> None:
    none, zero = np.zeros(0, np.int32), np.zeros(num_users, np.int64)
    for kind in told.kinds:
        _keep(told, number, kind, (none, zero, zero.astype(np.int32)))


def _receive(place: int, arrived: Iterable[pa.Table], folders: Sequence[Path]) -> None:
    """Keep what the events of a part were told, in the order of their rows."""
    tables = list(arrived)
    if not tables:
        return
    whole = pa.concat_tables(tables)
    rows = whole["row"].to_numpy()
    for name in whole.column_names[1:]:
        values = np.empty(len(rows), np.int8 if name == "splits" else np.int32)
        values[rows] = whole[name].to_numpy()
        save_array(folders[place] / f"{name}.npy", values)

"""What must be counted in all parts before anything is fitted: rows, entities, numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.schema import Numeric, Schema
from scalerec.data.spark.files import load_array, load_table, save_array
from scalerec.data.spark.reading import KINDS, Part, scan_of
from scalerec.data.spark.session import Cluster
from scalerec.data.splits import SPLITS
from scalerec.data.stores import Places

__all__ = ["Met", "Tally", "count_met", "met_rows", "tally_events", "tally_listed"]

# Entities that a task counts at once.
ENTITIES = 1 << 20
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Tally:
    """What a part has.

    Args:
        rows: Events of each split.
        numbers: By numeric feature, how many training values are not missing.
    """

    rows: tuple[int, ...]
    numbers: dict[str, int]


@dataclass(frozen=True, slots=True)
class Met:
    """Where and how often users, or items, were met in all events.

    Args:
        folder: Where `count`, how often each was met in training rows, ``[n]`` int64, and `split`
            and `row`, the event that describes each, ``[n]``; -1 if there is none.
        size: n.
    """

    folder: Path
    size: int

    def count(self, first: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """How often each of some of them was met in training rows."""
        counts: NDArray[np.int64] = np.array(load_array(self.folder / "count.npy")[first:stop])
        return counts

    def places(self, first: int, stop: int) -> Places:
        """The events that describe some of them."""
        splits = load_array(self.folder / "split.npy")[first:stop]
        rows = load_array(self.folder / "row.npy")[first:stop]
        chosen = {split: np.flatnonzero(splits == i) for i, split in enumerate(SPLITS)}
        return {split: (own, np.array(rows[own])) for split, own in chosen.items() if len(own)}


def tally_events(part: Part, schema: Schema) -> Tally:
    """Count the rows and the training values of a part of the events."""
    splits = load_array(part.folder / "splits.npy")
    rows = tuple(int((splits == number).sum()) for number in range(len(SPLITS)))
    features = [f for f in schema.of_table("events") if isinstance(f, Numeric)]
    spill, counts = part.spill, {feature.name: 0 for feature in features}
    assert spill is not None, "only events have one"
    for feature in features:
        for stretch in spill.stretches():
            values = spill.read(feature.name, stretch)[splits[stretch.rows] == 0]
            counts[feature.name] += int(np.count_nonzero(~np.isnan(values)))
    return Tally(rows, counts)


def tally_listed(part: Part, schema: Schema, met: Met) -> Tally:
    """Count the values of a part of a side table that say something of who was met in training."""
    features = [f for f in schema.of_table(part.table) if isinstance(f, Numeric)]
    if not features:
        return Tally((), {})
    rows, columns = pa.array(met_rows(part, met)), load_table(part.folder / "columns.arrow")
    counts = {f.name: columns[f.name].take(rows) for f in features}
    return Tally((), {name: len(c) - c.null_count for name, c in counts.items()})


def met_rows(part: Part, met: Met | None) -> NDArray[np.int64]:
    """The rows of a side table's part whose entity is theirs, and was met if that is asked for."""
    first, end = part.numbers
    if end - first == part.num_rows:
        rows = np.arange(part.num_rows)
    else:  # keys of earlier parts came again
        rows = np.flatnonzero(part.array(part.table) >= first)
    return rows if met is None else rows[np.flatnonzero(met.count(first, end))]


def count_met(
    cluster: Cluster,
    parts: Sequence[Part],
    tallies: Sequence[Tally],
    schema: Schema,
    kind: str,
    size: int,
    folder: Path,
) -> Met:
    """Count how often users or items were met, and find the events that describe them.

    Args:
        cluster: Where.
        parts: Of the events.
        tallies: Of these.
        schema: The data set's.
        kind: `USER` or `ITEM`.
        size: How many there are.
        folder: Is made; what was found is kept there.
    """
    ends = np.cumsum([tally.rows for tally in tallies], axis=0)
    before = ends - np.array([tally.rows for tally in tallies])
    starts = {part.number: row for part, row in zip(parts, before, strict=True)}
    found = cluster.exchange(
        partial(_send, schema=schema, kind=kind, starts=starts),
        parts,
        partial(_join, size=size),
        -(-size // ENTITIES),
    )
    folder.mkdir()
    for place, name in enumerate(("count", "split", "row")):
        save_array(folder / f"{name}.npy", np.concatenate([arrays[place] for arrays in found]))
    return Met(folder, size)


def _send(
    part: Part, schema: Schema, kind: str, starts: dict[int, NDArray[np.int64]]
) -> Iterator[tuple[int, pa.Table]]:
    """Of each entity of a part, how often it was met, its last training row and first later one."""
    scan = scan_of(part, schema)
    numbers = part.array(KINDS[kind])
    splits, rows = scan.splits, np.zeros(len(numbers), np.int64)
    for split in range(len(SPLITS)):
        own = np.flatnonzero(splits == split)
        rows[own] = starts[part.number][split] + np.arange(len(own))
    entities, places = np.unique(numbers, return_inverse=True)
    is_train = splits == 0
    train, later = np.full(len(entities), -1, np.int64), np.full(len(entities), -1, np.int64)
    train[places[is_train]] = rows[is_train]
    late = np.flatnonzero(~is_train)[::-1]
    later[places[late]] = late
    first = np.maximum(later, 0)
    table = pa.table(
        {
            "number": entities,
            "count": np.bincount(places[is_train], minlength=len(entities)),
            "train": train,
            # Where the first later one is among all events: its part, and its row there.
            "later": np.where(later < 0, NEVER, (part.number << 32) + first),
            "split": np.asarray(splits[first]),
            "row": rows[first],
        }
    )
    targets = entities // ENTITIES
    bounds = np.flatnonzero(np.append(True, targets[1:] != targets[:-1]))
    for start, stop in zip(bounds, [*bounds[1:], len(targets)], strict=True):
        yield int(targets[start]), table.take(pa.array(np.arange(start, stop)))


def _join(
    number: int, arrived: Iterator[pa.Table], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.int64]]:
    first = number * ENTITIES
    size = min(size - first, ENTITIES)
    counts, train = np.zeros(size, np.int64), np.full(size, -1, np.int64)
    later, later_row = np.full(size, NEVER), np.full(size, -1, np.int64)
    split = np.full(size, -1, np.int8)
    for table in arrived:
        own = table["number"].to_numpy() - first
        counts[own] += table["count"].to_numpy()
        train[own] = np.maximum(train[own], table["train"].to_numpy())
        earlier = table["later"].to_numpy() < later[own]
        chosen = own[earlier]
        later[chosen] = table["later"].to_numpy()[earlier]
        later_row[chosen] = table["row"].to_numpy()[earlier]
        split[chosen] = table["split"].to_numpy()[earlier]
    split[train >= 0] = 0
    return counts, split, np.where(train >= 0, train, later_row)

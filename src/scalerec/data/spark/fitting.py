"""Encoders fitted on the training rows of all parts, to the last bit those of one machine.

Counts of keys are sums. A mean is one of blocks of consecutive numbers: whole blocks are taken
where they are, and those that end in another part are put together first. A sample holds the
numbers with the lowest draws, and what is drawn for a number follows from its place among all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data import numeric
from scalerec.data.encoding import Encoders
from scalerec.data.fitting import EncoderFitter
from scalerec.data.intake import fit_events
from scalerec.data.keys import KeyIndex
from scalerec.data.numeric import (
    Moments,
    NumberStats,
    block_moments,
    draws_from,
    edges_of,
    stats_of,
    transform,
)
from scalerec.data.ordering import order_of_keys
from scalerec.data.scanning import ITEM, USER
from scalerec.data.schema import Categorical, Numeric, Role, Schema, Text
from scalerec.data.schema import Sequence as Lists
from scalerec.data.spark.counting import Met, Tally, met_rows
from scalerec.data.spark.files import forget, load_array, load_table
from scalerec.data.spark.numbering import receiver_of, split_table
from scalerec.data.spark.reading import KINDS, Part
from scalerec.data.spark.session import Cluster
from scalerec.data.vocabulary import FIRST_ID, HashVocabulary, Vocabulary

__all__ = ["fit_encoders"]

Floats = NDArray[np.float64]
# A piece of a block: its first place in the block, and its numbers.
Rest = tuple[int, Floats]
# Key counts that a task joins at once.
JOINED_KEYS = 1 << 20
# More of a sample is sent than is kept, so that it is almost surely enough.
SPARE = 1.05


@dataclass(slots=True)
class _PieceNumbers:
    """Sees the numbers of a part, and tells what all parts together need to know of them.

    Args:
        feature: Says what is needed.
        place: How many numbers earlier parts have.
        bar: Numbers with a draw above it are in no sample.
    """

    feature: Numeric
    place: int
    bar: float
    blocks: list[tuple[int, int, float, float]] = field(default_factory=list)
    rests: list[tuple[int, Rest]] = field(default_factory=list)
    sample: list[tuple[Floats, Floats]] = field(default_factory=list)
    waiting: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, values: Floats) -> None:
        """See numbers, ``[n]``."""
        if self.feature.transform == "quantile":
            draws = draws_from(self.place, len(values))
            low = draws <= self.bar
            self.sample.append((draws[low], values[low]))
            self.place += len(values)
        elif self.feature.transform != "none":
            self.waiting = np.concatenate([self.waiting, transform(self.feature, values)])
            self._cut(numeric.BLOCK)

    def end(self) -> None:
        """Tell what is left of the last block."""
        if len(self.waiting):
            self._cut(1)

    def _cut(self, least: int) -> None:
        """Take blocks from what waits, as long as so much of one is there."""
        block = numeric.BLOCK
        while len(self.waiting) >= least:
            number, offset = divmod(self.place, block)
            size = block - offset
            values, self.waiting = self.waiting[:size], self.waiting[size:]
            if len(values) == block:
                self.blocks.append((number, *block_moments(values)))
            else:
                self.rests.append((number, (offset, values)))
            self.place += len(values)


@dataclass(frozen=True, slots=True)
class _Told:
    """What a fitting task is told.

    Args:
        schema: The data set's.
        places: By part, how many training numbers earlier parts have, by feature.
        bars: By feature, the highest draw of a sample.
        met: By `USER` and `ITEM`, who was met.
        count: How many tasks join counts of keys.
    """

    schema: Schema
    places: dict[int, dict[str, int]]
    bars: dict[str, float]
    met: dict[str, Met]
    count: int


def fit_encoders(
    cluster: Cluster,
    parts: Sequence[Part],
    tallies: Mapping[int, Tally],
    schema: Schema,
    met: Mapping[str, Met],
) -> Encoders:
    """Fit encoders on the training rows, and on what side tables say of who was met in them.

    Args:
        cluster: Where.
        parts: All parts that have rows, those of side tables first.
        tallies: By the number of each part.
        schema: The data set's.
        met: By `USER` and `ITEM`, who was met.
    """
    features = [f for f in schema.features if isinstance(f, Numeric)]
    places: dict[int, dict[str, int]] = {}
    totals = {feature.name: 0 for feature in features}
    for part in parts:
        places[part.number] = dict(totals)
        for name, count in tallies[part.number].numbers.items():
            totals[name] += count
    bars = {name: _bar(total) for name, total in totals.items()}
    keys = sum(sum(part.num_keys.values()) for part in parts)
    told = _Told(schema, places, bars, dict(met), -(-keys // JOINED_KEYS) or 1)
    # Numbers are put together in a task of their own.
    found = cluster.exchange(
        partial(_send, told=told), parts, partial(_join, told=told), told.count + 1
    )
    stats = _stats(features, found[-1], totals)
    return Encoders(schema, _vocabularies(schema, found[:-1]), stats)


def _bar(total: int) -> float:
    most = numeric.SAMPLE
    return 1.0 if total <= most else min(1.0, SPARE * most / total)


def _send(part: Part, told: _Told) -> Iterator[tuple[int, Any]]:
    """Fit on one part."""
    forget()  # what numbered the rows
    schema, places = told.schema, told.places[part.number]
    numbers = {
        f.name: _PieceNumbers(f, places[f.name], told.bars[f.name])
        for f in schema.of_table(part.table)
        if isinstance(f, Numeric)
    }
    if part.table == "events":
        fitter = _fit_part(part, schema, numbers)
    else:
        fitter = _fit_listed(
            part, schema, numbers, told.met[USER if part.table == "users" else ITEM]
        )
    for place, (name, table) in enumerate(fitter.counts().items()):
        if len(table):
            owner = _owner(schema, name)
            yield from _sent_keys(place, table.combine_chunks(), owner.buckets, told.count)
    for name, seen in numbers.items():
        seen.end()
        yield told.count, (name, seen.blocks, seen.rests, seen.sample)


def _fit_part(part: Part, schema: Schema, numbers: Mapping[str, _PieceNumbers]) -> EncoderFitter:
    """Keys and numbers of the training rows; a user's or an item's key counts once an event."""
    intake = part.intake()
    is_train = load_array(part.folder / "splits.npy") == 0
    fitter = EncoderFitter(schema, intake.indexes, numbers)
    with ThreadPoolExecutor(1) as pool:
        fit_events(fitter, intake, is_train, pool)
    for kind, role in ((USER, Role.USER), (ITEM, Role.ITEM)):
        features = [f for f in schema.features if schema.is_key(f) and f.role is role]
        if kind in part.num_keys and features:
            keys = part.keys(kind)["key"].combine_chunks()
            own = part.array(f"own-{KINDS[kind]}")[is_train]
            counts = np.bincount(own, minlength=len(keys))
            for feature in features:
                fitter.add_counts(feature, keys, counts)
    return fitter


def _fit_listed(
    part: Part, schema: Schema, numbers: Mapping[str, _PieceNumbers], met: Met
) -> EncoderFitter:
    """What a part of a side table says of those met in training rows."""
    fitter = EncoderFitter(schema, {}, numbers)
    rows = pa.array(met_rows(part, met))
    columns = load_table(part.folder / "columns.arrow")
    keys = {f.name for f in schema.features if schema.is_key(f)}
    taken = {
        name: columns[name].combine_chunks().take(rows)
        for name in columns.column_names
        if name not in keys
    }
    fitter.add(taken)
    return fitter


def _sent_keys(
    place: int, table: pa.Table, buckets: int | None, count: int
) -> Iterator[tuple[int, Any]]:
    """The counts of a vocabulary's keys; hashed ones come together by their bucket."""
    keys = table["key"].combine_chunks()
    if buckets:
        targets = HashVocabulary(buckets).encode(keys).astype(np.int64) % count
    else:
        targets = receiver_of(keys, count)
    for target, part in split_table(table, targets):
        yield target, (place, part)


def _join(number: int, arrived: Iterable[Any], told: _Told) -> Any:
    return _join_numbers(arrived) if number == told.count else _join_keys(arrived, told.schema)


def _join_keys(arrived: Iterable[Any], schema: Schema) -> dict[int, tuple[pa.Table, int]]:
    """By the number of a vocabulary, the keys it keeps with their counts, and the counts of others.

    Of a hashed one, no keys: how many there are, and how many ids they took.
    """
    tables: dict[int, list[pa.Table]] = {}
    for place, table in arrived:
        tables.setdefault(place, []).append(table)
    names, found = list(_owners(schema)), {}
    for place, parts in tables.items():
        whole = pa.concat_tables(parts).combine_chunks()
        index = KeyIndex()
        numbers = index.add(whole["key"].combine_chunks())
        counts = np.zeros(len(index), np.int64)
        np.add.at(counts, numbers, whole["count"].to_numpy())
        owner, keys = _owner(schema, names[place]), index.to_arrow()
        if owner.buckets:
            ids = np.unique(HashVocabulary(owner.buckets).encode(keys))
            found[place] = pa.table({"num_keys": [len(keys)]}), len(ids)
            continue
        kept = counts >= owner.min_count
        table = pa.table({"key": keys.filter(pa.array(kept)), "count": counts[kept]})
        found[place] = table, int(counts[~kept].sum())
    return found


def _owners(schema: Schema) -> dict[str, Categorical | Lists | Text]:
    """By vocabulary, the first of the features that share it."""
    owners: dict[str, Categorical | Lists | Text] = {}
    for feature in schema.features:
        if isinstance(feature, Categorical | Lists | Text) and feature not in schema.history:
            owners.setdefault(schema.tables_of(feature)[0], feature)
    return owners


def _owner(schema: Schema, name: str) -> Categorical | Lists | Text:
    return _owners(schema)[name]


def _vocabularies(
    schema: Schema, found: Sequence[Mapping[int, tuple[pa.Table, int]]]
) -> dict[str, Vocabulary | HashVocabulary]:
    made: dict[str, Vocabulary | HashVocabulary] = {}
    for place, (name, owner) in enumerate(_owners(schema).items()):
        own = [part[place] for part in found if place in part]
        rest = sum(number for _, number in own)
        if owner.buckets:
            num_keys = sum(table["num_keys"][0].as_py() for table, _ in own)
            made[name] = HashVocabulary(owner.buckets, num_keys, rest)
            continue
        empty = pa.table({"key": pa.array([], pa.large_string()), "count": np.zeros(0, np.int64)})
        whole = pa.concat_tables([empty, *(table for table, _ in own)]).combine_chunks()
        keys, counts = whole["key"].combine_chunks(), whole["count"].to_numpy()
        order = order_of_keys(keys, counts)
        head = np.array([0, rest], np.int64)
        kept = np.concatenate([head, counts[order]])
        assert len(kept) == len(keys) + FIRST_ID, "padding and out-of-vocabulary come first"
        made[name] = Vocabulary(keys.take(pa.array(order)), kept)
    return made


Numbers = tuple[list[tuple[int, int, float, float]], tuple[Floats, Floats]]


def _join_numbers(arrived: Iterable[Any]) -> dict[str, Numbers]:
    """By feature, the moments of all blocks, and the numbers with the lowest draws."""
    blocks: dict[str, list[tuple[int, int, float, float]]] = {}
    rests: dict[str, dict[int, list[Rest]]] = {}
    samples: dict[str, tuple[Floats, Floats]] = {}
    for name, whole, pieces, sample in arrived:
        blocks.setdefault(name, []).extend(whole)
        for number, rest in pieces:
            rests.setdefault(name, {}).setdefault(number, []).append(rest)
        before = samples.get(name, (np.zeros(0), np.zeros(0)))
        columns = zip(before, *sample, strict=True)
        samples[name] = _lowest(*(np.concatenate(column) for column in columns))
    for name, own in rests.items():
        for number, found in own.items():
            values = np.concatenate([values for _, values in sorted(found, key=_place)])
            blocks[name].append((number, *block_moments(values)))
    return {name: (sorted(own), samples[name]) for name, own in blocks.items()}


def _place(rest: Rest) -> int:
    return rest[0]


def _lowest(draws: Floats, values: Floats) -> tuple[Floats, Floats]:
    most = numeric.SAMPLE
    if len(draws) <= most:
        return draws, values
    lowest = np.argpartition(draws, most)[:most]
    return draws[lowest], values[lowest]


def _stats(
    features: Sequence[Numeric], found: Mapping[str, Numbers], totals: Mapping[str, int]
) -> dict[str, NumberStats]:
    made = {}
    for feature in features:
        blocks, (_, values) = found.get(feature.name, ([], (np.zeros(0), np.zeros(0))))
        if feature.transform == "quantile":
            wanted = min(totals[feature.name], numeric.SAMPLE)
            assert len(values) == wanted, "a sample was sent short, which chance all but rules out"
            made[feature.name] = edges_of(feature, values)
            continue
        moments = Moments()
        for _, count, mean, squares in blocks:
            moments.merge(count, mean, squares)
        made[feature.name] = stats_of(moments)
    return made

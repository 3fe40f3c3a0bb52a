"""The one reading of the events: keys become numbers, everything waits on disk as raw columns.

Which rows train is known only at the end of the files, and so are the vocabularies. So a key gets a
provisional number, in the order in which keys come; once the training rows are counted, a table
from provisional numbers to ids is all that is needed to encode.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalerec.data.encoding import Encoders, stored_names
from scalerec.data.entities import Entities
from scalerec.data.fitting import EncoderFitter
from scalerec.data.keys import KeyIndex
from scalerec.data.parsing import Parsed, parser_of, plain
from scalerec.data.problems import Problems
from scalerec.data.raw import RawData
from scalerec.data.scanning import (
    APART,
    GROUP,
    ITEM,
    TIME,
    TITLE,
    USER,
    WEIGHT,
    labels_of,
    read_events,
)
from scalerec.data.schema import Categorical, Feature, Numeric, Schema, Sequence, Text
from scalerec.data.spill import Spill, Stretch
from scalerec.data.splits import SPLITS
from scalerec.errors import DataError

__all__ = [
    "LABELS",
    "Intake",
    "fit_events",
    "is_entity",
    "is_keyed",
    "no_rows",
    "read_in",
    "take_in",
]

Job = Callable[[Parsed], None]
LABELS = "labels"


@dataclass(slots=True)
class Intake:
    """What one reading of the events gave.

    A categorical feature waits as provisional numbers under its name (-1 where missing), a list as
    `NAME/values` and `NAME/lengths`, a number as float64 (NaN where missing), and what needs no
    fitting under its `stored_names`. Labels and weights wait as they are stored.

    Args:
        spill: The columns.
        indexes: By vocabulary, the keys in the order of their provisional numbers.
        numbers: By `USER`, `ITEM`, `GROUP` and `APART` their numbers, and by `TIME` the times,
            chunk by chunk.
        positive: Whether each row's first label is positive, chunk by chunk.
        given: The split that each row's file is for, -1 if it is still to be split, chunk by chunk.
        groups: The keys of groups in the order of their numbers.
    """

    spill: Spill
    indexes: dict[str, KeyIndex]
    numbers: dict[str, list[NDArray[np.int64]]] = field(default_factory=dict)
    positive: list[NDArray[np.bool_]] = field(default_factory=list)
    given: list[NDArray[np.int8]] = field(default_factory=list)
    groups: KeyIndex = field(default_factory=KeyIndex)

    def __len__(self) -> int:
        return len(self.spill)


def is_entity(schema: Schema, feature: Feature) -> bool:
    """Whether a feature of the events is the user or the item itself, so nothing is kept of it."""
    return feature.table == "events" and schema.is_key(feature)


def is_keyed(schema: Schema, feature: Feature) -> bool:
    """Whether a feature of the events waits as numbers of its vocabulary's index."""
    has_keys = isinstance(feature, Categorical | Sequence | Text)
    return has_keys and not is_entity(schema, feature)


def take_in(
    raw: RawData, users: Entities, items: Entities, folder: Path, problems: Problems, pool: Executor
) -> Intake:
    """Read the events once; users and items that no side table lists are added.

    Args:
        raw: The tables.
        users: Those of the side table so far.
        items: Those of the side table so far.
        folder: Where columns wait; is made.
        problems: Learns of every row that is left out.
        pool: Works on columns side by side.

    Raises:
        DataError: If a row does not fit and `problems` is strict, or if there are no rows.
    """
    intake = read_in(raw, users, items, folder, problems, pool)
    if not len(intake):
        raise no_rows(raw, problems.num_skipped)
    return intake


def no_rows(raw: RawData, num_skipped: int) -> DataError:
    """The error of events without rows."""
    names = ", ".join(source.name for source in raw.splits.values())
    left = f" left after {num_skipped} were skipped" if num_skipped else ""
    return DataError(f"{names}: no rows{left}; at least one is needed")


def read_in(
    raw: RawData, users: Entities, items: Entities, folder: Path, problems: Problems, pool: Executor
) -> Intake:
    """As `take_in`, but there may be no rows."""
    schema = raw.schema
    intake = Intake(Spill(folder), _indexes(schema))
    jobs = [*_numbering(intake, schema, users, items), *_spilling(intake, schema)]
    if raw.apart:
        jobs.append(_apart_job(intake))
    for name, part in read_events(raw, problems, pool):
        for _ in pool.map(lambda job, part=part: job(part), jobs):
            pass
        number = SPLITS.index(name) if name in SPLITS else -1
        intake.given.append(np.full(len(part), number, np.int8))
        intake.spill.end_block(len(part))
    return intake


def fit_events(
    fitter: EncoderFitter, intake: Intake, is_train: NDArray[np.bool_], pool: Executor
) -> None:
    """Show the training rows to a fitter; it must have been made with the intake's indexes.

    Args:
        fitter: Sees them.
        intake: What was read.
        is_train: Which rows are training rows, ``[N]``.
        pool: Works on features side by side.
    """
    groups: dict[str, list[Feature]] = {}
    for feature in fitter.schema.of_table("events"):
        if isinstance(feature, Numeric):
            groups[feature.name] = [feature]
        elif is_keyed(fitter.schema, feature):
            # Features of one vocabulary count into one table.
            groups.setdefault(f"\0{fitter.schema.tables_of(feature)[0]}", []).append(feature)

    def fit(features: list[Feature]) -> None:
        for feature in features:
            for stretch in intake.spill.stretches():
                _fit_stretch(fitter, intake.spill, feature, stretch, is_train[stretch.rows])

    for _ in pool.map(fit, groups.values()):
        pass


def _fit_stretch(
    fitter: EncoderFitter, spill: Spill, feature: Feature, stretch: Stretch, own: NDArray[np.bool_]
) -> None:
    if not own.any():
        return
    if isinstance(feature, Sequence | Text):
        values = spill.read(f"{feature.name}/values", stretch)
        own = np.repeat(own, spill.read(f"{feature.name}/lengths", stretch))
    else:
        values = spill.read(feature.name, stretch)
    values = values if own.all() else values[own]
    if isinstance(feature, Numeric):
        fitter.add_numbers(feature, values)
    else:
        fitter.add_codes(feature, values)


def _indexes(schema: Schema) -> dict[str, KeyIndex]:
    return {
        schema.tables_of(feature)[0]: KeyIndex()
        for feature in schema.of_table("events")
        if is_keyed(schema, feature)
    }


def _numbering(intake: Intake, schema: Schema, users: Entities, items: Entities) -> Iterator[Job]:
    """Jobs that number users, items and groups, and keep times and labels."""

    def numbered(name: str, index: KeyIndex) -> Job:
        kept = intake.numbers.setdefault(name, [])
        # In the order of rows, not of a dictionary.
        return lambda part: kept.append(index.add(plain(part.columns[name])))

    def titled(part: Parsed) -> None:
        before = len(items)
        numbers = items.index.add(plain(part.columns[ITEM]))
        intake.numbers[ITEM].append(numbers)
        distinct, first = np.unique(numbers, return_index=True)
        fresh = pa.array(first[distinct >= before])
        items.add_titles(before, plain(part.columns[TITLE]).take(fresh))

    if schema.user:
        yield numbered(USER, users.index)
    if schema.item:
        job = numbered(ITEM, items.index)
        yield titled if schema.title and "items" not in schema.tables else job
    if schema.group:
        yield numbered(GROUP, intake.groups)
    if schema.timestamp:
        times = intake.numbers.setdefault(TIME, [])
        yield lambda part: times.append(part.columns[TIME].to_numpy())


def _apart_job(intake: Intake) -> Job:
    """Numbers the parts whose rows are split among themselves."""
    index, kept = KeyIndex(), intake.numbers.setdefault(APART, [])
    return lambda part: kept.append(index.add(plain(part.columns[APART])))


def _spilling(intake: Intake, schema: Schema) -> Iterator[Job]:
    """Jobs that write what must wait; features of one vocabulary are one job."""
    spill = intake.spill

    def labelled(part: Parsed) -> None:
        labels = labels_of(schema, part)
        spill.append(LABELS, labels)
        intake.positive.append(labels[:, 0] > 0)

    def weighed(part: Parsed) -> None:
        spill.append(WEIGHT, part.columns[WEIGHT].to_numpy().astype(np.float32))

    spill.reserve(LABELS, np.float32, (len(schema.tasks),))
    yield labelled
    if schema.weight:
        spill.reserve(WEIGHT, np.float32)
        yield weighed
    of_vocabulary: dict[str, list[Feature]] = {}
    for feature in schema.of_table("events"):
        if is_keyed(schema, feature):
            of_vocabulary.setdefault(schema.tables_of(feature)[0], []).append(feature)
        elif isinstance(feature, Numeric):
            yield _number_job(spill, feature)
        elif not is_entity(schema, feature):
            yield _ready_job(spill, schema, feature)
    for name, features in of_vocabulary.items():
        yield _key_job(spill, features, intake.indexes[name])


def _number_job(spill: Spill, feature: Numeric) -> Job:
    spill.reserve(feature.name, np.float64)

    def work(part: Parsed) -> None:
        spill.append(feature.name, part.columns[feature.name].to_numpy(zero_copy_only=False))

    return work


def _ready_job(spill: Spill, schema: Schema, feature: Feature) -> Job:
    """What needs no fitting is encoded at once."""
    encoders = Encoders(schema, {}, {})
    for name, column in zip(
        stored_names(feature), encoders.encode(feature, _empty(feature)), strict=True
    ):
        spill.reserve(name, column.values.dtype, column.values.shape[1:])

    def work(part: Parsed) -> None:
        for column in encoders.encode(feature, part.columns[feature.name]):
            spill.append(column.name, column.values)

    return work


def _key_job(spill: Spill, features: list[Feature], index: KeyIndex) -> Job:
    for feature in features:
        if isinstance(feature, Categorical):
            spill.reserve(feature.name, np.int32)
        else:
            spill.reserve(f"{feature.name}/values", np.int32)
            spill.reserve(f"{feature.name}/lengths", np.int32)

    def work(part: Parsed) -> None:
        for feature in features:
            column = part.columns[feature.name]
            if isinstance(feature, Categorical):
                spill.append(feature.name, _numbers_of(column, index))
                continue
            values = index.add(column.flatten()).astype(np.int32)
            lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
            spill.append(f"{feature.name}/values", values)
            spill.append(f"{feature.name}/lengths", lengths.astype(np.int32))

    return work


def _numbers_of(keys: pa.Array, index: KeyIndex) -> NDArray[np.int32]:
    """Provisional numbers of keys, ``[n]``; a dictionary's members are looked up once each."""
    if not pa.types.is_dictionary(keys.type):
        return index.add(keys).astype(np.int32)
    numbers = np.append(index.add(keys.dictionary).astype(np.int32), np.int32(-1))
    places = keys.indices.fill_null(len(numbers) - 1).to_numpy(zero_copy_only=False)
    taken: NDArray[np.int32] = numbers[places]
    return taken


def _empty(feature: Feature) -> pa.Array:
    """A column without rows, as the feature's parser gives it."""
    return parser_of(feature).parse(pa.array([], pa.string()))[0]

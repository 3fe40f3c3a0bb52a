"""From raw tables to a data set: scan, split, fit on the training rows, encode, write.

The events are read three times as a stream, so memory follows the distinct keys and a few numbers a
row, never the width of the file. Everything is written to a temporary directory beside the target and
renamed at the end: a preparation that was cut short leaves nothing.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.data.dataset import Dataset, write_manifest
from scalerec.data.encoding import EncoderFitter, Encoders
from scalerec.data.entities import Entities, KeyIndex, read_entities
from scalerec.data.logs import Log, build_log
from scalerec.data.parsing import (
    Parsed,
    Parser,
    parse_chunks,
    parser_of,
    parser_of_key,
    parser_of_task,
    parser_of_time,
    parser_of_weight,
)
from scalerec.data.problems import OnError, Problems
from scalerec.data.raw import RawData
from scalerec.data.sampling import draw_unmet
from scalerec.data.schema import Schema
from scalerec.data.splits import SPLITS, SplitConfig, assign_splits
from scalerec.data.stores import EventWriter, write_entities, write_log
from scalerec.errors import DataError

__all__ = ["PrepareConfig", "prepare"]

USER, ITEM, TIME, WEIGHT, GROUP, LABEL = (
    "\0user",
    "\0item",
    "\0time",
    "\0weight",
    "\0group",
    "\0label",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig(Config):
    """How a data set is made.

    Args:
        split: How events are split where the files do not say.
        on_error: `fail` at the first row that does not fit, or `skip`, count and list such rows.
        eval_negatives: If positive, so many items that the user never met are drawn once for each
            validation and test row, and stored, for protocols that rank one item among a few.
        seed: Of the stored negatives.
    """

    split: SplitConfig = SplitConfig()
    on_error: OnError = "fail"
    eval_negatives: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.eval_negatives >= 0, "eval_negatives must not be negative")


@dataclass(slots=True)
class _Scan:
    """A few numbers of every event, found by the first reading."""

    users: NDArray[np.int64] | None
    items: NDArray[np.int64] | None
    times: NDArray[np.int64] | None
    positive: NDArray[np.bool_]
    splits: NDArray[np.int8]


def prepare(
    raw: RawData, out: str | Path, config: PrepareConfig | None = None, *, overwrite: bool = False
) -> Dataset:
    """Make a data set of raw tables.

    Args:
        raw: The tables and their schema.
        out: The directory to make.
        config: How; the defaults split by time and refuse any row that does not fit.
        overwrite: Whether an existing data set at `out` may be replaced.

    Returns:
        The data set, opened.

    Raises:
        DataError: If a value does not fit its schema, with file, row, column, value and what is
            allowed; if there are no training rows; or if `out` exists.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise DataError(f"{out} exists already; choose another --out, or --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _Preparation(raw, aside / "new", config or PrepareConfig()).run()
        if out.exists():
            out.rename(aside / "old")
        (aside / "new").rename(out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Dataset(out)


class _Preparation:
    def __init__(self, raw: RawData, out: Path, config: PrepareConfig) -> None:
        self.raw = raw
        self.schema = raw.schema
        self.out = out
        self.config = config
        self.problems = Problems(config.on_error)
        self.parsers = _event_parsers(raw.schema)
        self.groups = KeyIndex()

    def run(self) -> None:
        self.users = read_entities(self.raw, "users", self.problems)
        self.items = read_entities(self.raw, "items", self.problems)
        scan = self._scan()
        encoders = self._fit(scan)
        logs = self._logs(scan)
        self._write(scan, encoders, logs)

    def _events(self, problems: Problems) -> Iterator[tuple[str, Parsed]]:
        """Chunks of all event files in turn, their rows numbered through."""
        first = 0
        for split, source in self.raw.splits.items():
            size = 0
            for part in parse_chunks(source, self.parsers, problems):
                yield split, Parsed(part.columns, first + part.first, part.size)
                size = part.first + part.size
            first += size

    def _again(self) -> Iterator[tuple[str, Parsed]]:
        """The events once more; what does not fit has been reported already."""
        return self._events(Problems("skip", keep=0))

    def _scan(self) -> _Scan:
        columns: dict[str, list[NDArray[np.int64]]] = {USER: [], ITEM: [], TIME: [], LABEL: []}
        given: list[NDArray[np.int8]] = []
        for split, part in self._events(self.problems):
            if self.schema.user:
                columns[USER].append(self.users.index.add(part.columns[USER]))
            if self.schema.item:
                columns[ITEM].append(self.items.index.add(part.columns[ITEM]))
            if self.schema.timestamp:
                columns[TIME].append(part.columns[TIME].to_numpy(zero_copy_only=False))
            columns[LABEL].append(_is_positive(part.columns[f"{LABEL}0"]))
            number = SPLITS.index(split) if split in SPLITS else -1
            given.append(np.full(part.size, number, np.int8))
        if not sum(map(len, given)):
            names = ", ".join(source.name for source in self.raw.splits.values())
            raise DataError(f"{names}: no rows{self._skipped()}; at least one is needed")
        joined = {name: np.concatenate(parts) if parts else None for name, parts in columns.items()}
        splits = self._assign(np.concatenate(given), joined[TIME], joined[USER])
        if not (splits == 0).any():
            raise DataError(f"{self.raw.name}: the split leaves no training rows")
        positive = joined[LABEL]
        assert positive is not None
        return _Scan(joined[USER], joined[ITEM], joined[TIME], positive.astype(bool), splits)

    def _skipped(self) -> str:
        return (
            f" left after {self.problems.num_skipped} skipped" if self.problems.num_skipped else ""
        )

    def _assign(
        self,
        given: NDArray[np.int8],
        times: NDArray[np.int64] | None,
        users: NDArray[np.int64] | None,
    ) -> NDArray[np.int8]:
        if (given < 0).all():
            return assign_splits(self.config.split, len(given), times, users)
        splits = given.copy()
        if "valid" not in self.raw.splits and self.config.split.valid > 0:
            train = given == 0
            by = "random" if times is None else "time"
            cut = self.config.split.replace(by=by, test=0.0)
            of_train = None if times is None else times[train]
            splits[train] = assign_splits(cut, int(train.sum()), of_train, None)
        return splits

    def _fit(self, scan: _Scan) -> Encoders:
        fitter = EncoderFitter(self.schema)
        for _, part in self._again():
            is_train = pa.array(scan.splits[part.first : part.first + part.size] == 0)
            names = [feature.name for feature in self.schema.of_table("events")]
            fitter.add({name: part.columns[name].filter(is_train) for name in names})
        for entities, numbers in ((self.users, scan.users), (self.items, scan.items)):
            if numbers is not None and entities.columns:
                seen = np.unique(numbers[scan.splits == 0])
                rows = pa.array(seen[seen < _num_listed(entities)])
                fitter.add({name: col.take(rows) for name, col in entities.columns.items()})
        return fitter.fit()

    def _logs(self, scan: _Scan) -> dict[str, Log]:
        logs = {}
        for kind in {feature.history for feature in self.schema.history}:
            assert scan.users is not None
            assert scan.items is not None
            assert scan.times is not None
            kept = scan.positive if kind == "positive" else np.ones(len(scan.users), bool)
            logs[kind] = build_log(
                scan.users, scan.items, scan.times, kept, scan.splits == 0, len(self.users.index)
            )
        return logs

    def _write(self, scan: _Scan, encoders: Encoders, logs: dict[str, Log]) -> None:
        writers = {split: EventWriter(self.out / split, encoders) for split in SPLITS}
        for _, part in self._again():
            stop = part.first + part.size
            extra = self._extra(scan, part, logs)
            for number, split in enumerate(SPLITS):
                chosen = scan.splits[part.first : stop] == number
                if chosen.any():
                    writers[split].append(part.columns, extra, chosen)
        stores = {split: writer.close() for split, writer in writers.items()}
        for name, entities, numbers in (
            ("users", self.users, scan.users),
            ("items", self.items, scan.items),
        ):
            if numbers is not None:
                stores[name] = write_entities(
                    self.out, name, entities, encoders, (numbers, scan.splits), stores
                )
        for kind, log in logs.items():
            stores[f"log-{kind}"] = write_log(self.out / f"log-{kind}", log)
        write_manifest(
            self.out, self.raw, encoders, stores, self.problems, self.config.to_dict(),
            (self.users.index.keys, self.items.index.keys, self.items.names()),
            self._negatives(scan),
        )  # fmt: skip

    def _extra(
        self, scan: _Scan, part: Parsed, logs: dict[str, Log]
    ) -> dict[str, NDArray[np.generic]]:
        """What is stored beside the features, for one chunk."""
        here = slice(part.first, part.first + part.size)
        extra: dict[str, NDArray[np.generic]] = {}
        if scan.users is not None:
            extra["user"] = scan.users[here].astype(np.int32)
        if scan.items is not None:
            extra["item"] = scan.items[here].astype(np.int32)
        if scan.times is not None:
            extra["time"] = scan.times[here]
        if self.schema.weight:
            weight = part.columns[WEIGHT].to_numpy(zero_copy_only=False)
            extra["weight"] = weight.astype(np.float32)
        if self.schema.group:
            extra["group"] = self.groups.add(part.columns[GROUP])
        for kind, log in logs.items():
            extra[f"past/{kind}"] = log.past[here]
        labels = [
            part.columns[f"{LABEL}{i}"].to_numpy(zero_copy_only=False)
            for i in range(len(self.schema.tasks))
        ]
        extra["labels"] = np.stack(labels, 1).astype(np.float32)
        return extra

    def _negatives(self, scan: _Scan) -> dict[str, NDArray[np.int32]]:
        if not self.config.eval_negatives:
            return {}
        if scan.users is None or scan.items is None:
            raise DataError("eval_negatives needs a user and an item; name them in the schema")
        drawn = {}
        for number, split in enumerate(SPLITS[1:], start=1):
            generator = np.random.default_rng([self.config.seed, number])
            drawn[split] = draw_unmet(
                scan.users[scan.splits == number], (scan.users, scan.items),
                len(self.items.index), self.config.eval_negatives, generator,
            )  # fmt: skip
        return drawn


def _event_parsers(schema: Schema) -> dict[str, Parser]:
    parsers = {feature.name: parser_of(feature) for feature in schema.of_table("events")}
    if schema.user:
        parsers[USER] = parser_of_key(schema.user)
    if schema.item:
        parsers[ITEM] = parser_of_key(schema.item)
    if schema.group:
        parsers[GROUP] = parser_of_key(schema.group)
    if schema.timestamp:
        parsers[TIME] = parser_of_time(schema.timestamp)
    if schema.weight:
        parsers[WEIGHT] = parser_of_weight(schema.weight)
    for i, task in enumerate(schema.tasks):
        parsers[f"{LABEL}{i}"] = parser_of_task(task)
    return parsers


def _is_positive(labels: pa.Array) -> NDArray[np.int64]:
    return (labels.fill_null(0.0).to_numpy(zero_copy_only=False) > 0).astype(np.int64)


def _num_listed(entities: Entities) -> int:
    return len(next(iter(entities.columns.values()))) if entities.columns else 0

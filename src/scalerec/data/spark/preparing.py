"""`prepare` on Spark: what one machine does step by step, done by tasks, one job a step.

The driver holds the vocabularies, the keys of users, items and groups, and a few numbers of each of
these; never a row of the events.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalerec.data.columns import Specs
from scalerec.data.dataset import Dataset
from scalerec.data.encoding import Encoders
from scalerec.data.entities import ONCE
from scalerec.data.intake import no_rows
from scalerec.data.keys import KeyIndex
from scalerec.data.manifest import write_manifest
from scalerec.data.prepare import PrepareConfig, manifest_parts, write_aside
from scalerec.data.problems import Problem, Problems, refusal, shorten
from scalerec.data.raw import RawData
from scalerec.data.scanning import GROUP, USER, nothing_to_train
from scalerec.data.schema import Numeric, Schema, TableName
from scalerec.data.sources import Source
from scalerec.data.spark.counting import Met, Tally, count_met, tally_events
from scalerec.data.spark.files import forget, load_array, save_array, save_table
from scalerec.data.spark.fitting import fit_encoders
from scalerec.data.spark.histories import Histories, read_pieces, write_histories
from scalerec.data.spark.numbering import Numbered, number_keys
from scalerec.data.spark.pieces import cut_source
from scalerec.data.spark.reading import KINDS, Part, ReadJob, number_through_files, read_piece
from scalerec.data.spark.session import Cluster, spark_session
from scalerec.data.spark.splitting import plan_splits
from scalerec.data.spark.tasks import (
    TABLES,
    find_repeats,
    settle,
    tally_table,
    write_entity_range,
)
from scalerec.data.spark.writing import entity_ranges, join_stores, keep_ids, write_logs, write_part
from scalerec.data.splits import SPLITS
from scalerec.errors import ConfigError, DataError

__all__ = ["PIECE_BYTES", "prepare_by", "prepare_on_spark"]

# Of the source, for one task.
PIECE_BYTES = 64 << 20


def prepare_on_spark(
    raw: RawData,
    out: str | Path,
    config: PrepareConfig | None = None,
    *,
    overwrite: bool = False,
    master: str | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> Dataset:
    """Make a data set of raw tables on Apache Spark, equal to that of `prepare` byte by byte.

    All that is read and written lies where every worker finds it under the same path. Tasks keep
    what they read beside `out` until the data set is whole.

    Args:
        raw: The tables and their schema.
        out: The directory to make.
        config: How; the defaults split by time and refuse any row that does not fit.
        overwrite: Whether an existing data set at `out` may be replaced.
        master: The URL of Spark's master; see `spark_session`.
        piece_bytes: How much of a source a task reads, about.

    Returns:
        The data set, opened.

    Raises:
        ConfigError: If stored negatives are asked for, which Spark does not draw, or there is no
            Java.
        DataError: As `prepare` does, or if Spark gave up.
        MissingExtraError: If Spark is not installed.
    """
    config = config or PrepareConfig()
    if config.eval_negatives:
        raise ConfigError(
            "Spark draws no stored negatives: --eval-negatives needs --engine local; "
            f"got {config.eval_negatives}"
        )
    if raw.apart:
        raise ConfigError("Spark puts no domains side by side: that needs --engine local")
    with spark_session(master) as session:
        cluster = Cluster(session, f"{out}: Spark gave up")
        return prepare_by(
            cluster, raw, Path(out), config, overwrite=overwrite, piece_bytes=piece_bytes
        )


def prepare_by(
    cluster: Cluster,
    raw: RawData,
    out: Path,
    config: PrepareConfig,
    *,
    overwrite: bool = False,
    piece_bytes: int = PIECE_BYTES,
) -> Dataset:
    """As `prepare_on_spark`, by whatever runs tasks and lets them exchange what they found."""
    # Tasks need not run where the driver does.
    work = partial(_Preparation, cluster, raw, config, piece_bytes)
    return write_aside(out.resolve(), lambda aside: work(aside).write(), overwrite=overwrite)


class _Preparation:
    """One preparation, step by step.

    Args:
        cluster: Where tasks run.
        raw: The tables.
        config: How.
        piece_bytes: How much a task reads.
        aside: The folder to work in.
    """

    def __init__(
        self,
        cluster: Cluster,
        raw: RawData,
        config: PrepareConfig,
        piece_bytes: int,
        aside: Path,
    ) -> None:
        self.cluster, self.raw, self.config, self.piece_bytes = cluster, raw, config, piece_bytes
        self.out, self.scratch = aside / "new", aside / "scratch"
        self.problems = Problems("skip")
        self.scratch.mkdir()
        (self.scratch / "parts").mkdir()
        self.out.mkdir()

    @property
    def schema(self) -> Schema:
        return self.raw.schema

    def write(self) -> None:
        """Write the data set to `out`."""
        try:
            self._write()
        finally:
            forget()

    def _write(self) -> None:
        numbered, parts = number_keys(self.cluster, self._read(), self.scratch)
        self._refuse_repeats(parts)
        events = [part for part in parts if part.table == "events"]
        listed = [part for part in parts if part.table != "events" and part.num_rows]
        kinds = tuple(sorted({str(feature.history) for feature in self.schema.history}))
        told, tallies = self._split(numbered, listed, events, kinds)
        rows = np.sum([tally.rows for tally in tallies], axis=0).tolist()
        if not rows[0]:
            raise nothing_to_train(self.raw.name, sum(rows))
        met = self._count_met(numbered, events, tallies)
        encoders = self._fit(listed, events, tallies, met, numbered)
        stores = self._write_events(events, kinds)
        stores |= self._write_entities(parts, numbered, stores, met, told, kinds)
        if told and kinds:
            stores |= self._write_logs(told, kinds)
        tables = {
            str(table): _key_table(numbered.get(kind), table) for table, kind in TABLES.items()
        }
        found = manifest_parts(self.out, self.raw, encoders, tables, self.problems)
        settings = {"config": self.config.to_dict(), "rows": dict(zip(SPLITS, rows, strict=True))}
        write_manifest(self.out, {**found, **settings, "stores": stores})

    def _split(
        self,
        numbered: Mapping[str, Numbered],
        listed: Sequence[Part],
        events: Sequence[Part],
        kinds: tuple[str, ...],
    ) -> tuple[Histories | None, list[Tally]]:
        """Number the rows, split the events, and put users' events in order where need be."""
        splitting = plan_splits(self.cluster, self.raw, self.config.split, events)
        paths = {kind: own.path for kind, own in numbered.items()}
        work = partial(settle, schema=self.schema, splitting=splitting, paths=paths)
        tallies = self.cluster.run(work, [*listed, *events])[len(listed) :]
        told: Histories | None = None
        if kinds or splitting.kind == "last":
            folder, counts = self.scratch / "histories", numbered[USER].counts
            told = write_histories(self.cluster, events, counts, kinds, splitting, folder)
        if splitting.kind == "last":
            tallies = self.cluster.run(partial(tally_events, schema=self.schema), events)
        return told, tallies

    def _read(self) -> list[Part]:
        """Read all tables in pieces; refuse what does not fit."""
        jobs = list(self._jobs())
        parts = number_through_files(self.cluster.run(read_piece, jobs), self._sources())
        for part in parts:
            if part.refused:
                raise refusal(part.refused)
            if part.error:
                raise DataError(part.error)
            self.problems.num_skipped += part.num_skipped
            self.problems.listed += part.problems
        del self.problems.listed[self.problems.keep :]
        kept, first, of_split = [], 0, dict.fromkeys(("all", *SPLITS), 0)
        for part in parts:
            if part.table != "events":
                kept.append(part)
            elif part.num_rows:
                kept.append(replace(part, first=first, first_of_split=of_split[part.split]))
                first += part.num_rows
                of_split[part.split] += part.num_rows
        if not first:
            raise no_rows(self.raw, self.problems.num_skipped)
        return kept

    def _sources(self) -> dict[tuple[TableName, str], Source]:
        """All tables in the order in which they are read, by table and split."""
        found: dict[tuple[TableName, str], Source] = {}
        if self.raw.users:
            found["users", ""] = self.raw.users
        if self.raw.items:
            found["items", ""] = self.raw.items
        return found | {("events", split): source for split, source in self.raw.splits.items()}

    def _jobs(self) -> Iterator[ReadJob]:
        number = 0
        for (table, split), source in self._sources().items():
            for piece in cut_source(source, self.piece_bytes, self.cluster):
                yield ReadJob(
                    number=number,
                    table=table,
                    split=split,
                    piece=piece,
                    name=self.raw.name,
                    schema=self.schema,
                    on_error=self.config.on_error,
                    folder=self.scratch / "parts",
                )
                number += 1

    def _refuse_repeats(self, parts: Sequence[Part]) -> None:
        """Report rows of side tables whose key came in an earlier part."""
        again = [part for part in parts if part.numbers[1] - part.numbers[0] != part.num_rows]
        again = [part for part in again if part.table != "events"]
        kinds = {part.number: TABLES[part.table] for part in again}
        paths = {kind: self.scratch / f"{KINDS[kind]}.arrow" for kind in set(kinds.values())}
        found = self.cluster.run(partial(find_repeats, paths=paths, most=self.problems.keep), again)
        for part, (count, rows) in zip(again, found, strict=True):
            source = self._sources()[part.table, ""]
            column = self.schema.key_of(part.table)
            listed = [Problem(source.name, row, column, shorten(key), ONCE) for row, key in rows]
            if self.config.on_error == "fail":
                raise refusal(listed[0])
            self.problems.num_skipped += count
            self.problems.listed += listed[: self.problems.keep - len(self.problems.listed)]

    def _count_met(
        self, numbered: Mapping[str, Numbered], events: Sequence[Part], tallies: Sequence[Tally]
    ) -> dict[str, Met]:
        return {
            kind: count_met(
                self.cluster,
                events,
                tallies,
                self.schema,
                kind,
                len(own),
                self.scratch / f"met-{KINDS[kind]}",
            )
            for kind, own in numbered.items()
            if kind != GROUP
        }

    def _fit(
        self,
        listed: Sequence[Part],
        events: Sequence[Part],
        tallies: Sequence[Tally],
        met: Mapping[str, Met],
        numbered: Mapping[str, Numbered],
    ) -> Encoders:
        """Fit encoders, and keep them, and the ids of all users and items, for the tasks."""
        found = {part.number: tally for part, tally in zip(events, tallies, strict=True)}
        found |= {part.number: Tally((), {}) for part in listed}
        if any(isinstance(f, Numeric) and f.table != "events" for f in self.schema.features):
            told = partial(tally_table, schema=self.schema, met=dict(met))
            found |= dict(self.cluster.run(told, listed))
        encoders = fit_encoders(self.cluster, [*listed, *events], found, self.schema, met)
        save_table(self.scratch / "encoders.arrow", encoders.to_table())
        for table, kind in TABLES.items():
            if kind in numbered:
                index = KeyIndex(numbered[kind].table["key"].combine_chunks())
                keep_ids(self.scratch, self.schema, table, index)
        return encoders

    def _write_events(self, events: Sequence[Part], kinds: tuple[str, ...]) -> dict[str, Specs]:
        write = partial(write_part, scratch=self.scratch, kinds=kinds)
        written = self.cluster.run(write, events)
        for part in events:
            shutil.rmtree(part.folder / "waiting")
        parts = {split: [found[split] for found in written] for split in SPLITS}
        stores = join_stores(self.cluster, self.out, parts)
        for part in events:
            shutil.rmtree(part.folder)
        return stores

    def _write_entities(
        self,
        parts: Sequence[Part],
        numbered: Mapping[str, Numbered],
        stores: Mapping[str, Specs],
        met: Mapping[str, Met],
        told: Histories | None,
        kinds: tuple[str, ...],
    ) -> dict[str, Specs]:
        for kind in kinds:
            assert told is not None, "histories were written"
            seen = [load_array(path) for path in read_pieces(told, f"{kind}-seen")]
            save_array(self.scratch / f"seen-{kind}.npy", np.concatenate(seen))
        ranges = [
            own
            for table, kind in TABLES.items()
            if kind in numbered
            for own in entity_ranges(table, parts, len(numbered[kind]), numbered[kind].num_listed)
        ]
        write = partial(
            write_entity_range,
            scratch=self.scratch,
            out=self.out,
            stores=dict(stores),
            met={table: met[kind] for table, kind in TABLES.items() if kind in met},
            kinds=kinds,
        )
        written = self.cluster.run(write, ranges)
        by_table = {
            table: [found for own, found in zip(ranges, written, strict=True) if own.table == table]
            for table in TABLES
        }
        return join_stores(
            self.cluster, self.out, {table: found for table, found in by_table.items() if found}
        )

    def _write_logs(self, told: Histories, kinds: tuple[str, ...]) -> dict[str, Specs]:
        logs = {
            kind: (read_pieces(told, f"{kind}-items"), read_pieces(told, f"{kind}-lengths"))
            for kind in kinds
        }
        return write_logs(self.cluster, self.out, logs)


def _key_table(numbered: Numbered | None, table: TableName) -> pa.Table:
    """The keys of users; the keys of items and what a person calls them."""
    if numbered is None:
        names = ("key", "title") if table == "items" else ("key",)
        return pa.table({name: pa.array([], pa.string()) for name in names})
    keys = numbered.table["key"].combine_chunks().cast(pa.string())
    if table == "users":
        return pa.table({"key": keys})
    titles = numbered.table["title"].combine_chunks()
    return pa.table({"key": keys, "title": pc.coalesce(titles, keys)})

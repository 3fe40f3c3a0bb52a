"""One task's reading of its piece: as one machine reads all, but keys get numbers of the piece."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.entities import Entities, read_listed
from scalerec.data.intake import Intake, read_in
from scalerec.data.keys import KeyIndex
from scalerec.data.problems import OnError, Problem, Problems, refusal, shorten
from scalerec.data.raw import RawData
from scalerec.data.scanning import GROUP, ITEM, TIME, USER, Scan
from scalerec.data.schema import Schema, TableName
from scalerec.data.sources import Chunk, Source
from scalerec.data.spark.files import load_array, load_table, save_array, save_table
from scalerec.data.spark.pieces import Piece
from scalerec.data.spill import Spill
from scalerec.data.splits import SPLITS
from scalerec.errors import DataError

__all__ = [
    "KINDS",
    "POSITIVE",
    "Part",
    "ReadJob",
    "given_split",
    "number_through_files",
    "read_piece",
    "scan_of",
]

Numbers = NDArray[np.int64]
POSITIVE = "positive"
# What is numbered through all parts, and the name of the file of a part's own numbers.
KINDS = {USER: "users", ITEM: "items", GROUP: "groups"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadJob:
    """What a task reads.

    Args:
        number: Its part's number: users come first, then items, then events.
        table: Which table it is of.
        split: The split that the events are for, `all` if they are still to be split.
        piece: What is read.
        name: The data set's.
        schema: The data set's.
        on_error: What is done about rows that do not fit.
        folder: Where what was read waits.
    """

    number: int
    table: TableName
    split: str
    piece: Piece
    name: str
    schema: Schema
    on_error: OnError
    folder: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What a task read, and where it waits.

    Args:
        number: Its number among all parts.
        table: Which table it is of.
        split: The split that the events are for, `all` if they are still to be split.
        folder: Where it waits.
        num_rows: Good rows.
        last: Number of the last record in its file.
        file: Number of its file.
        num_skipped: Rows that were left out.
        problems: The first of them.
        refused: The row that ended the reading, if one did.
        error: What else ended it.
        indexes: Vocabularies whose keys have numbers of the part.
        num_keys: Of the users, items and groups of the part, by `KINDS`.
        spill: Columns of events.
        first: Events of earlier parts.
        first_of_split: Events of earlier parts of the same given split.
        numbers: Of a side table, the numbers of its first entity and the one after its last.
        before_file: Rows of the files before its own.
    """

    number: int
    table: TableName
    split: str
    folder: Path
    num_rows: int = 0
    last: int = 0
    file: int = 0
    num_skipped: int = 0
    problems: tuple[Problem, ...] = ()
    refused: Problem | None = None
    error: str = ""
    indexes: tuple[str, ...] = ()
    num_keys: dict[str, int] = field(default_factory=dict)
    spill: Spill | None = None
    first: int = 0
    first_of_split: int = 0
    numbers: tuple[int, int] = (0, 0)
    before_file: int = 0

    def keys(self, kind: str) -> pa.Table:
        """The part's users, items or groups: columns `key`, and `title` where there are some."""
        return load_table(self.folder / f"{KINDS[kind]}.arrow")

    def intake(self) -> Intake:
        """The events as they wait."""
        assert self.spill is not None, "only events have one"
        indexes = {
            name: KeyIndex(load_table(self.folder / f"keys-{i}.arrow")["key"].combine_chunks())
            for i, name in enumerate(self.indexes)
        }
        return Intake(self.spill, indexes)

    def array(self, name: str) -> NDArray[np.int64]:
        """An array that was kept, one number a row."""
        return load_array(self.folder / f"{name}.npy").astype(np.int64)


class _Stopping(Problems):
    """Remembers the problem that ended the reading."""

    def __init__(self, on_error: OnError) -> None:
        super().__init__(on_error)
        self.refused: Problem | None = None

    def report(self, file: str, row: int, column: str, value: object, allowed: str) -> None:
        if self.on_error == "fail":
            self.refused = Problem(file, row, column, shorten(value), allowed)
            raise refusal(self.refused)
        super().report(file, row, column, value, allowed)


class _Watched:
    """A source that remembers the last record it gave."""

    def __init__(self, piece: Piece) -> None:
        self._piece = piece
        self.name, self.columns, self.last = piece.name, piece.columns, 0

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        return self._watched(self._piece.chunks(columns, problems))

    def coded_chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        return self._watched(self._piece.coded_chunks(columns, problems))

    def _watched(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.last = int(chunk.rows[-1]) if len(chunk.rows) else self.last
            yield chunk


def read_piece(job: ReadJob) -> Part:
    """Read a piece, and let it wait; errors of the data are told in what is given back."""
    # A task that is run again has a folder of its own.
    folder = job.folder / f"{job.number:06d}-{uuid4().hex[:8]}"
    folder.mkdir()
    source, problems = _Watched(job.piece), _Stopping(job.on_error)
    found: dict[str, object] = {}
    error = ""
    tables = dict.fromkeys(job.schema.tables, source)
    try:
        split = "all" if job.split in ("all", "") else "train"
        raw = RawData(
            name=job.name,
            schema=job.schema,
            splits={split: source},
            users=tables.get("users"),
            items=tables.get("items"),
        )
        if job.table == "events":
            found = _read_events(raw, problems, folder)
        else:
            found = _read_listed(raw, job.table, problems, folder)
    except DataError as caught:
        error = str(caught)
    more = {"num_skipped": problems.num_skipped, "problems": tuple(problems.listed)}
    return Part(
        number=job.number,
        table=job.table,
        split=job.split,
        folder=folder,
        last=source.last,
        file=job.piece.file,
        refused=problems.refused,
        error=error,
        **more,  # type: ignore[arg-type]
        **found,  # type: ignore[arg-type]
    )


def _read_listed(
    raw: RawData, table: TableName, problems: Problems, folder: Path
) -> dict[str, object]:
    entities, rows = read_listed(raw, table, problems)
    kind = USER if table == "users" else ITEM
    _save_keys(folder, kind, entities.index, entities)
    save_table(folder / "columns.arrow", pa.table(entities.columns))
    save_array(folder / "rows.npy", rows)
    return {"num_rows": len(rows), "num_keys": {kind: len(rows)}}


def _read_events(raw: RawData, problems: Problems, folder: Path) -> dict[str, object]:
    users, items = Entities(), Entities()
    with ThreadPoolExecutor(2) as pool:
        intake = read_in(raw, users, items, folder / "waiting", problems, pool)
    kept = {USER: users.index, ITEM: items.index, GROUP: intake.groups}
    for kind, chunks in intake.numbers.items():
        if kind == TIME:
            save_array(folder / "times.npy", _joined(chunks, np.int64))
            continue
        save_array(folder / f"own-{KINDS[kind]}.npy", _joined(chunks, np.int32))
        _save_keys(folder, kind, kept[kind], items if kind == ITEM else None)
    save_array(folder / f"{POSITIVE}.npy", _joined(intake.positive, np.bool_))
    for number, index in enumerate(intake.indexes.values()):
        save_table(folder / f"keys-{number}.arrow", pa.table({"key": index.to_arrow()}))
    return {
        "num_rows": len(intake),
        "indexes": tuple(intake.indexes),
        "num_keys": {kind: len(kept[kind]) for kind in intake.numbers if kind != TIME},
        "spill": intake.spill,
    }


def _save_keys(folder: Path, kind: str, index: KeyIndex, entities: Entities | None) -> None:
    columns = {"key": index.to_arrow()}
    if entities is not None:
        titles = [entities.titles.get(i) for i in range(len(index))] if entities.titles else None
        columns["title"] = pa.array(titles, pa.string()) if titles else _nulls(len(index))
    save_table(folder / f"{KINDS[kind]}.arrow", pa.table(columns))


def _nulls(size: int) -> pa.Array:
    return pa.nulls(size, pa.string())


def _joined(chunks: list[NDArray[np.int64]] | list[NDArray[np.bool_]], dtype: type) -> NDArray:  # type: ignore[type-arg]
    return np.concatenate([np.zeros(0, dtype), *(chunk.astype(dtype) for chunk in chunks)])


def scan_of(part: Part, schema: Schema) -> Scan:
    """What `Scan` tells of the events of a part, once they are numbered and split."""
    return Scan(
        users=part.array("users") if schema.user else None,
        items=part.array("items") if schema.item else None,
        times=part.array("times") if schema.timestamp else None,
        groups=part.array("groups") if schema.group else None,
        positive=load_array(part.folder / f"{POSITIVE}.npy"),
        splits=load_array(part.folder / "splits.npy"),
    )


def given_split(part: Part) -> int:
    """The number of the split that a part's events are given for; -1 if there is none."""
    return SPLITS.index(part.split) if part.split in SPLITS else -1


def number_through_files(
    parts: Sequence[Part], sources: Mapping[tuple[TableName, str], Source]
) -> list[Part]:
    """Number rows through the files of each table, as far as messages name the whole table."""
    found: list[Part] = []
    for key, source in sources.items():
        before, last, file = 0, 0, 0
        for part in (part for part in parts if (part.table, part.split) == key):
            if part.file != file:
                before, last, file = before + last, 0, part.file
            last = max(last, part.last)
            found.append(_moved(part, source.name, before) if before else part)
    return found


def _moved(part: Part, name: str, before: int) -> Part:
    def moved(problem: Problem) -> Problem:
        own = problem.file == name and problem.row
        return replace(problem, row=problem.row + before) if own else problem

    return replace(
        part,
        before_file=before,
        problems=tuple(map(moved, part.problems)),
        refused=moved(part.refused) if part.refused else None,
    )

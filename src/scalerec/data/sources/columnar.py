"""Tables in columns: Parquet, Arrow files, and tables in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

from scalerec.data.problems import Problems
from scalerec.data.sources.base import CHUNK_ROWS, Chunk, check_asked, check_unique, clean_text
from scalerec.errors import DataError

# A column of text that takes fewer bytes a value than this is read as a dictionary.
CODED_BYTES = 3

__all__ = ["ArrowSource", "ParquetSource", "TableSource", "cut_sizes"]


class ParquetSource:
    """A Parquet file, read by row groups; only the columns asked for are read.

    Args:
        path: The file.
        groups: Numbers of the row groups that are read; all of them if not given.

    Raises:
        DataError: If the file is missing or is not whole Parquet, or names a column twice.
    """

    def __init__(self, path: str | Path, groups: range | None = None) -> None:
        self.path = Path(path)
        self._groups = groups
        with _opened(self.path, "Parquet", pa.parquet.ParquetFile) as file:
            self._columns = tuple(file.schema_arrow.names)
        check_unique(self.name, self._columns)

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns, in order."""
        return self._columns

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Read the file once, a part of a row group at a time."""
        return self._chunks(columns, problems, ())

    def coded_chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """As `chunks`, but text that the file keeps as a dictionary may stay one."""
        with _opened(self.path, "Parquet", pa.parquet.ParquetFile) as file:
            coded = _coded_columns(file)
        return self._chunks(columns, problems, coded)

    def cut(self, num_bytes: int) -> "list[tuple[ParquetSource, int]]":
        """Cut the file between row groups: parts of about so many bytes, and the rows of each."""
        with _opened(self.path, "Parquet", pa.parquet.ParquetFile) as file:
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        ends = cut_sizes([group.total_byte_size for group in groups], num_bytes)
        return [
            (
                ParquetSource(self.path, range(first, last)),
                sum(group.num_rows for group in groups[first:last]),
            )
            for first, last in ends
        ]

    def _chunks(
        self, columns: tuple[str, ...], problems: Problems, coded: tuple[str, ...]
    ) -> Iterator[Chunk]:
        check_asked(self.name, columns, self._columns)
        opener = partial(pa.parquet.ParquetFile, read_dictionary=list(coded))
        with _opened(self.path, "Parquet", opener) as file:
            # One row group at a time: of several, Arrow keeps all that it has read.
            batches = chain.from_iterable(
                file.iter_batches(
                    CHUNK_ROWS, row_groups=[group], columns=list(columns), use_threads=False
                )
                for group in self._groups or range(file.num_row_groups)
            )
            yield from _numbered(self.path, "Parquet", batches, columns, problems, bool(coded))


class ArrowSource:
    """An Arrow file: the IPC file format (Feather version 2 too) or the IPC stream format.

    Args:
        path: The file.
        batches: Numbers of the record batches that are read, of the file format; all if not given.

    Raises:
        DataError: If the file is missing or is not whole Arrow, or names a column twice.
    """

    def __init__(self, path: str | Path, batches: range | None = None) -> None:
        self.path = Path(path)
        self._batches = batches
        with _opened(self.path, "Arrow", _open_ipc) as file:
            self._columns = tuple(file.schema.names)
        check_unique(self.name, self._columns)

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns, in order."""
        return self._columns

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Read the file once; it is memory-mapped, and handed over in parts."""
        check_asked(self.name, columns, self._columns)
        with _opened(self.path, "Arrow", _open_ipc) as file:
            batches = _ipc_batches(file, self._batches)
            yield from _numbered(self.path, "Arrow", batches, columns, problems)

    def cut(self, num_bytes: int) -> "list[tuple[ArrowSource, int]]":
        """Cut the file between record batches: parts of about so many bytes, and their rows."""
        with _opened(self.path, "Arrow", _open_ipc) as file:
            if not isinstance(file, pa.ipc.RecordBatchFileReader):
                return [(self, 0)]
            batches = list(map(file.get_batch, range(file.num_record_batches)))
            rows = [len(batch) for batch in batches]
            ends = cut_sizes([batch.nbytes for batch in batches], num_bytes)
        return [(ArrowSource(self.path, range(a, b)), sum(rows[a:b])) for a, b in ends]


class TableSource:
    """A table in memory.

    Args:
        table: An Arrow table, or column name to values.
        name: What messages call it.

    Raises:
        DataError: If columns differ in length, mix types, or share a name.
    """

    def __init__(self, table: pa.Table | Mapping[str, Any], name: str = "table") -> None:
        self._name = name
        self._table = table if isinstance(table, pa.Table) else _table_of(table, name)
        check_unique(name, self._table.schema.names)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self._name

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns, in order."""
        return tuple(self._table.schema.names)

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Hand over the table in parts."""
        check_asked(self.name, columns, self.columns)
        batches = self._table.select(list(columns)).to_batches(max_chunksize=CHUNK_ROWS)
        yield from _numbered(self._name, "a table", batches, columns, problems)

    def cut(self, num_bytes: int) -> "list[tuple[TableSource, int]]":
        """Cut the table into parts of about so many bytes, and tell the rows of each."""
        table = self._table
        each = max(1, num_bytes * len(table) // max(1, table.nbytes))
        parts = [table.slice(first, each) for first in range(0, len(table), each)]
        return [(TableSource(part, self._name), len(part)) for part in parts]


def cut_sizes(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Cut a row of sizes into runs, first and end, that sum up to about so much each.

    Example:
        >>> cut_sizes([3, 3, 9, 1], 6)
        [(0, 2), (2, 3), (3, 4)]
    """
    runs, first, total = [], 0, 0
    for place, size in enumerate(sizes):
        if place > first and total + size > most:
            runs.append((first, place))
            first, total = place, 0
        total += size
    return [*runs, (first, len(sizes))] if sizes else []


def _opened(path: Path, kind: str, opener: Callable[[str], Any]) -> Any:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; allowed: {kind}")
    try:
        return opener(str(path))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as {kind}: {error}") from None


def _coded_columns(file: Any) -> tuple[str, ...]:
    """The columns of text that take little room in a file: it keeps them as dictionaries."""
    texts = {field.name for field in file.schema_arrow if pa.types.is_string(field.type)}
    if not file.num_row_groups:
        return ()
    group = file.metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    return tuple(
        column.path_in_schema
        for column in columns
        if column.path_in_schema in texts
        and column.has_dictionary_page
        and column.total_uncompressed_size < CODED_BYTES * column.num_values
    )


def _open_ipc(path: str) -> Any:
    source = pa.memory_map(path)
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _ipc_batches(file: Any, own: range | None) -> Iterator[pa.RecordBatch]:
    if isinstance(file, pa.ipc.RecordBatchFileReader):
        numbers = own or range(file.num_record_batches)
        batches: Iterator[pa.RecordBatch] = map(file.get_batch, numbers)
    else:
        batches = iter(file)
    for batch in batches:
        for start in range(0, batch.num_rows, CHUNK_ROWS):
            yield batch.slice(start, CHUNK_ROWS)


def _numbered(
    name: str | Path,
    kind: str,
    batches: Any,
    columns: tuple[str, ...],
    problems: Problems,
    coded: bool = False,
) -> Iterator[Chunk]:
    """Number the rows of batches, and turn Arrow's errors into ours."""
    first, stream = 1, iter(batches)
    while True:
        try:
            batch = next(stream, None)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{name}: cannot be read as {kind}: {error}") from None
        if batch is None:
            return
        rows = np.arange(first, first + batch.num_rows, dtype=np.int64)
        first += batch.num_rows
        yield clean_text(batch.select(list(columns)), rows, str(name), problems, coded)


def _table_of(columns: Mapping[str, Any], name: str) -> pa.Table:
    arrays = {}
    for column, values in columns.items():
        try:
            arrays[column] = pa.array(values)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise DataError(
                f"{name}, column {column!r}: got values that are not of one type ({error}); "
                "allowed: all text, all numbers, or all lists"
            ) from None
    lengths = {column: len(array) for column, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{name}: columns must have one length; got {lengths}")
    return pa.table(arrays)

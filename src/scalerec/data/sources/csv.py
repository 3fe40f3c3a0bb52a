"""Text tables: comma- or otherwise separated values, plain or gzipped, read in blocks."""

import codecs
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from scalerec.data.problems import Problems
from scalerec.data.sources.base import Chunk, check_asked, check_unique, clean_text
from scalerec.errors import DataError

__all__ = ["CsvSource"]

BLOCK_BYTES = 4 << 20
# Blocks of wide tables hold few rows, so several make a chunk of so many.
JOINED_ROWS = 32_768
TAIL_BYTES = 4096


class CsvSource:
    """A file of separated values, plain or ``.gz``; every value is handed over as text.

    An empty cell is null; other words that often mean "missing" (`NaN`, `NA`, `?`) stay text. Blank
    lines are no records. Memory does not grow with the file.

    Args:
        path: The file.
        delimiter: The one character between two values.
        column_names: The columns' names if the file has no header.
        encoding: The file's encoding, as Python names it.
        quote: The character around values that hold delimiters or newlines; empty for none.
        block_bytes: How many bytes are read at once; no record may be longer.
        stretch: Where the records that are read begin and end, in bytes; the whole file if not
            given. Only of plain UTF-8.

    Raises:
        DataError: If the file is missing, empty or unreadable, or names a column twice.
    """

    def __init__(
        self,
        path: str | Path,
        delimiter: str = ",",
        *,
        column_names: Sequence[str] | None = None,
        encoding: str = "utf8",
        quote: str = '"',
        block_bytes: int = BLOCK_BYTES,
        stretch: tuple[int, int] | None = None,
    ) -> None:
        self.path = Path(path)
        self._delimiter = delimiter
        self._given = tuple(column_names) if column_names else ()
        self._encoding = _known_encoding(encoding, self.name)
        self._quote = quote
        self._block_bytes = block_bytes
        self._stretch = stretch
        self._columns = self._given or self._read_header()
        check_unique(self.name, self._columns)

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names in the header, or those given."""
        return self._columns

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Read the file once; records of a wrong length or not in UTF-8 go to `problems`."""
        check_asked(self.name, columns, self._columns)
        last = self._columns[-1]
        # The last column shows whether the file ends inside a quoted value.
        wanted = columns if last in columns else (*columns, last)
        numbers = _RowNumbers(0 if self._given else 1)
        ending: bytes | None = None
        for table in _joined(self._batches(wanted, numbers)):
            self._report_ragged(numbers, problems)
            rows = numbers.take(table.num_rows)
            if len(rows):
                ending = table.column(last)[-1].as_py()
            yield clean_text(table.select(list(columns)), rows, self.name, problems)
        self._report_ragged(numbers, problems)
        if ending is not None and b"\n" in ending and not self._ends_quoted():
            problems.report(
                self.name, numbers.next_row - 1, last, ending, "a quoted value that is closed"
            )

    @property
    def can_cut(self) -> bool:
        """Whether stretches of the file can be read: it is plain, and in UTF-8."""
        return self._encoding == "utf8" and self.path.suffix.lower() != ".gz"

    @property
    def marks(self) -> tuple[str, str, bool]:
        """The delimiter, the quote, and whether the file has a header."""
        return self._delimiter, self._quote, not self._given

    def part(self, start: int, stop: int) -> "CsvSource":
        """The records from one byte to another; those of the file's start include its header."""
        return CsvSource(
            self.path,
            self._delimiter,
            column_names=self._given or (self._columns if start else None),
            encoding=self._encoding,
            quote=self._quote,
            block_bytes=self._block_bytes,
            stretch=(start, stop),
        )

    def _read_header(self) -> tuple[str, ...]:
        with self._open(None, _RowNumbers(1)) as reader:
            try:
                return tuple(reader.schema.names)
            except UnicodeDecodeError as error:
                raise self._unreadable(error) from None

    def _batches(
        self, columns: tuple[str, ...], numbers: "_RowNumbers"
    ) -> Iterator[pa.RecordBatch]:
        with self._open(columns, numbers) as reader:
            while True:
                try:
                    yield reader.read_next_batch()
                except StopIteration:
                    return
                except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                    raise self._unreadable(error) from None

    def _open(
        self, columns: tuple[str, ...] | None, numbers: "_RowNumbers"
    ) -> pa.csv.CSVStreamingReader:
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file")
        types = {name: pa.binary() for name in columns or ()}
        try:
            return pa.csv.open_csv(
                self._input(),
                read_options=pa.csv.ReadOptions(
                    use_threads=False,  # with threads a ragged record has no number
                    block_size=self._block_bytes,
                    column_names=self._given or None,
                    encoding=self._encoding,
                ),
                parse_options=pa.csv.ParseOptions(
                    delimiter=self._delimiter,
                    quote_char=self._quote or False,
                    newlines_in_values=bool(self._quote),
                    invalid_row_handler=numbers.note,
                ),
                convert_options=pa.csv.ConvertOptions(
                    column_types=types,
                    include_columns=list(types),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from None

    def _input(self) -> Any:
        if self._stretch is not None:
            start, stop = self._stretch
            with self.path.open("rb") as file:
                file.seek(start)
                text = file.read(stop - start)
            return pa.BufferReader(text)
        stream = pa.input_stream(str(self.path), compression="detect")
        if self.path.stat().st_size > TAIL_BYTES:
            return stream
        # Arrow takes a lone header without an end of line for an empty file.
        text = stream.read()
        ended = b"\n" in text or not text.strip()
        return pa.BufferReader(text if ended else text + "\n".encode(self._encoding))

    def _unreadable(self, error: Exception) -> DataError:
        text = str(error)
        if "Empty CSV file" in text:
            return DataError(f"{self.path}: the file is empty; allowed: a header, then records")
        if isinstance(error, UnicodeDecodeError):
            return DataError(f"{self.path}: not {self._encoding}: {text}")
        if "straddl" in text:
            size = self._block_bytes
            return DataError(
                f"{self.path}: a record is longer than {size} bytes; is a quote left open?"
            )
        return DataError(f"{self.path}: cannot be read as separated values: {text}")

    def _report_ragged(self, numbers: "_RowNumbers", problems: Problems) -> None:
        for row, got in numbers.drain():
            allowed = f"{len(self._columns)} values, one a column"
            problems.report(self.name, row, "", f"{got} values", allowed)

    def _ends_quoted(self) -> bool:
        """Tell whether the last character, line ends aside, is a quote."""
        tail = b""
        if self._stretch is not None:
            start, stop = self._stretch
            with self.path.open("rb") as file:
                file.seek(max(start, stop - TAIL_BYTES))
                tail = file.read(min(TAIL_BYTES, stop - start))
            return tail.rstrip(b"\r\n\0").endswith(self._quote.encode(self._encoding))
        with (gzip.open if self.path.suffix == ".gz" else Path.open)(self.path, "rb") as file:
            while block := file.read(1 << 20):
                tail = (tail + block)[-TAIL_BYTES:]
        return tail.rstrip(b"\r\n\0").endswith(self._quote.encode(self._encoding))


def _joined(tables: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Short tables joined; what came before an error is given before it."""
    waiting: list[pa.RecordBatch] = []
    try:
        for table in tables:
            waiting.append(table)
            if sum(map(len, waiting)) >= JOINED_ROWS:
                yield _one(waiting)
                waiting = []
    except DataError:
        if waiting:
            yield _one(waiting)
        raise
    if waiting:
        yield _one(waiting)


def _one(tables: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(tables) == 1:
        return tables[0]
    joined = pa.Table.from_batches(tables).combine_chunks().to_batches()
    return joined[0] if joined else tables[0]


@dataclass(slots=True)
class _RowNumbers:
    """Gives records their numbers though Arrow hands over only those of the right length."""

    header_rows: int
    next_row: int = 1
    skipped: list[int] = field(default_factory=list)
    fresh: list[tuple[int, int]] = field(default_factory=list)

    def note(self, row: pa.csv.InvalidRow) -> str:
        """Remember a record of a wrong length; Arrow calls this while it parses."""
        number = row.number - self.header_rows
        self.skipped.append(number)
        self.fresh.append((number, row.actual_columns))
        return "skip"

    def drain(self) -> list[tuple[int, int]]:
        """The records noted since the last call, as (number, values it had)."""
        fresh, self.fresh = self.fresh, []
        return fresh

    def take(self, count: int) -> NDArray[np.int64]:
        """Numbers of the next `count` records of the right length, ``[count]`` int64."""
        end = self.next_row + count + len(self.skipped)
        numbers = np.arange(self.next_row, end, dtype=np.int64)
        taken = np.setdiff1d(numbers, np.array(self.skipped, dtype=np.int64), assume_unique=True)
        taken = taken[:count]
        if count:
            self.next_row = int(taken[-1]) + 1
            self.skipped = [number for number in self.skipped if number >= self.next_row]
        return taken


def _known_encoding(encoding: str, name: str) -> str:
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise DataError(
            f"{name}: unknown encoding {encoding!r}; allowed: utf8, latin-1 ..."
        ) from None
    # Arrow reads UTF-8 itself, and only under this name without decoding it in Python first.
    return "utf8" if codec in ("utf-8", "utf-8-sig") else codec

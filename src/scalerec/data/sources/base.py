"""What a source is, and the checks that all sources share."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.problems import Problems
from scalerec.errors import DataError

__all__ = ["Chunk", "CodedSource", "Source", "check_asked", "check_unique", "clean_text"]

CHUNK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a table.

    Args:
        table: The columns asked for.
        rows: Number of each record in its file, from 1, without the header, ``[n]`` int64.
    """

    table: pa.RecordBatch
    rows: NDArray[np.int64]


class Source(Protocol):
    """A table that can be read from the start as often as needed."""

    @property
    def name(self) -> str:
        """The file, or the table's name; it heads every message."""
        ...

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns, in order."""
        ...

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Read the table once; rows that cannot be read at all go to `problems`."""
        ...


@runtime_checkable
class CodedSource(Protocol):
    """A source that can also hand over text as a dictionary and each row's place in it."""

    def coded_chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """As `Source.chunks`, but columns of text with few different values may stay coded."""
        ...


def check_asked(name: str, asked: Sequence[str], columns: Sequence[str]) -> None:
    """Check that a table has the columns asked for.

    Args:
        name: The table's name.
        asked: Columns that are needed.
        columns: Columns that there are.

    Raises:
        DataError: If some are missing; it names them, names close to them, and what there is.
    """
    missing = [column for column in asked if column not in columns]
    if not missing:
        return
    words = []
    for column in missing:
        close = difflib.get_close_matches(column, columns, n=1)
        words.append(f"{column!r} (did you mean {close[0]!r}?)" if close else repr(column))
    noun = "column" if len(missing) == 1 else "columns"
    there = ", ".join(columns) or "none"
    raise DataError(f"{name}: missing {noun} {', '.join(words)}; there are: {there}")


def check_unique(name: str, columns: Sequence[str]) -> None:
    """Check that no column's name is there twice.

    Raises:
        DataError: If one is; it names all of them.
    """
    twice = [column for column in dict.fromkeys(columns) if columns.count(column) > 1]
    if twice:
        names = ", ".join(repr(column) for column in twice)
        raise DataError(f"{name}: got columns of the same name: {names}; allowed: each name once")


def clean_text(
    table: pa.RecordBatch,
    rows: NDArray[np.int64],
    name: str,
    problems: Problems,
    coded: bool = False,
) -> Chunk:
    """Turn columns of bytes into text, and leave out rows that are not UTF-8.

    Args:
        table: Any columns; those of bytes become text, dictionaries become plain columns.
        rows: Number of each record, ``[n]`` int64.
        name: The source's name, for messages.
        problems: Learns of every row that is left out.
        coded: Whether a dictionary of text may stay one, if it is much shorter than the table.
    """
    ready, bad = [], np.zeros(len(rows), dtype=bool)
    for field, stored in zip(table.schema, table.columns, strict=True):
        if coded and _is_short(stored):
            ready.append(stored)
            continue
        column = stored.dictionary_decode() if pa.types.is_dictionary(field.type) else stored
        if not _is_text(column.type):
            ready.append(column)
            continue
        text, wrong = _decode(column)
        for index in wrong:
            if not bad[index]:
                value = column[index].as_buffer().to_pybytes()
                problems.report(name, int(rows[index]), field.name, value, "UTF-8 text")
            bad[index] = True
        ready.append(text)
    clean = pa.RecordBatch.from_arrays(ready, names=table.schema.names)
    return Chunk(clean.filter(pa.array(~bad)), rows[~bad]) if bad.any() else Chunk(clean, rows)


def _is_short(column: pa.Array) -> bool:
    """Whether a column is a dictionary of good text with few members."""
    if not pa.types.is_dictionary(column.type) or not pa.types.is_string(column.type.value_type):
        return False
    words = column.dictionary
    return 4 * len(words) <= len(column) and not words.null_count and not _decode(words)[1]


def _is_text(kind: pa.DataType) -> bool:
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string)
    return any(check(kind) for check in (*checks, pa.types.is_large_string))


def _decode(column: pa.Array) -> tuple[pa.Array, list[int]]:
    """Check a column of bytes or text; give it as text, null where it is not UTF-8."""
    large = pa.types.is_large_binary(column.type) or pa.types.is_large_string(column.type)
    # Arrow trusts a column that says it is text, so that one is looked at as bytes too.
    plain = column.cast(pa.large_binary() if large else pa.binary())
    wanted = pa.large_string() if large else pa.string()
    try:
        return plain.cast(wanted), []
    except pa.ArrowInvalid:
        values = plain.to_pylist()
    wrong = [i for i, value in enumerate(values) if value is not None and not _is_utf8(value)]
    for index in wrong:
        values[index] = None
    return pa.array(values, pa.large_binary() if large else pa.binary()).cast(wanted), wrong


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

"""A source whose columns are made of another's: renamed, converted, one value everywhere, null."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.problems import Problems
from scalerec.data.sources.base import Chunk, CodedSource, Source, check_asked

__all__ = ["Derived", "DerivedSource", "with_nulls"]

# From a column to another one of the same length, and the rows whose value cannot be read.
Convert = Callable[[pa.Array], tuple[pa.Array, NDArray[np.bool_]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """How a column is made.

    Args:
        column: The column that it is made of; empty for none.
        value: Without a column, the text that stands in every row; None for null.
        convert: What is done to the column; none to leave it as it is.
        allowed: What `convert` can read, in words.
    """

    column: str = ""
    value: str | None = None
    convert: Convert | None = None
    allowed: str = ""


class DerivedSource:
    """The rows of another source with other columns.

    Rows with a value that cannot be converted go to `problems`, under the name that the column has
    in the other source.

    Args:
        source: What is read.
        columns: By name, how each column is made.

    Raises:
        DataError: If the source lacks a column that is needed.
    """

    def __init__(self, source: Source, columns: Mapping[str, Derived]) -> None:
        self._source, self._columns = source, dict(columns)
        check_asked(source.name, self._needs(self.columns), source.columns)

    @property
    def name(self) -> str:
        """The name of what is read."""
        return self._source.name

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns, in order."""
        return tuple(self._columns)

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Read the source once; only the columns that are needed."""
        check_asked(self.name, columns, self.columns)
        needs = self._needs(columns)
        return self._derive(columns, problems, self._source.chunks(needs, problems))

    def coded_chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """As `chunks`, but text that the source keeps as a dictionary may stay one."""
        if not isinstance(self._source, CodedSource):
            return self.chunks(columns, problems)
        check_asked(self.name, columns, self.columns)
        needs = self._needs(columns)
        return self._derive(columns, problems, self._source.coded_chunks(needs, problems))

    def _needs(self, columns: Iterable[str]) -> tuple[str, ...]:
        """The source's columns that some are made of; at least one, for it tells the rows."""
        found = dict.fromkeys(self._columns[name].column for name in columns)
        found.pop("", None)
        return tuple(found) or self._source.columns[:1]

    def _derive(
        self, columns: tuple[str, ...], problems: Problems, chunks: Iterator[Chunk]
    ) -> Iterator[Chunk]:
        for chunk in chunks:
            bad = np.zeros(len(chunk.rows), dtype=bool)
            arrays = [self._make(name, chunk, problems, bad) for name in columns]
            table = pa.RecordBatch.from_arrays(arrays, names=list(columns))
            yield (
                Chunk(table.filter(pa.array(~bad)), chunk.rows[~bad])
                if bad.any()
                else Chunk(table, chunk.rows)
            )

    def _make(
        self, name: str, chunk: Chunk, problems: Problems, bad: NDArray[np.bool_]
    ) -> pa.Array:
        """One column; rows that cannot be read are marked in `bad`, and reported once."""
        way = self._columns[name]
        if not way.column:
            return pa.repeat(pa.scalar(way.value, pa.string()), len(chunk.rows))
        column = chunk.table.column(way.column)
        if way.convert is None:
            return column
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        made, wrong = way.convert(column)
        for i in np.flatnonzero(wrong & ~bad).tolist():
            row, value = int(chunk.rows[i]), column[i].as_py()
            problems.report(self.name, row, way.column, value, way.allowed)
        bad |= wrong
        return made


def with_nulls(source: Source, names: Iterable[str]) -> DerivedSource:
    """A source with further columns in which nothing stands, whatever it has under these names."""
    own = {column: Derived(column=column) for column in source.columns}
    return DerivedSource(source, {**own, **{name: Derived() for name in names}})

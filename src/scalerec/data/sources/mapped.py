"""Sources made of other sources: parts one after the other, converted columns, split lines."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalerec.data.problems import Problems
from scalerec.data.sources.base import Chunk, CodedSource, Source, check_asked, check_unique
from scalerec.errors import DataError

__all__ = ["ConcatSource", "MappedSource", "SplitSource"]


class ConcatSource:
    """The rows of several sources with the same columns, one source after the other.

    Rows are numbered through: the first row of a part follows the last row of the part before.

    Args:
        parts: At least one; the first decides the order of the columns.
        name: What messages call them together; a part's own messages bear its own name.

    Raises:
        DataError: If the parts differ in their columns.
    """

    def __init__(self, parts: Sequence[Source], name: str) -> None:
        self._parts = tuple(parts)
        self._name = name
        first = self._parts[0]
        for part in self._parts[1:]:
            differ = sorted(set(first.columns) ^ set(part.columns))
            if differ:
                raise DataError(
                    f"{name}: {first.name} and {part.name} differ in columns {', '.join(differ)}; "
                    "allowed: parts with the same columns"
                )

    @property
    def name(self) -> str:
        """What messages call the parts together."""
        return self._name

    @property
    def parts(self) -> tuple[Source, ...]:
        """The sources that it is made of."""
        return self._parts

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the first part."""
        return self._parts[0].columns

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Read the parts in order."""
        return self._chunks(part.chunks(columns, problems) for part in self._parts)

    def coded_chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """As `chunks`, but text that a part keeps as a dictionary may stay one."""
        return self._chunks(
            part.coded_chunks(columns, problems)
            if isinstance(part, CodedSource)
            else part.chunks(columns, problems)
            for part in self._parts
        )

    def _chunks(self, parts: Iterable[Iterator[Chunk]]) -> Iterator[Chunk]:
        offset = 0
        for part in parts:
            last = 0
            for chunk in part:
                last = int(chunk.rows[-1]) if len(chunk.rows) else last
                yield Chunk(chunk.table, chunk.rows + offset)
            offset += last


class MappedSource:
    """Another source with its columns converted on the way.

    Args:
        source: What is read.
        columns: The columns that `function` gives.
        function: Turns the columns `needs` into `columns`, row by row: same number of rows.
        needs: The columns of `source` that are read; all of them if not given.

    Raises:
        DataError: If the source lacks a column of `needs`.
    """

    def __init__(
        self,
        source: Source,
        columns: Sequence[str],
        function: Callable[[pa.RecordBatch], pa.RecordBatch],
        needs: Sequence[str] | None = None,
    ) -> None:
        self._source = source
        self._columns = tuple(columns)
        self._function = function
        self._needs = source.columns if needs is None else tuple(needs)
        check_asked(source.name, self._needs, source.columns)
        check_unique(source.name, self._columns)

    @property
    def name(self) -> str:
        """The name of what is read."""
        return self._source.name

    @property
    def source(self) -> Source:
        """What is read."""
        return self._source

    def of(self, source: Source) -> "MappedSource":
        """The same conversion of another source."""
        return MappedSource(source, self._columns, self._function, self._needs)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns after conversion."""
        return self._columns

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Read the source once, converting part by part."""
        check_asked(self.name, columns, self._columns)
        for chunk in self._source.chunks(self._needs, problems):
            table = self._function(chunk.table)
            assert table.num_rows == chunk.table.num_rows, "a conversion must keep the rows"
            yield Chunk(table.select(list(columns)), chunk.rows)


class SplitSource:
    """Lines split at a separator of any length, such as the ``::`` of MovieLens 1M.

    Args:
        source: A source with one column of text, a line a row.
        separator: What parts the values of a line.
        columns: The names of the values.
    """

    def __init__(self, source: Source, separator: str, columns: Sequence[str]) -> None:
        assert len(source.columns) == 1, "lines are one column"
        self._source = source
        self._separator = separator
        self._columns = tuple(columns)

    @property
    def name(self) -> str:
        """The name of what is read."""
        return self._source.name

    @property
    def source(self) -> Source:
        """What is read."""
        return self._source

    def of(self, source: Source) -> "SplitSource":
        """The lines of another source, split in the same way."""
        return SplitSource(source, self._separator, self._columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the values of a line."""
        return self._columns

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Read the lines once; lines with too few or too many values go to `problems`."""
        check_asked(self.name, columns, self._columns)
        count = len(self._columns)
        for chunk in self._source.chunks(self._source.columns, problems):
            values = pc.split_pattern(pc.fill_null(chunk.table.column(0), ""), self._separator)
            lengths = pc.list_value_length(values).to_numpy()
            for index in np.flatnonzero(lengths != count):
                got = f"{lengths[index]} values"
                allowed = f"{count} values, one a column, with {self._separator!r} between them"
                problems.report(self.name, int(chunk.rows[index]), "", got, allowed)
            good = lengths == count
            kept = values.filter(pa.array(good))
            arrays = [_at(kept, self._columns.index(column)) for column in columns]
            table = pa.RecordBatch.from_arrays(arrays, names=list(columns))
            yield Chunk(table, chunk.rows[good])


def _at(lists: pa.Array, index: int) -> pa.Array:
    text = pc.list_element(lists, index) if len(lists) else pa.array([], pa.string())
    return pc.if_else(pc.equal(text, ""), None, text)

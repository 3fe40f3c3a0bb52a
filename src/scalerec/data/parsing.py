"""From a source's raw columns to typed ones, with every value that does not fit named.

A parser says how one column is read and what is allowed in it. It knows nothing of encoders.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalerec.data.problems import Problems
from scalerec.data.schema import (
    Categorical,
    Feature,
    Numeric,
    Sequence,
    Task,
    TaskKind,
    Text,
    Timestamp,
)
from scalerec.data.sources import Chunk, CodedSource, Source
from scalerec.data.values import (
    LARGEST,
    Clean,
    Mask,
    is_null,
    read_key_lists,
    read_keys,
    read_numbers,
    read_times,
    read_vectors,
    read_words,
)

__all__ = [
    "Parsed",
    "Parser",
    "parse_chunks",
    "parser_of",
    "parser_of_key",
    "parser_of_task",
    "parser_of_time",
    "parser_of_title",
    "parser_of_weight",
    "plain",
]

A_KEY = "text or a whole number"
A_NUMBER = f"a finite number up to {LARGEST:.1e}"
A_TIME = "Unix seconds (not milliseconds) or an ISO 8601 date"
REFUSED = "; not missing"
ALLOWED = ", or nothing"
# What `Problems.report` takes.
Report = tuple[str, int, str, object, str]


@dataclass(frozen=True, slots=True)
class Parser:
    """How one column is read.

    Args:
        column: Its name in the table.
        read: Gives the clean column and the mask of rows that cannot be read.
        allowed: What is allowed, in words.
        optional: Whether a value may be missing.
    """

    column: str
    read: Callable[[pa.Array], Clean]
    allowed: str
    optional: bool = False

    def parse(self, array: pa.Array) -> Clean:
        """Read a column; a missing value that may not be missing is bad too.

        Of a dictionary of text each member is read once. Keys stay a dictionary.
        """
        coded = pa.types.is_dictionary(array.type)
        clean, bad = self._read_coded(array) if coded else self.read(array)
        return clean, bad if self.optional else bad | is_null(clean)

    def _read_coded(self, array: pa.DictionaryArray) -> Clean:
        clean, bad = self.read(array.dictionary)
        places = array.indices.fill_null(len(bad)).to_numpy(zero_copy_only=False)
        wrong = np.append(bad, False)[places] if bad.any() else np.zeros(len(array), dtype=bool)
        if self.read is read_keys and not clean.null_count:
            return pa.DictionaryArray.from_arrays(array.indices, clean), wrong
        return clean.take(array.indices), wrong


@dataclass(frozen=True, slots=True)
class Parsed:
    """The good rows of a chunk.

    Args:
        columns: Parser's name to clean column, ``[n]``.
        rows: Number of each record in its file, from 1, ``[n]`` int64.
        first: Number of good rows before this chunk.
    """

    columns: dict[str, pa.Array]
    rows: NDArray[np.int64]
    first: int

    def __len__(self) -> int:
        return len(self.rows)

    def filter(self, keep: Mask) -> "Parsed":
        """Keep some of the rows."""
        mask = pa.array(keep)
        columns = {name: column.filter(mask) for name, column in self.columns.items()}
        return Parsed(columns, self.rows[keep], self.first)


def parse_chunks(
    source: Source,
    parsers: Mapping[str, Parser],
    problems: Problems,
    pool: Executor | None = None,
) -> Iterator[Parsed]:
    """Read a source, leave out or refuse what does not fit, and give the rest.

    Args:
        source: What is read.
        parsers: Any name to how a column is read; several may read one column.
        problems: Learns of every row that is left out.
        pool: If given, columns are parsed side by side, the source is read ahead, and keys may come
            as dictionaries.

    Raises:
        DataError: At the first row that does not fit, if `problems` is strict.
    """
    wanted = tuple(dict.fromkeys(parser.column for parser in parsers.values()))
    chunks = (
        _read_ahead(source, wanted, problems, pool) if pool else source.chunks(wanted, problems)
    )
    run: Callable[..., Iterable[Clean]] = pool.map if pool else map
    first = 0
    for chunk in chunks:
        raw = {name: chunk.table.column(name) for name in wanted}
        raw = raw if pool else {name: plain(column) for name, column in raw.items()}
        columns = [raw[parser.column] for parser in parsers.values()]
        found = run(Parser.parse, parsers.values(), columns)
        clean, bad = {}, np.zeros(len(chunk.rows), dtype=bool)
        for (name, parser), (column, wrong) in zip(parsers.items(), found, strict=True):
            clean[name] = column
            if wrong.any():
                for i in np.flatnonzero(wrong & ~bad).tolist():
                    value = raw[parser.column][i].as_py()
                    row = int(chunk.rows[i])
                    problems.report(source.name, row, parser.column, value, parser.allowed)
                bad |= wrong
        parsed = Parsed(clean, chunk.rows, first)
        good = parsed.filter(~bad) if bad.any() else parsed
        yield good
        first += len(good)


class _Noted(Problems):
    """Keeps what a source reports while it is read ahead, to be told when its turn comes."""

    def __init__(self) -> None:
        super().__init__("skip")
        self.waiting: list[Report] = []

    def report(self, file: str, row: int, column: str, value: object, allowed: str) -> None:
        self.waiting.append((file, row, column, value, allowed))


def _read_ahead(
    source: Source, columns: tuple[str, ...], problems: Problems, pool: Executor
) -> Iterator[Chunk]:
    """Read a source one chunk ahead, beside what is done with the last; problems keep their order.

    The pool is the caller's: one made here would be shut down wherever an abandoned generator is
    collected, in whichever thread, and so could wait for itself.
    """
    noted = _Noted()
    read_chunks = source.coded_chunks if isinstance(source, CodedSource) else source.chunks
    chunks = read_chunks(columns, noted)

    def read() -> tuple[list[Report], Chunk | None, Exception | None]:
        chunk, error = None, None
        try:
            chunk = next(chunks, None)
        except Exception as caught:  # told after what was noted before it
            error = caught
        reports, noted.waiting = noted.waiting, []
        return reports, chunk, error

    ahead = pool.submit(read)
    while True:
        reports, chunk, error = ahead.result()
        for report in reports:
            problems.report(*report)
        if error:
            raise error
        if chunk is None:
            return
        ahead = pool.submit(read)
        yield chunk


def parser_of(feature: Feature) -> Parser:
    """Give the parser of a feature's column."""
    read, allowed = _reader_of(feature)
    missing = ALLOWED if feature.optional else f"{REFUSED} (or declare the feature optional)"
    return Parser(feature.source, read, allowed + missing, feature.optional)


def parser_of_key(column: str) -> Parser:
    """Give the parser of a user's, an item's or a group's key."""
    return Parser(column, read_keys, A_KEY + REFUSED)


def parser_of_title(column: str) -> Parser:
    """Give the parser of what a person calls an item; without one it goes by its key."""
    return Parser(column, read_keys, A_KEY + ALLOWED, optional=True)


def parser_of_time(column: str) -> Parser:
    """Give the parser of the event's time."""
    return Parser(column, read_times, A_TIME + REFUSED)


def parser_of_weight(column: str) -> Parser:
    """Give the parser of sample weights."""
    return Parser(column, _read_weights, f"{A_NUMBER}, at least 0{REFUSED}")


def parser_of_task(task: Task) -> Parser:
    """Give the parser of a task's label; a missing label is allowed and masked."""
    read: Callable[[pa.Array], Clean] = read_numbers
    allowed = A_NUMBER
    if task.positive:
        read, allowed = partial(_read_positive, positive=task.positive), A_KEY
    elif task.at_least is not None:
        read = partial(_read_at_least, bar=task.at_least)
    elif task.kind is TaskKind.BINARY:
        read = partial(_read_classes, num_classes=2)
        allowed = "0 or 1 (or give the task at_least or positive)"
    elif task.kind is TaskKind.MULTICLASS:
        read = partial(_read_classes, num_classes=task.num_classes)
        allowed = f"0 to {task.num_classes - 1}"
    return Parser(task.source, read, allowed + ALLOWED, optional=True)


def _reader_of(feature: Feature) -> tuple[Callable[[pa.Array], Clean], str]:
    if isinstance(feature, Categorical):
        return read_keys, A_KEY
    if isinstance(feature, Numeric):
        return read_numbers, A_NUMBER
    if isinstance(feature, Timestamp):
        return read_times, A_TIME
    if isinstance(feature, Text):
        return read_words, "text"
    parted = f"text parted by {feature.separator!r}"
    if isinstance(feature, Sequence):
        return partial(read_key_lists, separator=feature.separator), f"a list of keys, or {parted}"
    read = partial(read_vectors, separator=feature.separator, dim=feature.dim)
    return read, f"a list of {feature.dim} finite numbers, or {parted}"


def plain(column: pa.Array) -> pa.Array:
    """A column without a dictionary."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _read_weights(array: pa.Array) -> Clean:
    clean, bad = read_numbers(array)
    return clean, bad | (clean.fill_null(0.0).to_numpy(zero_copy_only=False) < 0)


def _read_at_least(array: pa.Array, bar: float) -> Clean:
    clean, bad = read_numbers(array)
    return pc.greater_equal(clean, bar).cast(pa.float64()), bad


def _read_classes(array: pa.Array, num_classes: int) -> Clean:
    clean, bad = read_numbers(array)
    values = clean.fill_null(0.0).to_numpy(zero_copy_only=False)
    return clean, bad | (np.floor(values) != values) | (values < 0) | (values >= num_classes)


def _read_positive(array: pa.Array, positive: tuple[str, ...]) -> Clean:
    text, bad = read_keys(array)
    hit = pc.is_in(text, value_set=pa.array(positive, pa.string())).cast(pa.float64())
    return pc.if_else(text.is_null(), None, hit), bad

"""From raw Arrow columns to typed ones, with every value that does not fit named.

A parser takes one column and gives a clean one of the same length, a mask of the rows that do not fit,
and the words for what is allowed. It knows nothing of encoders.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

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
    Vector,
)
from scalerec.data.sources import Source

__all__ = ["Parsed", "Parser", "parse_chunks", "parser_of", "parser_of_key", "parser_of_task"]

Mask = NDArray[np.bool_]
Clean = tuple[pa.Array, Mask]


@dataclass(frozen=True, slots=True)
class Parser:
    """How one column is read.

    Args:
        column: Its name in the table.
        parse: Gives the clean column and the mask of rows that do not fit.
        allowed: What is allowed, in words.
    """

    column: str
    parse: Callable[[pa.Array], Clean]
    allowed: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """The good rows of a chunk.

    Args:
        columns: Parser's name to clean column.
        first: Number of good rows before this chunk.
        size: Number of good rows in it.
    """

    columns: dict[str, pa.Array]
    first: int
    size: int


def parse_chunks(
    source: Source, parsers: dict[str, Parser], problems: Problems
) -> Iterator[Parsed]:
    """Read a source, leave out or refuse what does not fit, and give the rest.

    Raises:
        DataError: At the first row that does not fit, if `problems` is strict.
    """
    wanted = tuple(dict.fromkeys(parser.column for parser in parsers.values()))
    first = 0
    for chunk in source.chunks(wanted, problems):
        raw = {name: _whole(chunk.table.column(name)) for name in wanted}
        clean, bad = {}, np.zeros(len(chunk.rows), dtype=bool)
        for name, parser in parsers.items():
            clean[name], wrong = parser.parse(raw[parser.column])
            for i in np.flatnonzero(wrong & ~bad):
                value = raw[parser.column][int(i)].as_py()
                problems.report(
                    source.name, int(chunk.rows[i]), parser.column, value, parser.allowed
                )
            bad |= wrong
        if bad.any():
            keep = pa.array(~bad)
            clean = {name: column.filter(keep) for name, column in clean.items()}
        size = len(chunk.rows) - int(bad.sum())
        yield Parsed(clean, first, size)
        first += size


def parser_of(feature: Feature) -> Parser:
    """The parser of a feature's column."""
    optional = feature.optional
    or_missing = ", or nothing" if optional else "; not missing (or declare it optional)"
    if isinstance(feature, Categorical):
        parse: Callable[[pa.Array], Clean] = partial(_parse_key, optional=optional)
        allowed = f"text or a whole number{or_missing}"
    elif isinstance(feature, Numeric):
        parse, allowed = partial(_parse_number, optional=optional), f"a finite number{or_missing}"
    elif isinstance(feature, Timestamp):
        parse = partial(_parse_time, optional=optional)
        allowed = f"Unix seconds or an ISO 8601 date{or_missing}"
    elif isinstance(feature, Sequence):
        parse = partial(_parse_list, separator=feature.separator, optional=optional)
        allowed = f"a list, or text parted by {feature.separator!r}{or_missing}"
    elif isinstance(feature, Text):
        parse, allowed = partial(_parse_text, optional=optional), f"text{or_missing}"
    else:
        parse = partial(_parse_vector, feature=feature)
        allowed = f"{feature.dim} finite numbers{or_missing}"
    return Parser(feature.source, parse, allowed)


def parser_of_key(column: str) -> Parser:
    """The parser of a user's, an item's or a group's key."""
    return Parser(
        column, partial(_parse_key, optional=False), "text or a whole number; not missing"
    )


def parser_of_time(column: str) -> Parser:
    """The parser of the event's time."""
    parse = partial(_parse_time, optional=False)
    return Parser(column, parse, "Unix seconds or an ISO 8601 date; not missing")


def parser_of_weight(column: str) -> Parser:
    """The parser of sample weights."""
    return Parser(column, _parse_weight, "a finite number of at least 0; not missing")


def parser_of_task(task: Task) -> Parser:
    """The parser of a task's label; a missing label is allowed and masked."""
    if task.positive:
        return Parser(
            task.source, partial(_parse_positive, positive=task.positive), "text, or nothing"
        )
    number = partial(_parse_number, optional=True)
    if task.at_least is not None:
        parse: Callable[[pa.Array], Clean] = partial(_parse_at_least, bar=task.at_least)
        return Parser(task.source, parse, "a finite number, or nothing")
    if task.kind is TaskKind.BINARY:
        return Parser(task.source, partial(_parse_class, num_classes=2), "0 or 1, or nothing")
    if task.kind is TaskKind.MULTICLASS:
        parse = partial(_parse_class, num_classes=task.num_classes)
        return Parser(task.source, parse, f"0 to {task.num_classes - 1}, or nothing")
    return Parser(task.source, number, "a finite number, or nothing")


def _whole(column: Any) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _nulls(array: pa.Array) -> Mask:
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _is_text(array: pa.Array) -> bool:
    return pa.types.is_string(array.type) or pa.types.is_large_string(array.type)


def _parse_key(array: pa.Array, optional: bool) -> Clean:
    clean, bad = _keys(array)
    return clean, bad if optional else bad | _nulls(array)


def _keys(array: pa.Array) -> Clean:
    """Keys as int64 where the column holds whole numbers, else as text."""
    none = np.zeros(len(array), dtype=bool)
    if _is_text(array):
        return array.cast(pa.string()), none
    if pa.types.is_integer(array.type) and array.type != pa.uint64():
        return array.cast(pa.int64()), none
    if pa.types.is_floating(array.type):
        # Ids become floats where a table library met missing values; 3.0 is the id 3.
        floats = array.to_numpy(zero_copy_only=False)
        missing = np.isnan(floats)
        bad = ~missing & (np.floor(floats) != floats)
        whole = np.where(bad | missing, 0, floats).astype(np.int64)
        return pa.array(whole, mask=missing), bad
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.string()), none
    if (
        pa.types.is_boolean(array.type)
        or pa.types.is_temporal(array.type)
        or array.type == pa.uint64()
    ):
        return array.cast(pa.string()), none
    return pa.nulls(len(array), pa.string()), ~_nulls(array)


def _parse_number(array: pa.Array, optional: bool) -> Clean:
    clean, bad = _floats(array)
    values = clean.to_numpy(zero_copy_only=False)
    missing = _nulls(clean) | (np.isnan(values) & ~bad)
    bad = bad | (~missing & ~np.isfinite(values))
    if not optional:
        bad = bad | missing
    return pa.array(values, mask=missing | bad), bad


def _floats(array: pa.Array) -> Clean:
    none = np.zeros(len(array), dtype=bool)
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), pa.float64()), none
    try:
        if not pa.types.is_temporal(array.type):
            return array.cast(pa.float64(), safe=False), none
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    return _one_by_one(array, float, pa.float64())


def _one_by_one(array: pa.Array, read: Callable[[Any], Any], kind: pa.DataType) -> Clean:
    """The slow path, taken only when a column holds something that Arrow's cast refuses."""
    values: list[Any] = []
    bad = np.zeros(len(array), dtype=bool)
    for i, value in enumerate(array.to_pylist()):
        try:
            blank = value is None or (isinstance(value, str) and not value.strip())
            values.append(None if blank else read(value))
        except (TypeError, ValueError, OverflowError):
            values.append(None)
            bad[i] = True
    return pa.array(values, kind), bad


def _parse_time(array: pa.Array, optional: bool) -> Clean:
    clean, bad = _seconds(array)
    return clean, bad if optional else bad | (_nulls(clean) & ~bad)


def _seconds(array: pa.Array) -> Clean:
    none = np.zeros(len(array), dtype=bool)
    try:
        if pa.types.is_temporal(array.type):
            return array.cast(pa.timestamp("s"), safe=False).cast(pa.int64()), none
        if pa.types.is_integer(array.type) or _is_text(array):
            return array.cast(pa.int64()), none
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    return _one_by_one(array, _read_time, pa.int64())


def _read_time(value: Any) -> int:
    if isinstance(value, int | float):
        return int(value)
    text = str(value).strip()
    try:
        return int(float(text))
    except ValueError:
        moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _parse_weight(array: pa.Array) -> Clean:
    clean, bad = _parse_number(array, optional=False)
    values = clean.to_numpy(zero_copy_only=False)
    return clean, bad | (np.nan_to_num(values) < 0)


def _parse_at_least(array: pa.Array, bar: float) -> Clean:
    clean, bad = _parse_number(array, optional=True)
    return pc.greater_equal(clean, bar).cast(pa.float64()), bad


def _parse_class(array: pa.Array, num_classes: int) -> Clean:
    clean, bad = _parse_number(array, optional=True)
    values = np.nan_to_num(clean.to_numpy(zero_copy_only=False))
    bad = bad | (np.floor(values) != values) | (values < 0) | (values >= num_classes)
    return clean, bad


def _parse_positive(array: pa.Array, positive: tuple[str, ...]) -> Clean:
    text = array if _is_text(array) else array.cast(pa.string())
    hit = pc.is_in(text, value_set=pa.array(positive, text.type)).cast(pa.float64())
    return pc.if_else(text.is_null(), None, hit), np.zeros(len(array), dtype=bool)


def _parse_list(array: pa.Array, separator: str, optional: bool) -> Clean:
    bad = np.zeros(len(array), dtype=bool)
    if _is_text(array):
        lists = pc.split_pattern(array.cast(pa.string()), separator)
    elif pa.types.is_null(array.type):
        lists = pa.nulls(len(array), pa.list_(pa.string()))
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lists = array.cast(pa.list_(array.type.value_type))
    else:
        lists, bad = pa.nulls(len(array), pa.list_(pa.string())), ~_nulls(array)
    if not optional:
        bad = bad | _nulls(array)
    return lists, bad


def _parse_text(array: pa.Array, optional: bool) -> Clean:
    bad = np.zeros(len(array), dtype=bool) if optional else _nulls(array)
    if not _is_text(array):
        return pa.nulls(len(array), pa.list_(pa.string())), bad | ~_nulls(array)
    words = pc.utf8_trim(pc.replace_substring_regex(pc.utf8_lower(array), r"[^\pL\pN]+", " "), " ")
    return pc.split_pattern(words.cast(pa.string()), " "), bad


def _parse_vector(array: pa.Array, feature: Vector) -> Clean:
    lists = array
    if _is_text(array):
        lists = pc.split_pattern(array.cast(pa.string()), feature.separator)
    kind = lists.type
    listed = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    target = pa.list_(pa.float32())
    if not listed:
        return pa.nulls(len(array), target), ~_nulls(array) | (not feature.optional)
    try:
        lists = lists.cast(target)
        bad = np.zeros(len(array), dtype=bool)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        lists, bad = _one_by_one(lists, lambda row: [float(x) for x in row], target)
    missing = _nulls(lists) & ~bad
    lengths = pc.list_value_length(lists).fill_null(feature.dim).to_numpy(zero_copy_only=False)
    bad = bad | (lengths != feature.dim) | _has_nonfinite(lists)
    return lists, bad if feature.optional else bad | missing


def _has_nonfinite(lists: pa.ListArray) -> Mask:
    bad = np.zeros(len(lists), dtype=bool)
    values = lists.flatten().to_numpy(zero_copy_only=False)
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    bad[rows[~np.isfinite(values)]] = True
    return bad

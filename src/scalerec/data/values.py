"""From raw Arrow columns to clean ones: keys, numbers, moments, lists, words, vectors.

Each function takes one column of any type and gives a clean column of the same length, null where
the value is missing, and a mask of the rows whose value cannot be read; what the clean column holds
in such a row means nothing.
"""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = [
    "Clean",
    "Mask",
    "is_null",
    "read_key_lists",
    "read_keys",
    "read_numbers",
    "read_times",
    "read_vectors",
    "read_words",
]

Mask = NDArray[np.bool_]
Clean = tuple[pa.Array, Mask]

# Floats name whole numbers exactly only up to here.
EXACT = 2**53
# Numbers are stored as float32.
LARGEST = float(np.finfo(np.float32).max)
# Years -1200 to 5138; milliseconds of our time lie far outside.
LATEST = 10**11


def read_keys(array: pa.Array) -> Clean:
    """Read keys, as text.

    Whole numbers become their digits, also those that came as floats because a table library met
    missing values; empty text is missing.
    """
    kind = array.type
    if _is_text(kind):
        return _blank_to_null(array.cast(pa.string())), _none(array)
    if pa.types.is_floating(kind):
        floats = array.to_numpy(zero_copy_only=False).astype(np.float64)
        missing = np.isnan(floats)
        bad = ~missing & ((np.floor(floats) != floats) | (np.abs(floats) > EXACT))
        whole = np.where(bad | missing, 0, floats).astype(np.int64)
        return pa.array(whole, mask=missing).cast(pa.string()), bad
    plain = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_date, pa.types.is_timestamp)
    if any(check(kind) for check in plain) or pa.types.is_null(kind):
        return array.cast(pa.string()), _none(array)
    if pa.types.is_decimal(kind) and kind.scale == 0:
        return array.cast(pa.string()), _none(array)
    return pa.nulls(len(array), pa.string()), ~is_null(array)


def read_numbers(array: pa.Array) -> Clean:
    """Read numbers, as float64; NaN is missing, infinities and what float32 cannot hold are bad."""
    clean, bad = _floats(array)
    values = clean.to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    bad = bad | (~missing & ~(np.abs(values) <= LARGEST))
    if not bad.any() and np.count_nonzero(missing) == clean.null_count:
        return clean, bad
    return pa.array(values, mask=missing | bad), bad


def read_times(array: pa.Array) -> Clean:
    """Read moments, as int64 Unix seconds; what has no time zone is in UTC."""
    clean, bad = _seconds(array)
    seconds = clean.fill_null(0).to_numpy(zero_copy_only=False)
    return clean, bad | (seconds < -LATEST) | (seconds > LATEST)


def read_key_lists(array: pa.Array, separator: str) -> Clean:
    """Read lists of keys, as lists of text.

    Args:
        array: Lists, or text whose keys are parted by `separator`.
        separator: At least one character.

    Returns:
        The lists without their missing and empty members; an empty text is a missing list.
    """
    lists = _as_lists(array, separator)
    if lists is None:
        return pa.nulls(len(array), pa.list_(pa.string())), ~is_null(array)
    keys, wrong = read_keys(lists.flatten())
    rows = _rows_of(lists)
    bad = _none(array)
    bad[rows[wrong]] = True
    kept = ~is_null(keys)
    return _lists_of(keys.filter(pa.array(kept)), rows[kept], is_null(lists)), bad


def read_words(array: pa.Array) -> Clean:
    """Read text, as lists of its lower-case words: runs of letters and digits of any script."""
    if not _is_text(array.type):
        bad = ~is_null(array)
        return pa.nulls(len(array), pa.list_(pa.string())), bad
    parted = pc.replace_substring_regex(pc.utf8_lower(array), r"[^\pL\pM\pN]+", " ")
    text = pc.utf8_trim(parted, " ").cast(pa.string())
    return read_key_lists(pc.if_else(pc.equal(text, ""), " ", text), " ")[0], _none(array)


def read_vectors(array: pa.Array, separator: str, dim: int) -> Clean:
    """Read vectors, as lists of float32.

    Args:
        array: Lists of numbers, or text whose numbers are parted by `separator`.
        separator: At least one character.
        dim: How many numbers each list must hold.
    """
    target = pa.list_(pa.float32())
    lists = _as_lists(array, separator)
    if lists is None:
        return pa.nulls(len(array), target), ~is_null(array)
    try:
        clean, bad = lists.cast(target), _none(array)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        clean, bad = _one_by_one(lists, lambda row: [_read_number(x) for x in row], target)
    lengths = pc.list_value_length(clean).fill_null(dim).to_numpy(zero_copy_only=False)
    finite = np.isfinite(clean.flatten().to_numpy(zero_copy_only=False))
    bad = bad | (lengths != dim)
    bad[_rows_of(clean)[~finite]] = True
    return clean, bad


def is_null(array: pa.Array) -> Mask:
    """Tell which rows hold nothing, ``[n]`` bool."""
    mask: Mask = array.is_null().to_numpy(zero_copy_only=False)
    return mask


def _none(array: pa.Array) -> Mask:
    return np.zeros(len(array), dtype=bool)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _blank_to_null(text: pa.Array) -> pa.Array:
    blank = pc.equal(text, "")
    # Most columns hold none, and need not be copied.
    return pc.if_else(blank, None, text) if pc.any(blank).as_py() else text


def _floats(array: pa.Array) -> Clean:
    try:
        if not pa.types.is_temporal(array.type):
            return array.cast(pa.float64(), safe=False), _none(array)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    return _one_by_one(array, _read_number, pa.float64())


def _read_number(value: Any) -> float:
    # Python also reads 1_000, which no table means as a number.
    if isinstance(value, str) and "_" in value:
        raise ValueError(value)
    return float(value)


def _seconds(array: pa.Array) -> Clean:
    kind = array.type
    if pa.types.is_boolean(kind):
        return pa.nulls(len(array), pa.int64()), ~is_null(array)
    if pa.types.is_floating(kind):
        return _seconds_of_floats(array.to_numpy(zero_copy_only=False).astype(np.float64))
    whole = pa.types.is_integer(kind) or pa.types.is_null(kind)
    moment = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    ways = [*([pa.int64()] if whole or _is_text(kind) else [])]
    ways += [pa.timestamp("s")] if moment or _is_text(kind) else []
    for way in ways:
        try:
            return array.cast(way, safe=not moment).cast(pa.int64()), _none(array)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue
    return _one_by_one(array, _read_time, pa.int64())


def _seconds_of_floats(floats: NDArray[np.float64]) -> Clean:
    missing = np.isnan(floats)
    bad = ~missing & ~(np.abs(floats) <= LATEST)
    whole = np.floor(np.where(missing | bad, 0.0, floats)).astype(np.int64)
    return pa.array(whole, mask=missing), bad


def _read_time(value: Any) -> int:
    text = str(value).strip()
    try:
        return math.floor(_read_number(text))
    except ValueError:
        moment = datetime.fromisoformat(text)
    return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _one_by_one(array: pa.Array, read: Callable[[Any], Any], kind: pa.DataType) -> Clean:
    """The slow path, taken only when a column holds something that Arrow's cast refuses."""
    values: list[Any] = []
    bad = _none(array)
    for i, value in enumerate(array.to_pylist()):
        try:
            blank = value is None or (isinstance(value, str) and not value.strip())
            values.append(None if blank else read(value))
        except (TypeError, ValueError, OverflowError):
            values.append(None)
            bad[i] = True
    return pa.array(values, kind), bad


def _as_lists(array: pa.Array, separator: str) -> pa.Array | None:
    """Lists of whatever they hold; none if the column can hold no lists."""
    kind = array.type
    if _is_text(kind):
        return pc.split_pattern(_blank_to_null(array.cast(pa.string())), separator)
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.list_(pa.string()))
    listed = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(check(kind) for check in listed):
        return array.cast(pa.list_(kind.value_type))
    return None


def _rows_of(lists: pa.Array) -> NDArray[np.int64]:
    """The row of each value of `flatten`, which passes over what null lists hide."""
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(lists)), lengths)


def _lists_of(values: pa.Array, rows: NDArray[np.int64], missing: Mask) -> pa.ListArray:
    """Lists of values, each of which tells its row; `missing` rows are null."""
    offsets = np.zeros(len(missing) + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=len(missing)), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=pa.array(missing))

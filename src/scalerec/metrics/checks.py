"""What every metric asks of its input, and the words it refuses with.

Each check returns a clean array (float64 or int64) or raises `DataError` with the argument's name,
the place, what arrived and what is allowed. Settings such as `k` raise `ConfigError`.

The bounds on weights and values (`SMALLEST`, `LARGEST`) keep every product and sum inside float64,
so no metric can overflow to infinity or divide zero by zero.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scalerec.errors import ConfigError, DataError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[np.generic]

SMALLEST = 1e-100
LARGEST = 1e100
BOUNDED = f"finite and at most {LARGEST:g} in size"


def refuse(name: str, bad: BoolArray, array: AnyArray, allowed: str) -> None:
    """Raise `DataError` for the first place where `bad` is true.

    Args:
        name: the argument's name, as the caller knows it.
        bad: a mask of the shape of `array`.
        array: the values as they arrived.
        allowed: the words after "must be".

    Raises:
        DataError: if any element is bad.
    """
    if not bad.any():
        return
    place = np.unravel_index(int(np.argmax(bad)), bad.shape)
    words = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column"), place, strict=False))
    raise DataError(f"{name} must be {allowed}; got {array[place].item()} at {words}")


def array_of(name: str, values: npt.ArrayLike, ndim: int, kinds: str, holds: str) -> AnyArray:
    """Return an array of the wanted number of dimensions and kinds of dtype, not copied.

    Args:
        name: the argument's name.
        values: anything that numpy can read.
        ndim: 1 or 2.
        kinds: allowed letters of `dtype.kind`; an empty array may have any.
        holds: what the array holds, in words, for the message.

    Raises:
        DataError: if the shape is ragged or wrong, or the dtype is of another kind.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{name} must be an array of {ndim} dimension(s); got {error}") from error
    if array.ndim != ndim:
        raise DataError(f"{name} must be an array of {ndim} dimension(s); got shape {array.shape}")
    if array.size and array.dtype.kind not in kinds:
        raise DataError(f"{name} must hold {holds}; got dtype {array.dtype}")
    return array


def reals(name: str, values: npt.ArrayLike, *, ndim: int = 1, bounded: bool = False) -> FloatArray:
    """Return finite numbers as float64; with `bounded`, at most `LARGEST` in size.

    Raises:
        DataError: on another shape or dtype, or on a number that is not finite or too large.
    """
    array = array_of(name, values, ndim, "biuf", "numbers")
    numbers = array.astype(np.float64, copy=False)
    if bounded:
        refuse(name, ~(np.abs(numbers) <= LARGEST), array, BOUNDED)
    else:
        refuse(name, ~np.isfinite(numbers), array, "finite")
    return numbers


def integers(name: str, values: npt.ArrayLike, *, ndim: int = 1) -> IntArray:
    """Return whole numbers as int64.

    Raises:
        DataError: on another shape or dtype, or on a number beyond int64.
    """
    array = array_of(name, values, ndim, "iu", "integers")
    whole = array.astype(np.int64, copy=False)
    if array.dtype == np.uint64:
        # What does not fit wraps round to a negative number.
        refuse(name, whole < 0, array, "below 2**63")
    return whole


def binary_labels(values: npt.ArrayLike) -> BoolArray:
    """Return labels [B] as booleans.

    Raises:
        DataError: on another shape or dtype, or on a label that is neither 0 nor 1.
    """
    array = array_of("labels", values, 1, "biuf", "numbers")
    positive: BoolArray = array == 1
    refuse("labels", ~(positive | (array == 0)), array, "0 or 1")
    return positive


def probabilities(values: npt.ArrayLike, *, ndim: int = 1) -> FloatArray:
    """Return probabilities as float64.

    Raises:
        DataError: on another shape or dtype, or on a number outside [0, 1].
    """
    array = array_of("probabilities", values, ndim, "biuf", "numbers")
    numbers = array.astype(np.float64, copy=False)
    refuse("probabilities", ~((numbers >= 0) & (numbers <= 1)), array, "between 0 and 1")
    return numbers


def positives_bounded(name: str, values: npt.ArrayLike, *, zero: bool) -> FloatArray:
    """Return numbers [B] from `SMALLEST` to `LARGEST`, and 0 where `zero` allows it.

    Raises:
        DataError: on another shape or dtype, or on a number outside the range.
    """
    array = array_of(name, values, 1, "biuf", "numbers")
    numbers = array.astype(np.float64, copy=False)
    good = (numbers >= SMALLEST) & (numbers <= LARGEST)
    allowed = f"{'0 or ' if zero else ''}between {SMALLEST:g} and {LARGEST:g}"
    refuse(name, ~(good | (numbers == 0)) if zero else ~good, array, allowed)
    return numbers


def row_weights(
    values: npt.ArrayLike | None, num_rows: int, other: str = "labels"
) -> FloatArray | None:
    """Return sample weights [B] as float64, or None for "every row counts one".

    Raises:
        DataError: on a wrong length, or a weight that is negative, not finite, or out of bounds.
    """
    if values is None:
        return None
    weights = positives_bounded("weights", values, zero=True)
    same_rows("weights", weights, num_rows, other)
    return weights


def group_keys(values: npt.ArrayLike, num_rows: int) -> AnyArray:
    """Return group keys [B]: integers as int64, or strings.

    Raises:
        DataError: on a wrong length or shape, or on keys that are neither integers nor strings.
    """
    array = array_of("groups", values, 1, "iuU", "integers or strings")
    same_rows("groups", array, num_rows)
    return array if array.dtype.kind == "U" else integers("groups", array)


def same_rows(name: str, array: AnyArray, num_rows: int, other: str = "labels") -> None:
    """Refuse an array that has not one row for each row of the first argument.

    Raises:
        DataError: if the lengths differ.
    """
    if len(array) != num_rows:
        raise DataError(f"{name} must have as many rows as {other}, {num_rows}; got {len(array)}")


def whole_number(name: str, value: int) -> int:
    """Return a setting that must be a whole number of at least 1.

    Raises:
        ConfigError: if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1; got {value!r}")
    return int(value)


def clip_eps(value: float) -> float:
    """Return the distance that probabilities keep from 0 and 1 before the logarithm.

    Raises:
        ConfigError: if it is not inside (0, 0.5).
    """
    if not 0 < value < 0.5:
        raise ConfigError(f"eps must be above 0 and below 0.5; got {value!r}")
    return float(value)


def cutoffs(values: Sequence[int]) -> tuple[int, ...]:
    """Return list lengths k in ascending order, each once.

    Raises:
        ConfigError: if there are none, or one is not a whole number of at least 1.
    """
    ks = tuple(sorted({whole_number("ks", k) for k in values}))
    if not ks:
        raise ConfigError("ks must hold at least one list length; got none")
    return ks


def same_setting(name: str, ours: object, theirs: object) -> None:
    """Refuse to merge two accumulators whose settings differ.

    Raises:
        ConfigError: if they differ.
    """
    if ours != theirs:
        raise ConfigError(f"{name} must be the same in both to merge; got {ours!r} and {theirs!r}")


def ranked_lists(values: npt.ArrayLike, k: int) -> IntArray:
    """Return ranked item ids [U, K], best first, -1 where a list is shorter.

    Raises:
        DataError: if K is below `k`, an id is below -1, or a list names an item twice.
    """
    ranked = integers("ranked", values, ndim=2)
    if ranked.shape[1] < k:
        raise DataError(
            f"ranked must have at least k={k} columns (-1 where a list is shorter); "
            f"got shape {ranked.shape}"
        )
    refuse("ranked", ranked < -1, ranked, "item ids of at least 0, or -1 for padding")
    ordered = np.sort(ranked, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row, column = np.argwhere(twice)[0].tolist()
        raise DataError(
            f"ranked must name an item once in a list; got item {ordered[row, column]} twice "
            f"at row {row}"
        )
    return ranked


def ragged_offsets(values: npt.ArrayLike, num_users: int, num_values: int) -> IntArray:
    """Return offsets [U + 1]: user u owns `values[offsets[u]:offsets[u + 1]]`.

    Raises:
        DataError: on a wrong length, or if they do not rise from 0 to the number of values.
    """
    offsets = integers("offsets", values)
    if len(offsets) != num_users + 1:
        raise DataError(
            f"offsets must have one entry more than ranked has rows, {num_users + 1}; "
            f"got {len(offsets)}"
        )
    if offsets[0] != 0 or offsets[-1] != num_values:
        raise DataError(
            f"offsets must run from 0 to the number of values, {num_values}; "
            f"got {offsets[0]} to {offsets[-1]}"
        )
    falls = np.concatenate([[False], np.diff(offsets) < 0])
    refuse("offsets", falls, offsets, "in ascending order")
    return offsets

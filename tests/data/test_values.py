"""Raw columns of any type become clean ones, and what cannot be read is marked."""

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.values import (
    Clean,
    read_key_lists,
    read_keys,
    read_numbers,
    read_times,
    read_vectors,
    read_words,
)

BAD = "bad"
NEW_YEAR = 1_704_067_200  # 2024-01-01 in UTC


def marked(clean: Clean) -> list[Any]:
    """The clean values, with the word `bad` where a row cannot be read."""
    values, bad = clean
    assert len(values) == len(bad)
    return [BAD if b else v for v, b in zip(values.to_pylist(), bad.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (
            pa.array(["a", "", " ", "é ü", "x" * 5000, None]),
            ["a", None, " ", "é ü", "x" * 5000, None],
        ),
        (pa.array(["007", "7"], pa.large_string()), ["007", "7"]),
        (pa.array([2**63 - 1, -5, None]), ["9223372036854775807", "-5", None]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (
            pa.array([3.0, 2.5, float("nan"), float("inf"), 1e300, None]),
            ["3", BAD, None, BAD, BAD, None],
        ),
        (pa.array([-0.0, 2.0**53, 2.0**53 + 2]), ["0", "9007199254740992", BAD]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array([date(2024, 1, 1)]), ["2024-01-01"]),
        (pa.array([Decimal(7), None], pa.decimal128(5, 0)), ["7", None]),
        (pa.array([None, None]), [None, None]),
        (pa.array([[1], None]), [BAD, None]),
    ],
)
def test_keys(array: pa.Array, expected: list[str | None]) -> None:
    assert marked(read_keys(array)) == expected


@given(st.lists(st.none() | st.integers(-(2**53), 2**53)))
def test_a_whole_number_has_one_key_in_every_type(numbers: list[int | None]) -> None:
    text = [None if number is None else str(number) for number in numbers]
    for array in (
        pa.array(numbers, pa.int64()),
        pa.array(numbers, pa.float64()),
        pa.array(text, pa.string()),
    ):
        assert marked(read_keys(array)) == text


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["1", "-2.5e3", "NaN", None]), [1.0, -2500.0, None, None]),
        (pa.array(["1", " 2 ", "", "  ", "x", "1_000"]), [1.0, 2.0, None, None, BAD, BAD]),
        (pa.array(["inf", "-Infinity", "1e39", "1e38"]), [BAD, BAD, BAD, 1e38]),
        (pa.array([float("inf"), float("nan"), -0.5]), [BAD, None, -0.5]),
        (pa.array([True, None]), [1.0, None]),
        (pa.array([Decimal("1.50")]), [1.5]),
        (pa.array([2**63 - 1]), [float(2**63)]),
        (pa.array([None, None]), [None, None]),
        (pa.array([date(2024, 1, 1), None]), [BAD, None]),
        (pa.array([[1.0], None]), [BAD, None]),
    ],
)
def test_numbers(array: pa.Array, expected: list[float | None]) -> None:
    assert marked(read_numbers(array)) == expected


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([5, -5, None]), [5, -5, None]),
        (pa.array(["5", "1.7e9", " 6.9 ", "", None]), [5, 1_700_000_000, 6, None, None]),
        (pa.array(["2024-01-01", "2024-01-01 00:00:01"]), [NEW_YEAR, NEW_YEAR + 1]),
        (
            pa.array(["2024-01-01T00:00:00Z", "2024-01-01T01:00:00+01:00", "soon"]),
            [NEW_YEAR, NEW_YEAR, BAD],
        ),
        (pa.array(["2024-01-01T00:00:00.75", "nan", "inf"]), [NEW_YEAR, BAD, BAD]),
        (pa.array([1.5, -1.5, float("nan"), float("inf")]), [1, -2, None, BAD]),
        (pa.array([NEW_YEAR * 1000, NEW_YEAR]), [BAD, NEW_YEAR]),  # milliseconds
        (pa.array([date(2024, 1, 1), None]), [NEW_YEAR, None]),
        (pa.array([datetime(2024, 1, 1, 0, 0, 0, 999)]), [NEW_YEAR]),
        (pa.array([datetime(2024, 1, 1, tzinfo=UTC)]), [NEW_YEAR]),
        (pa.array([time(1), None]), [BAD, None]),
        (pa.array([True, None]), [BAD, None]),
        (pa.array([None]), [None]),
        (pa.array([[1], None]), [BAD, None]),
    ],
)
def test_times(array: pa.Array, expected: list[int | None]) -> None:
    assert marked(read_times(array)) == expected


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array(["a|b||c", "a", "", None]), [["a", "b", "c"], ["a"], None, None]),
        (pa.array(["x", "a|", "b"])[1:], [["a"], ["b"]]),
        (pa.array([[1, None, 2], [], None]), [["1", "2"], [], None]),
        (pa.array([[1.0, 2.5], [3.0]]), [BAD, ["3"]]),
        (pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), [["1", "2"], None]),
        (pa.array([["a"], ["b"]], pa.large_list(pa.large_string())), [["a"], ["b"]]),
        (pa.array([[[1]], None]), [BAD, None]),
        (pa.array([3, None]), [BAD, None]),
        (pa.array([None]), [None]),
    ],
)
def test_lists_of_keys(array: pa.Array, expected: list[list[str] | None]) -> None:
    assert marked(read_key_lists(array, "|")) == expected


def test_words_are_letters_and_digits_of_any_script() -> None:
    array = pa.array(["Hello, WORLD's ÉTÉ_7", "", " -- ", "日本 語", None])
    expected = [["hello", "world", "s", "été", "7"], [], [], ["日本", "語"], None]
    assert marked(read_words(array)) == expected
    assert marked(read_words(pa.array([1, None]))) == [BAD, None]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([[1, 2], None, [1, 2, 3]]), [[1.0, 2.0], None, BAD]),
        (pa.array(["1|2", "", "1|x", " 1|2", "1", None]), [[1, 2], None, BAD, [1, 2], BAD, None]),
        (pa.array([[1.0, None], [1.0, float("nan")], [1e300, 0.0]]), [BAD, BAD, BAD]),
        (pa.array([[0.5, 0.5], None], pa.list_(pa.float64(), 2)), [[0.5, 0.5], None]),
        (pa.array([1.0, None]), [BAD, None]),
        (pa.array([None]), [None]),
    ],
)
def test_vectors(array: pa.Array, expected: list[list[float] | None]) -> None:
    assert marked(read_vectors(array, "|", 2)) == expected

"""Chunks are parsed column by column, and rows keep their numbers."""

from typing import Any

import pyarrow as pa
import pytest
from tests.data.worlds import schema

from scalerec.data.parsing import (
    Parser,
    parse_chunks,
    parser_of,
    parser_of_key,
    parser_of_task,
    parser_of_time,
    parser_of_title,
    parser_of_weight,
)
from scalerec.data.problems import Problems
from scalerec.data.schema import Schema, Task, TaskKind
from scalerec.data.sources import TableSource
from scalerec.data.sources.base import CHUNK_ROWS
from scalerec.errors import DataError

FEATURES = {
    "categorical": "text or a whole number",
    "numeric": "a finite number up to 3.4e+38",
    "timestamp": "Unix seconds (not milliseconds) or an ISO 8601 date",
    "text": "text",
    "sequence": "a list of keys, or text parted by '|'",
    "vector": "a list of 2 finite numbers, or text parted by '|'",
}


def feature_parser(kind: str, optional: bool) -> Parser:
    more = {"dim": 2} if kind == "vector" else {}
    spec: Schema = schema({"name": "a", "kind": kind, "optional": optional, "column": "c", **more})
    return parser_of(spec.features[0])


@pytest.mark.parametrize(("kind", "words"), FEATURES.items())
def test_a_missing_value_is_bad_unless_optional(kind: str, words: str) -> None:
    strict, loose = feature_parser(kind, False), feature_parser(kind, True)
    assert (strict.column, loose.column) == ("c", "c")
    assert strict.allowed == f"{words}; not missing (or declare the feature optional)"
    assert loose.allowed == f"{words}, or nothing"
    nothing = pa.array([None, None], pa.string())
    assert strict.parse(nothing)[1].tolist() == [True, True]
    clean, bad = loose.parse(nothing)
    assert clean.null_count == 2
    assert not bad.any()


@pytest.mark.parametrize(
    ("parser", "values", "bad"),
    [
        (parser_of_key("c"), ["a", None], [False, True]),
        (parser_of_title("c"), ["a", None], [False, False]),
        (parser_of_time("c"), [1, None], [False, True]),
        (parser_of_weight("c"), [0.0, -0.1, None, 1e39], [False, True, True, True]),
        (parser_of_task(Task(name="c")), [0, 1, 2, 0.5, None], [False, False, True, True, False]),
        (parser_of_task(Task(name="c", at_least=1)), ["2", "x"], [False, True]),
        (parser_of_task(Task(name="c", positive=("a",))), [[1], None], [True, False]),
        (parser_of_task(Task(name="c", kind=TaskKind.MULTICLASS)), [0, -1], [False, True]),
        (parser_of_task(Task(name="c", kind=TaskKind.REGRESSION)), ["1", "inf"], [False, True]),
    ],
)
def test_what_is_bad(parser: Parser, values: list[Any], bad: list[bool]) -> None:
    assert parser.parse(pa.array(values))[1].tolist() == bad


def test_good_rows_keep_their_numbers_over_chunks() -> None:
    size = CHUNK_ROWS + 10
    values = [None if row % 1000 == 3 else str(row) for row in range(size)]
    parsers = {"one": parser_of_key("c"), "two": parser_of_title("c")}
    problems = Problems("skip", keep=2)
    first, second = parse_chunks(TableSource({"c": values, "d": values}), parsers, problems)
    assert problems.num_skipped == size // 1000 + 1
    assert str(problems.listed[0]).startswith("table, row 4, column 'c': got None; allowed: text")
    assert len(first) + len(second) == size - problems.num_skipped
    assert (first.first, second.first) == (0, len(first))
    for part in (first, second):
        assert part.columns["one"] == part.columns["two"]
        assert [int(key) + 1 for key in part.columns["one"].to_pylist()] == part.rows.tolist()
    with pytest.raises(DataError, match="table, row 4, column 'c': got None"):
        list(parse_chunks(TableSource({"c": values}), parsers, Problems()))


def test_a_row_is_reported_once() -> None:
    table = TableSource({"a": [None, "x"], "b": ["y", None]})
    problems = Problems("skip")
    parsers = {name: parser_of_key(name) for name in ("a", "b", "a")}
    assert [len(part) for part in parse_chunks(table, parsers, problems)] == [0]
    assert [(p.row, p.column) for p in problems.listed] == [(1, "a"), (2, "b")]
    both = TableSource({"a": [None], "b": [None]})
    problems = Problems("skip")
    list(parse_chunks(both, parsers, problems))
    assert problems.num_skipped == 1


def test_dictionaries_are_read_as_their_values() -> None:
    table = TableSource(pa.table({"c": pa.array(["a", None, "a"]).dictionary_encode()}))
    (part,) = parse_chunks(table, {"c": parser_of_title("c")}, Problems())
    assert part.columns["c"].to_pylist() == ["a", None, "a"]

"""From what a person names to raw data; without a schema, a suggestion."""

import gzip
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalerec import data
from scalerec.data.opening import open_raw
from scalerec.data.prepare import prepare
from scalerec.data.schema import Role, Schema, TaskKind
from scalerec.data.sources import TableSource
from scalerec.data.suggesting import suggest_schema
from scalerec.errors import ConfigError, DataError, SchemaError

HEAD = "user_id,movieId,rating,timestamp\n"
RATINGS = HEAD + "a,1,5.0,10\nb,2,1.0,20\na,2,3.0,30\nc,1,4.5,40\n" * 5
SCHEMA = """
user = "user_id"
item = "movieId"
timestamp = "timestamp"
title = "title"
[tables.items]
file = "films/items.csv"
[[features]]
name = "movieId"
kind = "categorical"
role = "item"
[[tasks]]
name = "liked"
column = "rating"
at_least = 4
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "r.csv").write_text(RATINGS)
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "items.csv").write_text("movieId,title\n1,One\n2,Two\n")
    (tmp_path / "s.toml").write_text(SCHEMA)
    return tmp_path


def test_a_file_with_a_schema_and_a_side_table(folder: Path) -> None:
    raw = open_raw(str(folder / "r.csv"), schema=folder / "s.toml")
    assert (raw.name, set(raw.splits)) == ("r.csv", {"all"})
    assert raw.notes == (f"read from {folder / 'r.csv'} with schema {folder / 's.toml'}",)
    made = prepare(raw, folder / "out")
    assert made.item_table["title"].to_pylist() == ["One", "Two"]
    assert sum(made.manifest["rows"].values()) == 20


def test_a_known_schema_looks_for_side_tables_beside_the_rows(folder: Path) -> None:
    """As for a bundle, which holds the schema but no files; a missing table says nothing new."""
    schema = Schema.from_toml(folder / "s.toml")
    raw = open_raw(str(folder / "r.csv"), schema=schema)
    assert raw.notes == (f"read from {folder / 'r.csv'}",)
    assert prepare(raw, folder / "out").item_table["title"].to_pylist() == ["One", "Two"]
    (folder / "films" / "items.csv").unlink()
    alone = prepare(open_raw(str(folder / "r.csv"), schema=schema), folder / "alone")
    assert alone.item_table["title"].to_pylist() == ["1", "2"]


def test_a_folder_with_given_splits(folder: Path) -> None:
    given = folder / "given"
    given.mkdir()
    (given / "train.csv").write_text(RATINGS)
    (given / "test.csv.gz").write_bytes(gzip.compress(RATINGS.encode()))
    raw = open_raw(str(given), schema=folder / "s.toml")
    assert raw.splits.keys() == {"train", "test"}
    assert prepare(raw, folder / "out").num_rows("test") == 20
    (given / "train.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"one file may be train; got train.csv, train.parquet"):
        open_raw(str(given), schema=folder / "s.toml")


def test_a_folder_of_parts_and_a_pattern(folder: Path) -> None:
    parts = folder / "parts"
    parts.mkdir()
    for number in range(3):
        (parts / f"part-{number}.csv").write_text(RATINGS)
    for source in (str(parts), str(parts / "part-*.csv")):
        raw = open_raw(source, schema=folder / "s.toml")
        assert raw.splits.keys() == {"all"}
        made = prepare(raw, folder / f"out-{len(source)}")
        assert sum(made.manifest["rows"].values()) == 60


def test_what_cannot_be_opened(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"nothing: no such file, and no public set of this name; these"
    ):
        open_raw("nothing")
    with pytest.raises(
        ConfigError, match="ml-100k is a public set and has its schema; leave --sch"
    ):
        open_raw("ml-100k", schema=folder / "s.toml")
    with pytest.raises(
        ConfigError, match=r"--path is for public sets \(ml-100k, .*; got '.*r.csv'"
    ):
        open_raw(str(folder / "r.csv"), path=folder)
    with pytest.raises(DataError, match="is not a folder"):
        open_raw("ml-100k", path=folder / "nothing")
    (folder / "s.toml").write_text(SCHEMA.replace('file = "films/items.csv"', ""))
    with pytest.raises(SchemaError, match=r"s.toml: tables.items.file must name its file"):
        open_raw(str(folder / "r.csv"), schema=folder / "s.toml")
    (folder / "s.toml").write_text(SCHEMA.replace("items.csv", "films.csv"))
    with pytest.raises(DataError, match=r"films/films.csv: no such file$"):
        open_raw(str(folder / "r.csv"), schema=folder / "s.toml")


def test_without_a_schema_one_is_suggested_that_works(folder: Path) -> None:
    with pytest.raises(SchemaError, match="needs a schema that says what its columns") as caught:
        open_raw(str(folder / "r.csv"))
    text = str(caught.value)
    guess = folder / "guess.toml"
    guess.write_text(text[text.index("# A guess") :])
    schema = Schema.from_toml(guess)
    assert (schema.user, schema.item, schema.timestamp) == ("user_id", "movieId", "timestamp")
    assert schema.tasks[0].at_least == 4.0
    assert [feature.name for feature in schema.features] == ["user_id", "movieId", "history"]
    made = prepare(open_raw(str(folder / "r.csv"), schema=guess), folder / "out")
    assert sum(made.manifest["rows"].values()) == 20


def test_kinds_are_guessed_from_names_and_values() -> None:
    table = pa.table(
        {
            "UserID": [1, 2, 3, 4],
            "genres": ["a|b", "c", None, "a|c"],
            "plot": ["a man meets a dog", "two dogs and a cat", "x y z w", "once upon a time"],
            "image": [[0.1, 0.2]] * 4,
            "tags": [["a"], [], ["b", "c"], None],
            "price": [float(n) for n in range(4)],
            "views": ["1", "2", "x", "4"],
            "date": ["2024-01-01"] * 4,
            "click": [0, 1, 1, 0],
        }
    )
    text = suggest_schema(TableSource(table))
    schema = Schema.from_dict(tomllib.loads(text))
    kinds = {feature.name: feature.kind for feature in schema.features}
    assert kinds == {
        "UserID": "categorical",
        "genres": "sequence",
        "plot": "text",
        "image": "vector",
        "tags": "sequence",
        "price": "categorical",  # four values only
        "views": "categorical",
    }
    assert schema.features[0].role is Role.USER
    assert schema.timestamp == "date"
    assert [f.name for f in schema.features if f.optional] == ["genres", "tags"]
    assert schema.tasks[0].name == "click"


def test_many_numbers_are_numeric_and_labels_are_judged(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": range(100), "target": [n / 7 for n in range(100)]}), path)
    schema = Schema.from_dict(tomllib.loads(suggest_schema(str(path))))
    assert schema.features[0].kind == "numeric"
    assert schema.tasks[0].kind is TaskKind.REGRESSION
    words = suggest_schema(TableSource({"x": [1, 2], "label": ["no", "yes"]}))
    assert 'positive = ["yes"]' in words
    pairs = suggest_schema(TableSource({"user": [1], "item": [2]}))
    assert "No column looked like a label" in pairs
    assert 'kind = "retrieval"' in pairs


def test_nothing_to_guess_from() -> None:
    empty = pa.table({"x": pa.array([], pa.int64())})
    with pytest.raises(DataError, match="table: no rows to guess a schema from"):
        suggest_schema(TableSource(empty))
    with pytest.raises(DataError, match="table: no column is left for a feature; there are: label"):
        suggest_schema(TableSource({"label": [1]}))


def test_the_package_offers_its_names_lazily() -> None:
    assert data.open_raw is open_raw
    assert set(dir(data)) == set(data.__all__)
    with pytest.raises(AttributeError, match=r"module 'scalerec.data' has no attribute 'nothing'"):
        _ = data.nothing

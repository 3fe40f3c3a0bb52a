"""What a schema allows, and how it says what it does not."""

from pathlib import Path
from typing import Any

import pytest

from scalerec.data.features import MOST_BUCKETS
from scalerec.data.schema import Categorical, Numeric, Role, Schema, Table, Task, TaskKind
from scalerec.errors import SchemaError

A = {"name": "a", "kind": "categorical"}
I = {"name": "i", "kind": "categorical", "role": "item"}  # noqa: E741
HISTORY = {"name": "h", "kind": "sequence", "role": "user", "history": "all"}
KEYS = {"user": "u", "item": "i", "timestamp": "t"}


def build(*features: Any, **more: Any) -> Schema:
    return Schema.from_dict({"features": features, "tasks": [{"name": "y"}], **more})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"features": 3}, "features must be a list; got 3"),
        ({"features": []}, "a schema needs at least one feature"),
        ({"features": [3]}, "features[0] must be a table; got 3"),
        ({"features": [{"name": "a"}]}, "features[0].kind must be one of categorical, numeric, "),
        ({"features": [{"name": "a", "kind": []}]}, "features[0].kind must be one of categorical"),
        ({"features": [{"kind": "numeric"}]}, "features[0]: setting 'name' is missing"),
        ({"features": [{**A, "dim": 3}]}, "features[0] (a): unknown setting 'dim'"),
        ({"features": [{**A, "name": ""}]}, "features[0]: a feature's name must not be empty"),
        ({"features": [A, A]}, "feature 'a' is declared 2 times"),
        ({"tasks": []}, "a schema needs at least one task"),
        ({"tasks": [{"name": "y"}, {"name": "y"}]}, "task 'y' is declared 2 times"),
        ({"tasks": [{"name": "y", "weight": 0}]}, "tasks[0]: task 'y': weight must be positive"),
        (
            {"tasks": [{"name": "y", "at_least": 1, "positive": ["a"]}]},
            "tasks[0]: task 'y': give at_least or positive, not both",
        ),
        (
            {"tasks": [{"name": "y", "at_least": 1, "kind": "regression"}]},
            "tasks[0]: task 'y': at_least and positive are for binary and retrieval",
        ),
        ({"tables": {"shops": {}}}, "tables may be 'users' and 'items'; got 'shops'"),
        ({"tables": {"items": {}}}, "table 'items' needs the key 'item' to be named"),
        ({"title": "name"}, "title 'name' needs the key 'item' to be named"),
        (
            {"features": [{**A, "table": "items"}], **KEYS},
            "feature 'a' is of table 'items', which is not declared; declared: none",
        ),
        (
            {
                "features": [{**A, "table": "items", "role": "user"}],
                **KEYS,
                "tables": {"items": {}},
            },
            "features[0] (a): feature 'a' of table 'items' must have role 'item'; got 'user'",
        ),
        ({"features": [HISTORY, I]}, "history 'h' needs the column 'user' to be named"),
        (
            {"features": [{**HISTORY, "role": "item"}, I], **KEYS},
            "history 'h' must have role 'user'",
        ),
        (
            {"features": [HISTORY, {**I, "role": "context"}], **KEYS},
            "history 'h' needs a categorical feature with role 'item' on the item's key 'i'",
        ),
        ({"features": [{**A, "min_count": 0}]}, "features[0] (a): min_count must be at least 1"),
        ({"features": [{**A, "buckets": 0}]}, "features[0] (a): buckets must be from 1 to"),
        (
            {"features": [{**A, "buckets": MOST_BUCKETS}]},
            "features[0] (a): buckets must be from 1 to 2147483645; got 2147483646",
        ),
        (
            {"features": [{"name": "a", "kind": "vector"}]},
            "features[0] (a): vector 'a': dim must be at least 1; got 0",
        ),
        (
            {"features": [{"name": "a", "kind": "numeric", "num_buckets": 1}]},
            "features[0] (a): num_buckets must be at least 2; got 1",
        ),
        (
            {"features": [{"name": "a", "kind": "timestamp", "parts": ["year"]}]},
            "features[0] (a): parts must be among hour, weekday, day, month; got 'year'",
        ),
        (
            {"features": [{"name": "a", "kind": "timestamp", "parts": ["day", "day"]}]},
            "features[0] (a): parts must differ; got 'day' twice",
        ),
        ({"features": [{"name": "a", "kind": "timestamp", "parts": []}]}, "features[0] (a): parts"),
        (
            {"features": [{"name": "a", "kind": "sequence", "separator": ""}]},
            "features[0] (a): separator must not be empty",
        ),
        (
            {"features": [{"name": "a", "kind": "text", "max_length": 0}]},
            "features[0] (a): max_length must be at least 1; got 0",
        ),
        (
            {"features": [A, {"name": "b", "kind": "text", "vocabulary": "a"}]},
            "features 'a' and 'b' cannot share vocabulary 'a': min_count and buckets must be equal",
        ),
        (
            {
                "features": [
                    {"name": "t", "kind": "timestamp"},
                    {**A, "vocabulary": "t.hour"},
                ]
            },
            "features 't' and 'a' cannot share vocabulary 't.hour'",
        ),
        (
            {
                "features": [
                    {"name": "n", "kind": "numeric", "transform": "quantile"},
                    {**A, "vocabulary": "n"},
                ]
            },
            "features 'n' and 'a' cannot share vocabulary 'n'",
        ),
    ],
)
def test_a_contradiction_is_named(values: dict[str, Any], words: str) -> None:
    whole = {"features": [A], "tasks": [{"name": "y"}], **values}
    with pytest.raises(SchemaError) as caught:
        Schema.from_dict(whole)
    assert str(caught.value).startswith(words)
    with pytest.raises(SchemaError) as placed:
        Schema.from_dict(whole, "s.toml")
    assert str(placed.value) == f"s.toml: {caught.value}"


def test_files_that_are_no_schema(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    with pytest.raises(SchemaError, match=r"schema .*s.toml: cannot be read: No such file"):
        Schema.from_toml(path)
    path.write_text("a = ", "utf-8")
    with pytest.raises(SchemaError, match=r"schema .*s.toml: not TOML: "):
        Schema.from_toml(path)
    path.write_bytes(b"\xff")
    with pytest.raises(SchemaError, match=r"schema .*s.toml: not TOML: "):
        Schema.from_toml(path)
    path.write_text(
        "user = 3\n[[features]]\nname='a'\nkind='numeric'\n[[tasks]]\nname='y'", "utf-8"
    )
    with pytest.raises(SchemaError, match=r"s.toml: user must be text; got 3"):
        Schema.from_toml(path)


def test_a_column_of_a_side_table_has_its_role() -> None:
    schema = build(
        A, {"name": "b", "kind": "numeric", "table": "users"}, user="u", tables={"users": {}}
    )
    assert [feature.role for feature in schema.features] == [Role.CONTEXT, Role.USER]
    assert Schema.from_dict(schema.to_dict()) == schema


def test_keys_are_found_where_they_are() -> None:
    in_events = build(A, I, HISTORY, **KEYS)
    assert in_events.item_key == Categorical(name="i", role=Role.ITEM)
    assert in_events.user_key is None
    assert in_events.tables_of(in_events.features[2]) == ("i",)
    own = {**I, "name": "movie", "column": "id", "table": "items", "vocabulary": "v"}
    in_table = build(own, HISTORY, **KEYS, tables={"items": {"key": "id"}})
    assert in_table.item_key is in_table.features[0]
    assert in_table.key_of("items") == "id"
    assert in_table.key_of("users") == "u"
    assert in_table.tables_of(in_table.history[0]) == ("v",)
    assert in_table.of_table("events") == ()


def test_tasks_know_their_column_and_outputs() -> None:
    assert Task(name="y").source == "y"
    assert Task(name="y", column="c").source == "c"
    assert Task(name="y", kind=TaskKind.MULTICLASS, num_classes=4).num_outputs == 4
    assert Task(name="y", kind=TaskKind.REGRESSION).num_outputs == 1
    assert not Task(name="y", kind=TaskKind.RETRIEVAL).has_column
    assert Task(name="y", kind=TaskKind.RETRIEVAL, at_least=4.0).has_column
    assert Task(name="y").has_column


def test_a_schema_can_be_built_in_python() -> None:
    schema = Schema(
        features=(Numeric(name="n", column="N"),),
        tasks=(Task(name="y"),),
        user="u",
        tables={"users": Table(file="users.csv")},
    )
    assert schema.features[0].source == "N"
    assert schema.replace(user="v").user == "v"

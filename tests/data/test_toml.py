"""A schema written as TOML and read back is the same schema."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.public.frappe import SCHEMA
from scalerec.data.public.ml_1m import AGE
from scalerec.data.public.movielens import movielens_schema
from scalerec.data.schema import (
    Categorical,
    Numeric,
    Role,
    Schema,
    Sequence,
    Table,
    Task,
    TaskKind,
    Text,
    Timestamp,
    Vector,
)
from scalerec.data.toml import to_toml

EVERYTHING = Schema(
    user="u",
    item="i",
    timestamp="t",
    title='na"me\\',
    weight="w",
    group="g",
    features=(
        Categorical(name="u", role=Role.USER, min_count=3, vocabulary="all"),
        Categorical(name="i", role=Role.ITEM, buckets=1000),
        Numeric(name="n", transform="quantile", num_buckets=4, optional=True),
        Sequence(name="s", separator="\t", table="items", max_length=7),
        Sequence(name="h", role=Role.USER, history="all"),
        Vector(name="v", dim=3, column="é ü"),
        Text(name="x", max_length=5),
        Timestamp(name="t", parts=("month", "day")),
    ),
    tasks=(
        Task(name="a", at_least=0.5, weight=1e-3),
        Task(name="b", positive=("yes", "\x7f\n")),
        Task(name="c", kind=TaskKind.MULTICLASS, num_classes=5),
        Task(name="d", kind=TaskKind.RETRIEVAL, column="y"),
    ),
    tables={"items": Table(file="items.csv", key="id"), "users": Table()},
)


@pytest.mark.parametrize("schema", [EVERYTHING, SCHEMA, movielens_schema(AGE)])
def test_a_schema_comes_back_equal(schema: Schema, tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text(schema.to_toml(), encoding="utf-8")
    assert Schema.from_toml(path) == schema


def test_defaults_are_left_out() -> None:
    schema = Schema(features=(Categorical(name="a"),), tasks=(Task(name="y"),), tables={})
    text = '[[features]]\nname = "a"\nkind = "categorical"\n\n[[tasks]]\nname = "y"\n'
    assert schema.to_toml() == text + 'kind = "binary"\n\n[tables]\n'


VALUES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=6),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False),
    st.booleans(),
    st.lists(st.integers(0, 9), max_size=3),
)
TABLES = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6), VALUES, max_size=4)


@given(st.dictionaries(st.sampled_from("ab c"), VALUES | TABLES | st.lists(TABLES, min_size=1)))
def test_whatever_is_written_is_read(values: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(values)) == values


def test_null_is_left_out_and_other_things_are_refused() -> None:
    assert to_toml({"a": None, "b": 1}) == "b = 1\n"
    with pytest.raises(TypeError, match="TOML holds text, numbers, truth values, lists and tables"):
        to_toml({"a": object()})

"""Encoders: fitted on training rows, kept in a table, the same for one row as for a million."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.worlds import schema

from scalerec.data.encoding import Encoders, stored_names
from scalerec.data.fitting import EncoderFitter
from scalerec.data.parsing import parser_of
from scalerec.data.schema import Role, Schema
from scalerec.errors import DataError

EVERY = schema(
    {"name": "key", "kind": "categorical", "optional": True, "min_count": 2},
    {"name": "other", "kind": "categorical", "vocabulary": "key", "optional": True, "min_count": 2},
    {"name": "hashed", "kind": "categorical", "buckets": 50, "optional": True},
    {"name": "number", "kind": "numeric", "optional": True, "role": "item"},
    {"name": "log", "kind": "numeric", "transform": "log", "optional": True},
    {"name": "plain", "kind": "numeric", "transform": "none", "optional": True},
    {
        "name": "bucket",
        "kind": "numeric",
        "transform": "quantile",
        "num_buckets": 4,
        "optional": True,
    },
    {
        "name": "list",
        "kind": "sequence",
        "vocabulary": "key",
        "max_length": 2,
        "optional": True,
        "min_count": 2,
    },
    {"name": "words", "kind": "text", "max_length": 3, "optional": True, "min_count": 1},
    {"name": "vector", "kind": "vector", "dim": 2, "optional": True},
    {
        "name": "time",
        "kind": "timestamp",
        "parts": ["hour", "weekday", "day", "month"],
        "optional": True,
    },
)
TRAIN: dict[str, list[Any]] = {
    "key": ["b", "a", "b", None, "a", "b"],
    "other": ["c", "c", None, "a", "c", "c"],
    "hashed": ["x", "y", "z", "x", None, "x"],
    "number": [1.0, 2.0, 3.0, None, 2.0, 2.0],
    "log": [0.0, 1.0, -1.0, 100.0, None, 5.0],
    "plain": [1.5, None, -2.0, 0.0, 1.0, 1.0],
    "bucket": [1.0, 2.0, 3.0, 4.0, 5.0, None],
    "list": ["a|b", "d|d", None, "e", "b|c|a", ""],
    "words": ["The cat", "a cat, THE dog", None, "", "cat", "dog"],
    "vector": [[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0], None, [0.0, 0.0]],
    "time": [0, None, 86_399, 1_704_067_200, 5, 6],
}


def fit(schema: Schema, *chunks: dict[str, list[Any]]) -> Encoders:
    fitter = EncoderFitter(schema)
    for chunk in chunks:
        fitter.add({f.name: parse(schema, f.name, chunk[f.name]) for f in schema.features})
    return fitter.fit()


def parse(schema: Schema, name: str, values: Any) -> pa.Array:
    feature = next(feature for feature in schema.features if feature.name == name)
    array = values if isinstance(values, pa.Array) else pa.array(values)
    clean, bad = parser_of(feature).parse(array)
    assert not bad.any()
    return clean


def encode(encoders: Encoders, name: str, values: Any) -> dict[str, Any]:
    feature = next(f for f in encoders.schema.features if f.name == name)
    found: dict[str, Any] = {}
    for column in encoders.encode(feature, parse(encoders.schema, name, values)):
        found[column.name] = column.values.tolist()
        if column.lengths is not None:
            ends = np.cumsum(column.lengths)
            found[column.name] = [part.tolist() for part in np.split(column.values, ends[:-1])]
    assert tuple(found) == stored_names(feature)
    return found


ENCODERS = fit(EVERY, TRAIN)


def test_a_shared_vocabulary_counts_all_its_features() -> None:
    # b: 3 + 0 + 2, a: 2 + 1 + 2, c: 0 + 4 + 1, d: 2; e comes once and is unknown.
    vocabulary = ENCODERS.vocabularies["key"]
    assert vocabulary.size == 6
    assert set(ENCODERS.vocabularies) == {"key", "hashed", "words"}
    ids = {"a": 2, "b": 3, "c": 4, "d": 5, "e": 1}
    keys = list(ids)
    for name in ("key", "other"):
        assert encode(ENCODERS, name, [*keys, "new", None]) == {
            f"ids/{name}": [*ids.values(), 1, 0]
        }
    lists = encode(ENCODERS, "list", ["a|new|e", "d", "", None])
    assert lists == {"bags/list": [[1, 1], [5], [], []]}


def test_lists_keep_their_last_ids() -> None:
    lists = [["a", "b", "c"], [], ["c", None, "b", "a"], ["d"]]
    assert encode(ENCODERS, "list", lists) == {"bags/list": [[3, 4], [], [3, 2], [5]]}


def test_words() -> None:
    # cat 3, dog 2, the 2, a 1
    texts = ["A dog?", "the CAT and a dog", None]
    assert encode(ENCODERS, "words", texts) == {"bags/words": [[5, 3], [1, 5, 3], []]}


def test_numbers_are_scaled_and_missing_ones_are_the_mean() -> None:
    seen = np.array([1.0, 2.0, 3.0, 2.0, 2.0])
    expected = np.append((seen - seen.mean()) / seen.std(), 0.0).astype(np.float32)
    values = [*seen.tolist(), None]
    assert encode(ENCODERS, "number", values)["numbers/number"] == expected.tolist()
    assert encode(ENCODERS, "plain", [7.0, None]) == {"numbers/plain": [7.0, 0.0]}
    logs = np.array([0.0, np.log(2), -np.log(2), np.log(101), np.log(6)])
    scaled = encode(ENCODERS, "log", [100.0])["numbers/log"]
    # float32 has 7 digits.
    assert scaled == pytest.approx([(logs[3] - logs.mean()) / logs.std()], rel=1e-6)
    far = encode(ENCODERS, "number", [3e38, -3e38])["numbers/number"]
    assert np.isfinite(far).all()


def test_buckets_hold_their_lower_edge() -> None:
    # Quartiles of 1 .. 5 are 2, 3, 4.
    values = [-9.0, 1.9, 2.0, 3.0, 3.5, 4.0, 99.0, None]
    assert encode(ENCODERS, "bucket", values) == {"ids/bucket": [2, 2, 3, 4, 4, 5, 5, 0]}


def test_parts_of_a_moment() -> None:
    # 1970-01-01 was a Thursday; 2024-02-29T23:59:59Z was one too.
    found = encode(ENCODERS, "time", [0, 1_709_251_199, None, "2024-12-31T05:00:00Z"][:3])
    assert found == {
        "ids/time.hour": [2, 25, 0],
        "ids/time.weekday": [5, 5, 0],
        "ids/time.day": [2, 30, 0],
        "ids/time.month": [2, 3, 0],
    }
    sizes = {name.partition(".")[2]: size for name, size in ENCODERS.layout().tables.items()}
    assert (sizes["hour"], sizes["weekday"], sizes["day"], sizes["month"]) == (26, 9, 33, 14)


def test_vectors_and_their_absence() -> None:
    found = encode(ENCODERS, "vector", [None, [1.0, 2.0]])
    assert found == {"vectors/vector": [[0.0, 0.0], [1.0, 2.0]], "present/vector": [False, True]}


def test_ids_fit_their_tables() -> None:
    layout = ENCODERS.layout()
    for field in layout.ids:
        feature = field.name.partition(".")[0]
        ids = encode(ENCODERS, feature, TRAIN[feature])[f"ids/{field.name}"]
        assert max(ids) < layout.tables[field.table]
    assert [field.role for field in layout.numbers] == [Role.ITEM, Role.CONTEXT, Role.CONTEXT]
    assert [(bag.name, bag.table, bag.max_length) for bag in layout.bags] == [
        ("list", "key", 2),
        ("words", "words", 3),
    ]


def test_a_table_keeps_everything() -> None:
    table = ENCODERS.to_table()
    again = Encoders.from_table(table)
    assert again.to_table().equals(table, check_metadata=True)
    assert again.schema == EVERY
    assert again.layout() == ENCODERS.layout()
    assert again.numbers == ENCODERS.numbers
    for name, values in TRAIN.items():
        assert encode(again, name, values) == encode(ENCODERS, name, values)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": [1]}),
        ENCODERS.to_table().drop(["key"]),
        ENCODERS.to_table().replace_schema_metadata({"scalerec": "{"}),
        ENCODERS.to_table().replace_schema_metadata({"scalerec": "{}"}),
    ],
)
def test_another_table_is_refused(table: pa.Table) -> None:
    with pytest.raises(DataError, match="not a table of encoders: "):
        Encoders.from_table(table)


@given(st.integers(1, 5))
def test_chunks_do_not_matter(cut: int) -> None:
    parts = [
        {name: values[s] for name, values in TRAIN.items()} for s in (slice(cut), slice(cut, 6))
    ]
    assert fit(EVERY, *parts).to_table().equals(ENCODERS.to_table(), check_metadata=True)


@given(st.data())
def test_one_row_is_encoded_as_the_batch(data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.none() | st.integers(0, 9) | st.integers(2**62, 2**63 - 1)))
    spec = schema({"name": "k", "kind": "categorical", "optional": True})
    encoders = fit(spec, {"k": pa.array(keys[::2], pa.int64())})
    batch = encode(encoders, "k", pa.array(keys, pa.int64()))["ids/k"]
    for key, expected in zip(keys, batch, strict=True):
        for one in (key, None if key is None else str(key)):
            assert encode(encoders, "k", [one])["ids/k"] == [expected]

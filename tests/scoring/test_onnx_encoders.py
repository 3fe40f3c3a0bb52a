"""The file beside an exported graph is enough to encode values, by the code that the docs show."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.data.test_encoding import EVERY, TRAIN, fit
from tests.data.worlds import RICH, prepared, raw, rich_tables

from scalerec.data.encoding import Encoders
from scalerec.data.parsing import parser_of
from scalerec.data.schema import Sequence, Vector
from scalerec.scoring.onnx_encoders import describe_features, describe_vocabularies

DOCS = Path(__file__).parents[2] / "docs" / "export.md"
# Values of each feature of EVERY: known, unknown, missing, at and beyond the edges.
VALUES: dict[str, list[Any]] = {
    "key": ["a", "b", "c", "never", "", None],
    "other": ["a", "c", "zz", None],
    "hashed": ["x", "anything", "ünïcode", None],
    "number": [1.0, -7.25, 1e30, 0.0, None],
    "log": [0.0, -5.0, 1e6, None],
    "plain": [1.5, -2.0, None],
    "bucket": [0.0, 1.0, 1.75, 2.0, 3.0, 99.0, None],
    "list": ["a|b", "b|c|a|d", "a||b", "", None],
    "words": ["The cat, THE dog!", "Dog", "é_è cat2 cat", "", None],
    "vector": [[1.0, -2.5], None],
    "time": [0, 86_399, 1_704_067_200, 1_709_164_800, -1, None],
}


def reader(told: dict[str, Any], folder: Path) -> Any:
    """The docs' encoder on a side file."""
    (found,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(found, str(DOCS), "exec"), names)
    path = folder / "side.json"
    path.write_text(json.dumps(told), "utf-8")
    return names["Encoder"](path)


def told_of(encoders: Encoders) -> dict[str, Any]:
    layout = encoders.layout()
    return {
        "features": describe_features(encoders, layout),
        "vocabularies": describe_vocabularies(encoders, layout),
    }


def test_the_code_in_the_docs_encodes_as_scalerec_does(tmp_path: Path) -> None:
    encoders = fit(EVERY, TRAIN)
    own = reader(told_of(encoders), tmp_path)
    for feature in EVERY.features:
        for value in VALUES[feature.name]:
            expected = expected_of(encoders, feature, value)
            found = own.encode(feature.name, value)
            assert set(found) == set(expected), (feature.name, value)
            for name, wanted in expected.items():
                # Numbers are rounded to float32 when they become a tensor.
                np.testing.assert_array_equal(
                    np.asarray(found[name], np.asarray(wanted).dtype), wanted, f"{name} {value!r}"
                )


def expected_of(encoders: Encoders, feature: Any, value: Any) -> dict[str, Any]:
    """What scalerec makes of one value, by the names of a graph's inputs."""
    kind = pa.list_(pa.float64()) if isinstance(feature, Vector) else None
    clean, bad = parser_of(feature).parse(pa.array([value], kind))
    assert not bad.any()
    found: dict[str, Any] = {}
    for encoded in encoders.encode(feature, clean):
        stored, _, name = encoded.name.partition("/")
        if encoded.lengths is not None:
            found[name], found[f"{name}.length"] = encoded.values, encoded.lengths[0]
        elif stored == "present":
            found[f"{name}.present"] = encoded.values[0]
        else:
            found[name] = encoded.values[0]
    return found


def test_histories_use_the_items_vocabulary(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, raw(RICH, *rich_tables()))
    told = told_of(dataset.encoders)
    own = reader(told, tmp_path)
    keys = told["vocabularies"]["i"]["keys"]
    assert own.encode("past", [keys[0], "never", *keys[:3]]) == {
        "past": [2, 3, 4],
        "past.length": 3,
    }
    history = next(f for f in told["features"] if f["name"] == "past")
    assert history["history"] == "all"
    assert "seen_tags" not in told["vocabularies"]


def test_retired_keys_have_no_name(tmp_path: Path) -> None:
    own = reader({"features": [
        {"name": "k", "kind": "categorical", "vocabulary": "v"},
    ], "vocabularies": {"v": {"keys": ["a", None, "b"]}}}, tmp_path)  # fmt: skip
    assert [own.encode("k", key)["k"] for key in ("a", "b", None, "c")] == [2, 4, 0, 1]


def test_what_the_model_does_not_read_is_not_told() -> None:
    encoders = fit(EVERY, TRAIN)
    layout = encoders.layout()
    narrow = layout.replace(ids=layout.ids[:2], numbers=(), bags=(), vectors=())
    names = [feature["name"] for feature in describe_features(encoders, narrow)]
    assert names == ["key", "other"]
    assert list(describe_vocabularies(encoders, narrow)) == ["key"]


@pytest.mark.parametrize("feature", [f for f in EVERY.features if isinstance(f, Sequence)])
def test_lists_tell_how_they_are_parted(feature: Sequence) -> None:
    encoders = fit(EVERY, TRAIN)
    told = describe_features(encoders, encoders.layout())
    own = next(one for one in told if one["name"] == feature.name)
    assert own["separator"] == feature.separator
    assert own["max_length"] == feature.max_length

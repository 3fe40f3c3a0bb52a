"""Small raw data sets for the tests of the data."""

from pathlib import Path
from typing import Any

import numpy as np

from scalerec.data.dataset import Dataset
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema
from scalerec.data.sources import Source, TableSource


def schema(*features: dict[str, Any], **more: Any) -> Schema:
    """A schema with one binary task `y`."""
    tasks = [{"name": "y"}]
    return Schema.from_dict({"features": list(features), "tasks": tasks, **more})


def raw(
    schema: Schema,
    events: dict[str, Any] | Source,
    users: dict[str, Any] | Source | None = None,
    items: dict[str, Any] | Source | None = None,
    **given: dict[str, Any],
) -> RawData:
    """Raw data of tables in memory; with `given`, the events are the training rows."""
    splits = {"train" if given else "all": events, **given}

    def source(table: dict[str, Any] | Source, name: str) -> Source:
        return TableSource(table, name) if isinstance(table, dict) else table

    return RawData(
        name="small",
        schema=schema,
        splits={name: source(table, name) for name, table in splits.items()},
        users=None if users is None else source(users, "users"),
        items=None if items is None else source(items, "items"),
    )


def prepared(path: Path, raw: RawData, **config: Any) -> Dataset:
    """Prepare with plain settings."""
    return prepare(raw, path / "data", PrepareConfig.from_dict(config))


RICH = Schema.from_dict(
    {
        "user": "u",
        "item": "i",
        "timestamp": "t",
        "title": "name",
        "weight": "w",
        "tables": {"users": {}, "items": {"key": "id"}},
        "features": [
            {"name": "u", "kind": "categorical", "role": "user"},
            {"name": "country", "kind": "categorical", "table": "users", "optional": True},
            {"name": "mood", "kind": "categorical", "role": "user"},
            {"name": "past", "kind": "sequence", "role": "user", "history": "all", "max_length": 3},
            {
                "name": "liked",
                "kind": "sequence",
                "role": "user",
                "history": "positive",
                "max_length": 2,
            },
            {"name": "i", "kind": "categorical", "role": "item"},
            {"name": "tags", "kind": "sequence", "table": "items", "optional": True},
            {"name": "seen_tags", "kind": "sequence", "vocabulary": "tags", "optional": True},
            {"name": "price", "kind": "numeric", "table": "items", "optional": True},
            {"name": "image", "kind": "vector", "dim": 2, "table": "items", "optional": True},
            {"name": "shelf", "kind": "sequence", "role": "item", "optional": True},
            {"name": "hour", "kind": "timestamp", "column": "t", "parts": ["hour"]},
            {"name": "depth", "kind": "numeric", "transform": "quantile", "num_buckets": 3},
            {"name": "speed", "kind": "numeric", "optional": True},
        ],
        "tasks": [{"name": "y"}, {"name": "z", "kind": "regression"}],
    }
)


def rich_tables(size: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Events, users and items for `RICH`, with missing values, strangers and equal times."""
    draw = np.random.default_rng(seed)
    letters = "abcde"

    def some(low: int) -> list[str]:
        return [str(draw.choice(list(letters))) for _ in range(draw.integers(low, 4))]

    events: dict[str, Any] = {
        "u": [f"u{draw.integers(7)}" for _ in range(size)],
        "i": [f"i{draw.integers(9)}" for _ in range(size)],
        "t": np.sort(draw.integers(0, 30_000, size)).tolist(),
        "w": draw.random(size).tolist(),
        "mood": [some(1)[0] if some(0) else "calm" for _ in range(size)],
        "seen_tags": [None if draw.random() < 0.2 else some(0) for _ in range(size)],
        "shelf": [some(0) for _ in range(size)],
        "depth": draw.normal(size=size).tolist(),
        "speed": [None if draw.random() < 0.2 else float(draw.normal()) for _ in range(size)],
        "y": [None if draw.random() < 0.1 else int(draw.integers(2)) for _ in range(size)],
        "z": draw.normal(size=size).tolist(),
    }
    users: dict[str, Any] = {
        "u": [f"u{n}" for n in range(5)],
        "country": ["x", None, "y", "x", "z"],
    }
    items: dict[str, Any] = {
        "id": [f"i{n}" for n in (3, 1, 0, 2, 7, 20)],
        "name": ["three", None, "nought", "two", "seven", "never met"],
        "tags": [["a"], ["b", "c"], None, [], ["d", "a", "e"], ["f"]],
        "price": [1.0, None, 3.0, 4.0, 5.0, 6.0],
        "image": [[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0], None, [7.0, 8.0]],
    }
    return [events, users, items]

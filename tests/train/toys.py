"""Toy data sets for training and scoring: a simulated world, and a table made by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from scalerec.data.dataset import Dataset
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema
from scalerec.data.simulate import SimulatorConfig, simulate
from scalerec.data.sources import TableSource
from scalerec.models.recommender import ModelSpec
from scalerec.models.zoo import ZOO

__all__ = ["make_data", "narrow", "rating_rows", "ratings", "world"]

CATEGORIES: tuple[dict[str, object], ...] = (
    {"name": "user", "kind": "categorical", "role": "user"},
    {"name": "item", "kind": "categorical", "role": "item"},
)
HISTORY: dict[str, object] = {
    "name": "past", "kind": "sequence", "role": "user", "history": "positive", "max_length": 5,
}  # fmt: skip
LIKED: dict[str, object] = {"name": "liked", "kind": "binary"}


def world(path: Path, num_events: int = 3000) -> Dataset:
    """Users, items with images, histories and two tasks, in which taste can be learned."""
    config = SimulatorConfig(
        num_users=60, num_items=40, num_events=num_events, num_domains=2, popularity=0.5,
        click_rate=0.35, image_dim=4, text_dim=0,
    )  # fmt: skip
    return prepare(simulate(config).raw(), path)


def make_data(
    path: Path,
    columns: Mapping[str, Sequence[object]],
    features: Sequence[Mapping[str, object]],
    tasks: Sequence[Mapping[str, object]] = (LIKED,),
    config: Mapping[str, object] | None = None,
    **keys: str,
) -> Dataset:
    """Prepare one table of events, in the order of its column `time` if there is one."""
    schema = Schema.from_dict({"features": list(features), "tasks": list(tasks), **keys})
    source = TableSource(pa.table(dict(columns)), "events")
    raw = RawData(name="toy", schema=schema, splits={"all": source})
    ready = PrepareConfig.from_dict(config or {"split": {"by": "time", "valid": 0.2, "test": 0.2}})
    return prepare(raw, path, ready)


def rating_rows(num_rows: int = 400, seed: int = 0) -> dict[str, Any]:
    """Twelve users and ten items: even users like even items, odd users odd ones."""
    numbers = np.random.default_rng(seed)
    user, item = numbers.integers(0, 12, num_rows), numbers.integers(0, 10, num_rows)
    liked = ((user % 2) == (item % 2)).astype(np.int64)
    return {
        "user": [f"u{number}" for number in user],
        "item": [f"i{number}" for number in item],
        "price": numbers.normal(size=num_rows).round(3),
        "liked": liked,
        "stars": liked * 2.0 + numbers.normal(size=num_rows) * 0.1,
        "kind": (user % 2) + (item % 2),
        "weight": numbers.uniform(0.5, 2.0, num_rows).round(2),
        "time": np.arange(num_rows) + 1_000_000,
    }


def ratings(
    path: Path,
    tasks: Sequence[Mapping[str, object]] = (LIKED,),
    columns: Mapping[str, Sequence[object]] | None = None,
    config: Mapping[str, object] | None = None,
    history: bool = True,
    **keys: str,
) -> Dataset:
    """The rows of `rating_rows` with user, item, a number and a history."""
    price: dict[str, object] = {"name": "price", "kind": "numeric", "role": "context"}
    features = [*CATEGORIES, price, *([HISTORY] if history else [])]
    known = {"user": "user", "item": "item", "timestamp": "time"}
    return make_data(path, columns or rating_rows(), features, tasks, config, **{**known, **keys})


def narrow(model: str = "deepfm", **settings: object) -> ModelSpec:
    """A net of the zoo with narrow layers."""
    sizes = {
        key: [20] * max(1, len(value))
        for key, value in ZOO[model].config().to_dict().items()
        if isinstance(value, list)
    }
    return ModelSpec(model=model, settings={**sizes, "dim": 8, **settings}, init_std=0.05)

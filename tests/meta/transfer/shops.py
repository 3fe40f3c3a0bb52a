"""A source of six shops and a target: users like items of their own parity, in some shops others.

The target has users and items that the source has not met.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tests.train.toys import LIKED

from scalerec.bundle import Bundle, read_bundle
from scalerec.bundle.growing import base_of
from scalerec.bundle.recommenders import write_recommender
from scalerec.data.dataset import Dataset
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema
from scalerec.data.sources import TableSource
from scalerec.meta.config import MetaConfig
from scalerec.meta.learning import meta_train
from scalerec.meta.tasks import TaskSet
from scalerec.meta.writing import write_meta
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.train import TrainConfig, train
from scalerec.train.lineage import prepare_step, train_step

__all__ = ["SPEC", "model", "source_data", "target_data", "taught", "trained"]

SPEC = ModelSpec(model="deepfm", settings={"dim": 4, "hidden": [8, 6]}, init_std=0.3)
FEATURES = [
    {"name": "user", "kind": "categorical", "role": "user"},
    {"name": "item", "kind": "categorical", "role": "item"},
    {"name": "shop", "kind": "categorical", "role": "context"},
]
LEARNING: dict[str, Any] = {
    "adapt": "decision,own", "rate": 0.3, "steps": 3, "num_support": 8, "num_query": 8, "tasks": 6,
    "updates": 3, "evaluate_every": 3, "held_out": 0.4,
}  # fmt: skip


def rows(shops: list[str], users: range, items: range, num: int, seed: int) -> dict[str, Any]:
    """Events of some shops; in those with an odd number what is liked is turned round."""
    numbers = np.random.default_rng(seed)
    user, item = numbers.choice(users, num), numbers.choice(items, num)
    shop = numbers.choice(shops, num)
    odd = np.array([int(name[-1]) % 2 for name in shop])
    return {
        "user": [f"u{number}" for number in user],
        "item": [f"i{number}" for number in item],
        "shop": shop.tolist(),
        "liked": ((user + item + odd) % 2 == 0).astype(np.int64),
        "time": np.arange(num) + 1_000_000,
    }


def make(path: Path, columns: dict[str, Any], valid: float, base: Bundle | None = None) -> Dataset:
    """Prepare rows, to go on from a bundle or anew."""
    schema = Schema.from_dict(
        {
            "features": FEATURES,
            "tasks": [LIKED],
            "user": "user",
            "item": "item",
            "timestamp": "time",
        }
    )
    source = TableSource(pa.table(columns), "events")
    raw = RawData(name="shops", schema=schema, splits={"all": source})
    config = PrepareConfig.from_dict({"split": {"by": "random", "valid": valid, "test": 0.2}})
    return prepare(raw, path, config, base=None if base is None else base_of(base))


def source_data(path: Path) -> Dataset:
    """Six shops."""
    shops = [f"shop{number}" for number in range(6)]
    return make(path, rows(shops, range(20), range(12), 600, 1), 0.1)


def target_data(
    path: Path, base: Path, num: int = 120, valid: float = 0.0, shops: tuple[str, ...] = ("new7",)
) -> Dataset:
    """One shop more, with some users and items that are known and some that are not."""
    columns = rows(list(shops), range(10, 30), range(6, 18), num, 2)
    return make(path, columns, valid, read_bundle(base))


def model(dataset: Dataset) -> Recommender:
    """A narrow net, drawn."""
    return build_recommender(dataset.layout, SPEC, 1)


def trained(path: Path, dataset: Dataset, **settings: Any) -> Bundle:
    """A source that nobody taught to adapt."""
    config = TrainConfig.from_dict({"epochs": 2, "batch_size": 64, **settings})
    found = train(dataset, SPEC, config)
    lineage = (prepare_step(dataset), train_step(dataset, SPEC, config, found.seconds))
    return write_recommender(path, found.recommender, dataset, lineage)


def taught(path: Path, dataset: Dataset, **settings: Any) -> Bundle:
    """A source that was taught to adapt to shops."""
    config = MetaConfig.from_dict({**LEARNING, **settings})
    tasks = TaskSet(dataset.split("train"), "shop", least_rows=2)
    found = meta_train(model(dataset), tasks, config)
    return write_meta(path, found, dataset, "shop", config, ())

"""A world of users of whom half like even items and half odd ones: a few examples tell which."""

from pathlib import Path

import numpy as np
from tests.train.toys import CATEGORIES, make_data

from scalerec.data.dataset import Dataset
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender

__all__ = ["NUM_ITEMS", "parity", "small"]

NUM_ITEMS = 10


def parity(
    path: Path, num_users: int = 60, rows_each: int = 12, seed: int = 0, valid: float = 0.0
) -> Dataset:
    """Each user meets some items, and likes those of one parity; all rows but `valid` train."""
    numbers = np.random.default_rng(seed)
    user = np.repeat(np.arange(num_users), rows_each)
    item = numbers.integers(0, NUM_ITEMS, len(user))
    columns = {
        "user": [f"u{number}" for number in user],
        "item": [f"i{number}" for number in item],
        "liked": (user % 2 == item % 2).astype(np.int64),
        "time": np.arange(len(user)) + 1_000_000,
    }
    config = {"split": {"by": "random", "valid": valid, "test": 0.0}}
    return make_data(
        path, columns, CATEGORIES, config=config, user="user", item="item", timestamp="time"
    )


def small(dataset: Dataset, model: str = "deepfm") -> Recommender:
    """A narrow net, drawn."""
    spec = ModelSpec(model=model, settings={"dim": 4, "hidden": [8]}, init_std=0.3)
    return build_recommender(dataset.layout, spec, 1)

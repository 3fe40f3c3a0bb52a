"""A shop in which an item's maker tells half of how much it is liked, and its name the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.train.toys import make_data, narrow

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.models.recommender import Recommender, build_recommender

__all__ = ["draw_model", "open_shop", "some_events"]

NUM_ITEMS, NUM_USERS, NUM_MAKERS = 120, 40, 6


def open_shop(
    path: Path, num_rows: int = 4800, split: dict[str, object] | None = None, **settings: object
) -> Dataset:
    """Users with a town, items with a maker and a price; two tasks of different weight."""
    draw = np.random.default_rng(0)
    user, item = draw.integers(0, NUM_USERS, num_rows), draw.integers(0, NUM_ITEMS, num_rows)
    maker = item % NUM_MAKERS
    taste, own = draw.normal(size=NUM_MAKERS) * 1.5, draw.normal(size=NUM_ITEMS) * 1.5
    score = taste[maker] + own[item] + 0.5 * draw.normal(size=NUM_USERS)[user]
    liked = draw.random(num_rows) < 1 / (1 + np.exp(-score))
    columns: dict[str, Any] = {
        "user": [f"u{number}" for number in user],
        "item": [f"i{number}" for number in item],
        "town": [f"t{number % 4}" for number in user],
        "maker": [f"m{number}" for number in maker],
        "price": (item * 7 % 11).astype(np.float64),
        "liked": liked.astype(np.int64),
        "stars": score.round(2),
        "time": np.arange(num_rows) + 1_000_000,
    }
    features = (
        {"name": "user", "kind": "categorical", "role": "user"},
        {"name": "item", "kind": "categorical", "role": "item", **settings},
        {"name": "town", "kind": "categorical", "role": "user"},
        {"name": "maker", "kind": "categorical", "role": "item"},
        {"name": "price", "kind": "numeric", "role": "item"},
        {"name": "past", "kind": "sequence", "role": "user", "history": "all", "max_length": 4},
    )
    tasks = ({"name": "liked"}, {"name": "stars", "kind": "regression", "weight": 0.3})
    config = None if split is None else {"split": split}
    return make_data(
        path, columns, features, tasks, config, user="user", item="item", timestamp="time"
    )


def draw_model(dataset: Dataset, model: str = "deepfm") -> Recommender:
    """A model whose weights are large enough for gradients to matter."""
    recommender = build_recommender(dataset.layout, narrow(model), 3)
    generator = torch.Generator().manual_seed(7)
    recommender.tables.matrix.data.normal_(0.0, 0.5, generator=generator)
    recommender.tables.keep_padding_zero()
    return recommender.eval()


def some_events(dataset: Dataset, counts: tuple[int, ...]) -> tuple[Batch, torch.Tensor]:
    """The first events of items 0, 1, 2 ..., so many of each, and whose each is."""
    events = dataset.split("train")
    items = np.asarray(events.column("item"))
    rows = [np.flatnonzero(items == number)[:count] for number, count in enumerate(counts)]
    tasks = torch.arange(len(counts)).repeat_interleave(torch.tensor([len(own) for own in rows]))
    return events.take(np.concatenate(rows)), tasks

"""A shop in which an item's maker tells half of how much it is liked, and its name the rest."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.train.toys import make_data, narrow
from torch import Tensor
from torch.nn import functional

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.meta.warm_up.warming import with_warm_up
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.models.warming import RowGenerator, RowScaler, WarmUp

__all__ = [
    "WARM",
    "draw_generator",
    "draw_model",
    "draw_scaler",
    "loss_of",
    "open_shop",
    "some_events",
    "warmed",
]

NUM_ITEMS, NUM_USERS, NUM_MAKERS = 120, 40, 6
STARS_WEIGHT = 0.3
WARM = WarmUp(key="item", features=("maker", "price"))


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
    tasks = ({"name": "liked"}, {"name": "stars", "kind": "regression", "weight": STARS_WEIGHT})
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


def some_events(dataset: Dataset, counts: tuple[int, ...]) -> tuple[Batch, Tensor]:
    """The first events of items 0, 1, 2 ..., so many of each, and whose each is."""
    events = dataset.split("train")
    items = np.asarray(events.column("item"))
    rows = [np.flatnonzero(items == number)[:count] for number, count in enumerate(counts)]
    tasks = torch.arange(len(counts)).repeat_interleave(torch.tensor([len(own) for own in rows]))
    return events.take(np.concatenate(rows)), tasks


def draw_generator(
    num_features: int, width: int, generator: torch.Generator, std: float = 1.0
) -> RowGenerator:
    """A generator of rows without hidden layers, drawn; its pace is yet to be set."""
    warmer = RowGenerator(num_features, width, (), generator)
    torch.nn.init.normal_(warmer.get_parameter("layers.0.weight"), std=std, generator=generator)
    return warmer


def draw_scaler(
    num_features: int, width: int, generator: torch.Generator, std: float = 0.3
) -> RowScaler:
    """Nets that scale and shift rows, with 4 hidden units, drawn."""
    warmer = RowScaler(num_features, width, 4, generator)
    for name, parameter in warmer.named_parameters():
        if not name.startswith("pace."):
            torch.nn.init.normal_(parameter, std=std, generator=generator)
    return warmer


def warmed(dataset: Dataset, generator: torch.Generator) -> Recommender:
    """A drawn model that warms items up, in two small steps."""
    recommender = draw_model(dataset)
    warmer = draw_generator(16, recommender.tables.width, generator)
    warmer.pace.fill(0.01, 1.0)
    return with_warm_up(recommender, replace(WARM, steps=2), warmer)


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    """The mean loss of some events: the log loss, and its weight times the squared error."""
    clicks = functional.binary_cross_entropy_with_logits(logits[:, 0], batch.labels[:, 0])
    return clicks + STARS_WEIGHT * functional.mse_loss(logits[:, 1], batch.labels[:, 1])

"""Warm rows as a method of cold start, on items that a model never met."""

from pathlib import Path

import pytest
import torch
from tests.meta.warm_up.shop import draw_model, open_shop

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.meta.tasks import TaskSet
from scalerec.meta.warm_up.scoring import WarmScore
from scalerec.meta.warm_up.warming import score_with_rows, warm_rows, with_warm_up
from scalerec.models.recommender import Recommender
from scalerec.models.warming import RowGenerator, WarmUp


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The shop, in which the items of the later parts are new."""
    folder = tmp_path_factory.mktemp("cold") / "data"
    return open_shop(folder, split={"by": "item", "valid": 0.1, "test": 0.1})


def warmed(dataset: Dataset, generator: torch.Generator) -> Recommender:
    recommender = draw_model(dataset)
    warm_up = WarmUp(key="item", features=("maker", "price"), steps=2)
    warmer = RowGenerator(16, recommender.tables.width, (), generator)
    torch.nn.init.normal_(warmer.get_parameter("layers.0.weight"), generator=generator)
    warmer.pace.fill(0.01, 1.0)
    return with_warm_up(recommender, warm_up, warmer)


def test_queries_are_scored_by_the_rows_of_their_items(
    cold: Dataset, generator: torch.Generator
) -> None:
    own = warmed(cold, generator)
    events = cold.split("valid")
    tasks = TaskSet(events, "item", least_rows=6)
    episode = tasks.episode(torch.arange(4), 3, 2, generator)
    score = WarmScore(own, "item", cold, "valid")
    got = score(episode)
    for task in range(4):
        item = cold.items.take(episode.keys[task : task + 1])
        assert int(item.ids[1]) == 1
        support = events.take(episode.support.of(task).numpy())
        row = warm_rows(own, "item", item, support, torch.zeros(3, dtype=torch.int64))
        query = events.take(episode.query.of(task).numpy())
        alone = score_with_rows(own, "item", query, row, torch.zeros(2, dtype=torch.int64))
        # Float32, through other sizes of matrices.
        torch.testing.assert_close(got[2 * task : 2 * task + 2], alone[:, 0], rtol=1e-4, atol=1e-5)
    assert not torch.equal(got, score(episode.first(0)))


def test_a_key_must_be_one(cold: Dataset, generator: torch.Generator, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a key must be one of user, item; got 'town'"):
        WarmScore(warmed(cold, generator), "town", cold, "valid")

"""Warm rows as a method of cold start, on items that a model never met."""

import pytest
import torch
from tests.meta.warm_up.shop import warmed

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.meta.tasks import TaskSet
from scalerec.meta.warm_up.scoring import WarmScore
from scalerec.meta.warm_up.warming import score_with_rows, warm_rows


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


def test_a_key_must_be_one(cold: Dataset, generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="a key must be one of user, item; got 'town'"):
        WarmScore(warmed(cold, generator), "town", cold, "valid")

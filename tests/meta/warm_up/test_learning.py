"""Learning to warm up: on a shop, in a bundle, and the words of errors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.meta.warm_up.shop import draw_model, open_shop, some_events
from tests.train.toys import narrow, ratings

from scalerec.bundle import open_recommender, write_recommender
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError, DataError
from scalerec.meta.warm_up import (
    Learned,
    WarmUpConfig,
    learn_warm_up,
    score_with_rows,
    warm_rows,
    with_warm_up,
)
from scalerec.models.recommender import Recommender
from scalerec.models.warming import RowGenerator, WarmUp
from scalerec.train import TrainConfig, train

QUICK: dict[str, Any] = {"epochs": 6, "rows_per_id": 8, "held_out": 0.3, "lr": 0.02, "seed": 1}
# As the papers have them, and by few events alone.
WAYS: dict[str, dict[str, Any]] = {
    "meta-embedding": {"varied": False, "prior": 0.0},
    "mwuf": {"method": "mwuf", "varied": False, "prior": 0.0},
    "few": {},
    "few-mwuf": {"method": "mwuf", "episodes": True, "lr": 0.005},
}


@pytest.fixture(scope="module")
def trained(shop: Dataset) -> Recommender:
    """A model that has learned the shop."""
    settings = {"epochs": 6, "batch_size": 64, "seed": 1, "dense": {"lr": 0.01}}
    own = train(shop, narrow("deepfm"), TrainConfig.from_dict(settings)).recommender.eval()
    own.zero_grad()
    return own


@pytest.fixture(scope="module", params=WAYS)
def learned(shop: Dataset, trained: Recommender, request: pytest.FixtureRequest) -> Learned:
    """The model with a warmer of each method."""
    return learn_warm_up(trained, shop, WarmUpConfig(**{**QUICK, **WAYS[request.param]}))


def test_held_out_items_fare_better(learned: Learned) -> None:
    start, best = learned.curve[0], learned.curve[learned.best]
    assert learned.best > 0
    assert best.refined < start.refined < start.generated
    # Of items that nobody met, MWUF's shifting net knows nothing.
    (warm_up,) = learned.recommender.spec.warm_ups
    assert best.generated < start.generated or warm_up.method == "mwuf"


def test_the_model_stays_as_it_is(learned: Learned, trained: Recommender, shop: Dataset) -> None:
    batch, _ = some_events(shop, (5, 5))
    assert torch.equal(learned.recommender(batch), trained(batch))
    before = trained.to_tensors()
    after = learned.recommender.to_tensors()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in trained.dense_parameters().values())
    assert trained.spec.warm_ups == ()


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_gives_the_same(way: str, shop: Dataset, trained: Recommender) -> None:
    config = WarmUpConfig(**{**QUICK, **WAYS[way], "epochs": 2, "inner_lr": 0.003})
    one = learn_warm_up(trained, shop, config)
    again = learn_warm_up(one.recommender, shop, config)
    assert again.curve == one.curve
    assert len(again.recommender.spec.warm_ups) == 1


def test_many_are_warmed_as_each_alone(learned: Learned, shop: Dataset) -> None:
    own, items = learned.recommender, shop.items.slice(0, 4)
    batch, tasks = some_events(shop, (3, 0, 4, 1))
    rows = warm_rows(own, "item", items, batch, tasks)
    for task in range(4):
        there = (tasks == task).nonzero().flatten()
        alone = warm_rows(
            own, "item", items.slice(task, task + 1), batch.take(there), torch.zeros_like(there)
        )
        # Float32, through other sizes of matrices.
        torch.testing.assert_close(rows[task], alone[0], rtol=1e-4, atol=1e-6)
    bare = warm_rows(own, "item", items)
    torch.testing.assert_close(rows[1], bare[1])
    assert not torch.equal(rows[0], bare[0])
    logits = score_with_rows(own, "item", batch, rows, tasks)
    assert logits.shape == (len(batch), 2)


def test_a_bundle_brings_it_along(learned: Learned, shop: Dataset, tmp_path: Path) -> None:
    write_recommender(tmp_path / "b", learned.recommender, shop, ())
    opened = open_recommender(tmp_path / "b")
    assert opened.recommender.spec == learned.recommender.spec
    batch, tasks = some_events(shop, (3, 2))
    items = opened.items.slice(0, 2)
    rows = warm_rows(opened.recommender, "item", items, batch, tasks)
    own = warm_rows(learned.recommender, "item", shop.items.slice(0, 2), batch, tasks)
    assert torch.equal(rows, own)


def test_users_are_warmed_too(trained: Recommender, shop: Dataset) -> None:
    config = WarmUpConfig(entity="user", **QUICK)
    learned = learn_warm_up(trained, shop, config)
    assert learned.key == "user"
    # Nothing of a town tells what its users like, but their first events do.
    assert learned.curve[-1].refined < learned.curve[-1].generated
    (warm_up,) = learned.recommender.spec.warm_ups
    assert warm_up.features == ("town",)


def test_a_warmer_for_another_key_stays(trained: Recommender, generator: torch.Generator) -> None:
    def add(own: Recommender, key: str, feature: str, value: float) -> Recommender:
        warm_up = WarmUp(key=key, features=(feature,))
        warmer = RowGenerator(8, own.tables.width, (), generator).requires_grad_(False)
        warmer.centre.fill_(value)
        return with_warm_up(own, warm_up, warmer)

    both = add(add(trained, "item", "maker", 1.0), "user", "town", 2.0)
    newer = add(both, "item", "maker", 3.0)
    batch = torch.zeros(0, dtype=torch.int64)
    assert [own.key for own in newer.spec.warm_ups] == ["user", "item"]
    assert [float(own.get_buffer("centre")[0]) for own in newer.warmers] == [2.0, 3.0]
    assert len(batch) == 0


def test_it_stops_when_nothing_gets_better(trained: Recommender, shop: Dataset) -> None:
    settings = {**QUICK, "lr": 1e-12, "epochs": 9}
    told: list[int] = []
    config = WarmUpConfig(inner_lr=1e-9, learn_rates=False, patience=2, **settings)
    learned = learn_warm_up(trained, shop, config, lambda number, _: told.append(number))
    assert told == list(range(1, len(learned.curve)))
    assert len(learned.curve) - 1 <= learned.best + 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"rows_per_id": 0}, "rows_per_id must be at least 1; got 0"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\]; got 1.5"),
        ({"held_out": 1.0}, r"held_out must be in \(0, 1\); got 1.0"),
        ({"inner_lr": 0.0}, "inner_lr must be above 0; got 0.0"),
        ({"entity": "shop"}, "entity must be one of item, user; got 'shop'"),
    ],
)
def test_wrong_settings(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        WarmUpConfig.from_dict(values)


def test_what_cannot_be_warmed_up(
    shop: Dataset, rated: Dataset, trained: Recommender, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="has no item with at least 1001 rows"):
        learn_warm_up(trained, shop, WarmUpConfig(rows_per_id=1000))
    with pytest.raises(ConfigError, match="nothing but its key describes an item"):
        learn_warm_up(draw_model(rated), rated)
    retrieval = ratings(tmp_path / "r", ({"name": "liked", "kind": "retrieval"},))
    with pytest.raises(ConfigError, match="needs a task that is not retrieval"):
        learn_warm_up(draw_model(retrieval, "two-tower"), retrieval)
    hashed = open_shop(tmp_path / "h", buckets=9)
    with pytest.raises(ConfigError, match="ids of 'item' are hashed: a new one shares its row"):
        learn_warm_up(draw_model(hashed), hashed)


def test_words_of_missing_warmers(trained: Recommender, shop: Dataset) -> None:
    with pytest.raises(ConfigError, match="the model warms up no new 'item'; it does: none"):
        warm_rows(trained, "item", shop.items)
    batch, tasks = some_events(shop, (1,))
    with pytest.raises(ConfigError, match="the model reads no id field 'shop'; it reads user"):
        score_with_rows(trained, "shop", batch, torch.zeros(1, 9), tasks)

"""Recommenders that were compressed, or that train on, keep their warmers."""

from dataclasses import replace

import pytest
import torch
from tests.meta.warm_up.shop import WARM, draw_model, draw_scaler, some_events
from tests.train.toys import narrow

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.meta.warm_up import WarmUpConfig, learn_warm_up, warm_rows
from scalerec.meta.warm_up.warming import with_warm_up
from scalerec.models.forming import formed
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.models.growing import GrownRows, plan_table
from scalerec.models.recommender import Recommender
from scalerec.train import Start, TrainConfig, train

SCALED = replace(WARM, method="mwuf", partner="user", hidden=(4,))


@pytest.fixture
def own(shop: Dataset, generator: torch.Generator) -> Recommender:
    """A model with a drawn warmer."""
    bare = draw_model(shop)
    warmer = draw_scaler(16, bare.tables.width, generator)
    warmer.pace.fill(0.05, 1.0)
    return with_warm_up(bare, SCALED, warmer)


def test_a_compressed_model_warms_up(own: Recommender, shop: Dataset) -> None:
    batch, tasks = some_events(shop, (3, 0, 2))
    items = shop.items.slice(0, 3)
    expected = warm_rows(own, "item", items, batch, tasks)
    small = formed(
        own, Forms(tables={"user": TableForm(bits=8)}, layers={"net.tower.0": LayerForm(bits=16)})
    )
    got = warm_rows(small, "item", items, batch, tasks)
    # Partners are read from codes of 8 bits, and scores come from weights of 16.
    torch.testing.assert_close(got, expected, rtol=0.1, atol=0.05)
    assert not torch.equal(got, expected)


def test_a_table_of_codes_takes_no_rows(own: Recommender, shop: Dataset) -> None:
    small = formed(own, Forms(tables={"item": TableForm(bits=8)}))
    with pytest.raises(ConfigError, match="table 'item' has another form, so no rows can be"):
        learn_warm_up(small, shop, WarmUpConfig())


def test_training_on_leaves_the_warmer_alone(own: Recommender, shop: Dataset) -> None:
    before = {name: tensor.clone() for name, tensor in own.warmers.state_dict().items()}
    sizes = shop.layout.tables
    plans = {
        n: plan_table(torch.ones(size, dtype=torch.bool), size, None) for n, size in sizes.items()
    }
    start = Start(own, "0" * 64, GrownRows(plans))
    settings = {"epochs": 1, "batch_size": 256, "dense": {"weight_decay": 0.1}}
    after = train(shop, own.spec, TrainConfig.from_dict(settings), start=start).recommender
    assert after.spec.warm_ups == (SCALED,)
    assert all(torch.equal(before[n], t) for n, t in after.warmers.state_dict().items())
    assert narrow().warm_ups == ()

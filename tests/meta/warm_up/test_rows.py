"""Rows in the place of a model's own: against writing them into its tables, one at a time."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.meta.warm_up.shop import WARM, draw_model, loss_of, some_events
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.meta.warm_up.rows import logits_with, mean_losses, mean_partners, refine
from scalerec.models.recommender import Recommender
from scalerec.models.warming import Pace, WarmUp

MODELS = ["deepfm", "dcn-v2", "din", "mmoe", "two-tower"]
ITEM = 1
STEPPED = replace(WARM, steps=3)
# Float32 through a few layers, once in batches of several ids and once alone.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}


def written(recommender: Recommender, item_id: int, row: Tensor, batch: Batch) -> Tensor:
    """Logits after a row was written into the table, as everybody would do it."""
    tables = recommender.tables
    place = tables.addresses("item", torch.tensor([item_id]))[0]
    before = tables.read(place)
    tables.write(place, row.unsqueeze(0))
    with torch.no_grad():
        logits: Tensor = recommender(batch)
    tables.write(place, before)
    return logits


@pytest.mark.parametrize("model", MODELS)
def test_a_given_row_is_as_a_written_one(
    model: str, shop: Dataset, generator: torch.Generator
) -> None:
    recommender = draw_model(shop, model)
    row = torch.randn(recommender.tables.width, generator=generator)
    batch, _ = some_events(shop, (6,))
    item_id = int(batch.ids[ITEM, 0])
    # The item is in no user's history here, else the written row would be read there too.
    clear = ~torch.isin(batch.bags[0].values, torch.tensor([item_id]))
    keep = torch.ones(len(batch), dtype=torch.bool)
    keep[batch.bags[0].rows[~clear]] = False
    batch = batch.take(keep.nonzero().flatten())
    got = logits_with(recommender, ITEM, batch, row.expand(len(batch), -1))
    torch.testing.assert_close(got, written(recommender, item_id, row, batch), **CLOSE)


def test_the_models_own_rows_change_nothing(shop: Dataset) -> None:
    recommender = draw_model(shop)
    batch, _ = some_events(shop, (3, 4, 1))
    own = recommender.tables.read(recommender.tables.addresses("item", batch.ids[ITEM])[0])
    got = logits_with(recommender, ITEM, batch, own)
    torch.testing.assert_close(got, recommender(batch), **CLOSE)


def test_losses_are_means_of_each_item(shop: Dataset) -> None:
    recommender = draw_model(shop)
    batch, tasks = some_events(shop, (3, 0, 4))
    logits = recommender(batch)
    got = mean_losses(recommender, logits, batch, tasks, 3)
    for task in (0, 2):
        own = (tasks == task).nonzero().flatten()
        alone = loss_of(logits[own], batch.take(own))
        torch.testing.assert_close(got[task], alone)
    assert float(got[1].detach()) == 0.0


@pytest.mark.parametrize("model", MODELS)
def test_refining_is_plain_descent_of_each_by_itself(
    model: str, shop: Dataset, generator: torch.Generator
) -> None:
    recommender = draw_model(shop, model)
    batch, tasks = some_events(shop, (3, 0, 5, 1))
    width = recommender.tables.width
    rows = torch.randn(4, width, generator=generator) * 0.5
    rates = torch.linspace(0.05, 0.3, width)
    pace = Pace(width).requires_grad_(False)
    pace.log_rates.copy_(rates.log())
    pace.log_prior.fill_(math.log(2.0))
    got = refine(recommender, STEPPED, rows, batch, tasks, pace)
    assert not got.requires_grad
    for task in range(4):
        own = (tasks == task).nonzero().flatten()
        row = rows[task]
        for _ in range(3 if len(own) else 0):
            leaf = row.clone().requires_grad_()
            logits = logits_with(recommender, ITEM, batch.take(own), leaf.expand(len(own), -1))
            loss_of(logits, batch.take(own)).backward()
            assert leaf.grad is not None
            row = row - rates * len(own) / (len(own) + 2.0) * leaf.grad
        torch.testing.assert_close(got[task], row, **CLOSE)
    assert torch.equal(got[1], rows[1])


def test_refining_lowers_the_loss(shop: Dataset) -> None:
    recommender = draw_model(shop)
    batch, tasks = some_events(shop, (8,) * 6)
    rows = torch.zeros(6, recommender.tables.width)
    pace = Pace(rows.shape[1])
    pace.fill(0.05, 1.0)
    after = refine(recommender, STEPPED, rows, batch, tasks, pace)

    def loss(own: Tensor) -> Tensor:
        logits = logits_with(recommender, ITEM, batch, own[tasks])
        return mean_losses(recommender, logits, batch, tasks, 6)

    assert bool((loss(after) < loss(rows)).all())


def test_partners_are_a_mean_by_hand(shop: Dataset) -> None:
    recommender = draw_model(shop)
    batch, tasks = some_events(shop, (2, 0, 1))
    warm_up = WarmUp(key="item", features=("maker",), method="mwuf", partner="user", hidden=(4,))
    got = mean_partners(recommender, warm_up, batch, tasks, 3)
    rows = recommender.tables.table("user")[batch.ids[0]][:, :-1]
    expected = torch.stack([(rows[0] + rows[1]) / 2, torch.zeros_like(rows[0]), rows[2]])
    torch.testing.assert_close(got, expected)

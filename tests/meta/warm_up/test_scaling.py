"""MWUF against algorithm 1 of its paper, written with plain loops."""

from dataclasses import replace

import torch
from tests.meta.warm_up.shop import WARM, draw_model, draw_scaler, loss_of, some_events

from scalerec.data.dataset import Dataset
from scalerec.meta.warm_up.rows import logits_with
from scalerec.meta.warm_up.scaling import ColdRows, mwuf_loss
from scalerec.models.warming import RowScaler

SCALED = replace(WARM, method="mwuf", partner="user", hidden=(4,), steps=5)


def test_cold_rows_take_a_step_and_then_are_warmed(
    shop: Dataset, generator: torch.Generator
) -> None:
    recommender = draw_model(shop)
    width = recommender.tables.width
    warmer = draw_scaler(6, width, generator, std=0.5)
    warmer.pace.fill(0.2, 0.0)
    features = torch.randn(5, 6, generator=generator)
    partners = torch.randn(5, width - 1, generator=generator)
    rows = torch.randn(5, width, generator=generator)
    cold = ColdRows(features, partners, rows)
    batch, tasks = some_events(shop, (3, 0, 4, 1))

    got = mwuf_loss(recommender, SCALED, warmer, cold, batch, tasks)

    after = rows.clone()
    for task in (0, 2, 3):
        own = (tasks == task).nonzero().flatten()
        leaf = rows[task].clone().requires_grad_()
        part = batch.take(own)
        loss_of(logits_with(recommender, 1, part, leaf.expand(len(own), -1)), part).backward()
        assert leaf.grad is not None
        after[task] = rows[task] - 0.2 * leaf.grad
    # Float32, summed in another order.
    torch.testing.assert_close(cold.rows, after, rtol=1e-4, atol=1e-6)
    assert torch.equal(cold.rows[[1, 4]], rows[[1, 4]])
    warm = warmer(after, features, partners)
    plain = loss_of(logits_with(recommender, 1, batch, warm[tasks]), batch)
    torch.testing.assert_close(got, plain, rtol=1e-5, atol=1e-6)
    nets = [own for name, own in warmer.named_parameters() if not name.startswith("pace.")]
    fast, slow = (torch.autograd.grad(own, nets) for own in (got, plain))
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_the_first_rows_are_copied(generator: torch.Generator) -> None:
    warmer = RowScaler(2, 4, 3, generator)
    cold = ColdRows(torch.zeros(3, 2), torch.zeros(3, 3), warmer.cold(3))
    cold.rows[0] = 1.0
    assert torch.equal(warmer.common, torch.zeros(4))

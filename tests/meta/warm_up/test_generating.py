"""Meta-Embedding against algorithm 1 of its paper, written with plain loops."""

from dataclasses import replace

import pytest
import torch
from tests.meta.warm_up.shop import (
    WARM,
    draw_generator,
    draw_model,
    draw_scaler,
    loss_of,
    some_events,
)
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.meta.warm_up.generating import meta_embedding_loss
from scalerec.meta.warm_up.rows import logits_with
from scalerec.models.recommender import Recommender
from scalerec.models.warming import RowGenerator

ALPHA, RATE = 0.1, 0.3
Own = tuple[Batch, Tensor]


def halves(shop: Dataset, counts: tuple[int, ...]) -> tuple[Own, Own]:
    """Two disjoint batches of each item's events."""
    batch, tasks = some_events(shop, tuple(2 * count for count in counts))
    even = torch.arange(0, len(tasks), 2)
    return (batch.take(even), tasks[even]), (batch.take(even + 1), tasks[even + 1])


def make(recommender: Recommender, generator: torch.Generator) -> RowGenerator:
    warmer = draw_generator(6, recommender.tables.width, generator, std=0.5)
    warmer.pace.fill(RATE, 0.0)
    return warmer


def slow(
    recommender: Recommender, warmer: RowGenerator, features: Tensor, first: Own, second: Own
) -> Tensor:
    """One id after the other: l_a, a step against it, l_b."""

    def loss(row: Tensor, own: Own, task: int) -> Tensor:
        there = (own[1] == task).nonzero().flatten()
        batch = own[0].take(there)
        logits = logits_with(recommender, 1, batch, row.expand(len(batch), -1))
        return loss_of(logits, batch)

    total = features.new_zeros(())
    for task, feature in enumerate(features):
        row = warmer(feature.unsqueeze(0))[0]
        loss_a = loss(row, first, task)
        (gradient,) = torch.autograd.grad(loss_a, row, create_graph=True)
        loss_b = loss(row - RATE * gradient, second, task)
        total = total + ALPHA * loss_a + (1 - ALPHA) * loss_b
    return total / len(features)


@pytest.mark.parametrize("model", ["deepfm", "dcn-v2", "din"])
def test_loss_and_gradient_are_the_papers(
    model: str, shop: Dataset, generator: torch.Generator
) -> None:
    recommender = draw_model(shop, model)
    warmer = make(recommender, generator)
    features = torch.randn(4, 6, generator=generator)
    first, second = halves(shop, (3, 5, 1, 2))
    fast = meta_embedding_loss(recommender, WARM, warmer, features, first, second, ALPHA)
    plain = slow(recommender, warmer, features, first, second)
    # Float32, summed in another order.
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)
    weight = warmer.get_parameter("layers.0.weight")
    gradients = (torch.autograd.grad(own, weight)[0] for own in (fast, plain))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_the_gradient_passes_through_the_step(shop: Dataset, generator: torch.Generator) -> None:
    """Against central differences, in the generator's weights and in the rates."""
    recommender = draw_model(shop, "deepfm")
    warmer = make(recommender, generator)
    features = torch.randn(4, 6, generator=generator)
    first, second = halves(shop, (3, 5, 1, 2))

    def loss() -> Tensor:
        return meta_embedding_loss(recommender, WARM, warmer, features, first, second, 0.0)

    weight = warmer.get_parameter("layers.0.weight")
    gradients = torch.autograd.grad(loss(), [weight, warmer.pace.log_rates])
    for parameter, gradient in zip([weight, warmer.pace.log_rates], gradients, strict=True):
        way = torch.randn(parameter.shape, generator=generator)
        way /= way.norm()
        ends = []
        for sign in (1.0, -1.0):
            parameter.data.add_(sign * 1e-2 * way)
            ends.append(float(loss().detach()))
            parameter.data.sub_(sign * 1e-2 * way)
        # Scores are float32, so the step is wide: its square is 1e-4, as is the loss's rounding
        # over it.
        slope = (ends[0] - ends[1]) / 2e-2
        assert float((gradient * way).sum()) == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_alpha_mixes_both_losses(shop: Dataset, generator: torch.Generator) -> None:
    recommender = draw_model(shop)
    warmer = make(recommender, generator)
    features = torch.randn(2, 6, generator=generator)
    first, second = halves(shop, (3, 4))
    ends = [
        float(
            meta_embedding_loss(recommender, WARM, warmer, features, first, second, alpha).detach()
        )
        for alpha in (0.0, 1.0, 0.25)
    ]
    assert ends[2] == pytest.approx(0.75 * ends[0] + 0.25 * ends[1], rel=1e-5)


def test_scaling_nets_are_learned_by_the_same_loss(
    shop: Dataset, generator: torch.Generator
) -> None:
    """One id after the other: a cold row, warmed without anybody; a step; warmed with partners."""
    recommender = draw_model(shop)
    warmer = draw_scaler(6, recommender.tables.width, generator)
    warmer.common.normal_(std=0.3, generator=generator)
    warmer.pace.fill(RATE, 2.0)
    warm_up = replace(WARM, method="mwuf", partner="user", hidden=(4,))
    features = torch.randn(3, 6, generator=generator)
    first, second = halves(shop, (3, 1, 2))
    fast = meta_embedding_loss(recommender, warm_up, warmer, features, first, second, ALPHA)

    total = torch.zeros(())
    for task in range(3):
        parts = []
        for batch, tasks in (first, second):
            parts.append(batch.take((tasks == task).nonzero().flatten()))
        users = recommender.tables.table("user")[parts[0].ids[0]][:, :-1].mean(0)

        def warm(row: Tensor, partner: Tensor, own: int = task) -> Tensor:
            warmed: Tensor = warmer(row.unsqueeze(0), features[own].unsqueeze(0), partner)
            return warmed

        def loss(row: Tensor, batch: Batch) -> Tensor:
            return loss_of(logits_with(recommender, 1, batch, row.expand(len(batch), -1)), batch)

        cold = warmer.common.clone().requires_grad_()
        met = users.unsqueeze(0)
        inner = loss(warm(cold, met), parts[0])
        (gradient,) = torch.autograd.grad(inner, cold, create_graph=True)
        num = len(parts[0])
        after = cold - RATE * num / (num + 2.0) * gradient
        before = loss(warm(cold, torch.zeros_like(met)), parts[0])
        total = total + ALPHA * before + (1 - ALPHA) * loss(warm(after, met), parts[1])
    torch.testing.assert_close(fast, total / 3, rtol=1e-5, atol=1e-6)
    weights = list(warmer.parameters())
    for one, other in zip(
        torch.autograd.grad(fast, weights, allow_unused=True),
        torch.autograd.grad(total / 3, weights, allow_unused=True),
        strict=True,
    ):
        if other is not None:
            assert one is not None
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)

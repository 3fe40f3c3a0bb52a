"""Pooling of histories: weights by hand, masks, and both activations."""

import pytest
import torch

from scalerec.models.sequence import Dice, TargetAttention


@pytest.fixture
def mask() -> torch.Tensor:
    return torch.tensor([[True, True, False], [False, False, False]])


@pytest.mark.parametrize("softmax", [False, True])
def test_attention_is_a_loop_over_places(
    softmax: bool, mask: torch.Tensor, generator: torch.Generator
) -> None:
    layer = TargetAttention(4, (5, 3), generator, softmax=softmax)
    history = torch.randn(2, 3, 4, generator=generator)
    target = torch.randn(2, 4, generator=generator)
    scores = []
    for place in range(2):
        key = history[0, place]
        x = torch.cat([key, target[0], key - target[0], key * target[0]])
        for step in layer.layers:
            x = step(x).sigmoid()
        scores.append(layer.out(x))
    weights = torch.cat(scores)
    if softmax:
        weights = weights.softmax(0)
    expected = weights[0] * history[0, 0] + weights[1] * history[0, 1]
    pooled = layer(history, target, mask)
    # Another order of float32 sums.
    torch.testing.assert_close(pooled[0], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(pooled[1], torch.zeros(4))


@pytest.mark.parametrize("activation", ["sigmoid", "dice"])
@pytest.mark.parametrize("softmax", [False, True])
def test_padding_changes_nothing(
    activation: str, softmax: bool, mask: torch.Tensor, generator: torch.Generator
) -> None:
    layer = TargetAttention(
        4,
        (5,),
        generator,
        activation="dice" if activation == "dice" else "sigmoid",
        softmax=softmax,
    )
    history = torch.randn(2, 3, 4, generator=generator) * mask.unsqueeze(-1)
    target = torch.randn(2, 4, generator=generator)
    longer = torch.cat([history, torch.zeros(2, 6, 4)], dim=1)
    more = torch.cat([mask, torch.zeros(2, 6, dtype=torch.bool)], dim=1)
    pooled = layer(history, target, mask)
    # While training too: the means of `dice` are over filled places only.
    torch.testing.assert_close(layer(longer, target, more), pooled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softmax", [False, True])
def test_an_empty_history_has_finite_gradients(softmax: bool, generator: torch.Generator) -> None:
    layer = TargetAttention(4, (5,), generator, activation="dice", softmax=softmax)
    history = torch.zeros(2, 3, 4, requires_grad=True)
    target = torch.randn(2, 4, generator=generator, requires_grad=True)
    pooled = layer(history, target, torch.zeros(2, 3, dtype=torch.bool))
    pooled.sum().backward()
    assert history.grad is not None
    assert target.grad is not None
    assert torch.isfinite(history.grad).all()
    assert torch.isfinite(target.grad).all()


def test_dice_by_hand() -> None:
    dice = Dice(1)
    with torch.no_grad():
        dice.alpha.fill_(0.5)
    x = torch.tensor([[[1.0], [3.0], [99.0]]])
    mask = torch.tensor([[True, True, False]])
    out = dice(x, mask)
    # Mean 2 and variance 1 of the filled places; p = sigmoid(-1) and sigmoid(1).
    low, high = torch.sigmoid(torch.tensor([-1.0, 1.0])).tolist()
    assert out[0, 0, 0].item() == pytest.approx(low + (1 - low) * 0.5)
    assert out[0, 1, 0].item() == pytest.approx(3 * high + (1 - high) * 1.5)
    # A tenth of the way from mean 0 to 2; variance 1 stays.
    assert dice.mean.item() == pytest.approx(0.2)
    assert dice.var.item() == pytest.approx(1.0)
    dice.eval()
    before = dice.mean.clone()
    assert dice(x, mask)[0, 1, 0].item() == pytest.approx(
        3 * torch.sigmoid(torch.tensor(2.8)).item() * 0.5 + 1.5
    )
    assert torch.equal(dice.mean, before)

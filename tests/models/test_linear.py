"""A linear layer with ReLU: the same numbers as torch's two functions, in values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scalerec.models.heads import Mlp
from scalerec.models.linear import linear_relu


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.relu(torch.nn.functional.linear(x, weight, bias))


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).requires_grad_()


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (0, 5)])
def test_equals_two_functions(low: bool, shape: tuple[int, ...]) -> None:
    found = []
    for function in (plain, linear_relu):
        inputs = draw(*shape), draw(4, 5), draw(4)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = function(*inputs)
        out.float().square().sum().backward()
        found.append([out, *(tensor.grad for tensor in inputs)])
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        assert one.dtype is other.dtype
        # Under bf16 both round to 8 bits; a product may be rounded before or after the bias.
        tolerance = 2e-2 if low else 0.0
        torch.testing.assert_close(other, one, rtol=tolerance, atol=tolerance)


def test_a_net_runs_the_same_way_in_pieces() -> None:
    """Each layer in turn is what the net does, with dropout and normalisation between."""
    generator = torch.Generator().manual_seed(1)
    net = Mlp(5, [6, 4], generator, out_dim=2, dropout=0.5, batch_norm=True).eval()
    other = Mlp(5, [6, 4], generator, out_dim=2, dropout=0.5).eval()
    x = draw(9, 5)
    for own in (net, other):
        expected = x
        for layer in own:
            expected = layer(expected)
        assert torch.equal(own(x), expected)


@pytest.mark.parametrize("transform", [torch.vmap, torch.func.jacrev])
def test_under_transforms(transform: Callable[..., Callable[[Tensor], Tensor]]) -> None:
    weight, bias, x = draw(4, 5).detach(), draw(4).detach(), draw(3, 5).detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = transform(lambda row: linear_relu(row, weight, bias))(x)
        expected = transform(lambda row: plain(row, weight, bias))(x)
    assert torch.equal(found, expected)

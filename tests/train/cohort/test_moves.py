"""Weights moved while gradients are found: those that one linear layer reads, no others."""

import pytest
import torch
from torch import Tensor, nn

from scalerec.train.cohort.moves import Moves
from scalerec.train.cohort.stacked import call_stacked

PARTIES, EXAMPLES = 3, 5


class Shared(nn.Module):
    """One layer read once, one twice, one by a linear layer and by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.both = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.once(x))
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        read_again: Tensor = torch.tanh(self.both.weight).sum()
        out: Tensor = (self.both(x) + read_again).sum(-1)
        return out


def stacked(module: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(PARTIES, *tensor.shape, generator=generator)
        for name, tensor in module.named_parameters()
    }


def step(
    module: nn.Module, params: dict[str, Tensor], moves: Moves | None, scale: float = 1.0
) -> dict[str, Tensor | None]:
    """The gradients of a loss; weights may move on the way."""
    inputs = torch.randn(PARTIES * EXAMPLES, 4, generator=torch.Generator().manual_seed(2))
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
    used = leaves if scale == 1 else {name: leaf * scale for name, leaf in leaves.items()}
    out = call_stacked(module, used, (inputs,), PARTIES, EXAMPLES, moves)
    found = torch.autograd.grad(out.square().sum(), list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, found, strict=True))


def test_what_one_layer_reads_moves_and_the_rest_has_its_gradient() -> None:
    module = Shared()
    start = stacked(module)
    wanted = step(module, start, None)
    params, moves = {name: tensor.clone() for name, tensor in start.items()}, Moves(0.01)
    found = step(module, params, moves)
    assert moves.done == {"once.weight"}
    assert found.pop("once.weight") is None
    expected = wanted.pop("once.weight")
    assert expected is not None
    # Sums in another order.
    torch.testing.assert_close(
        params["once.weight"], start["once.weight"] - 0.01 * expected, rtol=1e-4, atol=1e-5
    )
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-4, msg=name)
        assert torch.equal(params[name], start[name])


def test_what_is_made_of_a_parameter_does_not_move() -> None:
    module = nn.Linear(4, 2)
    params, moves = stacked(module), Moves(0.01)
    before = {name: tensor.clone() for name, tensor in params.items()}
    wanted, found = step(module, before, None, 0.5), step(module, params, moves, 0.5)
    assert not moves.done
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-5)
        assert torch.equal(params[name], before[name])


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_without_bias(bias: bool) -> None:
    module = nn.Linear(4, 2, bias=bias)
    start = stacked(module)
    wanted = step(module, start, None)["weight"]
    params = {name: tensor.clone() for name, tensor in start.items()}
    step(module, params, Moves(0.1))
    assert wanted is not None
    torch.testing.assert_close(
        params["weight"], start["weight"] - 0.1 * wanted, rtol=1e-4, atol=1e-5
    )

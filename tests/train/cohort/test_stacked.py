"""Modules computed for many parties by their own code: which fit, and that they give the same."""

import pytest
import torch
from tests.contracts.test_zoo import PAIRS
from tests.federated.test_local import drawn, federable
from torch import Tensor, nn
from torch.func import functional_call

from scalerec.train.cohort.module_model import ModuleModel
from scalerec.train.cohort.stacked import call_stacked, fits, linear_parameters, tried_parameters

PARTIES, EXAMPLES = 4, 5


class Scaled(nn.Module):
    """A linear layer, and parameters that are added and multiplied row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.gain, self.shift = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.relu(self.layer(x)) * self.gain + self.shift
        return out


class Mixed(nn.Module):
    """A parameter that is no linear layer's and is multiplied with as a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x @ self.weight
        return out


def test_it_is_what_each_party_computes_alone() -> None:
    module = Scaled()
    dense = tried_parameters(dict(module.named_parameters()), PARTIES)
    x = torch.randn(PARTIES * EXAMPLES, 3, generator=torch.Generator().manual_seed(3))
    found = call_stacked(module, dense, (x,), PARTIES, EXAMPLES)
    for party in range(PARTIES):
        own = {name: tensor[party] for name, tensor in dense.items()}
        rows = slice(party * EXAMPLES, (party + 1) * EXAMPLES)
        # Sums in another order.
        wanted = functional_call(module, own, (x[rows],))
        torch.testing.assert_close(found[rows], wanted, rtol=1e-5, atol=1e-5)


def test_linear_layers_are_found_by_name() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    assert linear_parameters(net) == {"0.weight": "0.bias", "2.weight": ""}
    assert linear_parameters(nn.Linear(3, 2)) == {"weight": "bias"}


def model_of(module: nn.Module, inputs: Tensor) -> ModuleModel:
    return ModuleModel(module, inputs, torch.zeros(len(inputs)), lambda out, y: out.sum(-1) - y)


def test_what_does_not_fit_is_left_to_vmap() -> None:
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(3))
    assert model_of(Scaled(), x).stacked
    assert not model_of(Mixed(), x).stacked
    pictures = torch.randn(9, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 2))
    assert not model_of(net, pictures).stacked
    assert not model_of(Scaled(), x[:0]).stacked


def test_other_numbers_and_errors_do_not_fit() -> None:
    def fail() -> Tensor:
        raise RuntimeError("shapes")

    ones = torch.ones(3, 2)
    assert fits(lambda: ones, ones.clone)
    assert not fits(lambda: ones, lambda: ones + 0.01)
    assert not fits(lambda: ones, lambda: torch.ones(3, 1))
    assert not fits(lambda: ones, fail)


@pytest.mark.parametrize("name", ["deepfm", "wide-deep", "two-tower"])
def test_nets_of_linear_layers_fit(name: str) -> None:
    layouts = [layout for net, layout in PAIRS if net == name and federable(name, layout)]
    assert any(drawn(name, layout)[0].stacked for layout in layouts)

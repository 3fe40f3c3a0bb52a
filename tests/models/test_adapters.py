"""Low-rank adapters: what they add, what they learn from, and where they fit."""

import pytest
import torch
from tests.contracts.test_zoo import PAIRS
from tests.models.toys import LAYOUTS
from torch import nn

from scalerec.errors import ConfigError
from scalerec.models.adapters import LowRankShifts, linear_weights
from scalerec.models.recommender import ModelSpec, build_recommender


def shifts(weight: nn.Parameter, rank: int = 2, scale: float = 0.5, seed: int = 0) -> LowRankShifts:
    generator = torch.Generator().manual_seed(seed)
    return LowRankShifts({"weight": weight}, rank, scale, generator)


def test_at_first_nothing_is_added() -> None:
    weight = nn.Parameter(torch.randn(3, 5))
    before = weight.detach().clone()
    own = shifts(weight)
    own.put()
    assert torch.equal(weight, before)
    assert not own.left[0].any()
    assert [tuple(p.shape) for p in own.parameters()] == [(3, 2), (2, 5)]


def test_the_product_is_added_and_scaled() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    own = shifts(weight, rank=1, scale=0.5)
    with torch.no_grad():
        own.left[0].copy_(torch.tensor([[2.0], [4.0]]))
        own.right[0].copy_(torch.tensor([[1.0, 3.0]]))
    own.put()
    own.put()
    assert weight.tolist() == [[2.0, 4.0], [3.0, 7.0]]


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6)])
def test_gradients_are_those_of_the_factors_in_the_layer(shape: tuple[int, ...]) -> None:
    """What `pull` gives is what autograd gives where the layer computes with the sum."""
    generator = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.randn(*shape, generator=generator))
    own = shifts(weight)
    with torch.no_grad():
        own.left[0].normal_(generator=generator)
    own.put()
    x = torch.randn(*shape[:-2], 6, 3, generator=generator)
    start = (weight - own.shift("weight")).detach()
    wanted = torch.autograd.grad(
        ((start + own.shift("weight")) @ x).square().sum(), list(own.parameters())
    )
    (weight @ x).square().sum().backward()
    own.pull()
    assert weight.grad is None
    for factor, grad in zip(own.parameters(), wanted, strict=True):
        torch.testing.assert_close(factor.grad, grad)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_rank_must_fit(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"rank of weight must be from 1 to 3; got {rank}"):
        shifts(nn.Parameter(torch.zeros(3, 5)), rank)


def test_a_scale_must_be_above_zero() -> None:
    with pytest.raises(ConfigError, match="scale must be above 0; got 0"):
        shifts(nn.Parameter(torch.zeros(3, 5)), scale=0.0)


def test_the_draw_follows_the_seed() -> None:
    one, same, other = (shifts(nn.Parameter(torch.zeros(3, 5)), seed=s).right[0] for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(("net", "layout"), PAIRS)
def test_linear_weights_of_every_net_are_its_matrices(net: str, layout: str) -> None:
    settings = {"dim": 4}
    recommender = build_recommender(LAYOUTS[layout], ModelSpec(model=net, settings=settings), 1)
    names = linear_weights(recommender)
    found = recommender.dense_parameters()
    assert set(names) <= set(found)
    assert len(set(names)) == len(names)
    assert all(found[name].ndim in (2, 3) for name in names)
    own = {name for name in found if name.startswith("net.") and name.endswith("weight")}
    # A bilinear form of two vectors is no linear layer.
    assert own - set(names) <= {"net.fusion.weight"}

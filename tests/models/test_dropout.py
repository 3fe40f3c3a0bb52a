"""Dropout: what is kept, its mean, and where nothing is dropped."""

import pytest
import torch

from scalerec.models.dropout import Dropout


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_share_and_the_scale(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    x = torch.ones(301, 333, dtype=dtype, requires_grad=True)
    out = Dropout(rate)(x)
    assert out.dtype is dtype
    kept = out != 0
    # Of 100,233 values; five standard errors of the share.
    assert abs(float(kept.double().mean()) - (1 - rate)) < 5 * (rate * (1 - rate) / 1e5) ** 0.5
    torch.testing.assert_close(
        out[kept].double(), torch.full_like(out[kept].double(), 1 / (1 - rate)), rtol=5e-3, atol=0
    )
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())


def test_each_value_has_its_own_chance() -> None:
    torch.manual_seed(2)
    times = torch.stack([Dropout(0.5)(torch.ones(9)) != 0 for _ in range(2000)]).double()
    torch.testing.assert_close(
        times.mean(0), torch.full((9,), 0.5, dtype=torch.float64), rtol=0.1, atol=0
    )
    correlation = torch.corrcoef(times.T) - torch.eye(9)
    assert float(correlation.abs().max()) < 0.1


def test_the_seed_decides() -> None:
    x, draws = torch.ones(50), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(Dropout(0.5)(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_nothing_is_dropped_in_evaluation_or_at_rate_0() -> None:
    x = torch.ones(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_under_vmap() -> None:
    dropped = torch.vmap(Dropout(0.5), randomness="different")(torch.ones(40, 50))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(dropped[0], dropped[1])


def test_an_empty_batch() -> None:
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)

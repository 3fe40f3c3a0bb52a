"""Single weights by magnitude: what goes, what stays zero, and how much in which step."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models.toys import LAYOUTS
from tests.train.toys import narrow
from torch import Tensor, nn

from scalerec.compress.pruning import (
    GradualPruning,
    Masks,
    PruneConfig,
    choose_weights,
    count_weights,
    cubic_sparsity,
    prunable_weights,
    prune_weights,
    weights_of,
)
from scalerec.errors import ConfigError
from scalerec.models.forms import Forms, TableForm
from scalerec.models.recommender import build_recommender

pytestmark = pytest.mark.usefixtures("one_thread")


def two_layers(seed: int = 1) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 2))
    with torch.no_grad():
        for own in net.parameters():
            own.copy_(torch.randn(own.shape, generator=generator))
    return net


def zeros(tensor: Tensor) -> int:
    return int((tensor == 0).sum())


def test_a_ratio_by_hand() -> None:
    tensors = {"a": torch.tensor([[1.0, -4.0], [3.0, -2.0]]), "b": torch.tensor([10.0, 0.5])}
    whole = choose_weights(tensors, PruneConfig(ratio=0.5))
    assert whole["a"].tolist() == [[False, True], [True, False]]
    assert whole["b"].tolist() == [True, False]
    each = choose_weights(tensors, PruneConfig(ratio=0.5, scope="tensor"))
    assert each["a"].tolist() == [[False, True], [True, False]]
    assert each["b"].tolist() == [True, False]
    most = choose_weights(tensors, PruneConfig(ratio=0.75, scope="tensor"))
    assert most["a"].tolist() == [[False, True], [False, False]]


def test_a_threshold_by_hand() -> None:
    tensors = {"a": torch.tensor([1.0, -4.0, 3.0, -2.0]), "b": torch.tensor([10.0, 0.5])}
    kept = choose_weights(tensors, PruneConfig(threshold=3.0))
    assert kept["a"].tolist() == [False, True, True, False]
    assert kept["b"].tolist() == [True, False]
    # The deviations are sqrt(7.25) = 2.69 and 4.75.
    own = choose_weights(tensors, PruneConfig(threshold=1.0, scope="tensor"))
    assert own["a"].tolist() == [False, True, True, False]
    assert own["b"].tolist() == [True, False]


@given(
    st.lists(st.sampled_from([0.0, 0.5, -0.5, 1.0, 2.0]), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
)
def test_a_ratio_is_met_exactly_whatever_is_equal(values: list[float], ratio: float) -> None:
    tensor = torch.tensor(values)
    kept = choose_weights({"a": tensor}, PruneConfig(ratio=ratio))["a"]
    assert int((~kept).sum()) == round(ratio * len(values))
    if bool(kept.any()) and not bool(kept.all()):
        assert tensor[kept].abs().min() >= tensor[~kept].abs().max()


def test_a_ratio_over_several_tensors_is_met_in_all_together() -> None:
    net = two_layers()
    masks = prune_weights(net, PruneConfig(ratio=0.7))
    assert prunable_weights(net) == ["0.weight", "3.weight"]
    assert masks.counts.nonzero == 80 - 56
    assert masks.counts.sparsity == pytest.approx(0.7)
    first, last = net.get_parameter("0.weight"), net.get_parameter("3.weight")
    assert zeros(first) + zeros(last) == 56
    assert count_weights(net) == (112, 112 - 56 - zeros(net.get_parameter("1.bias")))


def test_each_tensor_keeps_its_total_magnitude_if_rescaled() -> None:
    net, plain = two_layers(), two_layers()
    before = {name: own.abs().sum() for name, own in weights_of(net).items()}
    prune_weights(net, PruneConfig(ratio=0.8, rescale=True))
    prune_weights(plain, PruneConfig(ratio=0.8))
    for name in prunable_weights(net):
        own, other = net.get_parameter(name), plain.get_parameter(name)
        # Twenty sums of float32.
        torch.testing.assert_close(own.abs().sum(), before[name], rtol=1e-5, atol=0.0)
        assert torch.equal(own == 0, other == 0)
        assert (own.abs() >= other.abs()).all()
        assert other.abs().sum() < before[name]
    assert torch.equal(net.get_parameter("0.bias"), plain.get_parameter("0.bias"))


def test_a_tensor_that_loses_everything_stays_zero() -> None:
    net = two_layers()
    with torch.no_grad():
        net.get_parameter("3.weight").mul_(1e-3)
    prune_weights(net, PruneConfig(ratio=0.5, rescale=True))
    assert not net.get_parameter("3.weight").any()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_masks_hold_through_steps_of_an_optimiser(name: str) -> None:
    net = two_layers().train()
    optimiser: torch.optim.Optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    if name == "sgd":
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    masks = prune_weights(net, PruneConfig(ratio=0.6))
    kept = net.get_parameter("0.weight")[masks.kept["0.weight"]].clone()
    rows = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
    for step in range(3):
        optimiser.zero_grad()
        net(rows).square().sum().backward()
        optimiser.step()
        assert zeros(net.get_parameter("0.weight")) < int((~masks.kept["0.weight"]).sum())
        masks(step + 1)
        for weight, mask in masks.kept.items():
            assert not net.get_parameter(weight)[~mask].any()
    assert not torch.equal(net.get_parameter("0.weight")[masks.kept["0.weight"]], kept)


def test_the_cubic_schedule_by_hand() -> None:
    found = [cubic_sparsity(s, first=10, last=20, final=0.8, initial=0.4) for s in (0, 10, 15, 20)]
    # 0.8 - 0.4 / 8 at the middle.
    assert found == pytest.approx([0.4, 0.4, 0.75, 0.8])
    rising = [cubic_sparsity(step, first=0, last=50, final=0.9) for step in range(60)]
    assert all(a <= b for a, b in pairwise(rising))


def test_pruning_little_by_little_only_ever_adds_zeros() -> None:
    net = two_layers().train()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.3)
    pruning = GradualPruning(net, PruneConfig(ratio=0.8), first=2, last=9, every=3)
    rows = torch.randn(16, 6, generator=torch.Generator().manual_seed(2))
    gone = torch.zeros(80, dtype=torch.bool)
    shares = []
    for step in range(1, 12):
        optimiser.zero_grad()
        net(rows).square().sum().backward()
        optimiser.step()
        pruning(step)
        now = torch.cat([net.get_parameter(n).flatten() == 0 for n in prunable_weights(net)])
        assert (now | ~gone).all(), "what went came back"
        gone = now
        shares.append(round(float(now.float().mean()) * 80))
    # After steps 5, 8 and 9: 80 times .8 (1 - (4 / 7)^3), .8 (1 - (1 / 7)^3), .8.
    assert shares == [0, 0, 0, 0, 52, 52, 52, 64, 64, 64, 64]


def test_of_a_recommender_the_net_is_pruned_and_tables_if_named() -> None:
    recommender = build_recommender(LAYOUTS["mixed"], narrow(), 1)
    names = prunable_weights(recommender)
    assert names == [f"net.tower.{number}.weight" for number in (0, 2, 4, 6)]
    numbers = recommender.embedder.numbers.clone()
    prune_weights(recommender, PruneConfig(ratio=0.5))
    assert torch.equal(recommender.embedder.numbers, numbers)
    masks = prune_weights(recommender, PruneConfig(ratio=0.5), ["tables.item.weight"])
    table = recommender.tables.table("item")
    assert zeros(table) == round(0.5 * table.numel())
    with torch.no_grad():
        table.fill_(1.0)
    masks.apply()
    assert zeros(table) == round(0.5 * table.numel())


def test_tables_that_store_fewer_columns_are_refused() -> None:
    spec = replace(narrow(), forms=Forms(tables={"item": TableForm(dim=3)}))
    recommender = build_recommender(LAYOUTS["ids"], spec, 1)
    with pytest.raises(ConfigError, match=r"weights of 'tables.item.weight' cannot be pruned in"):
        prune_weights(recommender, PruneConfig(ratio=0.5), ["tables.item.weight"])
    masks = prune_weights(recommender, PruneConfig(ratio=0.5), ["tables.user.weight"])
    assert masks.counts.sparsity == 0.5


def test_whole_numbers_are_no_weights() -> None:
    recommender = build_recommender(LAYOUTS["ids"], narrow("fm"), 1)
    recommender.tables.maps["item"].rows = torch.arange(14)
    assert "tables.item.rows" in recommender.to_tensors()
    assert "tables.item.rows" not in weights_of(recommender)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of ratio and threshold must be above 0; got ratio 0.0 and threshold 0.0"),
        ({"ratio": 0.5, "threshold": 1.0}, "exactly one of ratio and threshold"),
        ({"ratio": 1.0}, r"ratio must be in \(0, 1\); got 1.0"),
        ({"threshold": -1.0}, "threshold must be above 0; got -1.0"),
        ({"ratio": 0.5, "scope": "layer"}, "scope must be one of tensor, global; got 'layer'"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PruneConfig(**settings)  # type: ignore[arg-type]


def test_what_does_not_fit_is_named() -> None:
    net = two_layers()
    with pytest.raises(ConfigError, match=r"no weights '5.weight'; it has \['0.weight', "):
        prune_weights(net, PruneConfig(ratio=0.5), ["5.weight"])
    with pytest.raises(ConfigError, match=r"no weights 'x'; it has"):
        Masks(net, {"x": torch.ones(1, dtype=torch.bool)})
    wrong = torch.ones(3, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"mask of '0.weight' must be \[10, 6\]; got \[3\]"):
        Masks(net, {"0.weight": wrong})
    with pytest.raises(ConfigError, match="gradual pruning needs a ratio, not a threshold"):
        GradualPruning(net, PruneConfig(threshold=1.0), last=5)
    with pytest.raises(ConfigError, match="first must be from 0 to 4; got 5"):
        GradualPruning(net, PruneConfig(ratio=0.5), first=5, last=5)
    with pytest.raises(ConfigError, match="every must be at least 1; got 0"):
        GradualPruning(net, PruneConfig(ratio=0.5), last=5, every=0)
    with pytest.raises(ConfigError, match="last must be above first=3; got 3"):
        cubic_sparsity(1, first=3, last=3, final=0.5)

"""Whole units: what may go, that silent ones go without a trace, and which go first."""

import copy
from typing import Any

import pytest
import torch
from tests.models.toys import LAYOUTS, draw_batch
from tests.train.toys import narrow
from torch import Tensor, nn

from scalerec.compress.joints import Joint, find_joints, shrink_units, unit_columns
from scalerec.compress.neurons import (
    NeuronConfig,
    choose_units,
    measure_units,
    prune_units,
    unit_importance,
)
from scalerec.errors import ConfigError
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.models.zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")

# The same products in other blocks.
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(module: nn.Module) -> nn.Module:
    """Random weights, norms with running means and deviations of their own; evaluation mode."""
    generator = seeded()
    with torch.no_grad():
        for name, own in module.state_dict().items():
            if own.is_floating_point():
                fresh = torch.randn(own.shape, generator=generator)
                own.copy_(fresh.abs() + 0.5 if name.endswith("running_var") else fresh)
    return module.eval()


def conv_net() -> nn.Sequential:
    """For images of 28 x 28, in blocks."""
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(6, 9, 3, bias=False), nn.BatchNorm2d(9), nn.PReLU(9)),
        nn.Dropout2d(0.2),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(9 * 16, 10),
        nn.BatchNorm1d(10),
        nn.GELU(),
        nn.Dropout(0.3),
        nn.Linear(10, 2),
    )
    draw(net)
    return net


def silence(module: nn.Module, joint: Joint, units: Tensor) -> None:
    """Let nobody read some units."""
    with torch.no_grad():
        weight = module.get_submodule(joint.consumer).get_parameter("weight")
        weight[:, unit_columns(units, joint.repeats)] = 0.0


def kept_of(module: nn.Module, joint: Joint) -> tuple[Tensor, Tensor]:
    """A third of the units, and the others."""
    layer = module.get_submodule(joint.producer)
    size = len(layer.get_parameter("weight"))
    order = torch.randperm(size, generator=seeded(5))
    return order[: size // 3], order[size // 3 :].sort().values


def test_joints_of_a_convolutional_net() -> None:
    assert find_joints(conv_net()) == [
        Joint("0.0", "1.0", ("0.1",)),
        Joint("1.0", "5", ("1.1", "1.2"), repeats=16),
        Joint("5", "9", ("6",)),
    ]


@pytest.mark.parametrize("training", [False, True])
def test_silent_units_of_a_convolutional_net_leave_no_trace(training: bool) -> None:
    net = conv_net()
    kept = {}
    for joint in find_joints(net):
        gone, kept[joint.producer] = kept_of(net, joint)
        silence(net, joint, gone)
    images = torch.randn(5, 1, 28, 28, generator=seeded(2))
    for layer in net.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.p = 0.0
    small = copy.deepcopy(net)
    shrink_units(small, kept)
    net.train(training)
    small.train(training)
    torch.testing.assert_close(small(images), net(images), **CLOSE)
    sizes = [tuple(own.shape) for name, own in small.named_parameters() if own.ndim > 1]
    assert sizes == [(4, 1, 3, 3), (6, 4, 3, 3), (7, 96), (2, 7)]
    assert small.get_submodule("5").in_features == 96
    assert small.get_submodule("1.1").num_features == 6
    assert all(own.requires_grad for own in small.parameters())


def recommenders() -> list[tuple[str, dict[str, object]]]:
    found: list[tuple[str, dict[str, object]]] = []
    for name in ZOO:
        settings = ZOO[name].config().to_dict()
        found.append((name, {"batch_norm": True} if "batch_norm" in settings else {}))
    return found


def build(name: str, **settings: Any) -> Recommender:
    layout = LAYOUTS["funnel" if name == "esmm" else "mixed"]
    if name == "autoint":
        settings = {"hidden": [20, 20], **settings}
    recommender = build_recommender(layout, narrow(name, **settings), 1)
    draw(recommender.net)
    return recommender.eval()


HIDDEN = {
    "wide-deep": 3, "deepfm": 3, "dcn-v2": 2, "finalmlp": 4, "autoint": 2, "din": 2,
    "shared-bottom": 1, "two-tower": 4,
}  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), recommenders())
def test_silent_units_of_every_net_of_the_zoo_leave_no_trace(
    name: str, settings: dict[str, Any]
) -> None:
    recommender = build(name, **settings)
    joints = find_joints(recommender)
    assert len(joints) == HIDDEN.get(name, 0)
    kept = {}
    for joint in joints:
        gone, kept[joint.producer] = kept_of(recommender, joint)
        silence(recommender, joint, gone)
    batch = draw_batch(recommender.layout, 9, seeded(3))
    before = recommender(batch)
    shrink_units(recommender, kept)
    torch.testing.assert_close(recommender(batch), before, **CLOSE)
    for own, units in kept.items():
        assert len(recommender.get_submodule(own).get_parameter("weight")) == len(units) == 14


class Residual(nn.Module):
    """A net that reads its chain's end, and adds what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
        self.tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.tied[1].weight = self.tied[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(x + self.body(x))  # type: ignore[no-any-return]


class Dense(nn.Sequential):
    """A chain by name alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)  # type: ignore[no-any-return]


def test_what_others_read_is_left_alone() -> None:
    assert find_joints(Residual()) == [Joint("body.0", "body.2")]
    assert find_joints(Dense(nn.Linear(4, 6), nn.Linear(6, 4))) == []
    assert find_joints(Residual(), leave=["body.0"]) == []


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(4, 6), nn.Softmax(-1), nn.Linear(6, 2)],
        [nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)],
        [nn.Linear(4, 6), nn.MaxPool1d(1), nn.Linear(6, 2)],
        [nn.Conv2d(1, 6, 3), nn.Linear(6, 2)],
        [nn.Conv2d(1, 6, 3), nn.Flatten(2), nn.Linear(6, 2)],
        [nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(6, 2, 3)],
        [nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3, groups=6)],
        [nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 2, 3), nn.Linear(2, 2)],
        [nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 2)],
    ],
)
def test_what_mixes_units_ends_a_chain(layers: list[nn.Module]) -> None:
    assert find_joints(nn.Sequential(*layers)) == []


def hand_made() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        net.get_parameter("0.weight").copy_(torch.tensor([[1.0, -1.0], [3.0, 0.0], [0.0, 0.5]]))
        net.get_parameter("0.bias").copy_(torch.tensor([0.0, 1.0, 2.0]))
        net.get_parameter("2.weight").copy_(torch.tensor([[4.0, -1.0, 2.0]]))
        net.get_parameter("2.bias").zero_()
    return net


def test_importance_by_hand() -> None:
    net = hand_made()
    assert unit_importance(net, "incoming")["0"].tolist() == [2.0, 3.0, 0.5]
    assert unit_importance(net, "outgoing")["0"].tolist() == [4.0, 1.0, 2.0]
    assert unit_importance(net, "both")["0"].tolist() == [8.0, 3.0, 1.0]
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    found = measure_units(net, lambda: net(rows))
    # relu of (1, -2), (4, 1), (2, 3).
    assert found.magnitude["0"].tolist() == [0.5, 2.5, 2.5]
    assert found.mean["0"].tolist() == [0.5, 2.5, 2.5]
    assert unit_importance(net, "both", found)["0"].tolist() == [4.0, 7.5, 2.5]
    assert type(net[2]) is nn.Linear
    assert net.training


def test_a_norm_between_counts_as_part_of_the_layer() -> None:
    net = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2, eps=0.0), nn.Linear(2, 1))
    with torch.no_grad():
        net.get_parameter("0.weight").fill_(1.0)
        net.get_parameter("1.weight").copy_(torch.tensor([-3.0, 1.0]))
        net.get_buffer("1.running_var").copy_(torch.tensor([4.0, 1.0]))
    assert unit_importance(net, "incoming")["0"].tolist() == [1.5, 1.0]


def test_activations_of_channels_are_means_over_places() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(8, 1)
    )
    with torch.no_grad():
        net.get_parameter("0.weight").copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        net.get_parameter("0.bias").zero_()
        net.get_parameter("2.weight").copy_(torch.eye(2).view(2, 2, 1, 1))
        net.get_parameter("2.bias").zero_()
    images = torch.tensor([[1.0, 2.0], [-3.0, 4.0]]).view(1, 1, 2, 2)
    found = measure_units(net, lambda: net(images))
    assert found.magnitude["0"].tolist() == [1.75, 0.75]
    assert found.magnitude["2"].tolist() == [1.75, 0.75]
    assert found.mean["2"].tolist() == [1, 2, 0, 4, 0, 0, 3, 0]


def test_the_mean_of_what_goes_is_added_to_the_bias() -> None:
    """Units that give the same for every row go without a trace if they are compensated."""
    net = conv_net()
    for joint in find_joints(net):
        gone, _ = kept_of(net, joint)
        layer = net.get_submodule(joint.between[0])
        with torch.no_grad():
            layer.get_parameter("weight")[gone] = 0.0
    images = torch.randn(5, 1, 28, 28, generator=seeded(2))
    before = net(images)
    found = measure_units(net, lambda: net(images))
    # A constant unit's incoming weights count nothing behind a norm of weight zero.
    config = NeuronConfig(ratio=1 / 3, weights="incoming", compensate=True)
    kept = prune_units(net, config, found)
    assert [len(units) for units in kept.values()] == [4, 6, 7]
    torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-4)


def test_choosing_by_layer_and_over_all() -> None:
    importance = {"a": torch.tensor([1.0, 5.0, 2.0, 3.0]), "b": torch.tensor([10.0, 20.0])}
    by_layer = choose_units(importance, NeuronConfig(ratio=0.5))
    assert {name: own.tolist() for name, own in by_layer.items()} == {"a": [1, 3], "b": [1]}
    own = choose_units(importance, NeuronConfig(ratio=0.0, ratios={"a": 0.75}))
    assert {name: own.tolist() for name, own in own.items()} == {"a": [1], "b": [0, 1]}
    # By its layer's norm: .16, .80, .32, .48; .45, .89. The best of each stays whatever happens.
    whole = choose_units(importance, NeuronConfig(ratio=0.5, scope="global"))
    assert {name: own.tolist() for name, own in whole.items()} == {"a": [1, 3], "b": [1]}
    least = choose_units(importance, NeuronConfig(ratio=0.9, scope="global"))
    assert {name: own.tolist() for name, own in least.items()} == {"a": [1], "b": [1]}
    even = choose_units(importance, NeuronConfig(ratio=0.9, multiple=4))
    assert {name: len(own) for name, own in even.items()} == {"a": 4, "b": 2}


def test_at_least_one_unit_stays() -> None:
    net = hand_made()
    assert prune_units(net, NeuronConfig(ratio=0.99))["0"].tolist() == [0]
    assert [tuple(own.shape) for own in net.parameters()] == [(1, 2), (1,), (1, 1), (1,)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 1.0}, r"ratio must be in \[0, 1\); got 1.0"),
        ({"ratios": {"net.0": -0.1}}, r"ratios.net.0 must be in \[0, 1\); got -0.1"),
        ({"scope": "tensor"}, "scope must be one of layer, global; got 'tensor'"),
        ({"weights": "all"}, "weights must be one of incoming, outgoing, both; got 'all'"),
        ({"multiple": 0}, "multiple must be at least 1; got 0"),
        ({"scope": "global", "ratios": {"a": 0.5}}, "ratios by layer need scope 'layer'; got 'gl"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NeuronConfig(**settings)  # type: ignore[arg-type]


def test_what_cannot_go_is_named() -> None:
    net = hand_made()
    with pytest.raises(ConfigError, match=r"units of layer '2' cannot go; those of \['0'\] can"):
        shrink_units(net, {"2": torch.tensor([0])})
    for wrong in ([], [3], [-1]):
        with pytest.raises(ConfigError, match="units of '0' that stay must be some from 0 to 2"):
            shrink_units(net, {"0": torch.tensor(wrong, dtype=torch.int64)})
    with pytest.raises(
        ConfigError, match="no units can go: the model has no two layers of float32"
    ):
        prune_units(nn.Sequential(nn.Linear(2, 3)), NeuronConfig())
    with pytest.raises(ConfigError, match="compensate needs activations"):
        prune_units(net, NeuronConfig(compensate=True))
    with pytest.raises(ConfigError, match=r"ratios.x: there is no such layer in \['0'\]"):
        prune_units(net, NeuronConfig(ratios={"x": 0.5}))
    with pytest.raises(ConfigError, match="layer '2' was given no rows"):
        measure_units(net, lambda: None)

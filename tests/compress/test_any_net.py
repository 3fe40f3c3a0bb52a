"""The steps on plain PyTorch nets for images, which know nothing of recommenders."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scalerec.compress.neurons import NeuronConfig, measure_units, prune_units
from scalerec.compress.pruning import (
    GradualPruning,
    PruneConfig,
    count_weights,
    prunable_weights,
    prune_weights,
    weights_of,
)
from scalerec.compress.soft import soft_binary, soft_classes
from scalerec.metrics import auc

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE = 8


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_images(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Stripes in noise, ``[N, 1, 8, 8]``, and labels ``[N]``: 1 where they lie level."""
    generator = seeded(seed)
    labels = (torch.arange(number) % 2).float()
    wave = torch.tensor([1.0, 1.0, -1.0, -1.0]).repeat(SIDE // 4)
    level = wave.view(1, SIDE, 1).expand(number, SIDE, SIDE)
    stripes = torch.where(labels.view(-1, 1, 1) == 1, level, level.mT)
    noise = torch.randn(number, SIDE, SIDE, generator=generator)
    return (stripes + noise).unsqueeze(1), labels


def conv_net(seed: int, width: int = 8) -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 1),
    )
    draw(net, seed)
    return net


def draw(net: nn.Module, seed: int) -> None:
    """Draw what has two dimensions or more."""
    generator = seeded(seed)
    with torch.no_grad():
        for own in net.parameters():
            if own.ndim > 1:
                own.copy_(torch.randn(own.shape, generator=generator) / own[0].numel() ** 0.5)


class Residual(nn.Module):
    """A block whose own code adds what it was given; PyTorch's only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x))


def train(net: nn.Module, loss: Callable[[Tensor], Tensor], steps: int = 40) -> nn.Module:
    """Steps of Adam on all images; the loss is that of the net's logits."""
    images, _ = draw_images(64, seed=1)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    net.train()
    for _ in range(steps):
        optimiser.zero_grad()
        loss(net(images).flatten()).backward()
        optimiser.step()
    return net.eval()


def by_labels(logits: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, draw_images(64, seed=1)[1])


@torch.no_grad()
def area(net: nn.Module) -> float:
    """The AUC over other images."""
    images, labels = draw_images(200, seed=2)
    found = auc(labels.numpy(), net.eval()(images).flatten().numpy())
    assert found is not None
    return found


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    net = train(conv_net(3), by_labels)
    torch.set_num_threads(before)
    return net


def test_the_toy_can_be_learned(teacher: nn.Module) -> None:
    assert area(teacher) > 0.97
    assert area(conv_net(3)) < 0.9


def test_half_the_channels_go_and_the_net_gets_smaller(teacher: nn.Module) -> None:
    net = copy.deepcopy(teacher)
    kept = prune_units(net, NeuronConfig(ratio=0.5, weights="incoming"))
    assert {name: len(units) for name, units in kept.items()} == {"0": 4, "4": 8}
    # By hand: weights, a scale and a shift of each normalisation, two biases.
    assert count_weights(teacher).total == (8 * 9 + 16) + (16 * 8 * 9 + 16 + 32) + (16 + 1)
    assert count_weights(net).total == (4 * 9 + 8) + (8 * 4 * 9 + 8 + 16) + (8 + 1)
    train(net, by_labels, steps=15)
    assert area(net) > 0.95


def test_the_channels_of_the_least_norm_go() -> None:
    net = conv_net(1)
    with torch.no_grad():
        for number, scale in enumerate([5.0, 1.0, 6.0, 2.0, 7.0, 3.0, 8.0, 4.0]):
            net.get_parameter("0.weight")[number] = scale
    stay = prune_units(net, NeuronConfig(ratio=0.5, weights="incoming"))["0"]
    assert stay.tolist() == [0, 2, 4, 6]
    assert net.get_parameter("0.weight")[:, 0, 0, 0].tolist() == [5.0, 6.0, 7.0, 8.0]


def test_channels_can_go_by_what_they_give_and_leave_their_mean(teacher: nn.Module) -> None:
    images, _ = draw_images(64, seed=1)
    plain, mended = copy.deepcopy(teacher), copy.deepcopy(teacher)
    given = measure_units(teacher, lambda: teacher(images))
    config = NeuronConfig(ratio=0.25)
    prune_units(plain, config, given)
    prune_units(mended, config.replace(compensate=True), given)
    with torch.no_grad():
        right = teacher(images)
        apart = [(net.eval()(images) - right).square().mean() for net in (plain, mended)]
    assert apart[1] < apart[0]


def test_of_a_residual_block_only_what_it_keeps_to_itself_goes() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), Residual(6), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(6, 1),
    )  # fmt: skip
    draw(net, 1)
    net.eval()
    images, _ = draw_images(4, seed=1)
    with torch.no_grad():
        # What these give is 0 behind normalisation and ReLU.
        net.get_parameter("2.body.0.weight")[[1, 4]] = 0.0
        before = net(images)
        kept = prune_units(net, NeuronConfig(ratio=0.34, weights="incoming"))
    assert {name: units.tolist() for name, units in kept.items()} == {"2.body.0": [0, 2, 3, 5]}
    # The same sums but for terms of 0.
    torch.testing.assert_close(net(images), before, rtol=1e-5, atol=1e-6)


def test_weights_go_by_magnitude_and_the_others_keep_the_sum(teacher: nn.Module) -> None:
    net = copy.deepcopy(teacher)
    before = {name: own.abs().sum() for name, own in weights_of(net).items()}
    masks = prune_weights(net, PruneConfig(ratio=0.5, scope="tensor", rescale=True))
    assert prunable_weights(net) == ["0.weight", "4.weight", "9.weight"]
    for name in prunable_weights(net):
        own, old = weights_of(net)[name], weights_of(teacher)[name]
        assert int((own == 0).sum()) == own.numel() // 2
        # Sums of float32 in another order.
        torch.testing.assert_close(own.abs().sum(), before[name], rtol=1e-5, atol=0.0)
        assert old.abs()[own != 0].min() >= old.abs()[own == 0].max()
    train(net, by_labels, steps=1)
    assert count_weights(net).nonzero > masks.counts.nonzero + 16 + 1 + 48
    masks.apply()
    zeros = sum(int((weights_of(net)[name] == 0).sum()) for name in prunable_weights(net))
    assert zeros == masks.counts.total - masks.counts.nonzero


def test_weights_go_little_by_little_while_a_net_learns() -> None:
    net, last = conv_net(3), 30
    images, _ = draw_images(64, seed=1)
    pruning = GradualPruning(net, PruneConfig(ratio=0.7), last=last, every=5)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(1, 41):
        optimiser.zero_grad()
        by_labels(net(images).flatten()).backward()
        optimiser.step()
        pruning(step)
    total = sum(weights_of(net)[name].numel() for name in prunable_weights(net))
    nonzero = sum(int((weights_of(net)[name] != 0).sum()) for name in prunable_weights(net))
    assert nonzero == total - round(0.7 * total)
    assert area(net) > 0.95


def test_a_smaller_net_learns_from_the_teacher_without_labels(teacher: nn.Module) -> None:
    images, _ = draw_images(64, seed=1)
    with torch.no_grad():
        taught = teacher(images).flatten()

    def apart(logits: Tensor) -> Tensor:
        return soft_binary(logits, taught, temperature=2.0).mean()

    student = conv_net(5, width=4)
    with torch.no_grad():
        first = apart(student.eval()(images).flatten())
    train(student, apart)
    with torch.no_grad():
        assert apart(student(images).flatten()) < 0.2 * first
    assert area(student) > 0.95
    with torch.no_grad():
        assert float(apart(teacher(images).flatten())) == pytest.approx(0.0, abs=1e-6)


def test_one_logit_and_two_classes_teach_alike() -> None:
    own, taught = torch.tensor([0.3, -2.0, 4.0]), torch.tensor([1.0, 0.5, -3.0])
    zeros = torch.zeros(3)
    one = soft_binary(own, taught, temperature=3.0)
    two = soft_classes(torch.stack([zeros, own], 1), torch.stack([zeros, taught], 1), 3.0)
    # The same sums of logarithms in float32.
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_the_steps_follow_each_other(teacher: nn.Module) -> None:
    """Channels go, the teacher teaches, weights go, and it teaches again."""
    images, _ = draw_images(64, seed=1)
    with torch.no_grad():
        taught = teacher(images).flatten()

    def lesson(logits: Tensor) -> Tensor:
        return 0.5 * by_labels(logits) + 0.5 * soft_binary(logits, taught).mean()

    net = copy.deepcopy(teacher)
    prune_units(net, NeuronConfig(ratio=0.5))
    train(net, lesson, steps=15)
    masks = prune_weights(net, PruneConfig(ratio=0.5, scope="tensor", rescale=True))
    train(net, lesson, steps=15)
    masks.apply()
    counts = count_weights(net)
    assert counts.total == 365
    assert counts.nonzero == 365 - (18 + 144 + 4)
    assert area(net) > 0.9

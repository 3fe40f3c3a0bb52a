"""Private steps: both engines alike, examples clipped, batches by coins, noise as stated."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.federated.privacy.made import seeded
from tests.federated.test_local import CHOSEN, CLOSE, SIZES, drawn
from torch import Tensor, nn

from scalerec.federated.alone import train_alone
from scalerec.federated.batches import Step, expected_batches, steps_of, turns_of_epoch
from scalerec.federated.cohorts import Cohort, gather_cohort
from scalerec.federated.example_steps import PrivateSteps
from scalerec.federated.local import Local, LocalConfig, train_cohort
from scalerec.train.cohort.holdings import hold_examples
from scalerec.train.cohort.module_model import ModuleModel

pytestmark = pytest.mark.usefixtures("one_thread")
PAIR = np.array([0, 1])
NO_NOISE = torch.zeros(len(SIZES), dtype=torch.float64)


def both(
    name: str, layout: str, config: LocalConfig, clip: float, coins: str | None
) -> tuple[Local, Local]:
    """What the batched engine gives without noise, and the loop over examples."""
    model, holdings, matrix = drawn(name, layout)
    cohort = replace(gather_cohort(model, holdings, CHOSEN), coins=coins)
    steps = PrivateSteps(clip, NO_NOISE, config.batch_size, seeded())
    starts = {name: tensor.unsqueeze(0) for name, tensor in model.dense.items()}
    args: Any = (cohort, starts, matrix[cohort.rows], config, (7, 2), None, steps)
    return train_cohort(*args), train_alone(*args)


@pytest.mark.parametrize("coins", [None, "some"])
@pytest.mark.parametrize(("name", "layout"), [("deepfm", "mixed"), ("din", "mixed")])
@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_both_engines_give_the_same(name: str, layout: str, clip: float, coins: str | None) -> None:
    config = LocalConfig(epochs=2, batch_size=4, lr=0.05, rows_lr=0.2)
    found, wanted = both(name, layout, config, clip, coins)
    assert torch.equal(found.steps, wanted.steps)
    torch.testing.assert_close(found.losses, wanted.losses, **CLOSE)
    torch.testing.assert_close(found.moved_rows, wanted.moved_rows, **CLOSE)
    assert float(wanted.moved_rows.abs().max()) > 1e-4
    for key, tensor in wanted.moved.items():
        torch.testing.assert_close(found.moved[key], tensor, **CLOSE, msg=key)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LocalConfig(batch_size=8, lr=0.05, rows_lr=0.2)
    whole, _ = both("deepfm", "mixed", config, 0.05, None)
    monkeypatch.setattr("scalerec.federated.example_steps.CHUNK_NUMBERS", 1)
    parted, _ = both("deepfm", "mixed", config, 0.05, None)
    torch.testing.assert_close(parted.moved_rows, whole.moved_rows, **CLOSE)
    for key, tensor in whole.moved.items():
        torch.testing.assert_close(parted.moved[key], tensor, **CLOSE)


class Weight(nn.Module):
    """One number, times the input."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def weights_of(labels: list[float], sizes: list[int]) -> Cohort:
    """Parties with the loss (w - y)^2 / 2, so that at w = 0 an example's gradient is -y."""
    flat = torch.tensor(labels)
    model = ModuleModel(
        Weight(), torch.ones(len(flat)), flat, lambda out, y: (out - y).square() / 2
    )
    offsets = np.cumsum([0, *sizes])
    return gather_cohort(model, hold_examples(np.arange(len(flat)), offsets), np.arange(len(sizes)))


def first_step(cohort: Cohort, batch_size: int) -> Step:
    return next(iter(steps_of(cohort, 1, batch_size, (1, 2))))


def test_gradients_by_hand() -> None:
    """Labels 1, 4 and -0.5 with a clip of 2: -(1 + 2 - 0.5) over 3; NaN adds nothing."""
    cohort = weights_of([1.0, 4.0, -0.5, float("nan"), 3.0], [3, 2])
    steps = PrivateSteps(2.0, torch.zeros(2).double(), 0, seeded())
    step = first_step(cohort, 0)
    dense = {"w": torch.zeros(2)}
    _, (found,) = steps.of_cohort(step, dense, torch.zeros(0, 1))
    torch.testing.assert_close(found, torch.tensor([-2.5 / 3, -2.0 / 2]), rtol=1e-5, atol=0.0)


class Idle(nn.Module):
    """Many numbers that the output does not depend on."""

    def __init__(self, num: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(num))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.0 * self.w.sum()


def test_noise_has_the_stated_size() -> None:
    """Each party its multiplier times the clip of 0.5 over its expected batch of 4, or 2."""
    num, flat = 20_000, torch.ones(12)
    model = ModuleModel(Idle(num), flat, flat, lambda out, y: (out - y).square())
    cohort = gather_cohort(model, hold_examples(np.arange(12), np.array([0, 10, 12])), PAIR)
    noise = torch.tensor([3.0, 1.0], dtype=torch.float64)
    steps = PrivateSteps(0.5, noise, 4)
    step = first_step(replace(cohort, coins="some"), 4)
    _, (found,) = steps.of_cohort(step, {"w": torch.zeros(2, num)}, torch.zeros(0, 1))
    wanted = torch.tensor([3.0 * 0.5 / 4, 1.0 * 0.5 / 2], dtype=torch.float64)
    torch.testing.assert_close(found.double().std(1), wanted, rtol=5 / (2 * num) ** 0.5, atol=0.0)
    _, (alone,) = steps.of_one(
        first_step(cohort.part(1, 2), 4), {"w": torch.zeros(num)}, torch.zeros(0, 1)
    )
    assert float(alone.std()) == pytest.approx(0.25, rel=5 / (2 * num) ** 0.5)


def test_rows_have_the_stated_noise() -> None:
    """All rows that a party holds, read in the step or not; padding has none when it moved."""
    model, holdings, matrix = drawn("deepfm", "mixed")
    cohort = replace(gather_cohort(model, holdings, CHOSEN), coins="some")
    noise = torch.arange(1, len(SIZES) + 1).double() * 100
    config = LocalConfig(batch_size=4, rows_lr=1.0, lr=0.0)
    starts = {name: tensor.unsqueeze(0) for name, tensor in model.dense.items()}
    found = []
    for seed in range(40):
        steps = PrivateSteps(0.01, noise, 4, seeded(seed))
        args: Any = (cohort, starts, matrix[cohort.rows], config, (7, 2), None, steps)
        found.append(train_cohort(*args))
    moved = torch.stack([local.moved_rows for local in found]).double()
    assert not moved[:, cohort.still].any()
    for place, party in enumerate(cohort.parties.tolist()):
        low, high = int(cohort.offsets[place]), int(cohort.offsets[place + 1])
        own = moved[:, low:high][:, ~cohort.still[low:high]]
        each = float(noise[party]) * 0.01 / min(4, SIZES[party])
        std = each * float(found[0].steps[place]) ** 0.5
        assert float(own.std()) == pytest.approx(std, rel=5 / (2 * own.numel()) ** 0.5 + 0.02)


def test_each_example_joins_by_a_coin() -> None:
    """With the chance B / n in each of ceil(n / B) steps an epoch; small parties use all."""
    sizes = [50, 10, 3]
    cohort = replace(weights_of([0.0] * 63, sizes), coins="some")
    counts, num = np.zeros(63), 200
    for number in range(num):
        found = list(steps_of(cohort, 2, 8, (1, number)))
        assert [step.active for step in found] == [3, 2, 1, 1, 1, 1, 1] * 2
        assert [step.epoch for step in found] == [0] * 7 + [1] * 7
        for step in found:
            taken = step.examples[step.mask].numpy()
            assert len(np.unique(taken)) == len(taken)
            counts += np.bincount(taken, minlength=63)
    assert turns_of_epoch(np.array(sizes), 8).tolist() == [7, 2, 1]
    assert expected_batches(np.array(sizes), 8).tolist() == [8, 8, 3]
    assert expected_batches(np.array(sizes), 0).tolist() == [50, 10, 3]
    assert (counts[60:] == 2 * num).all()
    for own, chance, turns in ((counts[:50], 0.16, 14), (counts[50:60], 0.8, 4)):
        tries = num * turns
        spread = (tries * chance * (1 - chance)) ** 0.5
        assert abs(own - tries * chance).max() < 5 * spread


def test_batches_follow_from_the_coins_and_the_party_alone() -> None:
    cohort = replace(weights_of([0.0] * 60, [40, 20]), coins="some")

    def of(own: Cohort, key: tuple[int, ...]) -> list[list[int]]:
        return [step.examples[-1][step.mask[-1]].tolist() for step in steps_of(own, 1, 10, key)]

    both_parties = [
        [step.examples[p][step.mask[p]].tolist() for p in range(step.active)]
        for step in steps_of(cohort, 1, 10, (1, 2))
    ]
    assert [own[0] for own in both_parties] == of(cohort.part(0, 1), (1, 2))
    assert [own[1] for own in both_parties[:2]] == of(cohort.part(1, 2), (1, 2))
    assert of(cohort.part(0, 1), (1, 3)) != of(cohort.part(0, 1), (1, 2))
    other = replace(cohort, coins="other").part(0, 1)
    assert of(other, (1, 2)) != of(cohort.part(0, 1), (1, 2))


def test_nobody_may_join_a_step() -> None:
    """The step has noise all the same."""
    cohort = replace(weights_of([0.0] * 40, [40]), coins="some")
    empty = 0
    for number in range(100):
        for step in steps_of(cohort, 1, 1, (1, number)):
            assert step.examples.shape[1] >= 1
            if not step.mask.any():
                empty += 1
                steps = PrivateSteps(1.0, torch.ones(1).double(), 1, seeded(number))
                _, (found,) = steps.of_cohort(step, {"w": torch.zeros(1)}, torch.zeros(0, 1))
                assert float(found.abs()) > 0
    # (1 - 1 / 40)^40 = 0.363 of 4000.
    assert empty == pytest.approx(0.363 * 4000, rel=0.15)

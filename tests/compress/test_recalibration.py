"""A scale and a shift of logits: found where there is one, left alone where there is none."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.train.toys import narrow

from scalerec.compress.recalibration import (
    Calibration,
    calibrate,
    ece_noise,
    fit_logits,
    logit_loss,
    ne_move,
    recalibrated,
)
from scalerec.data.dataset import Dataset
from scalerec.errors import DataError
from scalerec.metrics import ece, ne
from scalerec.models.recommender import Recommender, build_recommender

pytestmark = pytest.mark.usefixtures("one_thread")

Numbers = NDArray[np.float64]


def rows_of(size: int, seed: int = 0) -> tuple[Numbers, Numbers]:
    """Labels drawn by well calibrated logits."""
    draws = np.random.default_rng(seed)
    logits = draws.normal(-0.5, 1.5, size)
    labels = (draws.uniform(size=size) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    return labels, logits


def test_loss_by_hand() -> None:
    found = logit_loss(np.array([1.0, 0.0]), np.array([math.log(3), math.log(3)]))
    assert found.tolist() == pytest.approx([-math.log(0.75), -math.log(0.25)])
    assert logit_loss(np.array([0.0]), np.array([800.0])).tolist() == [800.0]


def test_recovers_a_known_scale_and_shift() -> None:
    """What was done to the logits is undone: both fits are the same model, exactly."""
    labels, logits = rows_of(2_000)
    ones = np.ones(2_000)
    scale, shift = fit_logits(labels, logits, ones)
    moved = fit_logits(labels, 3.0 * logits - 2.0, ones)
    assert moved[0] * 3.0 == pytest.approx(scale, abs=1e-10)
    assert moved[1] - 2.0 * moved[0] == pytest.approx(shift, abs=1e-10)
    # 0.06 is some three standard errors of either number.
    labels, logits = rows_of(20_000)
    fit = fit_logits(labels, 0.5 * logits + 1.0, np.ones(20_000))
    assert fit == pytest.approx((2.0, -2.0), abs=0.12)


def test_the_gradient_is_zero_there() -> None:
    labels, logits = rows_of(500)
    weights = np.random.default_rng(1).uniform(0.5, 2, 500)
    scale, shift = fit_logits(labels, logits, weights)
    gaps = weights * (1 / (1 + np.exp(-(scale * logits + shift))) - labels)
    assert abs(gaps.sum() / weights.sum()) < 1e-11
    assert abs((gaps * logits).sum() / weights.sum()) < 1e-10


@given(st.floats(0.05, 20), st.floats(-50, 50), st.integers(0, 5))
def test_far_off_starts_are_found_too(scale: float, shift: float, seed: int) -> None:
    labels, logits = rows_of(200, seed)
    best = fit_logits(labels, logits, np.ones(200))
    found = fit_logits(labels, scale * logits + shift, np.ones(200))
    undone = found[0] * scale, found[1] + found[0] * shift
    assert undone == pytest.approx(best, rel=1e-6, abs=1e-6)


def test_a_weight_is_a_row_twice() -> None:
    labels, logits = rows_of(100)
    twice = np.arange(100) < 30
    doubled = fit_logits(
        np.append(labels, labels[twice]), np.append(logits, logits[twice]), np.ones(130)
    )
    assert fit_logits(labels, logits, np.where(twice, 2.0, 1.0)) == pytest.approx(doubled, abs=1e-9)


def test_no_least_one() -> None:
    ones = np.ones(4)
    with pytest.raises(DataError, match="rows with label 0 and rows with label 1"):
        fit_logits(ones, np.arange(4.0), ones)
    with pytest.raises(DataError, match="logits that differ; all are equal"):
        fit_logits(np.array([0.0, 1, 0, 1]), ones, ones)
    with pytest.raises(DataError, match="rows of both labels with logits alike; none are"):
        fit_logits(np.array([0.0, 0, 1, 1]), np.arange(4.0), ones)


def test_ne_move_is_the_difference() -> None:
    labels, logits = rows_of(400)
    weights = np.random.default_rng(1).uniform(0.5, 2, 400)
    after = 1.5 * logits + 0.2
    rise, error = ne_move(labels, logits, after, weights)
    found = [ne(labels, 1 / (1 + np.exp(-x)), weights) for x in (logits, after)]
    assert found[0] is not None
    assert found[1] is not None
    assert rise == pytest.approx(found[1] - found[0], abs=1e-12)
    assert 0 < error < 0.1
    assert ne_move(labels, logits, logits, weights) == (0.0, 0.0)


def test_ece_noise_is_what_chance_gives() -> None:
    """Over 300 draws of the labels of one set of logits."""
    draws = np.random.default_rng(2)
    logits = draws.normal(0, 1.5, 2_000)
    rates = 1 / (1 + np.exp(-logits))
    found = [ece((draws.uniform(size=2_000) < rates).astype(int), rates) or 0.0 for _ in range(300)]
    mean, deviation = ece_noise(logits, np.ones(2_000))
    assert mean == pytest.approx(np.mean(found), rel=0.05)
    assert deviation == pytest.approx(np.std(found), rel=0.15)


class Stretched(torch.nn.Module):
    """A net whose logits are another's, stretched and shifted."""

    def __init__(self, net: torch.nn.Module, scale: float, shift: float) -> None:
        super().__init__()
        self.net, self.scale, self.shift = net, scale, shift

    def forward(self, inputs: object) -> torch.Tensor:
        logits: torch.Tensor = self.net(inputs) * self.scale + self.shift
        return logits


@pytest.fixture(scope="module")
def trained(simulated: Dataset) -> Recommender:
    from scalerec.train import TrainConfig, train

    config = TrainConfig(epochs=4, batch_size=256, precision="fp32")
    return train(simulated, narrow(), config).recommender


def stretched(dataset: Dataset, trained: Recommender, scale: float, shift: float) -> Recommender:
    own = build_recommender(dataset.layout, trained.spec, 1)
    own.load_tensors(trained.to_tensors())
    own.net = Stretched(own.net, scale, shift)
    return own.eval()


def test_moved_scores_are_brought_back(simulated: Dataset, trained: Recommender) -> None:
    own = stretched(simulated, trained, 4.0, 3.0)
    found = calibrate(own, simulated, trained)
    assert len(found) == sum(task.kind == "binary" for task in simulated.schema.tasks)
    first = found[0]
    assert first.changed
    assert first.reason.startswith("NE rose by")
    assert first.after < first.before
    alone = calibrate(own, simulated)[0]
    assert alone.changed
    assert (alone.scale, alone.shift) == (first.scale, first.shift)


def test_scores_that_did_not_move_are_left(simulated: Dataset, trained: Recommender) -> None:
    for own in (trained, stretched(simulated, trained, 1.001, 0.0)):
        first = calibrate(own, simulated, trained)[0]
        assert not first.changed
        assert (first.scale, first.shift) == (1.0, 0.0)
        assert first.reason == "neither NE nor ECE moved beyond noise"


def test_scores_that_tell_nothing(simulated: Dataset, trained: Recommender) -> None:
    first = calibrate(stretched(simulated, trained, 0.0, 0.0), simulated, trained)[0]
    assert (first.changed, first.reason) == (
        False,
        "a calibration needs logits that differ; all are equal",
    )
    first = calibrate(stretched(simulated, trained, -1.0, 0.0), simulated, trained)[0]
    assert (first.changed, first.reason) == (False, "the logits tell nothing of the labels")


def fit(task: str, scale: float, shift: float, changed: bool = True) -> Calibration:
    return Calibration(task, scale, shift, changed, "", 0.0, 0.0)


def test_what_is_found_is_applied(simulated: Dataset, trained: Recommender) -> None:
    """To the tasks that it is for; a second one on top of the first; the model stays."""
    batch = simulated.split("valid").read(0, 50)
    names = [task.name for task in simulated.schema.tasks]
    with torch.no_grad():
        before = trained(batch)
        once = recalibrated(trained, [fit(names[0], 2.0, -1.0), fit(names[1], 9.0, 9.0, False)])
        assert torch.equal(trained(batch), before)
        assert torch.allclose(once(batch)[:, 0], 2.0 * before[:, 0] - 1.0, atol=1e-5)
        assert torch.equal(once(batch)[:, 1:], before[:, 1:])
        twice = recalibrated(once, [fit(names[0], 3.0, 0.5)])
        assert torch.allclose(twice(batch)[:, 0], 6.0 * before[:, 0] - 2.5, atol=1e-5)
    assert twice.spec.forms.recalibrated
    assert recalibrated(trained, [fit(names[0], 1.0, 0.0, False)]) is trained


def test_a_fit_that_is_applied_is_not_found_again(simulated: Dataset, trained: Recommender) -> None:
    first = calibrate(trained, simulated)
    assert first[0].changed
    own = recalibrated(trained, first)
    again = calibrate(own, simulated)
    assert [one.changed for one in again] == [False] * len(first)
    assert again[0].before == pytest.approx(first[0].after, abs=1e-6)

"""Schedules: figures by hand, and torch's plateau as the outside reference."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerec.errors import ConfigError
from scalerec.optim import Plateau, Schedule, ScheduleConfig, cosine_factor, warmup_factor


def test_constant() -> None:
    schedule = Schedule(ScheduleConfig())
    assert [schedule.factor(step) for step in (0, 1, 1000)] == [1.0, 1.0, 1.0]
    assert not schedule.observe(0.5)
    assert not schedule.observe(0.4)
    assert schedule.factor(2000) == 1.0


def test_warmup() -> None:
    assert [warmup_factor(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup_factor(0, 0) == 1.0
    schedule = Schedule(ScheduleConfig(warmup_steps=2))
    assert [schedule.factor(step) for step in range(3)] == [0.5, 1.0, 1.0]


def test_cosine_by_hand() -> None:
    # Four steps of the fall: 1, (1 + cos 45)/2, 1/2, (1 - cos 45)/2, then the floor for good.
    half = math.sqrt(0.5)
    wanted = [1.0, (1 + half) / 2, 0.5, (1 - half) / 2, 0.0, 0.0]
    assert [cosine_factor(step, 4) for step in range(6)] == pytest.approx(wanted)
    assert cosine_factor(2, 4, floor=0.2) == pytest.approx(0.6)
    assert [cosine_factor(s, 6, warmup_steps=2) for s in (0, 1, 2, 4, 6)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.5, 0.0]
    )


@settings(deadline=None)  # a slow machine is no failure
@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), max_size=20), st.integers(0, 3), st.booleans()
)
def test_plateau_equals_torch(metrics: list[float], patience: int, higher: bool) -> None:
    ours = Plateau(decay=0.5, patience=patience, min_gain=0.05, higher_is_better=higher)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser,
        mode="max" if higher else "min",
        factor=0.5,
        patience=patience,
        threshold=0.05,
        threshold_mode="abs",
        eps=0.0,
    )
    for metric in metrics:
        before = ours.factor
        assert ours.observe(metric) == (ours.factor < before)
        theirs.step(metric)
        assert ours.factor == optimiser.param_groups[0]["lr"]


def test_plateau_stops_at_its_floor_and_bears_nan() -> None:
    plateau = Plateau(decay=0.5, patience=0, floor=0.4)
    fell = [plateau.observe(metric) for metric in (0.9, math.nan, 0.9, 0.9)]
    assert fell == [False, True, True, False]
    assert plateau.factor == 0.4


@pytest.mark.parametrize("num_before", [0, 1, 3])
def test_a_restored_schedule_goes_on_alike(num_before: int) -> None:
    config = ScheduleConfig(name="plateau", patience=1, warmup_steps=2)
    metrics = [0.5, 0.4, 0.4, 0.6, 0.6, 0.5, 0.5]
    whole, part, rest = (Schedule(config) for _ in range(3))
    for metric in metrics:
        whole.observe(metric)
    for metric in metrics[:num_before]:
        part.observe(metric)
    rest.restore(json.loads(json.dumps(part.state())))
    for metric in metrics[num_before:]:
        rest.observe(metric)
    assert rest.factor(9) == whole.factor(9) < 1
    assert rest.state() == whole.state()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "step"}, "name must be one of constant, cosine, linear, plateau; got 'step'"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0; got -1"),
        ({"floor": 1.5}, r"floor must be in \[0, 1\]; got 1.5"),
        ({"decay": 1.0}, r"decay must be in \(0, 1\); got 1.0"),
        ({"patience": -1}, "patience must be at least 0; got -1"),
        ({"min_gain": -0.1}, "min_gain must be at least 0; got -0.1"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ScheduleConfig.from_dict(settings)


def test_a_cosine_needs_steps() -> None:
    with pytest.raises(ConfigError, match="more than warmup_steps=5 steps; got 5"):
        Schedule(ScheduleConfig(name="cosine", warmup_steps=5), num_steps=5)


def test_linear_falls_in_a_straight_line_after_its_warmup() -> None:
    schedule = Schedule(ScheduleConfig(name="linear", warmup_steps=2, floor=0.2), num_steps=6)
    factors = [schedule.factor(step) for step in range(8)]
    assert factors == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2])

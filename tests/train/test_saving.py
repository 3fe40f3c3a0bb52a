"""When a checkpoint is due, alone and among others."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from scalerec.train import OneProcess, TrainConfig
from scalerec.train.saving import SaveTimes


class Second(OneProcess):
    """One of two processes; the other's clock shows so much more."""

    world = 2

    def __init__(self, more: float) -> None:
        super().__init__()
        self.more, self.looks = more, 0

    def gather(self, value: Tensor, purpose: str) -> list[Tensor]:
        assert purpose == "clocks"
        self.looks += 1
        return [value, value + self.more]


def ticking(each: float) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += each


def steps_of(config: TrainConfig, runtime: OneProcess, each: float, steps: int) -> list[int]:
    """The steps after which a checkpoint is due, on a clock that shows `each` more when asked."""
    clock = ticking(each)
    times = SaveTimes(config, runtime, lambda: next(clock))
    return [step for step in range(1, steps + 1) if times.due(step)]


def test_by_steps() -> None:
    config = TrainConfig(checkpoint_steps=4, checkpoint_seconds=0)
    assert steps_of(config, OneProcess(), 1.0, 12) == [4, 8, 12]
    assert steps_of(TrainConfig(checkpoint_seconds=0), OneProcess(), 1.0, 12) == []


def test_by_time_alone() -> None:
    # The clock is asked once a step, and once more for each checkpoint: 3.5 s after 3 steps of 1.5.
    assert steps_of(TrainConfig(checkpoint_seconds=4.0), OneProcess(), 1.5, 9) == [3, 6, 9]


@pytest.mark.parametrize("more", [0.0, 3.0])
def test_processes_go_by_the_mean_of_their_clocks(more: float) -> None:
    now = [0.0]
    runtime, config = Second(more), TrainConfig(checkpoint_seconds=80.0)
    times = SaveTimes(config, runtime, lambda: now[0])
    found = []
    for step in range(1, 201):
        now[0] += 1.0
        if times.due(step):
            found.append(step)
    # The others' clock is ahead by `more`; a look comes every ten steps or so, not every step.
    assert 79 - more / 2 <= found[0] <= 92
    assert len(found) == 2
    assert runtime.looks < 40
    torch.testing.assert_close(found[1] - found[0], found[0], rtol=0.2, atol=0)

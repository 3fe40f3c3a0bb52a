"""What is called after each step, and what it may change."""

import torch
from tests.train.toys import narrow

from scalerec.data.dataset import Dataset
from scalerec.models.recommender import build_recommender
from scalerec.train import Learner, OneProcess, TrainConfig, train


def test_it_is_called_once_a_step_with_its_number(rated: Dataset) -> None:
    steps: list[int] = []
    config = TrainConfig(epochs=2, batch_size=100, patience=-1)
    trained = train(rated, narrow(), config, after_step=steps.append)
    assert steps == list(range(1, trained.num_steps + 1))
    assert len(steps) == 6


def test_what_it_sets_is_in_the_moving_average(rated: Dataset) -> None:
    """And it does not bring padding to life."""
    config = TrainConfig(batch_size=100, ema=0.9)
    recommender = build_recommender(rated.layout, narrow(), 1)
    weight = recommender.get_parameter("net.tower.0.weight")

    def silence(step: int) -> None:
        with torch.no_grad():
            weight[:, 0] = 0.0
            recommender.tables.matrix[0] = 1.0

    silence(0)
    learner = Learner(recommender, rated, config, OneProcess(), after_step=silence)
    for _ in range(3):
        learner.step(rated.split("train").read(0, 50), 1.0)
    for _ in range(2):
        live = recommender.get_parameter("net.tower.0.weight")
        assert not live[:, 0].any()
        assert live[:, 1].all()
        learner.swap_average()
    assert not recommender.tables.matrix[0].any()

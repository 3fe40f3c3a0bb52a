"""A batch without rows, as a process has that ran out of them: it adds nothing."""

import pytest
import torch
from tests.train.toys import narrow

from scalerec.data.dataset import Dataset
from scalerec.models.recommender import build_recommender
from scalerec.models.zoo import ZOO
from scalerec.train import Learner, OneProcess, TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("engine", ["dense", "numba", "torch"])
@pytest.mark.parametrize("model", ZOO)
def test_every_net_takes_it(model: str, engine: str, simulated: Dataset) -> None:
    """The loss is 0 and every gradient is there, and 0: other processes wait for its share."""
    config = TrainConfig.from_dict({"precision": "fp32", "tables": {"engine": engine}})
    recommender = build_recommender(simulated.layout, narrow(model), config.seed)
    learner = Learner(recommender, simulated, config, OneProcess())
    before = {name: tensor.clone() for name, tensor in recommender.to_tensors().items()}
    loss = learner.loss(simulated.split("train").read(0, 0))
    assert float(loss.detach()) == 0.0
    loss.backward()
    for parameter in learner.dense:
        assert parameter.grad is not None
        assert not parameter.grad.any()
    after = recommender.to_tensors()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())

"""Parts of a cohort on several threads: the same numbers, and errors that come through."""

import numpy as np
import pytest
import torch
from tests.federated.test_local import CHOSEN, CLOSE, drawn
from torch import nn

from scalerec.federated.cohorts import Cohort, gather_cohort
from scalerec.federated.local import LocalConfig
from scalerec.federated.strategies import FedAvg, Ground
from scalerec.federated.strategies.base import TABLE, FedAvgConfig
from scalerec.federated.workers import run_chunks
from scalerec.rounds import Parameters
from scalerec.train.cohort.holdings import hold_examples
from scalerec.train.cohort.module_model import ModuleModel


class Halves(FedAvg):
    """Trains a cohort in parts of two parties."""

    def _chunks(self, cohort: Cohort) -> list[tuple[int, int]]:
        num = len(cohort)
        return [(first, min(first + 2, num)) for first in range(0, num, 2)]


@pytest.fixture
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_parts_by_threads_are_the_whole() -> None:
    model, holdings, matrix = drawn("deepfm", "mixed")
    local = LocalConfig(epochs=2, batch_size=4, lr=0.05, rows_lr=0.2)
    private = torch.zeros(len(matrix), dtype=torch.bool)
    ground = Ground(model=model, holdings=holdings, private=private, local=local)
    parameters = Parameters(dense=dict(model.dense), tables={TABLE: matrix})
    cohort = gather_cohort(model, holdings, CHOSEN)
    parts = Halves(FedAvgConfig(), ground).train(parameters, cohort, 3)
    whole = FedAvg(FedAvgConfig(), ground).train(parameters, cohort, 3)
    torch.testing.assert_close(parts.local.moved_rows, whole.local.moved_rows, **CLOSE)
    torch.testing.assert_close(parts.local.losses, whole.local.losses, **CLOSE)
    assert torch.equal(parts.local.steps, whole.local.steps)
    for name, tensor in whole.local.moved.items():
        torch.testing.assert_close(parts.local.moved[name], tensor, **CLOSE)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_of_a_part_comes_through() -> None:
    model, _, _ = drawn("deepfm", "mixed")

    def fail(own: object, first: int, last: int) -> None:
        del own, last
        if first == 2:
            raise ValueError("part 2")

    with pytest.raises(ValueError, match="part 2"):
        run_chunks(fail, model, [(0, 2), (2, 4)])
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_who_draws_goes_in_order() -> None:
    """Dropout takes its draws from one generator: its parts come one after the other."""

    def made(rate: float) -> ModuleModel:
        net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(rate))
        return ModuleModel(net, torch.zeros(4, 2), torch.zeros(4), lambda out, y: out[:, 0] - y)

    def order(model: ModuleModel) -> list[tuple[bool, int]]:
        """Whether each part had the model itself, and where it starts."""
        seen: list[tuple[bool, int]] = []

        def train(own: object, first: int, last: int) -> None:
            del last
            seen.append((own is model, first))

        run_chunks(train, model, [(0, 2), (2, 4)])
        return seen

    assert order(made(0.5)) == [(True, 0), (True, 2)]
    assert sorted(order(made(0.0))) == [(False, 0), (False, 2)]


@pytest.mark.usefixtures("two_threads")
def test_no_part_has_more_than_a_cores_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten examples held 4, 3, 1, 1, 1, one of two cores gets five at most, or one party."""
    monkeypatch.setattr("scalerec.federated.strategies.base.FEWEST", 1)
    module = nn.Linear(1, 1)
    model = ModuleModel(module, torch.ones(10, 1), torch.ones(10), lambda out, y: out[:, 0] - y)
    holdings = hold_examples(np.arange(10), np.array([0, 4, 7, 8, 9, 10]))
    ground = Ground(
        model=model,
        holdings=holdings,
        private=torch.zeros(0, dtype=torch.bool),
        local=LocalConfig(),
    )
    cohort = gather_cohort(model, holdings, np.arange(5))
    assert FedAvg(FedAvgConfig(), ground)._chunks(cohort) == [(0, 1), (1, 4), (4, 5)]

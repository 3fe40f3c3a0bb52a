"""FedAdam, FedYogi and FedAdagrad over several rounds, number by number as algorithm 2 has it."""

from typing import Any

import pytest
from tests.federated.strategies.rows import two_rows
from tests.federated.strategies.tiny import make, play, weight_after

from scalerec.federated.local import LocalConfig
from scalerec.federated.strategies import TABLE

pytestmark = pytest.mark.usefixtures("one_thread")
STEP = LocalConfig(batch_size=0, lr=0.1, rows_lr=0.1)
NAMES = pytest.mark.parametrize("name", ["fedadam", "fedyogi", "fedadagrad"])


class Number:
    """One number of the server, and what it remembers.

    Args:
        name: The method.
        lr: The server's rate.
        beta1: Of the mean.
        beta2: Of the mean square.
        tau: What is added to its root.
    """

    def __init__(self, name: str, lr: float, beta1: float, beta2: float, tau: float) -> None:
        self.name, self.lr, self.beta1, self.beta2, self.tau = name, lr, beta1, beta2, tau
        self.x, self.m, self.v = 0.0, 0.0, tau**2

    def step(self, moved: float) -> float:
        """Lines 10 to 14 of the paper's algorithm 2."""
        square = moved**2
        self.m = self.beta1 * self.m + (1 - self.beta1) * moved
        if self.name == "fedadagrad":
            self.v = self.v + square
        elif self.name == "fedyogi":
            up = (self.v < square) - (self.v > square)
            self.v = self.v + up * (1 - self.beta2) * square
        else:
            self.v = self.beta2 * self.v + (1 - self.beta2) * square
        self.x += self.lr * self.m / (self.v**0.5 + self.tau)
        return self.x


# A tau of 0.1 starts below the squares of what parties move, one of 1 above.
@pytest.mark.parametrize("tau", [0.1, 1.0])
@NAMES
def test_a_dense_number_over_rounds(name: str, tau: float) -> None:
    settings: dict[str, Any] = {"server_lr": 0.5, "beta1": 0.8, "beta2": 0.7, "tau": tau}
    rounds = [[0, 1], [1], [0], [0, 1], [0]]
    found = weight_after(name, STEP, rounds, **settings)
    number = Number(name, 0.5, 0.8, 0.7, tau)
    # Parties 0 and 1 move a tenth of the way to 1 and to 5, and count 1 and 2.
    for parties, weight in zip(rounds, found, strict=True):
        away = sum((1, 5)[party] * (1, 2)[party] for party in parties)
        moved = 0.1 * (away / sum((1, 2)[party] for party in parties) - number.x)
        assert weight == pytest.approx(number.step(moved), rel=1e-5)


@NAMES
def test_rows_step_when_they_are_read(name: str) -> None:
    """A row that nobody of a round read keeps its place, its mean and its mean square."""
    settings: dict[str, Any] = {"beta1": 0.8, "beta2": 0.7, "tau": 0.15}
    ground, parameters = two_rows(STEP)
    method = make(name, ground, server_lr=0.0, server_rows_lr=0.5, **settings)
    first, second = (Number(name, 0.5, 0.8, 0.7, 0.15) for _ in range(2))
    for place, parties in enumerate([[0, 1], [0], [1], [0, 1]]):
        moves = {0: 0.1 * (1 - first.x), 1: 0.05 * (5 - first.x)}
        weights = {0: 1, 1: 2}
        moved = sum(weights[p] * moves[p] for p in parties) / sum(weights[p] for p in parties)
        if 1 in parties:
            second.step(0.05 * (2 - second.x))
        first.step(moved)
        parameters = play(method, parameters, parties, place)
        wanted = [first.x, second.x]
        assert parameters.tables[TABLE].flatten().tolist() == pytest.approx(wanted, rel=1e-5)
    assert float(parameters.dense["w"]) == 0.0


def test_defaults_are_the_papers() -> None:
    """Decays of .9 and .99, but no mean for Adagrad; tau is 1e-3."""
    ground, _ = two_rows(STEP)
    found = {name: make(name, ground).config for name in ("fedadam", "fedyogi", "fedadagrad")}
    assert [config.beta1 for config in found.values()] == [0.9, 0.9, 0.0]
    assert [config.beta2 for config in found.values()] == [0.99] * 3
    assert [config.settings("adam").tau for config in found.values()] == [1e-3] * 3


def test_fedprox_over_steps_by_hand() -> None:
    """Gradient w - y + mu (w - w0), so w - w0 shrinks to (y - w0) / (1 + mu) of the way."""
    local = STEP.replace(epochs=3)
    (found,) = weight_after("fedprox", local, [[1]], mu=0.5)
    away, w = 5.0, 0.0
    for _ in range(3):
        w -= 0.1 * (w - away + 0.5 * w)
    assert found == pytest.approx(w)
    # Many steps end at the minimum of (w - 5)^2 / 2 + mu / 2 w^2.
    (found,) = weight_after("fedprox", STEP.replace(epochs=200), [[1]], mu=0.5)
    assert found == pytest.approx(5 / 1.5)
    assert weight_after("fedprox", local, [[0, 1]], mu=0.0) == weight_after(
        "fedavg", local, [[0, 1]]
    )

"""Adaptive servers: two rounds by hand, rows that nobody touched, and tables that move in place."""

from typing import Any, get_args

import pytest
import torch

from scalerec.errors import ConfigError
from scalerec.rounds import Parameters, TableRows, Update, mean_aggregator
from scalerec.rounds.adaptive import Adaptive, Method, adaptive_mean

METHODS = get_args(Method)


def settings(method: Method, **changes: Any) -> Adaptive:
    values = {"lr": 0.5, "rows_lr": 2.0, "beta1": 0.5, "beta2": 0.75, "tau": 1.0, **changes}
    return Adaptive.from_dict({"method": method, **values})


def moved(dense: float, rows: dict[int, float]) -> Update:
    numbers = torch.tensor(sorted(rows), dtype=torch.int64)
    values = torch.tensor([rows[row] for row in sorted(rows)]).reshape(-1, 1)
    part = TableRows(rows=numbers, values=values)
    return Update(dense={"w": torch.tensor(dense)}, tables={"t": part}, weight=3.0)


def start() -> Parameters:
    return Parameters(dense={"w": torch.tensor(1.0)}, tables={"t": torch.ones(3, 1)})


# tau 1, so v starts at 1; beta1 .5, beta2 .75; lr .5. Displacements 2, then -4.
# m = .5 * 0 + .5 * 2 = 1, then .5 * 1 + .5 * -4 = -1.5.
# adagrad: v = 1 + 4 = 5, then 5 + 16 = 21.
# adam: v = .75 + 1 = 1.75, then 1.3125 + 4 = 5.3125.
# yogi: v = 1 + .25 * 4 = 2 (4 is above 1), then 2 + .25 * 16 = 6.
SQUARES = {"adagrad": (5.0, 21.0), "adam": (1.75, 5.3125), "yogi": (2.0, 6.0)}


@pytest.mark.parametrize("method", METHODS)
def test_two_rounds_by_hand(method: Method) -> None:
    aggregator = adaptive_mean(settings(method))
    first, second = SQUARES[method]
    parameters, state = start(), aggregator.init(start())
    parameters, state = aggregator.apply(parameters, [moved(2.0, {0: 2.0, 1: 2.0})], state)
    once = 1.0 / (first**0.5 + 1)
    assert parameters.dense["w"].item() == pytest.approx(1 + 0.5 * once)
    wanted = [1 + 2 * once, 1 + 2 * once, 1.0]
    assert parameters.tables["t"].flatten().tolist() == pytest.approx(wanted)
    parameters, state = aggregator.apply(parameters, [moved(-4.0, {0: -4.0, 2: 2.0})], state)
    twice = -1.5 / (second**0.5 + 1)
    assert parameters.dense["w"].item() == pytest.approx(1 + 0.5 * once + 0.5 * twice)
    # Row 1 was not touched and keeps its state; row 2 steps as row 0 did first.
    wanted = [1 + 2 * once + 2 * twice, 1 + 2 * once, 1 + 2 * once]
    assert parameters.tables["t"].flatten().tolist() == pytest.approx(wanted)
    squares = state["square/tables/t"].flatten().tolist()
    assert squares == pytest.approx([second, first, first])


def test_yogi_goes_down_by_a_share_of_the_new_square() -> None:
    # v = 1, displacement .5: its square .25 is below, so v = 1 - .25 * .25.
    aggregator = adaptive_mean(settings("yogi"))
    _, state = aggregator.apply(start(), [moved(0.5, {})], aggregator.init(start()))
    assert state["square/dense/w"].item() == pytest.approx(0.9375)


@pytest.mark.parametrize("method", METHODS)
def test_in_place_gives_the_same(method: Method) -> None:
    pure, own = adaptive_mean(settings(method)), adaptive_mean(settings(method), in_place=True)
    left, right = start(), start()
    states = pure.init(left), own.init(right)
    table = right.tables["t"]
    for update in (moved(2.0, {0: 1.0}), moved(-1.0, {0: 2.0, 2: 1.0})):
        before = left.tables["t"].clone()
        after, left_state = pure.apply(left, [update], states[0])
        assert torch.equal(left.tables["t"], before)
        right, right_state = own.apply(right, [update], states[1])
        left, states = after, (left_state, right_state)
        assert torch.equal(left.tables["t"], right.tables["t"])
        assert left_state.keys() == right_state.keys()
        assert all(torch.equal(left_state[name], right_state[name]) for name in left_state)
    assert right.tables["t"] is table


def test_a_mean_in_place() -> None:
    parameters = start()
    table, weight = parameters.tables["t"], parameters.dense["w"]
    after, _ = mean_aggregator(in_place=True).apply(parameters, [moved(2.0, {1: 3.0})], {})
    assert after.tables["t"] is table
    assert table.flatten().tolist() == [1.0, 4.0, 1.0]
    assert (after.dense["w"].item(), weight.item()) == (3.0, 1.0)


def test_a_dense_tensor_that_nobody_sent_steps_with_zero() -> None:
    aggregator = adaptive_mean(settings("adam"))
    update = Update(dense={}, tables={}, weight=1.0)
    after, state = aggregator.apply(start(), [update], aggregator.init(start()))
    assert after.dense["w"].item() == 1.0
    assert state["square/dense/w"].item() == 0.75


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": -1.0}, "lr must be at least 0; got -1.0"),
        ({"rows_lr": -1.0}, "rows_lr must be at least 0; got -1.0"),
        ({"beta1": 1.0}, r"beta1 must be in \[0, 1\); got 1.0"),
        ({"beta2": -0.1}, r"beta2 must be in \[0, 1\); got -0.1"),
        ({"tau": 0.0}, "tau must be above 0; got 0.0"),
        ({"method": "sgd"}, "method must be one of adagrad, yogi, adam; got 'sgd'"),
    ],
)
def test_words(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Adaptive.from_dict({**settings("adam").to_dict(), **changes})

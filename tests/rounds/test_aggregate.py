"""Aggregators: means and server steps by hand, order, and what cannot be aggregated."""

import math

import pytest
import torch

from scalerec.errors import ConfigError, RoundError
from scalerec.optim import ROW_OPTIMISERS, Adagrad, RowOptimiser, Sgd, adam, sgd
from scalerec.rounds import (
    Aggregator,
    Over,
    Parameters,
    TableRows,
    Update,
    apply_update,
    mean_aggregator,
    optimised_mean,
    weighted_mean,
)

MEMBERS: dict[str, Aggregator] = {
    "mean": mean_aggregator(),
    "mean over holders": mean_aggregator("holders"),
    "adam": optimised_mean(adam(0.1), ROW_OPTIMISERS["lazy_adam"](), rows_lr=0.1),
    "sgd": optimised_mean(sgd(1.0, momentum=0.5), Sgd(), rows_lr=1.0, over="holders"),
}
members = pytest.mark.parametrize("name", MEMBERS)


def update(weight: float, dense: float | None, rows: dict[int, float]) -> Update:
    part = TableRows(
        rows=torch.tensor(sorted(rows), dtype=torch.int64),
        values=torch.tensor([[rows[r]] for r in sorted(rows)]).reshape(-1, 1),
    )
    return Update(
        dense={} if dense is None else {"w": torch.tensor(dense)},
        tables={"t": part} if rows else {},
        weight=weight,
    )


def start() -> Parameters:
    return Parameters(dense={"w": torch.tensor(10.0)}, tables={"t": torch.zeros(4, 1)})


def test_means_by_hand() -> None:
    # Weights 1 and 3. Row 0 is held by the first alone, row 1 by both, row 2 by the second.
    updates = [update(1, 8.0, {0: 4.0, 1: 8.0}), update(3, 4.0, {1: 4.0, 2: 4.0})]
    over_all = weighted_mean(updates, "all")
    assert over_all.weight == 4
    assert over_all.dense["w"].item() == 5.0  # (8 + 12) / 4
    assert over_all.tables["t"].rows.tolist() == [0, 1, 2]
    assert over_all.tables["t"].values.flatten().tolist() == [1.0, 5.0, 3.0]
    over_holders = weighted_mean(updates, "holders")
    assert over_holders.dense["w"].item() == 5.0
    assert over_holders.tables["t"].values.flatten().tolist() == [4.0, 5.0, 4.0]


def test_a_dense_tensor_that_some_left_out() -> None:
    updates = [update(1, 8.0, {}), update(3, None, {0: 1.0})]
    assert weighted_mean(updates, "all").dense["w"].item() == 2.0
    assert weighted_mean(updates, "holders").dense["w"].item() == 8.0


def test_a_row_held_without_weight_stays() -> None:
    updates = [update(0, 1.0, {0: 9.0}), update(2, 1.0, {1: 3.0})]
    for over in ("all", "holders"):
        mean = weighted_mean(updates, over)
        assert mean.tables["t"].values.flatten().tolist() == [0.0, 3.0]


@pytest.mark.parametrize("over", ["all", "holders"])
def test_a_mean_of_one_is_itself(over: Over) -> None:
    mean = weighted_mean([update(5, 2.0, {3: 1.5})], over)
    assert (mean.dense["w"].item(), mean.tables["t"].values.item(), mean.weight) == (2.0, 1.5, 5)


@members
def test_order_of_parties_does_not_matter(name: str, generator: torch.Generator) -> None:
    member = MEMBERS[name]
    updates = [
        update(i + 1, float(torch.rand((), generator=generator)), {i % 4: 1.0 + i, 3: 2.0})
        for i in range(3)
    ]
    one, _ = member.apply(start(), updates, member.init(start()))
    other, _ = member.apply(start(), updates[::-1], member.init(start()))
    # float32 sums in another order.
    torch.testing.assert_close(one.flat(), other.flat(), rtol=1e-6, atol=1e-7)


@members
def test_state_keeps_its_names_and_nothing_changes_in_place(name: str) -> None:
    member, parameters = MEMBERS[name], start()
    state = member.init(parameters)
    copies = {k: v.clone() for k, v in state.items()}
    _, after = member.apply(parameters, [update(1, 1.0, {2: 1.0})], state)
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {
        k: (v.shape, v.dtype) for k, v in state.items()
    }
    assert all(torch.equal(copies[k], state[k]) for k in state)
    assert all(torch.equal(t, start().flat()[n]) for n, t in parameters.flat().items())


def test_plain_server_steps_equal_the_mean() -> None:
    # With SGD at learning rate 1, minus the negative mean is the mean.
    updates = [update(1, 8.0, {0: 4.0}), update(3, 4.0, {1: 4.0})]
    member = optimised_mean(sgd(1.0), Sgd(), rows_lr=1.0)
    moved, _ = member.apply(start(), updates, member.init(start()))
    plain, _ = mean_aggregator().apply(start(), updates, {})
    assert all(torch.equal(moved.flat()[n], t) for n, t in plain.flat().items())


def test_server_optimisers_by_hand() -> None:
    member = optimised_mean(sgd(1.0, momentum=0.5), Adagrad(eps=1.0), rows_lr=1.0)
    parameters, state = start(), member.init(start())
    for _ in range(2):
        parameters, state = member.apply(parameters, [update(2, 1.0, {1: 3.0})], state)
    # Dense: moves of 1, then .5 + 1. Row 1: sums of squares 9 and 18, 3/(3+1) + 3/(sqrt(18)+1).
    assert parameters.dense["w"].item() == 12.5
    row = 0.75 + 3 / (math.sqrt(18) + 1)
    torch.testing.assert_close(parameters.tables["t"].flatten(), torch.tensor([0, row, 0, 0]))
    assert state["tables/t/sum"].flatten().tolist() == [0, 18, 0, 0]
    assert int(state["round"]) == 2


@pytest.mark.parametrize("name", ROW_OPTIMISERS)
def test_untouched_rows_and_their_state_stay(name: str) -> None:
    rows: RowOptimiser = ROW_OPTIMISERS[name]()
    member = optimised_mean(adam(0.1), rows, rows_lr=0.1)
    moved, state = member.apply(start(), [update(1, 1.0, {2: 1.0})], member.init(start()))
    assert moved.tables["t"].flatten().nonzero().tolist() == [[2]]
    parts = [value for key, value in state.items() if key.startswith("tables/t/")]
    assert all(part.any(dim=1).nonzero().tolist() == [[2]] for part in parts)


def test_a_tensor_nobody_sent_keeps_its_momentum_going() -> None:
    member = optimised_mean(sgd(1.0, momentum=0.5), Sgd(), rows_lr=1.0)
    parameters, state = member.apply(start(), [update(1, 4.0, {})], member.init(start()))
    parameters, _ = member.apply(parameters, [update(1, None, {0: 1.0})], state)
    assert parameters.dense["w"].item() == 16.0  # 10 + 4 + .5 * 4


def test_the_mean_moves_as_apply_does() -> None:
    updates = [update(1, 8.0, {0: 4.0}), update(3, 4.0, {1: 4.0})]
    moved, _ = mean_aggregator("holders").apply(start(), updates, {})
    other = apply_update(start(), weighted_mean(updates, "holders"))
    assert all(torch.equal(moved.flat()[n], t) for n, t in other.flat().items())


@members
@pytest.mark.parametrize(
    ("updates", "words"),
    [
        ([], "needs at least one update; got none"),
        ([update(0, 1.0, {}), update(0, 1.0, {})], "the weights of 2 updates sum to 0"),
        ([update(2, 1.0, {}), update(-1, 1.0, {})], "finite and at least 0; got -1"),
        ([update(math.nan, 1.0, {})], "finite and at least 0; got nan"),
        ([update(1, 1.0, {9: 1.0})], r"rows of table 't' must be in \[0, 4\); got 9 to 9"),
        (
            [update(1, 1.0, {}), Update(dense={"w": torch.ones(2)}, tables={}, weight=1)],
            r"dense tensor 'w' must be \[\] of torch.float32 in all updates; got \[2\]",
        ),
    ],
)
def test_what_cannot_be_aggregated(name: str, updates: list[Update], words: str) -> None:
    member = MEMBERS[name]
    with pytest.raises(RoundError, match=words):
        member.apply(start(), updates, member.init(start()))


def test_a_wrong_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="over must be one of all, holders; got 'some'"):
        weighted_mean([update(1, 1.0, {})], "some")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rows_lr must be at least 0; got -1"):
        optimised_mean(sgd(1.0), Sgd(), rows_lr=-1)

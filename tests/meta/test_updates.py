"""Updates add up: tasks one at a time, in parts or all at once have the start move alike."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.meta.references import TASKS, Toy, make_toy
from tests.meta.test_algorithms import leaves, rates_of
from torch import Tensor

from scalerec.errors import RoundError
from scalerec.meta.algorithms import (
    ALGORITHMS,
    OWN_ROWS,
    RATES,
    ROWS,
    Learned,
    Lesson,
    with_own_rows,
)
from scalerec.meta.config import MetaConfig
from scalerec.meta.outer import meta_aggregator
from scalerec.meta.personal import Examples
from scalerec.rounds import Parameters, TableRows, Update, weighted_mean

# Float64: only the order of sums differs.
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
PARTS = {
    "halves": [[0, 1], [2, 3]],
    "one at a time": [[0], [1], [2], [3]],
    "uneven": [[3, 0, 2], [1]],
}
pytestmark = pytest.mark.usefixtures("one_thread")


def with_users(toy: Toy, users: list[int]) -> Toy:
    """The toy with these users' tasks; one user may have several."""

    def of(examples: Examples) -> Examples:
        batch, width = examples.batch, len(examples.batch) // TASKS
        ids = batch.ids.clone()
        ids[0] = torch.tensor(users).repeat_interleave(width)
        return toy.model.read(replace(batch, ids=ids), TASKS)

    return Toy(toy.model, toy.shared, of(toy.support), of(toy.query))


def without_query(toy: Toy, task: int) -> Toy:
    """The toy, where one task's query weighs nothing."""
    weights = toy.query.batch.weights.clone().view(TASKS, -1)
    weights[task] = 0.0
    batch = replace(toy.query.batch, weights=weights.flatten())
    return Toy(toy.model, toy.shared, toy.support, toy.model.read(batch, TASKS))


def learn(name: str, toy: Toy, rates: dict[str, Tensor], tasks: list[int]) -> Learned:
    """What an algorithm gives for some of the tasks, with no more rows than these read."""

    def of(examples: Examples) -> Examples:
        places = torch.arange(len(examples.batch)).view(TASKS, -1)[tasks].flatten()
        return toy.model.read(examples.batch.take(places), len(tasks), numbers)

    tables, every = toy.model.recommender.tables, torch.arange(TASKS)
    mine = torch.isin(every, torch.tensor(tasks))
    read = [
        tables.rows_of(e.batch.take(mine.repeat_interleave(len(e.batch) // TASKS).nonzero()[:, 0]))
        for e in (toy.support, toy.query)
    ]
    numbers = torch.unique(torch.cat(read))
    shared = replace(toy.shared, rows=toy.shared.rows.detach()[numbers].requires_grad_())
    entry = ALGORITHMS[name]
    args = (of(toy.support), of(toy.query), numbers, 2, entry.second_order)
    return entry.learn(Lesson(toy.model, shared, rates, *args, prior=1.5))


def check(found: Update, wanted: Update) -> None:
    assert found.weight == wanted.weight
    assert found.tables.keys() == wanted.tables.keys()
    for name in found.dense.keys() | wanted.dense.keys():
        # Where no task of a part reads a parameter, it has none; elsewhere that is 0.
        one, other = (u.dense.get(name, torch.zeros(())) for u in (found, wanted))
        torch.testing.assert_close(*torch.broadcast_tensors(one, other), check_dtype=False, **CLOSE)
    for name, part in found.tables.items():
        assert torch.equal(part.rows, wanted.tables[name].rows)
        torch.testing.assert_close(part.values, wanted.tables[name].values, **CLOSE)


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_mean_of_parts_is_the_update_of_all(name: str, parts: list[list[int]]) -> None:
    entry = ALGORITHMS[name]
    # Tasks 0 and 3 share a row of their own.
    toy = leaves(with_users(make_toy(adapt=entry.adapt), [2, 3, 4, 2]))
    rates = rates_of(toy, entry.rates)
    whole = learn(name, toy, rates, list(range(TASKS)))
    found = [learn(name, toy, rates, part) for part in parts]
    assert [own.update.weight for own in found] == [len(part) for part in parts]
    check(weighted_mean([own.update for own in found]), whole.update)
    assert (OWN_ROWS in whole.update.tables) == (name == "reptile")
    losses = torch.cat([own.losses for own in found])
    order = torch.tensor([task for part in parts for task in part])
    torch.testing.assert_close(losses, whole.losses[order], **CLOSE)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_task_that_nobody_judges_has_no_part(name: str) -> None:
    entry = ALGORITHMS[name]
    toy = leaves(without_query(make_toy(adapt=entry.adapt), 1))
    rates = rates_of(toy, entry.rates)
    whole = learn(name, toy, rates, [0, 1, 2, 3]).update
    assert whole.weight == 3
    alone = learn(name, toy, rates, [1]).update
    assert alone.weight == 0
    assert not any(bool(value.any()) for value in alone.values())
    halves = [learn(name, toy, rates, part).update for part in ([0, 1], [2, 3])]
    check(weighted_mean(halves), whole)
    others = learn(name, toy, rates, [0, 2, 3]).update
    for key, value in others.dense.items():
        torch.testing.assert_close(whole.dense[key], value, **CLOSE)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_aggregator_steps_alike_whoever_computed(name: str, optimiser: str) -> None:
    entry = ALGORITHMS[name]
    toy = leaves(with_users(make_toy(adapt=entry.adapt), [2, 3, 4, 2]))
    rates = rates_of(toy, entry.rates)
    config = MetaConfig.from_dict(
        {"algorithm": name, "optimiser": optimiser, "lr": 0.1, "rows_lr": 0.1, "l2": 0.01}
    )
    aggregator = meta_aggregator(config)
    moved = []
    for parts in ([[0, 1, 2, 3]], *PARTS.values()):
        dense = {n: t.detach() for n, t in toy.shared.dense.items()}
        if entry.rates != "fixed":
            dense |= {RATES + n: t.detach() for n, t in rates.items()}
        parameters = Parameters(dense=dense, tables={ROWS: toy.shared.rows.detach().clone()})
        state = aggregator.init(parameters)
        updates = [learn(name, toy, rates, part).update for part in parts]
        # Somebody without a task changes nothing.
        found, _ = aggregator.apply(parameters, [*updates, Update.zero()], state)
        moved.append(found.flat())
    # Adam divides by the gradient, and by 1e-8 where it is 0 but for rounding.
    close = CLOSE if optimiser == "sgd" else {"rtol": 1e-6, "atol": 1e-7}
    for other in moved[1:]:
        for key, tensor in moved[0].items():
            torch.testing.assert_close(other[key], tensor, **close)


def test_where_a_task_went_goes_before_what_else_is_known() -> None:
    def rows(numbers: list[int], values: list[list[float]]) -> TableRows:
        return TableRows(rows=torch.tensor(numbers), values=torch.tensor(values))

    # Of four tasks two have row 5 for their own, and went 1 and 3; one has row 7.
    own = rows([5, 7], [[1.0, 0.5], [0.5, 0.25]])
    update = Update(dense={}, tables={ROWS: rows([3, 5], [[9.0], [8.0]]), OWN_ROWS: own}, weight=4)
    found = with_own_rows(update).tables
    assert found.keys() == {ROWS}
    assert found[ROWS].rows.tolist() == [3, 5, 7]
    assert found[ROWS].values.tolist() == [[9.0], [2.0], [2.0]]
    alone = with_own_rows(replace(update, tables={OWN_ROWS: own})).tables[ROWS]
    assert (alone.rows.tolist(), alone.values.tolist()) == ([5, 7], [[2.0], [2.0]])
    plain = Update(dense={}, tables={}, weight=1)
    assert with_own_rows(plain) is plain


def test_updates_of_nobody_have_no_mean() -> None:
    parameters = Parameters(dense={"a": torch.zeros(2)}, tables={ROWS: torch.zeros(3, 2)})
    aggregator = meta_aggregator(MetaConfig())
    state = aggregator.init(parameters)
    with pytest.raises(RoundError, match="the weights of 1 updates sum to 0"):
        aggregator.apply(parameters, [Update.zero()], state)


def test_rows_stay_where_they_shall() -> None:
    parameters = Parameters(dense={"a": torch.zeros(2)}, tables={ROWS: torch.zeros(3, 2)})
    aggregator = meta_aggregator(MetaConfig.from_dict({"rows_lr": 0.0, "optimiser": "sgd"}))
    state = aggregator.init(parameters)
    assert not any(name.startswith("tables/") for name in state)
    moved = TableRows(rows=torch.tensor([1]), values=torch.ones(1, 2))
    update = Update(dense={"a": torch.ones(2)}, tables={ROWS: moved}, weight=1)
    found, _ = aggregator.apply(parameters, [update], state)
    assert not found.tables[ROWS].any()
    assert bool((found.dense["a"] > 0).all())

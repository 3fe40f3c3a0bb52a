"""Each algorithm is its paper: held to slow loops, and to finite differences."""

from typing import Any, NamedTuple

import pytest
import torch
from tests.meta.references import (
    TASKS,
    Toy,
    adapted,
    make_toy,
    own_batch,
    query_losses,
    slow_gradient,
)
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.meta.algorithms import ALGORITHMS, RATES, ROWS, Lesson, with_own_rows
from scalerec.meta.parts import OWN
from scalerec.meta.personal import Shared

# Float64: only the order of sums differs.
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
STEPS = 3
pytestmark = pytest.mark.usefixtures("one_thread", "like_many")


@pytest.fixture
def like_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and small as tasks are here, layers move by products where those of many would."""
    monkeypatch.setattr("scalerec.meta.adapting.FEW_NUMBERS", 0)


def leaves(toy: Toy) -> Toy:
    dense = {name: tensor.clone().requires_grad_() for name, tensor in toy.shared.dense.items()}
    rows = toy.shared.rows.clone().requires_grad_()
    return Toy(toy.model, Shared(dense, rows), toy.support, toy.query)


def rates_of(toy: Toy, kind: str) -> dict[str, Tensor]:
    rates = toy.rates()
    if kind == "number":
        generator = torch.Generator().manual_seed(5)
        rates = {
            name: 0.1
            + torch.rand(
                toy.shared.rows.shape[1:] if name == OWN else toy.shared.dense[name].shape,
                generator=generator,
                dtype=torch.float64,
            )
            for name in rates
        }
    return rates if kind == "fixed" else {n: rate.requires_grad_() for n, rate in rates.items()}


class Gradient(NamedTuple):
    """Minus an update, with all rows of the matrix."""

    dense: dict[str, Tensor]
    rows: Tensor
    rates: dict[str, Tensor]
    losses: Tensor


def learn(name: str, toy: Toy, rates: dict[str, Tensor]) -> Gradient:
    entry = ALGORITHMS[name]
    second = entry.second_order
    lesson = Lesson(toy.model, toy.shared, rates, toy.support, toy.query, None, STEPS, second)
    update, losses = entry.learn(lesson)
    assert update.weight == TASKS
    update = with_own_rows(update)
    assert update.tables.keys() == {ROWS}
    part = update.tables[ROWS]
    rows = torch.zeros_like(toy.shared.rows).index_copy_(0, part.rows, -part.values)
    return Gradient(
        {n: -moved for n, moved in update.dense.items() if not n.startswith(RATES)},
        rows.detach(),
        {n.removeprefix(RATES): -m for n, m in update.dense.items() if n.startswith(RATES)},
        losses,
    )


def check(found: Gradient, wanted: tuple[Any, Any, Any]) -> None:
    dense, rows, rates = wanted
    for ours, theirs in ((found.dense, dense), (found.rates, rates)):
        # A gradient of zeros and none at all are the same.
        for name in ours.keys() | theirs.keys():
            one, other = ours.get(name), theirs.get(name)
            assert one is not None or other is not None
            filled = [torch.zeros(()) if t is None else t for t in (one, other)]
            torch.testing.assert_close(
                *torch.broadcast_tensors(*filled), check_dtype=False, **CLOSE
            )
    torch.testing.assert_close(found.rows, rows, **CLOSE)


@pytest.mark.parametrize("net", ["deepfm", "wide-deep", "dcn-v2", "mmoe", "din"])
@pytest.mark.parametrize("adapt", ["all", "decision", "head,own"])
def test_maml_differentiates_through_the_steps(net: str, adapt: str) -> None:
    toy = leaves(make_toy(net, adapt=adapt))
    rates = rates_of(toy, "fixed")
    check(learn("maml", toy, rates), slow_gradient(toy, rates, STEPS, second=True))


def test_maml_learns_a_rate_a_parameter_too() -> None:
    toy = leaves(make_toy())
    rates = rates_of(toy, "layer")
    check(learn("maml", toy, rates), slow_gradient(toy, rates, STEPS, second=True))


def test_maml_on_several_tasks_of_a_model() -> None:
    toy = leaves(make_toy("deepfm", "several"))
    rates = rates_of(toy, "fixed")
    check(learn("maml", toy, rates), slow_gradient(toy, rates, STEPS, second=True))


@pytest.mark.parametrize("adapt", ["all", "head"])
def test_the_first_order_takes_gradients_for_constants(adapt: str) -> None:
    toy = leaves(make_toy(adapt=adapt))
    rates = rates_of(toy, "fixed")
    found = learn("fomaml", toy, rates)
    check(found, slow_gradient(toy, rates, STEPS, second=False))
    other = slow_gradient(toy, rates, STEPS, second=True)[0]
    name = "net.tower.2.weight" if adapt == "all" else "net.tower.0.weight"
    assert not torch.allclose(found.dense[name], other[name], rtol=1e-3)


def test_anil_adapts_the_last_layer_alone() -> None:
    toy = leaves(make_toy(adapt=ALGORITHMS["anil"].adapt))
    assert toy.parts.names == ("net.tower.6.weight", "net.tower.6.bias")
    rates = rates_of(toy, "fixed")
    check(learn("anil", toy, rates), slow_gradient(toy, rates, STEPS, second=True))


def test_meta_sgd_learns_a_rate_for_each_number() -> None:
    assert ALGORITHMS["meta-sgd"].rates == "number"
    toy = leaves(make_toy())
    rates = rates_of(toy, "number")
    found = learn("meta-sgd", toy, rates)
    assert found.rates["net.tower.0.weight"].shape == toy.shared.dense["net.tower.0.weight"].shape
    check(found, slow_gradient(toy, rates, STEPS, second=True))


@pytest.mark.parametrize("adapt", ["all", "decision"])
def test_reptile_moves_towards_where_tasks_went(adapt: str) -> None:
    toy = leaves(make_toy(adapt=adapt))
    rates = rates_of(toy, "fixed")
    found = learn("reptile", toy, rates)
    pairs = [(own_batch(toy.support, t), own_batch(toy.query, t)) for t in range(TASKS)]
    known = [Batch.concat(pair) for pair in pairs]
    went = adapted(toy, known, rates, STEPS, second=False)
    for name in toy.parts.names:
        wanted = toy.shared.dense[name] - torch.stack([own[name] for own in went]).mean(0)
        torch.testing.assert_close(found.dense[name], wanted, **CLOSE)
    # What is shared follows the loss after adapting, with adapted parameters as constants.
    fixed = [{name: own.detach() for name, own in task.items()} for task in went]
    (rows,) = torch.autograd.grad(query_losses(toy, fixed).mean(), [toy.shared.rows])
    if OWN not in went[0]:
        torch.testing.assert_close(found.rows, rows, **CLOSE)
        return
    users = toy.query.batch.ids[0].view(TASKS, -1)[:, 0]
    own_rows = users + toy.model.recommender.tables.start["user"]
    moved = torch.stack([toy.shared.rows[r] - w[OWN] for r, w in zip(own_rows, went, strict=True)])
    torch.testing.assert_close(found.rows[own_rows], moved, **CLOSE)
    others = torch.ones(len(rows), dtype=torch.bool).index_fill(0, own_rows, False)
    torch.testing.assert_close(found.rows[others], rows[others], **CLOSE)


@pytest.mark.parametrize("name", ["maml", "anil", "meta-sgd"])
def test_second_order_gradients_are_finite_differences(name: str) -> None:
    entry = ALGORITHMS[name]
    toy = leaves(make_toy(adapt=entry.adapt))
    rates = rates_of(toy, entry.rates)
    found = learn(name, toy, rates)

    def total() -> float:
        return float(learn(name, toy, rates).losses.mean())

    generator = torch.Generator().manual_seed(6)
    pairs = [(toy.shared.dense[n], g) for n, g in found.dense.items()]
    pairs += [(toy.shared.rows, found.rows), *((rates[n], g) for n, g in found.rates.items())]
    for leaf, grad in pairs:
        way = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        values, start = [], leaf.detach().clone()
        for sign in (1e-6, -1e-6):
            with torch.no_grad():
                leaf.copy_(start + sign * way)
            values.append(total())
        with torch.no_grad():
            leaf.copy_(start)
        # Differences of step 1e-6 are right to about 1e-12 over 1e-6, and to the square of it.
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(
            float((way * grad).sum()), rel=1e-5, abs=1e-8
        )

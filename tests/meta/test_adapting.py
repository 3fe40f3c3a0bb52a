"""Adapting many tasks at once: what each adapts to alone, by whichever way costs less."""

from typing import Any

import pytest
import torch
from tests.contracts.test_zoo import FIRST_LAYOUT, PAIRS
from tests.meta.references import (
    TASKS,
    Toy,
    adapted,
    make_toy,
    own_batch,
    query_losses,
)
from tests.models.toys import LAYOUTS
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scalerec.data.layout import IdField
from scalerec.data.schema import Role, Schema
from scalerec.errors import ConfigError
from scalerec.meta.adapting import adapt, dense_after, moves_by_products
from scalerec.meta.parts import OWN, Parts, choose_parts, own_field
from scalerec.meta.passing import Memo, Running
from scalerec.meta.personal import Examples, Fast, PersonalModel, Shared
from scalerec.models.recommender import ModelSpec, build_recommender

# Float64: only the order of sums differs.
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
STEPS = 3
FITTING = [pair for pair in PAIRS if pair[0] != "two-tower" or pair[1] != "several"]
pytestmark = pytest.mark.usefixtures("one_thread")


def after(toy: Toy, *, products: bool | None = None, steps: int = STEPS) -> dict[str, Tensor]:
    rates = toy.rates()
    fast = adapt(toy.model, toy.shared, toy.support, rates, steps, products=products)
    return dense_after(toy.model, toy.shared, fast)


@pytest.mark.parametrize(("net", "layout"), FITTING)
def test_every_net_adapts_as_each_task_would_alone(net: str, layout: str) -> None:
    toy = make_toy(net, layout, "decision,own")
    batches = [own_batch(toy.support, task) for task in range(TASKS)]
    wanted = adapted(toy, batches, toy.rates(), STEPS, second=False)
    fast = adapt(toy.model, toy.shared, toy.support, toy.rates(), STEPS)
    found = dense_after(toy.model, toy.shared, fast)
    assert list(found) == [*toy.parts.names, OWN]
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, torch.stack([own[name] for own in wanted]), **CLOSE)
    with torch.no_grad():
        losses = toy.model.open(toy.shared, toy.query).losses(fast)
    torch.testing.assert_close(losses, query_losses(toy, wanted).detach(), **CLOSE)


@pytest.mark.parametrize("net", ["deepfm", "wide-deep", "autoint", "dcn-v2"])
def test_products_are_the_weights_that_they_stand_for(net: str) -> None:
    toy = make_toy(net, "mixed", "decision,own")
    one, other = (after(toy, products=products) for products in (True, False))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], **CLOSE)


def test_what_costs_less_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_toy(adapt="decision")
    args = (toy.model, toy.shared, toy.rates(), toy.support)
    assert not moves_by_products(*args, 2)
    monkeypatch.setattr("scalerec.meta.adapting.FEW_NUMBERS", 0)
    assert moves_by_products(*args, 2)
    assert not moves_by_products(*args, 200)
    rates = {name: torch.ones_like(toy.shared.dense[name]) for name in toy.parts.names}
    assert not moves_by_products(toy.model, toy.shared, rates, toy.support, 2)
    toy = make_toy("mmoe", adapt="decision")
    assert not moves_by_products(toy.model, toy.shared, toy.rates(), toy.support, 2)


def test_without_examples_or_steps_a_task_stays() -> None:
    toy = make_toy(adapt="decision")
    empty = 2
    for name, tensor in after(toy).items():
        assert torch.equal(tensor[empty], toy.shared.dense[name])
        assert name == "net.tower.6.bias" or not torch.equal(tensor[0], toy.shared.dense[name])
    for products in (True, False):
        for name, tensor in after(toy, products=products, steps=0).items():
            assert torch.equal(tensor, toy.shared.dense[name].expand(TASKS, *tensor.shape[1:]))


def test_what_lies_before_the_first_adapted_layer_is_computed_once() -> None:
    toy = make_toy(adapt="head")

    def flops(steps: int) -> int:
        with FlopCounterMode(display=False) as counter:
            adapt(toy.model, toy.shared, toy.support, toy.rates(), steps, products=False)
        return int(counter.get_total_flops())

    flops(1)
    # A step more: 12 examples times 6 inputs of the last layer, once forth and once back.
    assert flops(2) - flops(1) == 2 * 2 * 12 * 6
    assert flops(4) - flops(1) == 3 * 2 * 2 * 12 * 6


class Tied(nn.Module):
    """A net whose layer is read by something else too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + self.layer.weight.sum()
        return out


def test_a_layer_that_is_read_otherwise_does_not_move_by_products() -> None:
    net = Tied()
    linear = {"layer.weight": net.layer.weight}
    running = Running([], linear, {"layer.weight": None}, 2, Memo(), None)
    with pytest.raises(RuntimeError, match="moves by products is read otherwise too"), running:
        net(torch.ones(4, 3))


def test_words_name_what_adapts() -> None:
    recommender = make_toy().model.recommender
    assert choose_parts(recommender, "head").names == ("net.tower.6.weight", "net.tower.6.bias")
    assert all(name.startswith("net.") for name in choose_parts(recommender, "decision").names)
    assert choose_parts(recommender, "all", 0) == Parts(tuple(recommender.dense_parameters()), 0)
    assert choose_parts(recommender, "all").field is None
    assert choose_parts(recommender, "own", 2) == Parts((), 2)
    assert choose_parts(recommender, "net.tower.?.bias, own", 0).names == tuple(
        f"net.tower.{i}.bias" for i in (0, 2, 4, 6)
    )
    with pytest.raises(ConfigError, match="'tower' names no parameter; allowed: head, decision"):
        choose_parts(recommender, "tower")
    with pytest.raises(ConfigError, match="`own` needs tasks whose key is an id field"):
        choose_parts(recommender, "own")
    with pytest.raises(ConfigError, match="nothing adapts; name at least one parameter"):
        PersonalModel(recommender, Parts(()))


@pytest.mark.parametrize("net", ["shared-bottom", "mmoe", "ple", "esmm"])
def test_the_head_of_towers_is_what_reads_them_out(net: str) -> None:
    layout = LAYOUTS[FIRST_LAYOUT[net]]
    recommender = build_recommender(layout, ModelSpec(model=net, settings={"dim": 4}), 1)
    assert choose_parts(recommender, "head").names == ("net.heads.weight", "net.heads.bias")


def test_models_that_cannot_be_personal_are_refused() -> None:
    layout = make_toy().model.layout
    spec = ModelSpec(model="deepfm", settings={"dim": 3, "hidden": [4], "batch_norm": True})
    recommender = build_recommender(layout, spec, 1)
    with pytest.raises(ConfigError, match=r"got tower.*: set batch_norm=false"):
        PersonalModel(recommender, choose_parts(recommender, "head"))


def test_the_own_field_is_that_of_the_key() -> None:
    schema = Schema.from_dict(
        {
            "features": [
                {"name": "who", "kind": "categorical", "role": "user", "column": "user_id"},
                {"name": "film", "kind": "categorical", "role": "item"},
                {"name": "genre", "kind": "categorical", "role": "item"},
            ],
            "tasks": [{"name": "liked", "kind": "binary"}],
            "user": "user_id",
            "item": "film",
        }
    )
    fields = [
        IdField(name=name, role=role, table=name)
        for name, role in (("film", Role.ITEM), ("who", Role.USER), ("genre", Role.ITEM))
    ]
    layout = make_toy().model.layout.replace(ids=tuple(fields))
    assert own_field(schema, layout, "user") == 1
    assert own_field(schema, layout, "item") == 0
    assert own_field(schema, layout, "genre") == 2
    assert own_field(schema, layout, "age") is None
    assert own_field(schema, layout.replace(ids=tuple(fields[:1])), "user") is None


def test_fast_weights_of_one_task_are_those_of_many() -> None:
    toy = make_toy(adapt="decision,own")
    whole = after(toy)
    size = len(toy.support.batch) // TASKS
    for task in range(TASKS):
        batch = toy.support.batch.take(torch.arange(task * size, (task + 1) * size))
        own: Examples = toy.model.read(batch, 1)
        fast: Fast = adapt(toy.model, toy.shared, own, toy.rates(), STEPS)
        for name, tensor in dense_after(toy.model, toy.shared, fast).items():
            torch.testing.assert_close(tensor[0], whole[name][task], **CLOSE)
    assert isinstance(toy.shared, Shared)


def test_a_prior_counts_as_examples_without_a_loss() -> None:
    toy = make_toy(adapt="decision")
    found = [
        dense_after(
            toy.model,
            toy.shared,
            adapt(toy.model, toy.shared, toy.support, toy.rates(), 1, prior=prior),
        )
        for prior in (0.0, 2.0)
    ]
    weights = toy.support.batch.weights.view(TASKS, -1).sum(1)
    for name in toy.parts.names:
        start = toy.shared.dense[name]
        whole, less = (own[name] - start for own in found)
        share = (weights / (weights + 2)).view(-1, *[1] * start.ndim)
        torch.testing.assert_close(less, share * whole, **CLOSE)

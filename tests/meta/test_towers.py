"""Adapting by the compiled kernel: what each task adapts to alone, for every net that it fits."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.contracts.test_zoo import PAIRS
from tests.meta.references import TASKS, Toy, adapted, make_toy, own_batch
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor

from scalerec.data.layout import Layout
from scalerec.data.schema import Task, TaskKind
from scalerec.meta.adapting import adapt, dense_after
from scalerec.meta.parts import OWN, choose_parts
from scalerec.meta.personal import PersonalModel, Shared
from scalerec.meta.towers import Towers, towers_of
from scalerec.models.recommender import ModelSpec, build_recommender

# Float64: only the order of sums differs.
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}
STEPS = 3
FIT = {"deepfm", "wide-deep"}
STARS = (Task(name="liked", weight=0.5), Task(name="stars", kind=TaskKind.REGRESSION))
pytestmark = pytest.mark.usefixtures("one_thread")


def towers(toy: Toy, rates: dict[str, Tensor] | None = None) -> Towers:
    found = towers_of(toy.model, toy.shared, toy.rates() if rates is None else rates)
    assert found is not None
    return found


@pytest.mark.parametrize(("net", "layout"), [pair for pair in PAIRS if pair[1] != "several"])
def test_nets_that_are_towers_adapt_as_each_task_would_alone(net: str, layout: str) -> None:
    toy = make_toy(net, layout, "decision,own")
    if net not in FIT:
        assert towers_of(toy.model, toy.shared, toy.rates()) is None
        return
    batches = [own_batch(toy.support, task) for task in range(TASKS)]
    wanted = adapted(toy, batches, toy.rates(), STEPS, second=False)
    found = towers(toy).adapt(toy.shared, toy.support, STEPS).tensors
    assert list(found) == [*toy.parts.names, OWN]
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, torch.stack([own[name] for own in wanted]), **CLOSE)


def wide_toy(
    net: str, adapts: str, examples: int, hidden: tuple[int, ...], layout: Layout | None = None
) -> Toy:
    """Tasks of a binary and a regression label, each known of some rows."""
    layout = (layout or LAYOUTS["mixed"]).replace(tasks=STARS)
    spec = ModelSpec(model=net, settings={"dim": 3, "hidden": list(hidden)}, init_std=0.3)
    recommender = build_recommender(layout, spec, 1).double()
    model = PersonalModel(recommender, choose_parts(recommender, adapts, 0))
    generator = torch.Generator().manual_seed(3)
    batch = draw_batch(layout, TASKS * examples, generator)
    batch.ids[0] = torch.arange(2, 2 + TASKS).repeat_interleave(examples)
    label_mask = torch.rand(len(batch), 2, generator=generator) < 0.7
    # A task of which nothing is known stays where it starts.
    label_mask[:examples] = False
    batch = replace(
        batch,
        labels=torch.rand(len(batch), 2, generator=generator).double(),
        label_mask=label_mask,
        weights=torch.rand(len(batch), generator=generator).double(),
        dense=batch.dense.double(),
        vectors=tuple(replace(own, values=own.values.double()) for own in batch.vectors),
    )
    support = model.read(batch, TASKS)
    shared = Shared(model.shared().dense, recommender.tables.matrix.double())
    return Toy(model, shared, support, support)


@pytest.mark.parametrize("examples", [1, 3, 5, 7, 11])
@pytest.mark.parametrize("hidden", [(), (1,), (6, 9, 4)])
@pytest.mark.parametrize("adapts", ["head", "own", "net.tower.0.bias, own", "decision,own"])
def test_any_part_of_a_tower_of_any_size_adapts(
    adapts: str, hidden: tuple[int, ...], examples: int
) -> None:
    toy = wide_toy("deepfm", adapts, examples, hidden)
    rates = toy.rates()
    fast = adapt(toy.model, toy.shared, toy.support, rates, STEPS, prior=2.0, products=False)
    wanted = dense_after(toy.model, toy.shared, fast)
    found = towers(toy).adapt(toy.shared, toy.support, STEPS, 2.0)
    assert found.num_tasks == TASKS
    assert list(found.tensors) == list(wanted)
    for name, tensor in found.tensors.items():
        torch.testing.assert_close(tensor, wanted[name], **CLOSE)
        assert torch.equal(tensor[0], fast.tensors[name][0]), "nothing is known of it"
        assert not torch.equal(tensor[1:], tensor[:1].expand_as(tensor[1:]))


@pytest.mark.parametrize("examples", [1, 4])
@pytest.mark.parametrize("num_fields", [1, 2])
def test_a_tower_may_read_nothing_but_the_own_row(num_fields: int, examples: int) -> None:
    ids = LAYOUTS["ids"]
    layout = ids.replace(ids=ids.ids[:num_fields])
    toy = wide_toy("deepfm", "decision,own", examples, (4,), layout)
    fast = adapt(toy.model, toy.shared, toy.support, toy.rates(), STEPS)
    found = towers(toy).adapt(toy.shared, toy.support, STEPS).tensors
    for name, tensor in dense_after(toy.model, toy.shared, fast).items():
        torch.testing.assert_close(found[name], tensor, **CLOSE)


@pytest.mark.parametrize("net", sorted(FIT))
def test_each_number_may_have_a_rate(net: str) -> None:
    toy = wide_toy(net, "decision,own", 5, (6, 4))
    generator = torch.Generator().manual_seed(4)
    shapes = {name: toy.shared.dense[name].shape for name in toy.parts.names}
    shapes[OWN] = toy.shared.rows.shape[1:]
    rates = {n: torch.rand(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
    fast = adapt(toy.model, toy.shared, toy.support, rates, STEPS)
    found = towers(toy, rates).adapt(toy.shared, toy.support, STEPS).tensors
    for name, tensor in dense_after(toy.model, toy.shared, fast).items():
        torch.testing.assert_close(found[name], tensor, **CLOSE)


def test_without_steps_all_stay_and_what_is_shared_never_moves() -> None:
    toy = wide_toy("deepfm", "decision,own", 5, (6, 4))
    before = {name: tensor.clone() for name, tensor in toy.shared.dense.items()}
    rows = toy.shared.rows.clone()
    stayed = towers(toy).adapt(toy.shared, toy.support, 0).tensors
    for name in toy.parts.names:
        assert torch.equal(stayed[name], before[name].expand(TASKS, *before[name].shape))
    places = toy.model.own_rows(toy.support)
    assert places is not None
    assert torch.equal(stayed[OWN], rows[places])
    towers(toy).adapt(toy.shared, toy.support, STEPS)
    assert all(torch.equal(tensor, before[name]) for name, tensor in toy.shared.dense.items())
    assert torch.equal(toy.shared.rows, rows)


def test_the_number_of_threads_changes_nothing() -> None:
    toy = wide_toy("deepfm", "decision,own", 5, (6, 4))
    one = towers(toy).adapt(toy.shared, toy.support, STEPS).tensors
    torch.set_num_threads(3)
    several = towers(toy).adapt(toy.shared, toy.support, STEPS).tensors
    assert all(torch.equal(tensor, several[name]) for name, tensor in one.items())


def test_float32_is_adapted_in_float32() -> None:
    toy = wide_toy("deepfm", "decision,own", 5, (6, 4))
    wanted = towers(toy).adapt(toy.shared, toy.support, STEPS).tensors
    toy.model.recommender.float()
    shared = toy.model.shared()
    batch = toy.support.batch
    vectors = tuple(replace(own, values=own.values.float()) for own in batch.vectors)
    single = replace(batch, dense=batch.dense.float(), vectors=vectors)
    model = towers_of(toy.model, shared, toy.rates())
    assert model is not None
    found = model.adapt(shared, replace(toy.support, batch=single), STEPS).tensors
    for name, tensor in found.items():
        assert tensor.dtype is torch.float32
        torch.testing.assert_close(tensor.double(), wanted[name], rtol=1e-4, atol=1e-5)


def test_what_is_no_tower_is_left_to_the_general_way() -> None:
    several = make_toy("deepfm", "several", "decision")
    assert towers_of(several.model, several.shared, several.rates()) is None, "a label of classes"
    numbers = make_toy("deepfm", "mixed", "all")
    assert towers_of(numbers.model, numbers.shared, numbers.rates()) is None, "vectors of numbers"
    toy = make_toy("deepfm", "mixed", "decision")
    half = Shared(toy.shared.dense, toy.shared.rows.half())
    assert towers_of(toy.model, half, toy.rates()) is None, "rows of few bits"
    net: Any = toy.model.head.net
    net.more = torch.nn.Linear(2, 2)
    assert towers_of(toy.model, toy.shared, toy.rates()) is None, "something else in the net"
    del net.more
    net.tower[1] = torch.nn.Sigmoid()
    assert towers_of(toy.model, toy.shared, toy.rates()) is None, "another activation"

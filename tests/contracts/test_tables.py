"""What every table engine keeps to, over random layouts; the plain fused engine is the reference.

Lookups are equal bit for bit. Weights and states after several steps are equal to `CLOSE`: the
engines sum float32 gradients of a row in different orders, and divide by roots.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalerec.data.batches import Bag, Batch
from scalerec.data.frames import empty_batch
from scalerec.data.layout import BagField, IdField, Layout
from scalerec.data.schema import Role, Task
from scalerec.models.compiled import COMPILED_OPTIMISERS
from scalerec.models.engines import RowOptimiser, sum_duplicates
from scalerec.models.fbgemm import FBGEMM_OPTIMISERS, fbgemm_is_available
from scalerec.models.tables import Tables
from scalerec.optim import ROW_OPTIMISERS, safe_sqrt

CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 1e-5}
LR = 0.1
needs_fbgemm = pytest.mark.skipif(not fbgemm_is_available(), reason="FBGEMM is not installed")
fused = [pytest.param("torch", name) for name in ROW_OPTIMISERS]
fused += [pytest.param("numba", name) for name in COMPILED_OPTIMISERS]
fused += [pytest.param("fbgemm", name, marks=needs_fbgemm) for name in FBGEMM_OPTIMISERS]
each_fast = pytest.mark.parametrize(("engine", "name"), fused[len(ROW_OPTIMISERS) :])
each_fused = pytest.mark.parametrize(("engine", "name"), fused)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Some tables of some sizes; fields and bags that share them, or leave one unread."""
    sizes = draw(st.lists(st.integers(2, 12), min_size=1, max_size=4))
    tables = {f"t{i}": size for i, size in enumerate(sizes)}
    names = st.sampled_from(sorted(tables))
    ids = draw(st.lists(names, min_size=0, max_size=4))
    bags = draw(st.lists(names, min_size=0 if ids else 1, max_size=2))
    return Layout(
        ids=tuple(IdField(name=f"f{i}", role=Role.USER, table=t) for i, t in enumerate(ids)),
        bags=tuple(
            BagField(name=f"b{i}", role=Role.ITEM, table=t, max_length=4)
            for i, t in enumerate(bags)
        ),
        tables=tables,
        tasks=(Task(name="liked"),),
    )


def draw_ids(layout: Layout, num_rows: int, generator: torch.Generator) -> Batch:
    """Ids with padding, unknown ones and many duplicates, and bags that may be empty."""

    def draw(table: str, size: int) -> Tensor:
        return torch.randint(layout.tables[table], (size,), generator=generator)

    bags = []
    for field in layout.bags:
        lengths = torch.randint(0, field.max_length + 1, (num_rows,), generator=generator)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        bags.append(Bag(draw(field.table, int(offsets[-1])), offsets))
    empty = empty_batch(layout, num_rows)
    ids = [draw(field.table, num_rows) for field in layout.ids]
    return Batch(
        torch.stack(ids) if ids else empty.ids, empty.dense, tuple(bags), (), empty.labels,
        empty.label_mask, empty.weights, empty.groups, empty.times, empty.users, empty.items,
    )  # fmt: skip


def make(layout: Layout, width: int, engine: str, name: str, **options: object) -> Tables:
    tables = Tables(layout, width, torch.Generator().manual_seed(3), init_std=0.5)
    taken = tables.use(engine, ROW_OPTIMISERS[name].from_dict(options), name)
    assert taken == engine
    tables.engine.lr = LR
    return tables


def loss_of(rows_kw: Tensor, target_kw: Tensor) -> Tensor:
    """A loss whose gradient depends on the rows."""
    return ((rows_kw - target_kw) * (1 + rows_kw.square())).square().mean() * 10


def train(tables: Tables, batches: list[Batch], generator: torch.Generator) -> None:
    for batch in batches:
        rows = tables(batch)
        target = torch.randn(rows.shape, generator=generator)
        loss_of(rows, target).backward()
        tables.keep_padding_zero()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@each_fast
@given(layout=layouts(), width=st.integers(1, 9), num_rows=st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_engines_agree(engine: str, name: str, layout: Layout, width: int, num_rows: int) -> None:
    generator = seeded(num_rows)
    batches = [draw_ids(layout, num_rows, generator) for _ in range(4)]
    plain, fast = (make(layout, width, kind, name) for kind in ("torch", engine))
    assert torch.equal(plain(batches[0]), fast(batches[0]))
    for tables in (plain, fast):
        train(tables, batches, seeded(5))
    torch.testing.assert_close(fast.matrix, plain.matrix, **CLOSE)
    one, other = plain.engine.state, fast.engine.state
    assert one.keys() == other.keys()
    for key, state in one.items():
        # Padding's state differs in nothing that matters: its weights are put back to zero.
        torch.testing.assert_close(other[key].float(), state, rtol=1e-4, atol=1e-6)


@given(layout=layouts(), width=st.integers(1, 6), name=st.sampled_from(sorted(ROW_OPTIMISERS)))
@settings(max_examples=25, deadline=None)
def test_fused_face_is_the_functional_face(layout: Layout, width: int, name: str) -> None:
    """One fused step equals: read rows, differentiate on the copies, step them, write them back."""
    batch = draw_ids(layout, 5, seeded(1))
    one, other = (make(layout, width, "torch", name) for _ in range(2))
    target = torch.randn(len(one.rows_of(batch)), width, generator=seeded(2))
    for step in (1, 2):
        loss_of(one(batch), target).backward()
        one.keep_padding_zero()
        functional_step(other, batch, target, ROW_OPTIMISERS[name](), step)
        assert torch.equal(one.matrix, other.matrix)


def functional_step(
    tables: Tables, batch: Batch, target_kw: Tensor, optimiser: RowOptimiser, step: int
) -> None:
    """A step in which no engine takes part; the state is kept with the tables."""
    rows = tables.rows_of(batch)
    gathered = tables.read(rows).requires_grad_()
    (grad,) = torch.autograd.grad(loss_of(gathered, target_kw), gathered)
    touched, summed = sum_duplicates(rows, grad)
    live = tables.engine.state
    state = {name: tensor[touched] for name, tensor in live.items()}
    moved, state = optimiser.apply(tables.read(touched), summed, state, step, LR)
    for name, tensor in state.items():
        live[name][touched] = tensor
    tables.write(touched, moved)


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_the_dense_engine_is_the_fused_one(name: str, generator: torch.Generator) -> None:
    """For SGD and Adagrad a row without a gradient stays, so a dense step is a fused step."""
    layout = Layout(
        ids=(IdField(name="a", role=Role.USER, table="t"),), tables={"t": 9},
        tasks=(Task(name="liked"),),
    )  # fmt: skip
    batches = [draw_ids(layout, 6, generator) for _ in range(5)]
    plain, dense = make(layout, 3, "torch", name), make(layout, 3, "dense", name)
    weight = dense.engine.get_parameter("weight")
    kinds: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD([weight], lr=LR),
        "adagrad": lambda: torch.optim.Adagrad([weight], lr=LR, eps=1e-8),
    }
    optimiser = kinds[name]()
    train(plain, batches, seeded(5))
    noise = seeded(5)
    for batch in batches:
        optimiser.zero_grad()
        train(dense, [batch], noise)
        optimiser.step()
        dense.keep_padding_zero()
    torch.testing.assert_close(dense.matrix, plain.matrix, **CLOSE)


@each_fused
def test_padding_stays_zero_and_unknown_is_trained(engine: str, name: str) -> None:
    layout = Layout(
        ids=(IdField(name="a", role=Role.USER, table="t"),), tables={"s": 4, "t": 5},
        tasks=(Task(name="liked"),),
    )  # fmt: skip
    tables = make(layout, 3, engine, name)
    before = tables.table("t").clone()
    batch = empty_batch(layout, 4)
    batch.ids[0] = torch.tensor([0, 0, 1, 3])
    train(tables, [batch] * 3, seeded(1))
    assert not tables.table("t")[0].any()
    assert not tables.table("s")[0].any()
    assert (tables.table("t")[[1, 3]] != before[[1, 3]]).all()
    assert torch.equal(tables.table("t")[[2, 4]], before[[2, 4]])


@each_fused
def test_a_saved_state_goes_on_bit_for_bit(engine: str, name: str) -> None:
    layout = Layout(
        ids=(IdField(name="a", role=Role.USER, table="t"),), tables={"t": 11},
        tasks=(Task(name="liked"),),
    )  # fmt: skip
    batches = [draw_ids(layout, 8, seeded(i)) for i in range(6)]
    whole, first, rest = (make(layout, 5, engine, name) for _ in range(3))
    train(whole, batches[:3], seeded(7))
    train(first, batches[:3], seeded(7))
    state = {key: tensor.clone() for key, tensor in first.engine.state.items()}
    rest.load_tensors({key: t.clone() for key, t in first.to_tensors().items()})
    rest.engine.load_state(state, first.engine.step)
    for tables in (whole, rest):
        train(tables, batches[3:], seeded(8))
    assert torch.equal(whole.matrix, rest.matrix)


@each_fast
def test_a_state_goes_from_one_engine_to_the_other(engine: str, name: str) -> None:
    layout = Layout(
        ids=(IdField(name="a", role=Role.USER, table="t"),), tables={"t": 11},
        tasks=(Task(name="liked"),),
    )  # fmt: skip
    batches = [draw_ids(layout, 8, seeded(i)) for i in range(4)]
    plain, fast = make(layout, 5, "torch", name), make(layout, 5, engine, name)
    train(plain, batches[:2], seeded(7))
    fast.load_tensors(plain.to_tensors())
    fast.engine.load_state(plain.engine.state, plain.engine.step)
    for tables in (plain, fast):
        train(tables, batches[2:], seeded(8))
    torch.testing.assert_close(fast.matrix, plain.matrix, **CLOSE)


@each_fused
def test_under_autocast_rows_and_steps_stay_float32(engine: str, name: str) -> None:
    layout = Layout(
        ids=(IdField(name="a", role=Role.USER, table="t"),), tables={"t": 7},
        tasks=(Task(name="liked"),),
    )  # fmt: skip
    batch = draw_ids(layout, 6, seeded(1))
    tables, weight = make(layout, 4, engine, name), torch.eye(4)
    before = tables.matrix.clone()
    with torch.autocast("cpu", torch.bfloat16):
        rows = tables(batch)
        product = rows @ weight
    assert (rows.dtype, product.dtype) == (torch.float32, torch.bfloat16)
    product.float().square().sum().backward()
    assert tables.matrix.dtype is torch.float32
    touched = tables.rows_of(batch).unique()
    assert (tables.read(touched[touched > 0]) != before[touched[touched > 0]]).any(1).all()
    assert all(state.dtype.is_floating_point for state in tables.engine.state.values())


@each_fused
def test_reading_without_gradient(engine: str, name: str) -> None:
    layout = Layout(
        ids=(IdField(name="a", role=Role.USER, table="t"),), tables={"t": 7},
        tasks=(Task(name="liked"),),
    )  # fmt: skip
    tables, batch = make(layout, 5, engine, name), draw_ids(layout, 6, seeded(1))
    expected = tables(batch).detach()
    with torch.no_grad():
        assert torch.equal(tables(batch), expected)
    with torch.inference_mode():
        assert torch.equal(tables(batch), expected)


@each_fused
def test_a_lookup_of_nothing_changes_nothing(engine: str, name: str) -> None:
    layout = Layout(
        ids=(IdField(name="a", role=Role.USER, table="t"),), tables={"t": 7},
        tasks=(Task(name="liked"),),
    )  # fmt: skip
    tables = make(layout, 4, engine, name)
    before = tables.matrix.clone()
    rows = tables(empty_batch(layout, 0))
    assert rows.shape == (0, 4)
    rows.sum().backward()
    assert torch.equal(tables.matrix, before)


def test_rowwise_adagrad_by_hand() -> None:
    """Width 3, padded to 4 by FBGEMM: the mean is over 3. Gradient (3, 0, 4): 25 / 3."""
    layout = Layout(
        ids=(IdField(name="a", role=Role.USER, table="t"),), tables={"t": 3},
        tasks=(Task(name="liked"),),
    )  # fmt: skip
    batch = empty_batch(layout, 1)
    batch.ids[0] = 2
    gradient = torch.tensor([[3.0, 0.0, 4.0]])
    for engine in ("torch", "numba", *(["fbgemm"] if fbgemm_is_available() else [])):
        tables = make(layout, 3, engine, "rowwise_adagrad", eps=0.5)
        before = tables.table("t")[2].clone()
        (tables(batch) * gradient).sum().backward()
        moved = LR * gradient[0] / (safe_sqrt(torch.tensor(25 / 3)) + 0.5)
        torch.testing.assert_close(tables.table("t")[2], before - moved, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(float(tables.engine.state["sum"][2]), 25 / 3, rtol=1e-6, atol=0)

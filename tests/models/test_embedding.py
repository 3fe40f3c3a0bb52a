"""The compiled lookup against its plain twin: values, every gradient, every step."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.frames import empty_batch
from scalerec.data.layout import BagField, IdField, Layout, NumberField, VectorField
from scalerec.data.schema import Role, Task
from scalerec.models.compiled import COMPILED_OPTIMISERS, CompiledEngine, as_array
from scalerec.models.engines import FusedEngine
from scalerec.models.inputs import Inputs
from scalerec.models.interactions import pairs_of
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.models.zoo import ZOO
from scalerec.optim import ROW_OPTIMISERS, Sgd

# The two sum float32 numbers in different orders.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
LAYOUT = Layout(
    ids=(
        IdField(name="a", role=Role.USER, table="t"),
        IdField(name="b", role=Role.ITEM, table="u"),
    ),
    tables={"t": 5, "u": 4},
    tasks=(Task(name="liked"),),
)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Fields of every kind; several may share a table."""
    sizes = draw(st.lists(st.integers(2, 12), min_size=1, max_size=4))
    tables = {f"t{i}": size for i, size in enumerate(sizes)}
    names = st.sampled_from(sorted(tables))
    ids = draw(st.lists(names, max_size=4))
    bags = draw(st.lists(names, min_size=0 if ids else 1, max_size=2))
    return Layout(
        ids=tuple(IdField(name=f"f{i}", role=Role.USER, table=t) for i, t in enumerate(ids)),
        numbers=tuple(
            NumberField(name=f"n{i}", role=Role.USER) for i in range(draw(st.integers(0, 3)))
        ),
        bags=tuple(
            BagField(name=f"b{i}", role=Role.ITEM, table=t, max_length=4)
            for i, t in enumerate(bags)
        ),
        vectors=tuple(
            VectorField(name=f"v{i}", role=Role.ITEM, dim=3) for i in range(draw(st.integers(0, 2)))
        ),
        tables=tables,
        tasks=(Task(name="liked"),),
    )


def draw_batch(layout: Layout, size: int, generator: torch.Generator) -> Batch:
    """Ids with padding, unknown ones and duplicates; bags that may be empty."""

    def draw(table: str, count: int) -> Tensor:
        return torch.randint(layout.tables[table], (count,), generator=generator)

    bags = []
    for field in layout.bags:
        lengths = torch.randint(0, field.max_length + 1, (size,), generator=generator)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        bags.append(Bag(draw(field.table, int(offsets[-1])), offsets))
    vectors = tuple(
        Vectors(torch.randn(size, v.dim, generator=generator), torch.ones(size, dtype=torch.bool))
        for v in layout.vectors
    )
    empty = empty_batch(layout, size)
    ids = [draw(field.table, size) for field in layout.ids]
    dense = torch.randn(size, len(layout.numbers), generator=generator)
    return Batch(
        torch.stack(ids) if ids else empty.ids, dense, tuple(bags), vectors, empty.labels,
        empty.label_mask, empty.weights, empty.groups, empty.times, empty.users, empty.items,
    )  # fmt: skip


def make(layout: Layout, engine: str, name: str, dim: int = 3, **options: Any) -> Recommender:
    spec = ModelSpec(model="fm", settings={"dim": dim}, init_std=0.5)
    recommender = build_recommender(layout, spec, 3)
    recommender.tables.use(engine, ROW_OPTIMISERS[name].from_dict(options), name)
    recommender.tables.engine.lr = 0.1
    return recommender


def plain_inputs(recommender: Recommender, batch: Batch) -> Inputs:
    inputs: Inputs = recommender.embedder(recommender.tables(batch), batch)
    return inputs


def loss_of(inputs: Inputs, weight_fd: Tensor, with_pairs: bool) -> Tensor:
    """A loss that every output enters, each with its own gradient."""
    loss = (inputs.fields * weight_fd).square().mean() + inputs.linear.square().mean()
    return loss + pairs_of(inputs).sin().mean() if with_pairs else loss


@given(layout=layouts(), dim=st.integers(1, 9), size=st.integers(1, 9), with_pairs=st.booleans())
@settings(max_examples=40, deadline=None)
def test_values_and_gradients(layout: Layout, dim: int, size: int, with_pairs: bool) -> None:
    generator = torch.Generator().manual_seed(size)
    batch = draw_batch(layout, size, generator)
    weight = torch.randn(layout.num_fields, dim, generator=generator)
    found = []
    for read in (plain_inputs, Recommender.read):
        recommender = make(layout, "dense", "sgd", dim)
        inputs = read(recommender, batch)
        loss_of(inputs, weight, with_pairs).backward()
        recommender.tables.engine.get_parameter("weight").grad[  # type: ignore[index]
            recommender.tables.get_buffer("padding")
        ] = 0.0  # the compiled one gives none to padding, which stays zero anyway
        named = sorted(recommender.named_parameters())
        grads = [p.grad for _, p in named if p.grad is not None and p.numel()]
        found.append([inputs.fields, inputs.linear, pairs_of(inputs), *grads])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, **CLOSE)


@pytest.mark.parametrize("name", COMPILED_OPTIMISERS)
@pytest.mark.parametrize("l2", [{}, {"l2": 0.1}, {"l2": 0.1, "l2_missed": True}])
@given(layout=layouts(), size=st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_steps(name: str, l2: dict[str, object], layout: Layout, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    batches = [draw_batch(layout, size, generator) for _ in range(4)]
    weight = torch.randn(layout.num_fields, 3, generator=generator)
    # Not too near zero, where Adam and Adagrad divide by tiny roots.
    eps: dict[str, object] = {} if name == "sgd" else {"eps": 1e-3}
    plain, fast = (make(layout, engine, name, 3, **l2, **eps) for engine in ("torch", "numba"))
    for recommender in (plain, fast):
        for batch in batches:
            loss_of(recommender.read(batch), weight, with_pairs=True).backward()
            recommender.tables.keep_padding_zero()
    assert isinstance(plain.tables.engine, FusedEngine)
    assert isinstance(fast.tables.engine, CompiledEngine)
    torch.testing.assert_close(fast.tables.matrix, plain.tables.matrix, rtol=1e-3, atol=1e-4)
    one, other = plain.tables.engine.state, fast.tables.engine.state
    padding = plain.tables.get_buffer("padding")
    for key, state in one.items():
        state[padding] = other[key][padding] = 0.0
        torch.testing.assert_close(other[key], state, rtol=1e-3, atol=1e-4)


def test_threads_change_nothing() -> None:
    """Rows are moved in the same order of summation, however many threads there are."""
    layout = Layout(
        ids=tuple(IdField(name=f"f{i}", role=Role.USER, table="t") for i in range(4)),
        tables={"t": 300},
        tasks=(Task(name="liked"),),
    )
    batch = draw_batch(layout, 9000, torch.Generator().manual_seed(1))
    before, matrices = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            recommender = make(layout, "numba", "lazy_adam", 7)
            for _ in range(2):
                inputs = recommender.read(batch)
                (inputs.fields.square().sum() + inputs.linear.sum()).backward()
            matrices.append(recommender.tables.matrix)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(matrices[0], matrices[1])
    assert torch.equal(matrices[0], matrices[2])


def test_under_autocast_fields_are_bfloat16_and_sums_float32() -> None:
    recommender = make(LAYOUT, "numba", "sgd")
    batch = draw_batch(LAYOUT, 7, torch.Generator().manual_seed(1))
    whole = recommender.read(batch)
    with torch.autocast("cpu", torch.bfloat16):
        low = recommender.read(batch)
    assert low.fields.dtype is torch.bfloat16
    assert torch.equal(low.fields, whole.fields.bfloat16())
    assert low.pairs is not None
    assert low.linear.dtype is low.pairs.dtype is torch.float32
    assert torch.equal(low.linear, whole.linear)
    before = recommender.tables.matrix.clone()
    low.fields.float().sum().backward()
    touched = recommender.tables.rows_of(batch).unique()
    counts = torch.bincount(recommender.tables.rows_of(batch), minlength=9).float()
    moved = before - 0.1 * counts.unsqueeze(1) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    live = touched[~torch.isin(touched, recommender.tables.get_buffer("padding"))]
    torch.testing.assert_close(recommender.tables.matrix[live], moved[live])


def test_an_id_beyond_its_table() -> None:
    recommender = make(LAYOUT, "numba", "sgd")
    batch = empty_batch(LAYOUT, 2)
    batch.ids[1, 0] = 99
    words = "rows that field 'b' reads must be within table 'u', from 0 to 3; got 0 to 99"
    with pytest.raises(IndexError, match=re.escape(words)):
        recommender.read(batch)
    # Within the matrix, but a row of the next table.
    batch.ids[:, 0] = torch.tensor([5, 0])
    with pytest.raises(IndexError, match="'a' reads must be within table 't', from 0 to 4; got 0 "):
        recommender.read(batch)


def test_a_bag_beyond_its_table() -> None:
    bag = BagField(name="c", role=Role.ITEM, table="t", max_length=3)
    recommender = make(replace(LAYOUT, bags=(bag,)), "numba", "sgd")
    batch = replace(
        empty_batch(LAYOUT, 2), bags=(Bag(torch.tensor([1, 6]), torch.tensor([0, 2, 2])),)
    )
    with pytest.raises(IndexError, match="'c' reads must be within table 't', from 0 to 4; got 1 "):
        recommender.read(batch)


class TestHalf:
    """Weights of 16 bits."""

    def engine(self, values: Tensor, lr: float = 1.0) -> CompiledEngine:
        engine = CompiledEngine(values.half(), Sgd(), "sgd", seed=1)
        engine.lr = lr
        return engine

    @pytest.mark.parametrize("start", [1.0, -0.37, 3e-5, -2e-6, 0.0, 300.0])
    def test_the_mean_of_many_small_moves_is_right(self, start: float) -> None:
        """A move of a twentieth of the distance of two float16, in 4000 rows."""
        rows = 4000
        engine = self.engine(torch.full((rows, 2), start))
        first = float(torch.tensor(start).half())
        distance = max(2.0**-24, 2.0 ** (np.floor(np.log2(abs(first) or 2.0**-24)) - 10))
        move = float(np.float32(distance / 20))
        looked_up = engine.lookup(torch.arange(rows))
        looked_up.backward(torch.full_like(looked_up, move))
        mean = float(engine.matrix.double().mean())
        # One in twenty goes down by a whole distance: the mean's error is sqrt(.05 / 8000) of it.
        assert abs(first - move - mean) < 4 * distance * (0.05 / 8000) ** 0.5
        assert engine.matrix.double().unique().numel() <= 2

    def test_reading_is_exact(self) -> None:
        values = torch.tensor([[1.5, -65504.0], [6e-8, 0.0], [-3e-5, 1e-3]])
        looked_up = self.engine(values).lookup(torch.tensor([2, 0, 1]))
        assert torch.equal(looked_up, values.half().float()[[2, 0, 1]])

    def test_a_number_too_large_stays_finite(self) -> None:
        engine = self.engine(torch.tensor([[65504.0, -65504.0]]))
        engine.lookup(torch.tensor([0])).backward(torch.tensor([[-1e6, 1e6]]))
        assert engine.matrix.tolist() == [[65504.0, -65504.0]]

    def test_exact_values_stay(self) -> None:
        values = torch.tensor([[0.25, -1.0, 0.0, 2.0**-20]])
        engine = self.engine(values)
        engine.lookup(torch.tensor([0])).backward(torch.zeros(1, 4))
        assert torch.equal(engine.matrix.float(), values)


def test_arrays_share_the_tensors_memory() -> None:
    for dtype, kind in ((torch.float16, "int16"), (torch.bfloat16, "uint16")):
        tensor = torch.zeros(2, dtype=dtype)
        array = as_array(tensor)
        assert array.dtype == kind
        array[1] = 0x3C00
        assert float(tensor[1]) != 0.0


@pytest.mark.parametrize("model", [name for name, entry in ZOO.items() if entry.reads_flat])
@given(layout=layouts(), dim=st.integers(1, 9), size=st.integers(2, 9))
@settings(max_examples=25, deadline=None)
def test_folded_numbers(model: str, layout: Layout, dim: int, size: int) -> None:
    batch = draw_batch(layout, size, torch.Generator().manual_seed(size))
    spec = ModelSpec(model=model, settings={"dim": dim, "hidden": [6]}, init_std=0.5)
    found = []
    for is_plain in (True, False):
        recommender = build_recommender(layout, spec, 3)
        inputs = (
            plain_inputs(recommender, batch) if is_plain else recommender.read(batch, flat=True)
        )
        assert (inputs.folded is not None) == (bool(layout.numbers) and not is_plain)
        logits = recommender.net(inputs)
        logits.square().sum().backward()
        recommender.tables.engine.get_parameter("weight").grad[  # type: ignore[index]
            recommender.tables.get_buffer("padding")
        ] = 0.0
        named = sorted(recommender.named_parameters())
        found.append([logits, *(p.grad for _, p in named if p.grad is not None and p.numel())])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, **CLOSE)


def test_folded_numbers_under_autocast() -> None:
    numbers = tuple(NumberField(name=f"n{i}", role=Role.USER) for i in range(3))
    layout = replace(LAYOUT, numbers=numbers)
    batch = draw_batch(layout, 64, torch.Generator().manual_seed(1))
    spec = ModelSpec(model="deepfm", settings={"dim": 4, "hidden": [8, 8]}, init_std=0.5)
    recommender = build_recommender(layout, spec, 3)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        inputs = recommender.read(batch, flat=True)
        assert inputs.folded is not None
        assert inputs.folded.values.dtype is torch.bfloat16
        low = recommender(batch)
    torch.testing.assert_close(low.float(), recommender(batch), rtol=0.03, atol=0.03)

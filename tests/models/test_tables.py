"""Tables by hand: rows of a batch, row maps, engines that are absent, and going in and out."""

import builtins
from typing import Any

import pytest
import torch

from scalerec.data.batches import Bag
from scalerec.data.frames import empty_batch
from scalerec.data.layout import BagField, IdField, Layout
from scalerec.data.schema import Role, Task
from scalerec.errors import ConfigError, MissingExtraError
from scalerec.models.compiled import CompiledEngine
from scalerec.models.engines import DenseEngine, FusedEngine, TableEngine
from scalerec.models.fbgemm import FbgemmEngine, fbgemm_is_available
from scalerec.models.tables import RowMap, Tables
from scalerec.optim import ROW_OPTIMISERS, LazyAdam, RowwiseAdagrad, Sgd

LAYOUT = Layout(
    ids=(
        IdField(name="user", role=Role.USER, table="users"),
        IdField(name="item", role=Role.ITEM, table="items"),
    ),
    bags=(BagField(name="past", role=Role.USER, table="items", max_length=3, history=True),),
    tables={"users": 3, "items": 4},
    tasks=(Task(name="liked"),),
)


def make(width: int = 2, seed: int = 1) -> Tables:
    return Tables(LAYOUT, width, torch.Generator().manual_seed(seed))


def test_the_rows_of_a_batch_by_hand() -> None:
    batch = empty_batch(LAYOUT, 2)
    batch.ids[:] = torch.tensor([[2, 1], [3, 0]])
    bag = Bag(torch.tensor([1, 3, 2]), torch.tensor([0, 1, 3]))
    batch = type(batch)(
        batch.ids, batch.dense, (bag,), (), batch.labels, batch.label_mask, batch.weights,
        batch.groups, batch.times, batch.users, batch.items,
    )  # fmt: skip
    tables = make()
    # Users start at row 0, items at row 3.
    assert tables.rows_of(batch).tolist() == [2, 1, 6, 3, 4, 6, 5]
    assert torch.equal(tables(batch), tables.matrix[tables.rows_of(batch)])
    tables.maps["items"].append(torch.tensor([2]))
    assert tables.rows_of(batch).tolist() == [2, 1, 6, 3, 4, 6, 5]


def test_initial_rows() -> None:
    tables = Tables(LAYOUT, 50, torch.Generator().manual_seed(1), init_std=0.3)
    assert not tables.matrix[[0, 3]].any()
    assert not tables.matrix[:, -1].any()
    drawn = tables.matrix[[1, 2, 4, 5, 6], :-1]
    # 245 draws: the standard error of a standard deviation is 0.3 / sqrt(490) = 0.014.
    assert abs(float(drawn.std()) - 0.3) < 0.05
    again = Tables(LAYOUT, 50, torch.Generator().manual_seed(1), init_std=0.3)
    assert torch.equal(tables.matrix, again.matrix)
    assert not Tables(LAYOUT, 50, None).matrix.any()


def test_a_row_map_only_grows() -> None:
    rows = RowMap(3)
    assert rows(torch.tensor([[2, 0]])).tolist() == [[2, 0]]
    rows.append(torch.tensor([1, 1]))
    rows.append(torch.tensor([2]))
    assert rows.num_ids == 6
    assert rows(torch.arange(6)).tolist() == [0, 1, 2, 1, 1, 2]
    with pytest.raises(ConfigError, match="rows must be at least 0; got -1"):
        rows.append(torch.tensor([-1]))
    with pytest.raises(ConfigError, match=r"rows must be int64 \[n\]; got torch.float32 \[1\]"):
        rows.append(torch.tensor([1.0]))


def test_ids_that_share_a_row_learn_together() -> None:
    tables = make()
    tables.maps["users"].append(torch.tensor([2]))
    tables.use("torch", Sgd(), "sgd")
    tables.engine.lr = 1.0
    batch = empty_batch(LAYOUT, 2)
    batch.ids[0] = torch.tensor([2, 3])
    before = tables.table("users")[2].clone()
    tables(batch).sum().backward()
    # Both lookups add a gradient of one.
    torch.testing.assert_close(tables.table("users")[2], before - 2.0)


def test_write_keeps_padding_zero() -> None:
    tables = make()
    tables.write(torch.tensor([0, 3, 6]), torch.ones(3, 2))
    assert tables.matrix[[0, 3]].tolist() == [[0, 0], [0, 0]]
    assert tables.matrix[6].tolist() == [1, 1]
    copy = tables.read(torch.tensor([6]))
    copy.zero_()
    assert tables.matrix[6].tolist() == [1, 1]


def test_tensors_round_trip_with_shared_and_missing_rows() -> None:
    tables = make()
    tables.maps["items"].append(torch.tensor([1]))
    other = make(seed=2)
    other.load_tensors(tables.to_tensors())
    assert torch.equal(other.matrix, tables.matrix)
    assert other.maps["items"].num_ids == 5
    # Four ids on two rows: a table that was made smaller.
    small = {
        **tables.to_tensors(),
        "tables.items.weight": torch.tensor([[0.0, 0.0], [5.0, 6.0]]),
        "tables.items.rows": torch.tensor([0, 1, 1, 1]),
    }
    other.load_tensors(small)
    assert other.matrix.shape == (5, 2)
    batch = empty_batch(LAYOUT, 1)
    batch.ids[:] = torch.tensor([[2], [3]])
    assert torch.equal(other(batch)[1], torch.tensor([5.0, 6.0]))
    assert torch.equal(other.to_tensors()["tables.items.rows"], small["tables.items.rows"])
    # And back to one row each.
    other.load_tensors(make().to_tensors())
    assert other.maps["items"].rows is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tables.items.weight": None}, "table 'items' has no rows: tables.items.weight is miss"),
        ({"tables.items.weight": torch.zeros(4, 3)}, r"rows of width 2; got \[4, 3\]"),
        ({"tables.items.weight": torch.zeros(1, 2)}, "a row for each of 4 ids; got 1"),
        ({"tables.items.rows": torch.tensor([0, 1])}, "a row for each of 4 ids; got 2"),
        ({"tables.items.rows": torch.tensor([0, 1, 2, 4])}, "from 0 to 3; got 0 to 4"),
        ({"tables.items.rows": torch.tensor([0, -1, 2, 3])}, "from 0 to 3; got -1 to 3"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    tables = make()
    before = tables.matrix.clone()
    tensors = {k: t for k, t in {**make(seed=2).to_tensors(), **change}.items() if t is not None}
    with pytest.raises(ConfigError, match=words):
        tables.load_tensors(tensors)
    assert torch.equal(tables.matrix, before)


def test_a_layout_without_ids_or_tables() -> None:
    layout = Layout(ids=(), tables={}, tasks=LAYOUT.tasks)
    tables = Tables(layout, 3, torch.Generator())
    assert tables(empty_batch(layout, 2)).shape == (0, 3)
    assert tables.use("auto", Sgd(), "sgd") == "numba"
    assert tables(empty_batch(layout, 2)).dtype is torch.float32
    bags = LAYOUT.replace(ids=())
    assert Tables(bags, 3, torch.Generator()).rows_of(empty_batch(bags, 2)).dtype is torch.int64


class TestChoice:
    """Which engine is taken."""

    def test_auto_takes_compiled_kernels_on_the_cpu(self) -> None:
        for name, optimiser in ROW_OPTIMISERS.items():
            assert make().use("auto", optimiser(l2=0.1), name) == "numba"
        assert make().use("auto", Sgd(), "an unknown one") == "torch"

    def test_rows_stay_through_every_change(self) -> None:
        tables = make(width=3)
        before = tables.matrix.clone()
        kinds: dict[str, type[TableEngine]] = {
            "torch": FusedEngine,
            "numba": CompiledEngine,
            "dense": DenseEngine,
        }
        if fbgemm_is_available():
            kinds["fbgemm"] = FbgemmEngine
        for name in [*kinds, *kinds]:
            tables.use(name, Sgd(), "sgd")
            assert isinstance(tables.engine, kinds[name])
            assert torch.equal(tables.matrix, before)
            assert not tables.matrix.requires_grad

    @pytest.mark.parametrize("error", [ImportError("none"), OSError("undefined symbol")])
    def test_without_fbgemm(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        real = builtins.__import__

        def refuse(name: str, *rest: Any) -> Any:
            if name.startswith("fbgemm_gpu"):
                raise error
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(MissingExtraError, match=r"fbgemm-gpu-cpu .* 'scalerec\[fused\]'"):
            make().use("fbgemm", Sgd(), "sgd")

    def test_no_such_engine(self) -> None:
        words = "engine must be one of auto, dense, numba, torch, fbgemm; got 'gpu'"
        with pytest.raises(ConfigError, match=words):
            make().use("gpu", Sgd(), "sgd")

    @pytest.mark.skipif(not fbgemm_is_available(), reason="FBGEMM is not installed")
    def test_no_such_kernel(self) -> None:
        words = "without l2; got sgd with l2=0.5; use engine 'torch'"
        with pytest.raises(ConfigError, match=words):
            make().use("fbgemm", Sgd(l2=0.5), "sgd")
        with pytest.raises(ConfigError, match="got lazy_adam"):
            make().use("fbgemm", LazyAdam(), "lazy_adam")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_everything_follows_to_the_device() -> None:
    tables = make()
    tables.maps["items"].append(torch.tensor([1]))
    tables.to("cuda")
    assert tables.use("auto", RowwiseAdagrad(), "rowwise_adagrad") == "torch"
    with pytest.raises(ConfigError, match="engine 'fbgemm' runs on the CPU; the tables are on cu"):
        tables.use("fbgemm", Sgd(), "sgd")
    tables.engine.lr = 0.1
    tables(empty_batch(LAYOUT, 3).to("cuda")).sum().backward()
    assert all(state.is_cuda for state in tables.engine.state.values())
    tables.to("cpu")
    assert not any(state.is_cuda for state in tables.engine.state.values())
    tables(empty_batch(LAYOUT, 3)).sum().backward()

"""Tables that TorchRec holds learn what those of this package's own engine learn."""

import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.distributed.workers import run

from scalerec.data.dataset import Dataset
from scalerec.distributed import DistributedConfig, Group, Placement, TablePlan
from scalerec.distributed.torchrec import TorchRecTables
from scalerec.distributed.torchrec_layout import Collection, aligned, collections_of
from scalerec.distributed.torchrec_store import torchrec_is_available
from scalerec.errors import ConfigError, MissingExtraError
from scalerec.optim import ROW_OPTIMISERS

WORKERS = "tests.distributed.torchrec_workers"
# Sums of float32 in another order; over ten steps that stays below this on these data.
RTOL = 1e-6
JOB: dict[str, Any] = {
    "spec": {"model": "deepfm", "settings": {"dim": 4, "hidden": [8]}, "init_std": 0.1},
    "config": {"batch_size": 64, "precision": "fp32"},
    "steps": 10,
}
# Settings of the processes, and the optimiser of the rows.
CASES: list[tuple[dict[str, Any], str]] = [
    ({"sharding": "row"}, "rowwise_adagrad"),
    ({"sharding": "table"}, "rowwise_adagrad"),
    ({"sharding": "column"}, "adagrad"),
    ({"sharding": "replicated"}, "rowwise_adagrad"),
    ({"sharding": "row", "placements": {"item_id": "column", "country": "replicated"}}, "sgd"),
]


def job_of(
    data: Dataset, cases: list[tuple[dict[str, Any], str]], folder: str = ""
) -> dict[str, Any]:
    given = [
        {"distributed": distributed, "tables": {"optimiser": name, "lr": 0.05}}
        for distributed, name in cases
    ]
    return {**JOB, "data": str(data.directory), "cases": given, "folder": folder}


@pytest.fixture(scope="module")
def torchrec() -> None:
    """Skip what needs it; looked at when a test asks, as the import takes seconds."""
    if not torchrec_is_available():
        pytest.skip("TorchRec is not installed, or is of another torch; see MissingExtraError")


@pytest.fixture(scope="module")
def two(
    torchrec: None, simulated: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("resumed")
    return run(2, "both", module=WORKERS, **job_of(simulated, CASES, str(folder)))


def test_losses_of_two_processes(two: list[dict[str, Any]]) -> None:
    for own in (case for found in two for case in found["cases"]):
        close(own["torchrec"], own["scalerec"], RTOL)
        close(own["torchrec scores"], own["scalerec scores"], 1e-4)
        # No process holds a row, or a column, that is not its own.
        assert own["torchrec kept"] == own["scalerec kept"]
    for own in two[0]["cases"]:
        # What a bundle gets.
        assert own["torchrec whole"].keys() == own["scalerec whole"].keys()
        for name, rows in own["torchrec whole"].items():
            wanted = torch.tensor(own["scalerec whole"][name])
            torch.testing.assert_close(torch.tensor(rows), wanted, rtol=1e-4, atol=1e-6)


def test_losses_of_one_process(two: list[dict[str, Any]], simulated: Dataset) -> None:
    (alone,) = run(1, "both", module=WORKERS, **job_of(simulated, CASES[:1]))
    wanted = alone["cases"][0]["scalerec"]
    close(alone["cases"][0]["torchrec"], wanted, RTOL)
    close(two[0]["cases"][0]["torchrec"], wanted, RTOL)


def test_each_engine_goes_on_from_the_others_checkpoint(two: list[dict[str, Any]]) -> None:
    found = two[0]["resumed"]
    for writer in ("scalerec", "torchrec"):
        for reader in ("scalerec", "torchrec"):
            close(found[f"{writer} to {reader}"], found[writer], RTOL)


def close(found: list[float], wanted: list[float], rtol: float) -> None:
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=rtol, atol=0)


def plan_of(kinds: dict[str, str], sizes: list[int], world: int, width: int = 5) -> TablePlan:
    placements = {name: Placement.from_dict({"kind": kind}) for name, kind in kinds.items()}
    num_rows = dict(zip(kinds, sizes, strict=True))
    return TablePlan(num_rows=num_rows, placements=placements, world=world, width=width)


@given(sizes=st.lists(st.integers(2, 12), min_size=1, max_size=3), world=st.integers(1, 5))
@settings(max_examples=30)
def test_each_row_stands_where_the_plan_has_it(sizes: list[int], world: int) -> None:
    plan = plan_of({f"table {t}": "row" for t in range(len(sizes))}, sizes, world)
    (own,) = collections_of(plan)
    wanted = torch.cat([torch.arange(size) for size in sizes])
    numbered, lengths, asked = own.renumber(wanted, torch.tensor(sizes))
    assert lengths.tolist() == sizes
    parts = zip(wanted.split(sizes), numbered.split(sizes), strict=True)
    kept = torch.zeros(world, dtype=torch.int64)
    for table, (rows, numbers) in enumerate(parts):
        block = own.blocks[table]
        assert own.sizes[table] == block * world
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
            process, place = divmod(number, block)
            part = plan.part(table, process)
            assert place < part.size
            assert part.first + part.step * place == row
            kept[process] += 1
    assert torch.equal(asked, kept)


def test_columns_by_hand() -> None:
    # Five columns over two processes: two and three, so TorchRec gives each four.
    own = Collection(plan_of({"a": "column", "b": "column"}, [7, 9], 2), [0, 1])
    assert (own.cut, own.width) == (4, 8)
    assert own.columns is not None
    assert own.columns.tolist() == [0, 1, 4, 5, 6]
    assert own.pieces(1) == [(0, [9, 4], [0, 0]), (1, [9, 4], [0, 4])]
    _, _, asked = own.renumber(torch.tensor([3, 5, 8]), torch.tensor([1, 2]))
    assert asked.tolist() == [3, 3]
    assert [aligned(width) for width in (1, 4, 5)] == [4, 4, 8]


def test_rows_before_whole_tables_and_copies_as_one() -> None:
    kinds = {"a": "replicated", "b": "table", "c": "row", "d": "replicated"}
    rows, copies = collections_of(plan_of(kinds, [3, 4, 5, 6], 2))
    assert rows.numbers == [2, 1]
    assert (copies.keys, copies.sizes) == (["copies"], [9])
    numbered, lengths, _ = copies.renumber(torch.tensor([2, 0, 5]), torch.tensor([1, 2]))
    assert numbered.tolist() == [2, 3, 8, 0]
    assert lengths.tolist() == [1, 1, 1, 1]


def tables_of(data: Dataset, device: str = "cpu", **config: Any) -> TorchRecTables:
    group = Group(0, 1, torch.device(device))
    own = DistributedConfig.from_dict({"engine": "torchrec", **config})
    generator = torch.Generator().manual_seed(1)
    return TorchRecTables(data.layout, 5, generator, 0.1, group, own)


def test_words_of_what_torchrec_has_not(simulated: Dataset) -> None:
    with pytest.raises(ConfigError, match="runs on the CPU; got cuda; use 'scalerec'"):
        tables_of(simulated, "cuda")
    with pytest.raises(ConfigError, match="sends rows as fp32; got bf16"):
        tables_of(simulated, lookups="bf16")
    tables = tables_of(simulated, sharding="column")
    adagrad = ROW_OPTIMISERS["rowwise_adagrad"].from_dict({})
    with pytest.raises(ConfigError, match=r"engine auto or fbgemm, of fp32; got numba"):
        tables.use("numba", adagrad, "rowwise_adagrad")
    with pytest.raises(ConfigError, match="got auto of fp16"):
        tables.use("auto", adagrad, "rowwise_adagrad", half=True)
    with pytest.raises(ConfigError, match="has the optimisers rowwise_adagrad, adagrad, sgd"):
        tables.use("auto", ROW_OPTIMISERS["lazy_adam"].from_dict({}), "lazy_adam")
    with pytest.raises(ConfigError, match="without l2; got sgd with l2"):
        tables.use("auto", ROW_OPTIMISERS["sgd"].from_dict({"l2": 0.1}), "sgd")
    with pytest.raises(ConfigError, match="a sum of its own for each process's columns"):
        tables.use("auto", adagrad, "rowwise_adagrad")


def test_words_where_torchrec_is_missing(
    simulated: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchrec", None)
    assert not torchrec_is_available()
    wanted = (
        r"torchrec 1.8 is not installed; install it with: pip install 'scalerec\[fused\]' && "
        r"pip install --no-deps 'torchrec==1.8.\*'"
    )
    with pytest.raises(MissingExtraError, match=wanted):
        tables_of(simulated).use("auto", ROW_OPTIMISERS["sgd"].from_dict({}), "sgd")

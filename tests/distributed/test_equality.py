"""The same global batches give the same model, in however many processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.workers import run

from scalerec.data.dataset import Dataset
from scalerec.distributed import DistributedConfig, TablePlan
from scalerec.distributed.placement import place_tables

CONFIG: dict[str, Any] = {
    "batch_size": 64,
    "precision": "fp32",
    "tables": {"optimiser": "rowwise_adagrad", "lr": 0.05},
}
SPEC: dict[str, Any] = {"model": "deepfm", "settings": {"dim": 4, "hidden": [8]}, "init_std": 0.1}
OPTIMISERS = ("rowwise_adagrad", "adagrad", "sgd", "lazy_adam")


def whole_tables(folder: Path, plan: TablePlan) -> dict[str, torch.Tensor]:
    """Every table put together from what the processes saved; copies must be equal."""
    parts = [load_file(folder / f"{rank}.safetensors") for rank in range(plan.world)]
    found = {}
    for number, (name, size) in enumerate(plan.num_rows.items()):
        rows = torch.full((size, plan.width), torch.nan)
        for rank, held in enumerate(parts):
            own, part = plan.part(number, rank), held[f"tables.{name}.weight"]
            assert part.shape == (own.size, own.high - own.low)
            place = rows[own.rows, own.low : own.high]
            assert place.isnan().all() or torch.equal(place, part)
            place.copy_(part)
        assert not rows.isnan().any()
        found[name] = rows
    return found


def train(
    folder: Path, data: Dataset, world: int, steps: int = 12, **more: Any
) -> tuple[list[float], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    folder.mkdir()
    config = {**CONFIG, **more.pop("config", {})}
    job = {"spec": SPEC, "config": config, "steps": steps, **more}
    found = run(world, "training", data=str(data.directory), folder=str(folder), **job)
    losses = found[0]["losses"]
    assert all(own["losses"] == losses for own in found)
    settings = DistributedConfig.from_dict(more.get("distributed", {}))
    width = SPEC["settings"]["dim"] + 1
    placements = place_tables(data.layout, width, settings, world)
    sizes = dict(data.layout.tables)
    plan = TablePlan(num_rows=sizes, placements=placements, world=world, width=width)
    dense = load_file(folder / "0.safetensors")
    dense = {name: tensor for name, tensor in dense.items() if not name.startswith("tables.")}
    return losses, whole_tables(folder, plan), dense


@pytest.fixture(scope="session")
def alone(simulated: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One process, by optimiser."""
    folder = tmp_path_factory.mktemp("alone")
    known: dict[str, Any] = {}

    def of(optimiser: str) -> Any:
        if optimiser not in known:
            config = {"tables": {"optimiser": optimiser, "lr": 0.05}}
            known[optimiser] = train(folder / optimiser, simulated, 1, config=config)
        return known[optimiser]

    return of


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_rows_spread_over_processes(
    world: int, optimiser: str, alone: Any, simulated: Dataset, tmp_path: Path
) -> None:
    config = {"tables": {"optimiser": optimiser, "lr": 0.05}}
    found = train(tmp_path / "out", simulated, world, config=config)
    check_equal(found, alone(optimiser))


@pytest.mark.parametrize("sharding", ["table", "column", "replicated"])
@pytest.mark.parametrize("optimiser", ["rowwise_adagrad", "lazy_adam"])
def test_tables_kept_in_other_ways(
    sharding: str, optimiser: str, alone: Any, simulated: Dataset, tmp_path: Path
) -> None:
    config = {"tables": {"optimiser": optimiser, "lr": 0.05}}
    where = {"sharding": sharding}
    found = train(tmp_path / "out", simulated, 2, config=config, distributed=where)
    check_equal(found, alone(optimiser))


@pytest.mark.parametrize("world", [2, 4])
def test_each_table_in_its_own_way(
    world: int, alone: Any, simulated: Dataset, tmp_path: Path
) -> None:
    kinds = ("column", "row", "replicated", "table:1", "table:0")
    where = {"placements": dict(zip(simulated.layout.tables, kinds, strict=False))}
    found = train(tmp_path / "out", simulated, world, distributed=where)
    check_equal(found, alone("rowwise_adagrad"))


def check_equal(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(wanted[0]), rtol=1e-5, atol=0)
    for own, other in zip(found[1:], wanted[1:], strict=True):
        assert own.keys() == other.keys()
        for name, tensor in own.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-6)

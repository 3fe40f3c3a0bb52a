"""The same global batches give the same model, in however many processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.workers import run

from scalerec.data.dataset import Dataset
from scalerec.distributed import DistributedConfig, RowPlan
from scalerec.distributed.placement import place_tables

CONFIG: dict[str, Any] = {
    "batch_size": 64,
    "precision": "fp32",
    "tables": {"optimiser": "rowwise_adagrad", "lr": 0.05},
}
SPEC: dict[str, Any] = {"model": "deepfm", "settings": {"dim": 4, "hidden": [8]}, "init_std": 0.1}
OPTIMISERS = ("rowwise_adagrad", "adagrad", "sgd", "lazy_adam")


def whole_tables(folder: Path, plan: RowPlan) -> dict[str, torch.Tensor]:
    """Every table put together from what the processes saved."""
    parts = [load_file(folder / f"{rank}.safetensors") for rank in range(plan.world)]
    found = {}
    for number, (name, size) in enumerate(plan.num_rows.items()):
        key = f"tables.{name}.weight"
        rows = torch.full((size, parts[0][key].shape[1]), torch.nan)
        for rank, part in enumerate(parts):
            if plan.kept(number, rank):
                first, step = plan.first_and_step(number, rank)
                rows[first::step] = part[key]
            else:
                assert len(part[key]) == 0
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
    placements = place_tables(data.layout, 0, settings, world)
    plan = RowPlan(num_rows=dict(data.layout.tables), placements=placements, world=world)
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


def test_whole_tables_on_one_process_each(alone: Any, simulated: Dataset, tmp_path: Path) -> None:
    found = train(tmp_path / "out", simulated, 2, distributed={"sharding": "table"})
    check_equal(found, alone("rowwise_adagrad"))


def check_equal(found: Any, wanted: Any) -> None:
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(wanted[0]), rtol=1e-5, atol=0)
    for own, other in zip(found[1:], wanted[1:], strict=True):
        assert own.keys() == other.keys()
        for name, tensor in own.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-6)

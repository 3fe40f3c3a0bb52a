"""The same global batches give the same model, in however many processes, wherever tables are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.workers import run

from scalerec.data.dataset import Dataset
from scalerec.distributed import DistributedConfig, TablePlan
from scalerec.distributed.placement import place_tables

SPEC: dict[str, Any] = {"model": "deepfm", "settings": {"dim": 4, "hidden": [8]}, "init_std": 0.1}
OPTIMISERS = ("rowwise_adagrad", "adagrad", "sgd", "lazy_adam")
LONG = "100 steps"
KINDS = ("column", "row", "replicated", "table:1", "table:0")


def case(
    optimiser: str, steps: int = 12, tables: dict[str, Any] | None = None, **where: Any
) -> Any:
    """What a process trains."""
    of_tables = {"optimiser": optimiser, "lr": 0.05, **(tables or {})}
    config = {"batch_size": 64, "precision": "fp32", "tables": of_tables}
    kept = {"sharding": "row", **where}
    return {"spec": SPEC, "config": config, "steps": steps, "distributed": kept}


def cases(data: Dataset) -> dict[str, Any]:
    """All cases, by name: ``OPTIMISER, HOW TABLES ARE KEPT``."""
    found = {f"{own}, row": case(own) for own in OPTIMISERS}
    for own in ("rowwise_adagrad", "lazy_adam"):
        for kind in ("table", "column", "replicated"):
            found[f"{own}, {kind}"] = case(own, sharding=kind)
    mixed = dict(zip(data.layout.tables, KINDS, strict=False))
    found["rowwise_adagrad, mixed"] = case("rowwise_adagrad", placements=mixed)
    found["rowwise_adagrad, auto"] = case("rowwise_adagrad", sharding="auto")
    found[LONG] = case("rowwise_adagrad", steps=100)
    plain = {"engine": "torch", "l2": 1e-3}
    found["plain engine, row"] = case("rowwise_adagrad", tables=plain)
    found["plain engine, column"] = case("rowwise_adagrad", tables=plain, sharding="column")
    found["half, row"] = case("rowwise_adagrad", tables={"weights": "fp16"})
    for wire in ("bf16", "int8"):
        found[f"{wire} wire"] = case("rowwise_adagrad", placements=mixed, lookups=wire)
    return found


def alone(data: Dataset) -> dict[str, Any]:
    """What one process trains: the same, once for each optimiser."""
    found = cases(data)
    return {name: found[name] for name in found if name == LONG or name.endswith(", row")}


@pytest.fixture(scope="session")
def trained(simulated: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Number of processes to where they wrote, and what each gave."""
    root, found = tmp_path_factory.mktemp("trained"), {}
    for world in (1, 2, 4):
        own = alone(simulated) if world == 1 else cases(simulated)
        folder = root / str(world)
        job: dict[str, Any] = {
            "data": str(simulated.directory),
            "folder": str(folder),
            "cases": own,
        }
        found[world] = folder, run(world, "training", **job)
    return found


def plan_of(data: Dataset, name: str, world: int) -> TablePlan:
    where = DistributedConfig.from_dict(cases(data)[name]["distributed"])
    width = SPEC["settings"]["dim"] + 1
    placements = place_tables(data.layout, width, where, world)
    return TablePlan(
        num_rows=dict(data.layout.tables), placements=placements, world=world, width=width
    )


def weights(folder: Path, plan: TablePlan) -> dict[str, torch.Tensor]:
    """Every tensor of a model, tables put together from what the processes saved.

    Each holds its part of a table and no more; copies are equal to the last bit.
    """
    parts = [load_file(folder / f"{rank}.safetensors") for rank in range(plan.world)]
    found = dict(parts[0])
    for number, (name, size) in enumerate(plan.num_rows.items()):
        rows = torch.full(
            (size, plan.width), torch.nan, dtype=parts[0][f"tables.{name}.weight"].dtype
        )
        for rank, held in enumerate(parts):
            own, part = plan.part(number, rank), held[f"tables.{name}.weight"]
            assert part.shape == (own.size, own.high - own.low)
            place = rows[own.rows, own.low : own.high]
            assert place.isnan().all() or torch.equal(place, part)
            place.copy_(part)
        assert not rows.isnan().any()
        found[f"tables.{name}.weight"] = rows
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_every_process_sees_the_same_losses(world: int, trained: dict[int, Any]) -> None:
    _, given = trained[world]
    assert all(own["losses"] == given[0]["losses"] for own in given)


@pytest.mark.parametrize("world", [2, 4])
def test_ten_steps_as_in_one_process(
    world: int, simulated: Dataset, trained: dict[int, Any]
) -> None:
    """Losses to 1e-5; weights, which one step more has moved, to 1e-4 of themselves or 1e-6."""
    (one, wanted), (folder, found) = trained[1], trained[world]
    names = [name for name in cases(simulated) if ", " in name and "half" not in name]
    assert len(names) == 14
    for name in names:
        plain = f"{name.partition(', ')[0]}, row"
        losses, own = (
            found[0]["losses"][name],
            weights(folder / name, plan_of(simulated, name, world)),
        )
        expected = torch.tensor(wanted[0]["losses"][plain])
        torch.testing.assert_close(torch.tensor(losses), expected, rtol=1e-5, atol=0, msg=name)
        other = weights(one / plain, plan_of(simulated, plain, 1))
        assert own.keys() == other.keys()
        for key, tensor in own.items():
            torch.testing.assert_close(tensor, other[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("world", [2, 4])
def test_a_hundred_steps_as_in_one_process(world: int, trained: dict[int, Any]) -> None:
    found, wanted = (torch.tensor(trained[p][1][0]["losses"][LONG]) for p in (world, 1))
    assert len(found) == 100
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize(
    ("name", "near"), [("half, row", 2e-3), ("bf16 wire", 5e-3), ("int8 wire", 2e-2)]
)
def test_shorter_numbers_stay_near(
    name: str, near: float, world: int, trained: dict[int, Any]
) -> None:
    """Rounding by chance differs between processes; lookups are rounded to 8 or 7 bits."""
    found = torch.tensor(trained[world][1][0]["losses"][name])
    wanted = torch.tensor(trained[1][1][0]["losses"]["rowwise_adagrad, row"])
    torch.testing.assert_close(found, wanted, rtol=near, atol=0)
    assert not torch.equal(found, wanted)


@pytest.mark.parametrize("world", [2, 4])
def test_memory_goes_down_with_every_process(
    world: int, simulated: Dataset, trained: dict[int, Any]
) -> None:
    whole = sum(simulated.layout.tables.values()) * 5
    for kind in ("row", "column"):
        plan = plan_of(simulated, f"rowwise_adagrad, {kind}", world)
        shares = [plan.num_kept(rank) / whole for rank in range(world)]
        assert sum(shares) == pytest.approx(1.0)
        assert max(shares) < (1.2 if kind == "row" else 2.0) / world

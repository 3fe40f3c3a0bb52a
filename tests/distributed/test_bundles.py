"""Bundles and checkpoints of several processes: equal for any number, and never whole in one."""

from pathlib import Path
from typing import Any

import torch
from tests.distributed.fault_workers import MODULE
from tests.distributed.workers import run
from tests.train.test_start import days, prepared

from scalerec.bundle import open_recommender, read_bundle, write_recommender
from scalerec.data.dataset import Dataset
from scalerec.models.recommender import ModelSpec, build_recommender

SPEC: dict[str, Any] = {"model": "deepfm", "settings": {"dim": 4, "hidden": [8]}, "init_std": 0.1}
CONFIG: dict[str, Any] = {
    **{"batch_size": 64, "epochs": 1, "precision": "fp32", "patience": -1},
    **{"checkpoint_seconds": 0, "checkpoint_steps": 7},
    "tables": {"optimiser": "rowwise_adagrad", "lr": 0.05},
}
# Written by so many, gone on with by so many, and where tables are kept before and after.
CASES = (
    (1, 2, "row", "row"),
    (1, 4, "row", "column"),
    (2, 4, "row", "row"),
    (4, 1, "row", "row"),
    (2, 4, "table", "table"),
    (4, 2, "column", "column"),
    (2, 4, "replicated", "row"),
    (4, 1, "table", "column"),
)


def test_a_checkpoint_goes_on_in_any_number_of_processes(
    simulated: Dataset, tmp_path: Path
) -> None:
    job: dict[str, Any] = {"spec": SPEC, "config": CONFIG, "cases": CASES}
    found = run(
        4, "go_on", module=MODULE, data=str(simulated.directory), folder=str(tmp_path), **job
    )
    for number, case in enumerate(CASES):
        apart = found[0][str(number)]
        assert any(name.startswith("tables.") for name in apart)
        # Sums over processes have other orders; weights are about 0.1.
        assert max(apart.values()) < 1e-5, (case, apart)
        assert not found[0][f"{number} left"]


def test_a_bundle_is_the_same_by_any_number_of_processes(
    simulated: Dataset, tmp_path: Path
) -> None:
    job: dict[str, Any] = {"spec": SPEC, "config": CONFIG}
    found = run(
        3, "bundles", module=MODULE, data=str(simulated.directory), folder=str(tmp_path), **job
    )[0]
    assert len(found) == 9
    assert set(found.values()) == {found["plain"]}
    opened = open_recommender(tmp_path / "3-row")
    other = open_recommender(tmp_path / "plain").recommender.to_tensors()
    for name, tensor in opened.recommender.to_tensors().items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0)


def test_nobody_holds_a_table_that_is_not_its_own(simulated: Dataset, tmp_path: Path) -> None:
    """Two processes keep half of 195 MiB each; a bundle is written of all of it."""
    layout = simulated.layout.to_dict()
    layout["ids"] = [{**field, "table": "big"} for field in layout["ids"]]
    layout["bags"] = [{**field, "table": "big"} for field in layout["bags"]]
    spec = {**SPEC, "settings": {"dim": 16, "hidden": [8]}}
    job: dict[str, Any] = {"spec": spec, "config": CONFIG, "layout": layout, "rows": 3_000_000}
    found = run(2, "memory", module=MODULE, folder=str(tmp_path), **job)
    for own in found:
        assert own["table"] > 190
        # Its own half, and pieces of some MiB.
        assert own["made"] < 0.5 * own["table"] + 32
        assert own["written"] < 48
    tensor = read_bundle(tmp_path / "big").tensor("tables.big.weight")
    assert tensor.shape == (3_000_000, 17)
    torch.testing.assert_close(tensor[::2][:3], torch.tensor(found[0]["first"]), rtol=0, atol=0)
    torch.testing.assert_close(tensor[1::2][:3], torch.tensor(found[1]["first"]), rtol=0, atol=0)


def test_several_processes_go_on_from_a_bundle(tmp_path: Path) -> None:
    """Tables grow, ids retire, and each process reads the rows that it keeps alone."""
    first, second = days()[:2]
    before = prepared(tmp_path / "before", first)
    spec = ModelSpec.from_dict(SPEC)
    drawn = build_recommender(before.layout, spec, 1)
    bundle = write_recommender(tmp_path / "parent", drawn, before, ())
    after = prepared(tmp_path / "after", second, base=bundle, evict_after=1)
    job = {"config": {**CONFIG, "checkpoint_steps": 0}, "parent": str(bundle.path)}
    found = run(2, "continued", module=MODULE, data=str(after.directory), **job)
    assert found[0]["fresh"] > 0
    for sharding in ("row", "table", "column"):
        both = [own[sharding]["kept"] for own in found]
        assert max(both) < 0.9 * sum(both)
    for sharding in ("row", "table", "column", "replicated"):
        start, end = found[0][sharding]["apart"]
        assert start == 0
        assert end < 1e-5

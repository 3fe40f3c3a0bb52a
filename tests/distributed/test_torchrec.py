"""Tables that TorchRec holds learn what those of this package's own engine learn."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed.workers import run

from scalerec.data.dataset import Dataset
from scalerec.distributed.torchrec_store import torchrec_is_available

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
    ({"sharding": "row"}, "sgd"),
    ({"sharding": "row", "placements": {"item_id": "column", "country": "replicated"}}, "adagrad"),
]


def job_of(data: Dataset, cases: list[tuple[dict[str, Any], str]]) -> dict[str, Any]:
    given = [
        {"distributed": distributed, "tables": {"optimiser": name, "lr": 0.05}}
        for distributed, name in cases
    ]
    return {**JOB, "data": str(data.directory), "cases": given}


@pytest.fixture(scope="module")
def torchrec() -> None:
    """Skip what needs it; looked at when a test asks, as the import takes seconds."""
    if not torchrec_is_available():
        pytest.skip("TorchRec is not installed, or is of another torch; see `make test`")


@pytest.mark.usefixtures("torchrec")
def test_losses_are_those_of_the_own_engine(simulated: Dataset) -> None:
    (alone,) = run(1, "losses", module=WORKERS, **job_of(simulated, CASES[:1]))
    both = run(2, "losses", module=WORKERS, **job_of(simulated, CASES))
    wanted = alone["cases"][0]["scalerec"]
    close(alone["cases"][0]["torchrec"], wanted, RTOL)
    close(both[0]["cases"][0]["torchrec"], wanted, RTOL)
    for own in (case for given in both for case in given["cases"]):
        close(own["torchrec"], own["scalerec"], RTOL)
        close(own["torchrec scores"], own["scalerec scores"], 1e-4)
        # No process holds a row, or a column, that is not its own.
        assert own["torchrec kept"] == own["scalerec kept"]


@pytest.mark.usefixtures("torchrec")
def test_checkpoints_are_those_of_the_own_engine(simulated: Dataset, tmp_path: Path) -> None:
    tables = {"optimiser": "rowwise_adagrad", "lr": 0.05}
    job = {**JOB, "data": str(simulated.directory), "folder": str(tmp_path), "tables": tables}
    (found, _) = run(2, "resuming", module=WORKERS, **job)
    for writer in ("scalerec", "torchrec"):
        for reader in ("scalerec", "torchrec"):
            close(found[f"{writer} to {reader}"], found[writer], RTOL)


def close(found: list[float], wanted: list[float], rtol: float) -> None:
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=rtol, atol=0)

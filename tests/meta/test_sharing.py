"""Processes that divide the tasks of each update learn what one does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.workers import run
from tests.meta.sharing_workers import MODULE, learned, tensors_of
from tests.meta.worlds import parity

from scalerec.data.dataset import Dataset
from scalerec.meta.algorithms import ALGORITHMS

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS: dict[str, Any] = {
    "adapt": "all", "rate": 0.1, "steps": 2, "num_support": 5, "num_query": 6, "tasks": 7,
    "updates": 2, "evaluate_every": 2, "optimiser": "sgd", "lr": 0.5, "rows_lr": 0.5,
    "held_out": 0.3, "as_new": False, "mixing": 0.3, "patience": -1,
}  # fmt: skip
CASES = {
    **{name: {**SETTINGS, "algorithm": name} for name in ALGORITHMS},
    "one task of two processes": {**SETTINGS, "tasks": 1},
    "parts of parts": {**SETTINGS, "algorithm": "reptile", "at_once": 2},
    "rates by layer": {**SETTINGS, "rates": "layer", "rows_lr": 0.0},
    "it stops": {**SETTINGS, "lr": 0.0, "rows_lr": 0.0, "patience": 1, "updates": 9},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return parity(tmp_path_factory.mktemp("parity") / "data")


@pytest.fixture(scope="module")
def shared(
    dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[list[dict[str, Any]]]]:
    """What two processes give for each case, and where their tensors are."""
    folder = tmp_path_factory.mktemp("shared")
    job = {"data": str(dataset.directory), "folder": str(folder), "cases": list(CASES.values())}
    told: Any = run(2, "share", module=MODULE, **job)
    return folder, told


@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_learns(
    name: str, dataset: Dataset, shared: tuple[Path, list[list[dict[str, Any]]]]
) -> None:
    folder, told = shared
    number = list(CASES).index(name)
    alone = learned(dataset, CASES[name])
    wanted = tensors_of(alone)
    each = [load_file(folder / f"{number}-{rank}.safetensors") for rank in range(2)]
    for tensor_name, tensor in wanted.items():
        # Float32, two updates.
        torch.testing.assert_close(each[0][tensor_name], tensor, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(own[tensor_name], each[0][tensor_name]) for own in each[1:])
    for own in told:
        assert own[number]["updates"] == alone.updates
        assert own[number]["best"] == pytest.approx(alone.best, rel=1e-4)
        steps = [seen["step"] for seen in own[number]["curve"]]
        assert steps == [seen["step"] for seen in alone.curve]


def test_processes_go_on_together_or_not_at_all(dataset: Dataset, tmp_path: Path) -> None:
    case = {**SETTINGS, "checkpoint_every": 1, "updates": 4}
    job = {"data": str(dataset.directory), "folder": str(tmp_path), "case": case}
    told: Any = run(2, "go_on", module=MODULE, **job)
    first, second = told
    wanted = tensors_of(learned(dataset, case))
    for rank in range(2):
        found = load_file(tmp_path / f"resumed-{rank}.safetensors")
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    assert first[:2] == second[:2] == ["broken off", "broken off"]
    assert "process 0 finds a checkpoint of 2 updates there, process 1 one of None" in second[2]
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())

"""A search that is killed, wherever that is, goes on to the bundle of the undisturbed one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scalerec.bundle import read_bundle
from scalerec.data.dataset import Dataset

SEARCH, STUDY = "scalerec.tune.search", "scalerec.tune.study"
# What dies, at which call, before or after its work.
MOMENTS = [
    (f"{STUDY}:Study.ask", 1, "after"),
    ("optuna.trial:Trial.suggest_float", 3, "before"),
    (f"{STUDY}:Study.note", 4, "after"),
    ("scalerec.train.loop:_Run._judge", 5, "after"),
    (f"{SEARCH}:write_recommender", 1, "before"),
    (f"{SEARCH}:write_recommender", 2, "after"),
    ("scalerec.bundle.folder:_publish", 1, "before"),
    (f"{STUDY}:Study.end", 3, "before"),
    (f"{STUDY}:Study.end", 3, "after"),
    (f"{STUDY}:Study.keep_bundle", 2, "before"),
    (f"{SEARCH}:write_bundle", 1, "before"),
    (f"{SEARCH}:write_bundle", 1, "after"),
]


def job_of(dataset: Dataset, out: Path) -> dict[str, Any]:
    return {
        "data": str(dataset.directory),
        "out": str(out),
        "models": ["deepfm"],
        "space": {"tables.lr": "1e-3..1e-1:log", "model.dim": [2, 4]},
        "fixed": {"epochs": 2, "batch_size": 32, "model": {"hidden": [4]}},
        "config": {"trials": 6, "startup": 3},
    }


@pytest.fixture(scope="module")
def searched(
    rated: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Path, dict[str, Any]]]:
    """Where each search wrote, and what it gave: undisturbed, at each moment, from outside."""
    root = tmp_path_factory.mktemp("killed")
    ways: list[dict[str, Any]] = [{}, *({"at": moment} for moment in MOMENTS), {"kills": 3}]
    outs = [root / str(number) / "best" for number in range(len(ways))]
    jobs = [{**job_of(rated, out), **way} for out, way in zip(outs, ways, strict=True)]
    words = [sys.executable, "-m", "tests.tune.killed", json.dumps(jobs)]
    here = Path(__file__).parents[2]
    path = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=here, env={**os.environ, **path}, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(zip(outs, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("number", range(len(MOMENTS) + 2))
def test_a_killed_search_ends_as_the_undisturbed_one(
    searched: list[tuple[Path, dict[str, Any]]], number: int
) -> None:
    """All trials, the same bundle, verified, and nothing left of what was cut short."""
    out, found = searched[number]
    _, undisturbed = searched[0]
    assert undisturbed["trials"] == 6
    assert found == undisturbed
    bundle = read_bundle(out)
    assert bundle.digest == undisturbed["bundle"]
    assert {"curves.json", "study.json"} <= set(bundle.attachments())
    rows = bundle.attachment_json("study.json")["rows"]
    assert [row["trial"] for row in rows] == [1, 2, 3, 4, 5, 6]
    left = [path.name for path in out.with_name("best.study").iterdir() if path.is_dir()]
    assert left == [f"trial-{bundle.attachment_json('study.json')['best']:05d}"]
    beside = {path.name for path in out.parent.iterdir()}
    assert beside == {"best", "best.study", "seen.json"}

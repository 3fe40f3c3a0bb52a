"""`scalerec compress`: bundles that cost less, and the words of what cannot be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scalerec.bundle import read_bundle
from scalerec.bundle.recommenders import open_recommender
from scalerec.cli import main
from scalerec.compress import measuring
from scalerec.data.dataset import Dataset
from scalerec.scoring import recommend

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ("--set", "model.dim=8", "--set", "model.hidden=[32,16]", "--set", "epochs=1")


@pytest.fixture(scope="module")
def teacher(simulated: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compress") / "teacher"
    words = ["train", str(simulated.directory), "--model", "deepfm", *SMALL, "--out", str(out)]
    assert main([*words, "--threads", "1"]) == 0
    return out


@pytest.fixture(autouse=True)
def few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are not looked at here, nor memory, which takes a process of its own."""
    monkeypatch.setattr(measuring.Meter.__init__, "__defaults__", ("valid", 2))
    monkeypatch.setattr("scalerec.scoring.cost.resident_bytes", lambda path: None)


def compress(
    capsys: pytest.CaptureFixture[str], teacher: Path, data: Dataset, *words: str | Path
) -> dict[str, Any]:
    capsys.readouterr()
    said = ["compress", str(teacher), str(data.directory), *map(str, words)]
    assert main([*said, "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_steps_in_a_chain(
    teacher: Path, simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, steps = tmp_path / "small", "prune=0.5:epochs=0,distil=16-8,quantize=int8:tables=int4"
    found = compress(capsys, teacher, simulated, "--steps", steps, "--out", out)
    assert found["steps"] == steps.split(",")
    sizes = [effect["weight_bytes"] for effect in (found["given"], *found["effects"])]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 3
    bundle = read_bundle(out)
    assert bundle.digest == found["bundle"]
    assert [step.verb for step in bundle.lineage] == ["prepare", "train", *["compress"] * 3]
    last = bundle.lineage[-1]
    assert last.settings["step"] == "quantize=int8:tables=int4"
    assert last.parents == (read_bundle(teacher).digest,)
    assert last.effect is not None
    after: Any = last.effect["after"]
    assert after == found["effects"][-1]
    assert sum(entry.size for name, entry in bundle.files.items() if "weights" in name) == sizes[-1]
    # Only what is float still may be adapted.
    assert "*" not in bundle.adaptable
    assert all("codes" not in name for name in bundle.adaptable)
    assert main(["evaluate", str(out), str(simulated.directory), "--split", "valid"]) == 0
    metrics = read_bundle(out).attachment_json("evaluation-valid.json")["metrics"]
    assert auc_of(metrics) == pytest.approx(after["auc"], abs=1e-6)
    opened = open_recommender(out)
    assert len(recommend(opened, user=opened.user_keys[0], k=3)) == 3


def auc_of(metrics: Mapping[str, float | None]) -> float:
    """The mean over tasks that have one."""
    own = [v for n, v in metrics.items() if n.rpartition(".")[2] == "auc" and v is not None]
    return sum(own) / len(own)


def test_the_search_takes_the_cheapest_within_the_gate(
    teacher: Path, simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    tried = ("--try", "quantize=int8", "--try", "distil=nothing")
    gate = ("--max-auc-drop", "0.05", "--freeze")
    capsys.readouterr()
    words = ["compress", str(teacher), str(simulated.directory), *tried, *gate]
    assert main([*words, "--out", str(out), "--threads", "1"]) == 2
    assert "a student is hidden sizes such as 64-32" in capsys.readouterr().err
    found = compress(
        capsys, teacher, simulated, "--try", "quantize=int8", "--try", "shrink=lowrank:dim=8",
        *gate, "--out", out,
    )  # fmt: skip
    assert found["steps"] == ["quantize=int8"]
    assert found["tried"]["models"][0]["best"]
    reason = found["tried"]["left_out"]["shrink=lowrank:dim=8"]
    assert reason == "dim must be below the embedding's 8; got 8"
    bundle = read_bundle(out)
    assert bundle.adaptable == ()
    assert {"compress.json", "compress.svg"} <= set(bundle.attachments())


def test_nothing_is_written_where_the_gate_is_shut(
    teacher: Path, simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    words = ["compress", str(teacher), str(simulated.directory), "--out", str(out)]
    asked = ["--steps", "quantize=int8", "--max-bytes", "10", "--threads", "1"]
    capsys.readouterr()
    assert main([*words, *asked]) == 1
    seen = capsys.readouterr().err
    assert "error: the model does not pass the gate: bytes of weights are" in seen
    assert "at most 10" in seen
    assert not out.exists()
    assert main([*words, "--steps", "quantise=int8"]) == 2
    assert "a step must be one of prune, shrink, distil" in capsys.readouterr().err
    assert main([*words, "--steps", "tune=1", "--try", "tune=1"]) == 2
    assert "--try is for a search; with --steps there is none" in capsys.readouterr().err

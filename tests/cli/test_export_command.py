"""`scalerec export` as a person and a program use it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.train.toys import narrow, ratings

from scalerec.bundle import Step, write_bundle, write_recommender
from scalerec.bundle.contents import Contents
from scalerec.cli import main
from scalerec.models.recommender import build_recommender
from scalerec.scoring import onnx_export


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the smallest net."""
    folder = tmp_path_factory.mktemp("export")
    dataset = ratings(folder / "data")
    recommender = build_recommender(dataset.layout, narrow("lr"), 2)
    write_recommender(folder / "bundle", recommender, dataset, (Step(verb="train"),))
    return folder / "bundle"


def test_it_writes_the_files_and_tells_them(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "small.onnx"
    assert main(["export", str(bundle), "--format", "onnx", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["files"]) == {path.name for path in tmp_path.iterdir()}
    assert found["agreement"]["largest"] <= found["agreement"]["tolerance"]
    first = read_model(out)
    # Tracing takes seconds, so the second call is given what the first one wrote.
    monkeypatch.setattr(onnx_export, "trace", lambda graph: first)
    assert main(["export", str(bundle), "--out", str(out), "--overwrite"]) == 0
    seen = capsys.readouterr()
    assert "small.onnx.json" in seen.out
    assert "logits differ from the bundle's by at most" in seen.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--format", "tflite"], 2, "--format must be one of onnx; got 'tflite'"),
        (["--out", "small.pt"], 2, "--out must be a file whose name ends in .onnx; got 'small.pt'"),
    ],
)
def test_wrong_usage_is_told_in_a_line(
    bundle: Path, words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(bundle), "--out", "small.onnx", *words]) == code
    assert capsys.readouterr().err.splitlines() == [f"error: {told}"]


def test_what_is_no_recommender_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "small.onnx")
    assert main(["export", str(tmp_path / "none"), "--out", out]) == 1
    assert "none" in capsys.readouterr().err
    write_bundle(tmp_path / "other", other())
    assert main(["export", str(tmp_path / "other"), "--out", out]) == 1
    assert "holds a 'module'; this needs a 'recommender'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx"))


def read_model(path: Path) -> Any:
    import onnx_ir

    return onnx_ir.load(path)


def other() -> Contents:
    """A bundle of something else."""
    return Contents(
        schema={}, spec={"kind": "module"}, layout={}, lineage=(Step(verb="train"),), tensors={}
    )

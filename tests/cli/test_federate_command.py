"""`scalerec federate`: a bundle of what parties trained, and another that goes on from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from scalerec.bundle import read_bundle
from scalerec.cli import main
from scalerec.data.dataset import Dataset

SMALL = ("--set", "model.dim=4", "--set", "model.hidden=[8]")
FEW = ("--rounds", "3", "--cohort", "20", "--threads", "1", "--set", "evaluate_every=3")


def json_of(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["federate", *map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def error_of(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert main(["federate", *map(str, words)]) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def last_step(path: Path) -> Any:
    return read_bundle(path).lineage[-1]


def spent(path: Path) -> dict[str, Any]:
    ledger = last_step(path).ledger
    assert isinstance(ledger, dict)
    return ledger


def test_it_gives_a_bundle_with_what_a_reader_wants(
    simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fed"
    words = (simulated.directory, "--by", "user", "--strategy", "fedadam", *SMALL, *FEW)
    found = json_of(capsys, *words, "--out", out)
    assert found["rounds"] == 3
    assert found["bytes_up"] > 0
    assert found["bytes_down"] > 0
    bundle = read_bundle(out)
    assert bundle.digest == found["bundle"]
    step = last_step(out)
    assert step.verb == "federate"
    assert step.settings["strategy"] == "fedadam"
    assert step.ledger is None
    assert {"curves.json", "federated.html", "parties.json"} <= set(bundle.attachments())
    assert error_of(capsys, *words, "--out", out) == (
        f"error: --out {out} exists already; choose another, or --overwrite"
    )


def test_it_goes_on_from_a_bundle_and_counts_what_was_paid(
    simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dp_accounting", reason="needs the extra federated")
    data, budget = simulated.directory, ("--set", "privacy.delta=0.001")
    one, two = tmp_path / "one", tmp_path / "two"
    json_of(capsys, data, *SMALL, *FEW, *budget, "--epsilon", "2", "--out", one)
    found = json_of(capsys, data, *FEW, *budget, "--epsilon", "4", "--continue", one, "--out", two)
    before, ledger = spent(one), spent(two)
    assert before["epsilon"] <= 2
    assert ledger["rounds_before"] == 3
    assert before["epsilon"] < ledger["epsilon"] <= 4
    assert found["epsilon"] == round(ledger["epsilon"], 4)
    assert last_step(two).parents == (read_bundle(one).digest,)
    assert len(read_bundle(two).lineage) == 4
    error = error_of(
        capsys, data, *FEW, *budget, "--epsilon", "1", "--continue", one, "--out", tmp_path / "no"
    )
    assert "leave" in error or "spent" in error, error
    assert not (tmp_path / "no").exists()


def test_a_bundle_has_its_model(
    simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, one = simulated.directory, tmp_path / "one"
    json_of(capsys, data, *SMALL, *FEW, "--out", one)
    words = (data, *FEW, "--continue", one, "--out", tmp_path / "two")
    error = error_of(capsys, *words, "--model", "lr")
    assert f"{one} is a deepfm; --model lr would have to start anew" in error
    error = error_of(capsys, *words, "--set", "model.dim=8")
    assert f"{one} has its model's settings, which cannot change: model.dim" in error


def test_what_does_not_exist_is_named(
    simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (simulated.directory, *SMALL, *FEW, "--out", tmp_path / "no")
    assert "strategy must be one of ditto, " in error_of(capsys, *words, "--strategy", "fedsgd")
    assert "got 'nobody'" in error_of(capsys, *words, "--by", "nobody")
    assert not (tmp_path / "no").exists()

"""`meta-train --nproc`: several processes give the bundle that one gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.meta.worlds import parity

from scalerec.bundle.recommenders import OpenRecommender, open_recommender
from scalerec.cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = (
    "init_std=0.3", "model.dim=4", "model.hidden=[8]", "num_query=6", "tasks=7", "optimiser=sgd",
    "evaluate_every=3", "held_out=0.3",
)  # fmt: skip


def words_of(folder: Path, name: str, *more: object) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    own: list[object] = [
        "meta-train", folder / "data", "--algorithm", "fomaml", "--lr", 0.5, "--updates", 3,
        *settings, "--out", folder / name, *more,
    ]  # fmt: skip
    return [str(word) for word in own]


def test_two_processes_give_what_one_gives(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    parity(tmp_path / "data")
    # What an earlier run left must not be taken for their own.
    (tmp_path / "two.checkpoint").mkdir()
    (tmp_path / "two.checkpoint" / "checkpoint.safetensors").write_bytes(b"old")
    assert main(words_of(tmp_path, "one", "--json")) == 0
    alone = json.loads(capfd.readouterr().out)
    assert main(words_of(tmp_path, "two", "--json", "--nproc", 2)) == 0
    told: dict[str, Any] = json.loads(capfd.readouterr().out)
    assert told.keys() == alone.keys()
    assert (told["updates"], told["tasks"]) == (alone["updates"], 60)
    assert told["after_adapting"] == pytest.approx(alone["after_adapting"], abs=1e-3)
    one, two = (open_recommender(tmp_path / name) for name in ("one", "two"))
    for name, tensor in one.recommender.to_tensors().items():
        torch.testing.assert_close(two.recommender.to_tensors()[name], tensor, rtol=1e-5, atol=1e-6)
    assert _step(one) == _step(two)
    assert not (tmp_path / "two.checkpoint" / "checkpoint.safetensors").exists()


def _step(opened: OpenRecommender) -> dict[str, Any]:
    return dict(opened.bundle.lineage[-1].settings)


def test_wrong_settings_start_no_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> None:
        raise AssertionError("no process is to start")

    monkeypatch.setattr("scalerec.cli.meta_train.start_processes", start)
    wrong = words_of(tmp_path, "x", "--nproc", 2, "--steps", 0)
    assert main(wrong) == 2
    assert "steps must be at least 1; got 0" in capsys.readouterr().err
    generated = words_of(tmp_path, "x", "--nproc", 2, "--algorithm", "meta-embedding")
    assert main([word for word in generated if word not in ("--updates", "3")]) == 2
    assert "--nproc means nothing to meta-embedding" in capsys.readouterr().err


def test_a_process_of_a_launcher_starts_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words_of(tmp_path, "x", "--nproc", 2), is_member=True) == 2
    assert "a launcher has started these; say their number to it" in capsys.readouterr().err

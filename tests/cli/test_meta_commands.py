"""`meta-train`, `adapt` and `recommend --history` from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.meta.worlds import parity

from scalerec.bundle import read_bundle
from scalerec.bundle.recommenders import open_recommender
from scalerec.cli.main import main
from scalerec.compress.measuring import Meter
from scalerec.models.forming import float_names

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = (
    "init_std=0.3", "model.dim=4", "model.hidden=[8]", "num_query=6", "tasks=16",
    "evaluate_every=30", "held_out=0.3",
)  # fmt: skip


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 else {}, err


def learn(
    capsys: pytest.CaptureFixture[str], folder: Path, *words: object
) -> tuple[int, dict[str, Any], str]:
    if not (folder / "data").exists():
        parity(folder / "data")
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return call(
        capsys, "meta-train", folder / "data", "--by", "user", "--adapt", "decision", "--steps", 3,
        "--rate", 0.5, "--lr", 0.02, "--examples", 5, "--updates", 60, *settings,
        "--out", folder / "meta", "--json", *words,
    )  # fmt: skip


def test_a_start_is_learned_and_adapts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, told, err = learn(capsys, tmp_path, "--algorithm", "fomaml", "--track", "jsonl")
    assert code == 0
    assert "update 30/60" in err
    assert told["after_adapting"] > told["before_adapting"]
    assert (told["algorithm"], told["tasks"]) == ("fomaml", 60)
    step = read_bundle(tmp_path / "meta").lineage[-1]
    assert step.verb == "meta-train"
    assert step.settings["algorithm"] == "fomaml"
    assert (tmp_path / "meta.track").exists()

    (tmp_path / "few.csv").write_text("user,item,liked\nx,i1,1\nx,i2,0\nx,i3,1\nx,i5,1\nx,i6,0\n")
    words: tuple[object, ...] = (
        "adapt",
        tmp_path / "meta",
        tmp_path / "few.csv",
        "--out",
        tmp_path / "own",
        "--json",
    )
    code, made, _ = call(capsys, *words)
    assert code == 0
    assert (made["base"], made["examples"], made["steps"]) == (told["bundle"], 5, 3)
    code, _, err = call(capsys, *words)
    assert code == 2
    assert "own exists already; choose another, or --overwrite" in err
    code, found, _ = call(capsys, "recommend", tmp_path / "own", "--user", "x", "--k", 3, "--json")
    assert code == 0
    assert [int(item["item"][1:]) % 2 for item in found["items"]] == [1, 1, 1]

    # It reads no history, yet it adapts to one: what was met is left out, the rest is as liked.
    words = ("recommend", tmp_path / "meta", "--history", "i0,i2,i4", "--k", 2, "--json")
    code, found, _ = call(capsys, *words)
    assert code == 0
    assert found["adapted_in_ms"] > 0
    assert {item["item"] for item in found["items"]} == {"i6", "i8"}
    # What was not liked tells as much, and is left out as well.
    words = ("recommend", tmp_path / "meta", "--k", 5, "--json", "--history")
    code, found, _ = call(capsys, *words, "i0:0,i2:0,i5")
    assert code == 0
    listed = [item["item"] for item in found["items"]]
    assert {int(item[1:]) % 2 for item in listed[:3]} == {1}
    assert not {"i0", "i2", "i5"} & set(listed)
    assert call(capsys, *words, "i0:0,i2:0,i5")[1]["items"] == found["items"]
    for history, message in {
        ",": "the history is empty; name items by their keys, as 50,181,174",
        "i98,i99": "knows none of the history's items: i98, i99",
        "i0:maybe": "item i0 has the label 'maybe'; task 'liked' allows 0 or 1",
    }.items():
        code, _, err = call(capsys, *words, history)
        assert code == 1
        assert message in err


def test_what_adapts_stays_float_and_adapts_when_the_rest_has_few_bits(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Meter.__init__, "__defaults__", ("valid", 2, None))
    monkeypatch.setattr("scalerec.scoring.cost.resident_bytes", lambda path: None)
    parity(tmp_path / "data", valid=0.1)
    code, _, _ = learn(capsys, tmp_path, "--algorithm", "meta-sgd", "--set", "rates=number")
    assert code == 0
    words: tuple[object, ...] = ("--steps", "quantize=int8", "--json")
    for name, more in (("small", ()), ("frozen", ("--freeze",))):
        out = ("--out", tmp_path / name)
        code, _, err = call(
            capsys, "compress", tmp_path / "meta", tmp_path / "data", *words, *more, *out
        )
        assert code == 0, err
    (tmp_path / "few.csv").write_text("user,item,liked\nx,i1,1\nx,i2,0\nx,i3,1\nx,i5,1\nx,i6,0\n")
    small, frozen = open_recommender(tmp_path / "small"), open_recommender(tmp_path / "frozen")
    assert small.adaptation == open_recommender(tmp_path / "meta").adaptation
    assert small.adaptation is not None
    assert set(small.adaptation.parts) <= set(float_names(small.recommender))
    assert frozen.adaptation is None
    assert small.rates.keys() == set(small.adaptation.parts)
    few = tmp_path / "few.csv"
    own: tuple[object, ...] = ("--out", tmp_path / "own", "--json")
    assert call(capsys, "adapt", tmp_path / "small", few, *own)[0] == 0
    words = ("recommend", tmp_path / "own", "--user", "x", "--k", 3, "--json")
    code, found, _ = call(capsys, *words)
    assert code == 0
    assert [int(item["item"][1:]) % 2 for item in found["items"]] == [1, 1, 1]
    words = ("recommend", tmp_path / "small", "--history", "i1,i3", "--k", 2, "--json")
    assert call(capsys, *words)[0] == 0
    code, _, err = call(capsys, "adapt", tmp_path / "frozen", few, *own, "--overwrite")
    assert code == 2
    assert "what has few bits cannot adapt: net.tower" in err


def test_a_row_that_adapts_keeps_its_rates_and_a_student_has_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Meter.__init__, "__defaults__", ("valid", 2, None))
    monkeypatch.setattr("scalerec.scoring.cost.resident_bytes", lambda path: None)
    parity(tmp_path / "data", valid=0.1)
    words = ("--algorithm", "meta-sgd", "--set", "rates=number", "--adapt", "own")
    assert learn(capsys, tmp_path, *words)[0] == 0
    start = open_recommender(tmp_path / "meta")
    for steps, kept in {
        # Rows of tables some of which have few bits cannot be written.
        "quantize=int8": False,
        "quantize=int8:tables=float32": True,
        "shrink=lowrank:dim=2:epochs=0": False,
        "distil=8": False,
    }.items():
        code, _, err = call(
            capsys, "compress", tmp_path / "meta", tmp_path / "data", "--steps", steps,
            "--out", tmp_path / "small", "--overwrite", "--json",
        )  # fmt: skip
        assert code == 0, err
        small = open_recommender(tmp_path / "small")
        assert (small.adaptation == start.adaptation) == kept
        assert (small.rates.keys() == start.rates.keys()) == kept


def test_wrong_words_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = learn(capsys, tmp_path, "--algorithm", "maml2")
    assert code == 2
    assert "algorithm must be one of maml, fomaml, anil, reptile, meta-sgd; got 'maml2'" in err
    code, _, err = learn(capsys, tmp_path, "--by", "town")
    assert code == 1
    assert "tasks are by one of user, item" in err

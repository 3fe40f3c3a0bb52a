"""`scalerec tune` as a person and as a program use it, on a small simulated world."""

import json
from pathlib import Path

import pytest

from scalerec.cli import main

SMALL = ["--set", "model.dim=4", "--set", "epochs=1", "--set", "batch_size=256"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tune")
    world = ["num_users=60", "num_items=40", "num_events=2000", "image_dim=0", "text_dim=0"]
    words = ["simulate", "--seed", "3", "--out", str(root / "sim")]
    assert main(words + [part for word in world for part in ("--set", word)]) == 0
    events, schema = str(root / "sim" / "events.parquet"), str(root / "sim" / "schema.toml")
    assert main(["prepare", events, "--schema", schema, "--out", str(root / "data")]) == 0
    return root / "data"


def tune(data: Path, out: Path, *more: str) -> int:
    return main(["tune", str(data), "--out", str(out), *SMALL, "--threads", "1", *more])


def error_of(capsys: pytest.CaptureFixture[str], data: Path, out: Path, *more: str) -> str:
    capsys.readouterr()
    assert tune(data, out, *more) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    line = seen.err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_a_search_prints_one_json_object(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--search", "model.hidden=[8]|[16]", "--search", "dense.lr=1e-4..1e-2:log")
    capsys.readouterr()
    assert tune(data, tmp_path / "best", *words, "--trials", "3", "--json") == 0
    seen = capsys.readouterr()
    found = json.loads(seen.out)
    assert (found["trials"], found["complete"] + found["pruned"], found["failed"]) == (3, 3, 0)
    assert found["metric"] == "auc"
    assert "searching model.hidden: [8]|[16]" in seen.err
    assert "searching dense.lr: 0.0001..0.01:log" in seen.err
    assert "trial 1/3: " in seen.err
    assert "deepfm, the defaults" in seen.err
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "best"), "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)
    assert [step["verb"] for step in inspected["lineage"]] == ["prepare", "tune", "train"]
    assert inspected["bundle"] == found["bundle"]
    assert tune(data, tmp_path / "best", *words, "--trials", "4", "--resume", "--json") == 0
    seen = capsys.readouterr()
    assert json.loads(seen.out)["trials"] == 4
    assert "trial 4/4: " in seen.err
    assert "trial 3/4: " not in seen.err


def test_a_person_sees_the_best_settings(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "space.toml"
    file.write_text('[model]\nhidden = [[8], [16]]\n[tables]\nlr = "1e-2..1e-1:log"\n')
    words = ("--space", str(file), "--search", "init_std=1e-2..1e-1", "--seed", "4")
    capsys.readouterr()
    assert tune(data, tmp_path / "best", *words, "--trials", "5", "--model", "deepfm") == 0
    seen = capsys.readouterr()
    lines = dict(line.split(maxsplit=1) for line in seen.out.splitlines()[:9])
    assert lines["trials"] == "5"
    assert lines["model"] == "deepfm"
    assert f"wrote {tmp_path / 'best'}; its study is in" in seen.err
    for name in ("model.hidden", "tables.lr", "init_std"):
        assert f"searching {name}: " in seen.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--search", "epochs"), "--search needs NAME=DOMAIN, such as epochs=2..8; got 'epochs'"),
        (("--search", "tables.lr=3"), "tables.lr needs at least two different values"),
        (("--search", "epochs=2..4"), "epochs: is fixed and searched; give it once"),
        (("--search", "metric=auc|ne"), "metric cannot be searched"),
        (("--search", "tables.lrr=1..2"), "unknown setting 'lrr'; did you mean 'lr'?"),
        (("--space", "nowhere.toml"), "--space nowhere.toml: no such file"),
        (("--model", "deepfm,fn"), "model must be one of lr, fm"),
        (("--trials", "0"), "trials must be at least 1; got 0"),
        (("--pruner", "never"), "pruner must be one of median, hyperband, none; got 'never'"),
        (("--set", "metric=acu"), "metric must be one of auc"),
        (("--device", "cuda:99"), "--device cuda:99"),
    ],
)
def test_wrong_use_is_one_line_with_the_way_out(
    words: tuple[str, ...],
    says: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert says in error_of(capsys, data, tmp_path / "best", *words)
    assert not list(tmp_path.iterdir())


def test_a_study_is_not_thrown_away_unasked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "best", ("--search", "tables.lr=1e-2..1e-1", "--trials", "1")
    assert tune(data, out, *words) == 0
    assert "exists already; choose another" in error_of(capsys, data, out, *words)
    line = error_of(capsys, data, out, *words, "--resume", "--set", "metric=log_loss")
    assert "exists already" in line
    line = error_of(capsys, data, tmp_path / "best", *words, "--resume", "--overwrite", "--seed=9")
    assert "is a study with another" in line
    assert tune(data, out, *words, "--overwrite", "--seed", "9") == 0

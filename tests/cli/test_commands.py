"""The commands as a person and as a program use them, on a small simulated world."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scalerec.cli import main

VERBS = (
    *("prepare", "simulate", "train", "tune", "evaluate", "recommend", "inspect", "report"),
    "demo",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with simulated tables, a data set and a bundle, made by the commands themselves."""
    root = tmp_path_factory.mktemp("cli")
    world = ["num_users=60", "num_items=40", "num_events=3000", "image_dim=4", "text_dim=4"]
    words = ["simulate", "--seed", "3", "--out", str(root / "sim")]
    assert main(words + [part for word in world for part in ("--set", word)]) == 0
    events, schema = str(root / "sim" / "events.parquet"), str(root / "sim" / "schema.toml")
    assert main(["prepare", events, "--schema", schema, "--out", str(root / "data")]) == 0
    assert train(root, "bundle") == 0
    return root


def train(root: Path, name: str, *more: str) -> int:
    sizes = ["--set", "model.dim=4", "--set", "model.hidden=[8]", "--epochs", "2"]
    words = ["train", str(root / "data"), "--out", str(root / name), *sizes, "--batch-size", "256"]
    return main([*words, *more])


def json_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    """The one JSON object that a command prints, and nothing else, on standard output."""
    capsys.readouterr()
    assert main(list(words)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    found = json.loads(lines[0])
    assert isinstance(found, dict)
    return found


def error_of(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """The one line that a failing command prints, on standard error."""
    capsys.readouterr()
    assert main(list(words)) == code
    seen = capsys.readouterr()
    assert seen.out == ""
    lines = seen.err.splitlines()
    assert len(lines) == 1, seen.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_examples(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--help"]) == 0
    seen = capsys.readouterr().out
    assert "Examples:" in seen
    assert f"scalerec {verb}" in seen


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "scalerec 0.1.0\n"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from scalerec.cli import main; main(['train', '--help']); "
        "print([m for m in ('torch', 'pyarrow', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_evaluate_prints_bundle_rows_and_metrics(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json_of(capsys, "evaluate", str(folder / "bundle"), str(folder / "data"), "--json")
    assert set(found) == {"bundle", "rows", "metrics"}
    metrics = found["metrics"]
    assert isinstance(metrics, dict)
    assert {"click.auc", "click.log_loss", "conversion.auc", "ndcg@10"} <= set(metrics)
    assert 0.0 <= metrics["click.auc"] <= 1.0
    inspected = json_of(capsys, "inspect", str(folder / "bundle"), "--json")
    assert inspected["bundle"] == found["bundle"]
    files = inspected["files"]
    assert isinstance(files, dict)
    assert "attachments/evaluation-test.json" in files


def test_recommend_gives_titles_to_a_person(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["recommend", str(folder / "bundle"), "--user", "7", "--k", "3"]) == 0
    seen = capsys.readouterr().out
    assert seen.count("Item ") == 3
    assert "rank" in seen


def test_recommend_for_somebody_never_seen(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("recommend", str(folder / "bundle"), "--history", "5,17,nope", "--k", "4", "--json")
    found = json_of(capsys, *words)
    items = found["items"]
    assert isinstance(items, list)
    assert [item["rank"] for item in items] == [1, 2, 3, 4]
    assert not {"5", "17"} & {item["item"] for item in items}
    assert found["unknown_items"] == ["nope"]
    assert found["known_user"] is False


def test_same_seed_gives_the_same_bundle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "again") == 0
    one = json_of(capsys, "inspect", str(folder / "bundle"), "--json")
    other = json_of(capsys, "inspect", str(folder / "again"), "--json")
    assert one["bundle"] == other["bundle"]
    assert train(folder, "other", "--seed", "9") == 0
    assert json_of(capsys, "inspect", str(folder / "other"), "--json")["bundle"] != one["bundle"]


def test_tracking_writes_where_it_is_told(folder: Path) -> None:
    assert train(folder, "tracked", "--track", "jsonl", "--track", "tensorboard") == 0
    lines = (folder / "tracked.track" / "log.jsonl").read_text().splitlines()
    assert "valid/click.auc" in json.loads(lines[0])
    assert any((folder / "tracked.track" / "tensorboard").iterdir())


def test_settings_come_from_a_file_and_the_command_line_wins(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "settings.toml"
    file.write_text('epochs = 5\n[model]\ndim = 4\nhidden = [8]\n[dense]\nname = "sgd"\nlr = 0.1\n')
    words = ("train", str(folder / "data"), "--config", str(file), "--epochs", "1")
    found = json_of(capsys, *words, "--out", str(folder / "configured"), "--json")
    inspected = json_of(capsys, "inspect", str(folder / "configured"), "--json")
    lineage = inspected["lineage"]
    assert isinstance(lineage, list)
    assert lineage[-1]["settings"]["epochs"] == 1
    assert lineage[-1]["settings"]["dense"]["name"] == "sgd"
    assert found["bundle"] == inspected["bundle"]


def test_report_is_one_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "report", str(folder / "bundle"), "--json")
    page = Path(str(found["page"])).read_text("utf-8")
    assert page.lstrip().startswith("<!doctype html>") or page.lstrip().startswith(
        "<!DOCTYPE html>"
    )
    assert "http-equiv" not in page or "<script src" not in page


@pytest.mark.parametrize(
    ("code", "words", "says"),
    [
        (2, ["trian"], "Did you mean 'train'"),
        (2, ["train"], "Missing argument 'DATA'"),
        (2, ["train", "{data}", "--out", "{bundle}"], "exists already; choose another"),
        (
            2,
            ["train", "{data}", "--out", "{new}", "--model", "deepfn"],
            "model must be one of lr, fm",
        ),
        (
            2,
            ["train", "{data}", "--out", "{new}", "--set", "epohcs=1"],
            "unknown setting 'epohcs'; did you mean 'epochs'",
        ),
        (2, ["train", "{data}", "--out", "{new}", "--set", "epochs"], "--set needs NAME=VALUE"),
        (
            2,
            ["train", "{data}", "--out", "{new}", "--set", "model.dropout=1.5"],
            "dropout must be in [0, 1); got 1.5",
        ),
        (2, ["train", "{data}", "--out", "{new}", "--device", "cuda:99"], "--device cuda:99"),
        (1, ["train", "{new}", "--out", "{new}2"], "no data set here"),
        (1, ["evaluate", "{new}", "{data}"], "does not exist"),
        (2, ["evaluate", "{bundle}", "{data}", "--split", "dev"], "split must be one of"),
        (1, ["recommend", "{bundle}"], "give a user or a history"),
        (1, ["recommend", "{bundle}", "--user", "1", "--k", "0"], "k must be from 1 to"),
        (1, ["prepare", "{new}.csv", "--schema", "{schema}", "--out", "{new}"], "no such file"),
    ],
)
def test_wrong_use_is_one_line_with_the_way_out(
    code: int, words: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "data": folder / "data",
        "bundle": folder / "bundle",
        "new": folder / "new",
        "schema": folder / "sim" / "schema.toml",
    }
    line = error_of(capsys, code, *(word.format(**places) for word in words))
    assert says in line
    assert not (folder / "new").exists()


def test_debug_shows_the_trace(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder / "nothing"), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_one_flipped_byte_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "flipped") == 0
    weights = next((folder / "flipped").glob("weights-*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(bytes(content))
    line = error_of(capsys, 1, "inspect", str(folder / "flipped"))
    assert weights.name in line

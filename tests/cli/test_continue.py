"""Going on from a bundle on the command line: prepared first, or new rows as they are."""

import json
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from benchmarks.stream import SCHEMA, StreamConfig, days_of

from scalerec.cli import main

SIZES = ["--set", "model.dim=4", "--set", "model.hidden=[8]", "--batch-size", "128"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of rows, and a bundle of the first that keeps its optimisers' state."""
    root = tmp_path_factory.mktemp("continue")
    config = StreamConfig(rows=800, days=3, users=60, items=30, stay=4)
    for number, (events, _) in enumerate(days_of(config), 1):
        pq.write_table(events, root / f"day{number}.parquet")
        pyarrow.csv.write_csv(events, root / f"day{number}.csv")
    (root / "schema.toml").write_text(SCHEMA.to_toml())
    words = ["prepare", str(root / "day1.parquet"), "--schema", str(root / "schema.toml")]
    assert main([*words, "--test", "0", "--out", str(root / "data1")]) == 0
    words = ["train", str(root / "data1"), *SIZES, "--epochs", "3", "--keep-state"]
    assert main([*words, "--out", str(root / "one")]) == 0
    return root


def json_of(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, object]:
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def error_of(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert main([*map(str, words)]) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_prepared_first_and_as_it_is_give_one_bundle(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also from CSV; the name of the file is in the lineage, so the files bear one name."""
    same, parent = folder / "same", ("--continue", folder / "one")
    same.mkdir()
    for kind in ("parquet", "csv"):
        (same / f"rows.{kind}").write_bytes((folder / f"day2.{kind}").read_bytes())
    grow = ("--grow", "admit=2", "--grow", "tables.item.admit=1")
    rows = same / "rows.parquet"
    json_of(capsys, "prepare", rows, *parent, *grow, "--test", "0", "--out", folder / "data2")
    ready = json_of(capsys, "train", folder / "data2", *parent, "--out", folder / "ready")
    raw = json_of(capsys, "train", same / "rows.parquet", *parent, *grow, "--out", folder / "raw")
    assert raw["bundle"] == ready["bundle"]
    before, after = (json_of(capsys, "inspect", folder / n)["table_rows"] for n in ("one", "raw"))
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert raw["new_ids"] == sum(after.values()) - sum(before.values())
    assert after["item"] > before["item"]
    assert after["hour.hour"] == before["hour.hour"]
    text = json_of(capsys, "train", same / "rows.csv", *parent, *grow, "--out", folder / "csv")
    tensors = [json_of(capsys, "inspect", folder / name)["tensors"] for name in ("ready", "csv")]
    assert tensors[0] == tensors[1]
    assert text["steps"] == ready["steps"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_the_next_bundle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two, three = folder / "two", folder / "three"
    day2, day3 = folder / "day2.parquet", folder / "day3.csv"
    json_of(capsys, "train", day2, "--continue", folder / "one", "--keep-state", "--out", two)
    more = ("--grow", "evict_after=1.5", "--lr", "0.01", "--epochs", "2")
    found = json_of(capsys, "train", day3, "--continue", two, *more, "--out", three)
    first, last = (json_of(capsys, "inspect", folder / name) for name in ("one", "three"))
    steps = last["lineage"]
    assert isinstance(steps, list)
    assert [step["verb"] for step in steps] == ["prepare", "train"] * 3
    parent = json_of(capsys, "inspect", two)["bundle"]
    assert steps[3]["parents"] == [first["bundle"]]
    assert steps[5]["parents"] == [parent]
    assert steps[4]["settings"]["continues"] == parent
    assert steps[4]["settings"]["grow"]["evict_after"] == 1.5
    # Settings are the bundle's own, unless others are given; a day is passed over once.
    assert steps[3]["settings"]["batch_size"] == 128
    assert [steps[i]["settings"]["epochs"] for i in (1, 3, 5)] == [3, 1, 2]
    assert steps[5]["settings"]["tables"]["lr"] == 0.01
    assert found["bundle"] == last["bundle"]
    files = last["files"]
    assert isinstance(files, dict)
    assert "attachments/optimisers.safetensors" not in files
    json_of(capsys, "prepare", day3, "--continue", two, "--out", folder / "data3")
    for bundle in ("one", "two"):
        assert json_of(capsys, "evaluate", folder / bundle, folder / "data3")["rows"] == 80
    for bundle in ("one", "two", "three"):
        items = json_of(capsys, "recommend", folder / bundle, "--user", "u65", "--k", "3")["items"]
        assert isinstance(items, list)
        assert len(items) == 3


def test_wrong_use_is_one_line_with_the_way_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, rows, one = folder / "new", folder / "day2.parquet", folder / "one"
    go_on = ("train", rows, "--continue", one, "--out", new)
    for words, says in (
        (("train", rows, "--out", new, "--grow", "admit=2"), "it needs --continue BUNDLE"),
        (("prepare", rows, "--out", new, "--grow", "admit=2"), "it needs --continue BUNDLE"),
        ((*go_on, "--grow", "admits=2"), "--grow: unknown setting 'admits'; did you mean 'admit'"),
        ((*go_on, "--grow", "tables.hour.admit=2"), "table 'hour' cannot grow; these can: user,"),
        ((*go_on, "--model", "fm"), "is a deepfm; --model fm would have to start anew"),
        ((*go_on, "--set", "model.dim=8"), "its model's settings, which cannot change: model.dim"),
        ((*go_on, "--set", "init_std=0.1"), "init_std is for a model that starts anew"),
        (("train", folder / "data1", "--continue", one, "--grow", "admit=1", "--out", new),
         "is a data set already"),
        (("train", rows, "--continue", folder / "none", "--out", new), "none"),
    ):  # fmt: skip
        assert says in error_of(capsys, *words)
        assert not new.exists()
    other = folder / "other"
    json_of(capsys, "prepare", rows, "--schema", folder / "schema.toml", "--out", other)
    assert "does not continue" in error_of(capsys, "train", other, "--continue", one, "--out", new)
    assert "was encoded differently" in error_of(capsys, "evaluate", one, other)

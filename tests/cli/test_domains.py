"""Domains on the command line: side by side, then a target with other fields."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from tests.cli.test_continue import error_of, json_of

from scalerec.cli import main

BOOKS = """
user = "u"
item = "i"
timestamp = "t"
features = [
    {name = "u", kind = "categorical", role = "user"},
    {name = "i", kind = "categorical", role = "item"},
    {name = "genre", kind = "categorical", role = "item"},
    {name = "pages", kind = "numeric"},
]
tasks = [{name = "y", column = "stars", at_least = 3.0}]
"""
GAMES = """
user = "who"
item = "game"
timestamp = "at"
features = [
    {name = "u", column = "who", kind = "categorical", role = "user"},
    {name = "i", column = "game", kind = "categorical", role = "item"},
    {name = "genre", column = "type", kind = "categorical", role = "item"},
    {name = "studio", kind = "categorical", role = "item"},
    {name = "hours", kind = "numeric"},
]
tasks = [{name = "y", column = "stars", at_least = 3.5}]
"""


def rows(folder: Path, name: str, seed: int, columns: dict[str, int]) -> None:
    draw = np.random.default_rng(seed)
    values = {key: draw.integers(1, most + 1, 60) for key, most in columns.items()}
    values["at" if "who" in columns else "t"] = np.arange(60)
    pyarrow.csv.write_csv(pa.table(values), folder / f"{name}.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Books of two shops, games, and a bundle of the books."""
    root = tmp_path_factory.mktemp("domains")
    (root / "books.toml").write_text(BOOKS)
    (root / "games.toml").write_text(GAMES)
    for seed, shop in enumerate(("old", "new")):
        rows(root, shop, seed, {"u": 9, "i": 12, "genre": 4, "pages": 500, "stars": 5})
    games = {"who": 9, "game": 12, "type": 6, "studio": 3, "hours": 90, "stars": 5}
    rows(root, "games", 7, games)
    words = ["--domain", f"old={root}/old.csv,{root}/books.toml", "--domain", f"new={root}/new.csv"]
    schema = ["--schema", str(root / "books.toml")]
    assert main(["prepare", *words, *schema, "--shared", "user", "--out", str(root / "data")]) == 0
    sizes = ["--set", "model.dim=2", "--epochs", "1"]
    train = ["train", str(root / "data"), "--model", "fm", *sizes, "--out", str(root / "source")]
    assert main(train) == 0
    return root


def test_domains_side_by_side(folder: Path) -> None:
    manifest = json.loads((folder / "data" / "manifest.json").read_text())
    assert manifest["rows"] == {"train": 96, "valid": 12, "test": 12}
    assert manifest["notes"][-1] == (
        "domains side by side: old, new; keys of items are each domain's own"
    )


def test_a_target_is_prepared_and_trained_from_the_bundle(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ("--domain", f"games={folder / 'games.csv'},{folder / 'games.toml'}")
    parent = ("--continue", folder / "source")
    target = folder / "target"
    found = json_of(capsys, "prepare", *own, "--shared", "user", *parent, "--out", target)
    assert found["fields"] == ["u", "i", "genre", "domain", "studio", "pages", "hours"]
    assert (found["users"], found["items"]) == (9, 12)
    words = ["train", str(target), "--continue", str(folder / "source")]
    assert main([*words, "--epochs", "1", "--out", str(folder / "tuned")]) == 0
    assert "added fields: studio, hours" in capsys.readouterr().err
    for bundle, data in (("source", target), ("tuned", target), ("tuned", folder / "data")):
        metrics = json_of(capsys, "evaluate", folder / bundle, data)
        assert metrics["rows"] in (6, 12)
    items = json_of(capsys, "recommend", folder / "tuned", "--user", "5", "--k", "2")["items"]
    assert isinstance(items, list)
    assert all(item["item"].startswith("games:") for item in items)
    # Without a name of its own, the target's rows are like more rows of the source's.
    schema = ("--schema", folder / "games.toml")
    plain = json_of(
        capsys, "prepare", folder / "games.csv", *schema, *parent, "--out", folder / "plain"
    )
    assert plain["items"] == 2 * 12 + 12


def test_wrong_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", folder / "none")
    rows = folder / "games.csv"
    own = f"a={rows},{folder / 'games.toml'}"
    for words, says in (
        ((), "needs SOURCE or --domain NAME=SOURCE; got neither"),
        ((rows, "--domain", "a=b"), "needs SOURCE or --domain NAME=SOURCE; got both"),
        ((rows, "--shared", "user"), "--shared is of domains"),
        (("--domain", "a=b", "--path", folder), "--path is for SOURCE"),
        (("--domain", "games"), "--domain needs NAME=SOURCE or NAME=SOURCE,SCHEMA; got 'games'"),
        (("--domain", own, "--domain", own), "--domain 'a' is given twice"),
        (("--domain", own, "--shared", "users"), "shared may hold user and item; got 'users'"),
        (("--domain", f"a={rows}", "--engine", "spark"), "--domain needs --engine local"),
    ):
        text = error_of(capsys, "prepare", *words, *out)
        assert says in text
        assert not (folder / "none").exists()

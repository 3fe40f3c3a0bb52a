"""Rows for new ids from the command line: learned, and given to new and to listed ids."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.meta.warm_up.shop import open_shop

from scalerec.bundle import read_bundle
from scalerec.bundle.recommenders import open_recommender
from scalerec.cli.main import main
from scalerec.meta.warm_up import warm_rows

pytestmark = pytest.mark.usefixtures("one_thread")
LEARN = ("--set", "epochs=2", "--set", "rows_per_id=3", "--set", "prior=1")
NEW = ("i200", "i201", "i202", "i206")


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 else {}, err


def error_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    code, _, err = call(capsys, *words, "--json")
    assert code in (1, 2)
    return err.splitlines()[-1]


def write_rows(path: Path, items: tuple[str, ...], each: int = 8) -> None:
    """Some rows of each item; its number tells its maker and its price."""
    names = ["user", "item", "town", "maker", "price", "liked", "stars", "time"]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(names)
        for row in range(each * len(items)):
            item = items[row % len(items)]
            maker, user = int(item[1:]) % 6, row % 40
            values = [f"u{user}", item, f"t{user % 4}", f"m{maker}", maker, row % 2, 0.5]
            out.writerow([*values, 9_000_000 + row])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in which some items are listed without an id, and a model of it."""
    root = tmp_path_factory.mktemp("warm")
    data = root / "data"
    open_shop(data, 1200, split={"by": "item", "valid": 0.1, "test": 0.1})
    sizes = ("--set", "model.dim=4", "--set", "model.hidden=[8]", "--set", "init_std=0.3")
    words = ["train", str(data), *sizes, "--epochs", "1", "--out", str(root / "one")]
    assert main(words) == 0
    return root


@pytest.fixture(scope="module")
def warm(folder: Path) -> Path:
    """The same model, which has learned to give new items rows."""
    out = folder / "warm"
    words = ["meta-train", str(folder / "data"), "--continue", str(folder / "one"), *LEARN]
    algorithm = ["--algorithm", "meta-embedding", "--by", "item", "--out", str(out)]
    assert main([*words, *algorithm]) == 0
    return out


@pytest.mark.parametrize("algorithm", ["meta-embedding", "mwuf"])
def test_rows_are_learned_beside_a_model_whose_scores_stay(
    algorithm: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = folder / "one"
    code, told, err = call(
        capsys, "meta-train", folder / "data", "--continue", base, "--algorithm", algorithm,
        "--by", "user", "--steps", 2, *LEARN, "--track", "jsonl", "--out", tmp_path / "warm",
        "--json",
    )  # fmt: skip
    assert code == 0, err
    assert "epoch 1: loss of held-out users" in err
    assert (told["algorithm"], told["key"]) == (algorithm, "user")
    assert told["after_learning"].keys() == {"generated", "refined"}
    old, new = open_recommender(base), open_recommender(tmp_path / "warm")
    (own,) = new.recommender.spec.warm_ups
    assert (own.method, own.key, own.steps) == (algorithm, "user", 2)
    for name, tensor in old.recommender.to_tensors().items():
        assert torch.equal(tensor, new.recommender.to_tensors()[name])
    step = read_bundle(tmp_path / "warm").lineage[-1]
    assert (step.verb, step.settings["algorithm"]) == ("meta-train", algorithm)
    assert step.parents == (old.bundle.digest,)
    assert (tmp_path / "warm.track").exists()


def test_ids_that_new_rows_bring_start_from_what_describes_them(
    warm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So slow a training moves nothing, and rows are seen as they started."""
    write_rows(tmp_path / "new.csv", NEW)
    words = ("train", tmp_path / "new.csv", "--continue", warm, "--lr", 1e-12, "--json")
    code, told, err = call(capsys, *words, "--fresh", "warm", "--out", tmp_path / "two")
    assert code == 0, err
    assert told["warmed"] == {"item": len(NEW)}
    assert read_bundle(tmp_path / "two").lineage[-1].settings["fresh"] == "warm"
    assert call(capsys, *words, "--out", tmp_path / "plain")[0] == 0

    found = {}
    for name in ("two", "plain"):
        opened = open_recommender(tmp_path / name)
        place = [field.name for field in opened.layout.ids].index("item")
        numbers = torch.tensor([opened.item_numbers[key] for key in NEW])
        ids = opened.items.ids[place][numbers]
        tables = opened.recommender.tables
        found[name] = tables.read(tables.addresses("item", ids)[0])
        expected = warm_rows(opened.recommender, "item", opened.items.take(numbers))
        unknown = tables.table("item")[1].expand(len(NEW), -1)
    torch.testing.assert_close(found["two"], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["plain"], unknown, rtol=1e-4, atol=1e-6)
    # Items of one maker and one price start alike, those of others do not.
    assert torch.equal(found["two"][0], found["two"][3])
    assert not torch.equal(found["two"][0], found["two"][1])


def test_items_that_are_listed_get_an_id_and_a_row_refined_by_their_rows(
    warm: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_recommender(warm)
    place = [field.name for field in opened.layout.ids].index("item")
    new = (opened.items.ids[place] == 1).nonzero().flatten().tolist()
    keys = [opened.item_keys[number] for number in new]
    assert len(keys) == 24
    write_rows(tmp_path / "few.csv", (keys[0], "i0", "i999"), each=4)
    words = ("adapt", warm, tmp_path / "few.csv", "--adapt", "warm", "--by", "item", "--json")
    code, told, err = call(capsys, *words, "--out", tmp_path / "own")
    assert code == 0, err
    # Rows of known items, and of those that nobody lists, are passed over.
    assert (told["adopted"], told["examples"], told["base"]) == (24, 4, opened.bundle.digest)
    after = open_recommender(tmp_path / "own")
    ids = after.items.ids[place][torch.tensor(new)]
    assert int(ids.min()) >= opened.layout.tables["item"]
    rows = after.recommender.tables.table("item")[ids]
    generated = warm_rows(opened.recommender, "item", opened.items.take(torch.tensor(new)))
    torch.testing.assert_close(rows[1:], generated[1:], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(rows[0], generated[0], rtol=1e-4, atol=1e-6)


def test_wrong_words_are_told(
    warm: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", tmp_path / "out")
    learn = ("meta-train", folder / "data", *out, "--algorithm", "mwuf")
    going = (*learn, "--continue", folder / "one")
    assert "mwuf learns rows beside those of a trained model; give it with --continue" in error_of(
        capsys, *learn
    )
    assert "--updates means nothing to mwuf" in error_of(capsys, *going, "--updates", 9)
    assert "--adapt means nothing to mwuf" in error_of(capsys, *going, "--adapt", "own")
    assert "one is a deepfm; --model fm" in error_of(capsys, *going, "--model", "fm")
    assert "'town'" in error_of(capsys, *going, "--by", "town")
    assert "tasks" in error_of(capsys, *going, "--set", "tasks=9")

    write_rows(tmp_path / "new.csv", NEW)
    train = ("train", tmp_path / "new.csv", *out, "--fresh", "warm")
    words = error_of(capsys, *train)
    assert "--fresh says how a bundle's new ids start; it needs --continue BUNDLE" in words
    words = error_of(capsys, *train, "--continue", folder / "one")
    assert "one has not learned to give rows to new ids; teach it with: scalerec meta-" in words
    words = error_of(capsys, *train, "--continue", warm, "--nproc", 2)
    assert "--fresh warm needs one process" in words

    adapt = ("adapt", warm, tmp_path / "new.csv", *out, "--adapt", "warm")
    assert "the model warms up no new 'user'; it does: item" in error_of(capsys, *adapt)
    words = error_of(capsys, *adapt, "--by", "item", "--steps", 2)
    assert "--steps is learned where rows for new ids are" in words
    assert not (tmp_path / "out").exists()

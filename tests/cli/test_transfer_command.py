"""`adapt` with a data set from the command line: one domain's bundle becomes another's."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.meta.transfer.shops import make, rows, source_data, target_data, taught, trained

from scalerec.bundle import read_bundle
from scalerec.cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 else {}, err


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    settings = {"dense": {"lr": 0.02}, "batch_size": 128}
    return trained(folder / "bundle", source_data(folder / "data"), **settings).path


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    return taught(folder / "bundle", source_data(folder / "data")).path


def test_low_rank_from_one_domain_to_another(
    capsys: pytest.CaptureFixture[str], plain: Path, tmp_path: Path
) -> None:
    target_data(tmp_path / "target", plain, num=300, valid=0.2)
    code, told, err = call(
        capsys, "adapt", plain, tmp_path / "target", "--method", "low-rank", "--rank", 2,
        "--epochs", 3, "--seed", 5, "--set", "batch_size=50", "--set", "scale=0.5",
        "--set", "tables.l2=1e-3", "--track", "jsonl", "--out", tmp_path / "own", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert (told["method"], told["metric"]) == ("low-rank", "auc")
    assert told["valid"] is not None
    assert told["new_ids"] > 0
    made = read_bundle(tmp_path / "own")
    assert made.digest == told["bundle"]
    step = made.lineage[-1]
    assert step.parents == (told["source"],) == (read_bundle(plain).digest,)
    own: Any = step.settings
    assert (own["rank"], own["scale"]) == (2, 0.5)
    train = own["train"]
    assert (train["epochs"], train["seed"], train["batch_size"]) == (3, 5, 50)
    # What was not said is as the source was trained, but for small batches and more passes.
    assert (train["dense"]["lr"], train["tables"]["l2"]) == (0.02, 1e-3)
    assert (tmp_path / "own.track").exists()
    assert not (tmp_path / "own.checkpoint").exists()
    code, found, err = call(
        capsys, "evaluate", tmp_path / "own", tmp_path / "target", "--split", "test", "--json"
    )
    assert code == 0, err
    code, found, _ = call(capsys, "recommend", tmp_path / "own", "--user", "u25", "--json")
    assert code == 0
    assert found["items"]


def test_the_default_is_what_the_source_was_taught_or_all(
    capsys: pytest.CaptureFixture[str], plain: Path, learned: Path, tmp_path: Path
) -> None:
    for source, method, steps in ((plain, "all", None), (learned, "meta", 3)):
        target_data(tmp_path / method, source)
        code, told, err = call(
            capsys, "adapt", source, tmp_path / method, "--epochs", 1,
            "--out", tmp_path / f"{method}-own", "--json",
        )  # fmt: skip
        assert code == 0, err
        assert told["method"] == method
        if steps is not None:
            assert told["steps"] == steps
    settings: Any = read_bundle(tmp_path / "all-own").lineage[-1].settings
    assert settings["train"]["batch_size"] == 64


def test_rates_and_steps_are_those_of_the_method(
    capsys: pytest.CaptureFixture[str], plain: Path, learned: Path, tmp_path: Path
) -> None:
    target_data(tmp_path / "target", learned)
    words: tuple[object, ...] = ("adapt", learned, tmp_path / "target", "--json")
    own = ("--out", tmp_path / "own")
    code, told, _ = call(capsys, *words, "--steps", 5, *own)
    assert (code, told["steps"]) == (0, 5)
    code, told, _ = call(
        capsys, *words, "--method", "head", "--rate", 0.5, "--epochs", 1, *own, "--overwrite"
    )
    assert code == 0
    settings: Any = read_bundle(tmp_path / "own").lineage[-1].settings
    train = settings["train"]
    assert train["dense"]["lr"] == train["tables"]["lr"] == 0.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "low-rank"), "few.csv is a table of rows; --method is for a data set"),
        (("--rank", 2), "few.csv is a table of rows; --rank is for a data set"),
        (("--set", "epochs=3"), "few.csv is a table of rows; --set is for a data set"),
        (("--resume",), "few.csv is a table of rows; --resume is for a data set"),
    ],
)
def test_a_mere_table_takes_no_method(
    capsys: pytest.CaptureFixture[str],
    learned: Path,
    tmp_path: Path,
    words: tuple[object, ...],
    said: str,
) -> None:
    (tmp_path / "few.csv").write_text("user,item,shop,liked\nu1,i1,new7,1\n")
    out = tmp_path / "own"
    code, _, err = call(capsys, "adapt", learned, tmp_path / "few.csv", *words, "--out", out)
    assert code == 2
    assert said in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--adapt", "head"), "target is a data set; --adapt is for a table of rows"),
        (("--by", "shop"), "target is a data set; --by is for a table of rows"),
        (("--method", "lora"), "method must be one of scratch, all, head, low-rank, meta; got"),
        (("--method", "low-rank", "--rank", 0), "rank must be at least 1; got 0"),
        (("--method", "low-rank", "--rank", 99), "rank must be from 1 to 7"),
        (("--method", "meta"), "not taught to adapt"),
        (("--set", "speed=3"), "unknown setting 'speed'"),
    ],
)
def test_what_does_not_fit_a_data_set(
    capsys: pytest.CaptureFixture[str],
    plain: Path,
    tmp_path: Path,
    words: tuple[object, ...],
    said: str,
) -> None:
    target_data(tmp_path / "target", plain)
    out = tmp_path / "own"
    code, _, err = call(capsys, "adapt", plain, tmp_path / "target", *words, "--out", out)
    assert code == 2
    assert said in err
    assert not out.exists()


SCHEMA = """
user = "user"
item = "item"
tasks = [{name = "liked", kind = "binary"}]
features = [
  {name = "user", kind = "categorical", role = "user"},
  {name = "item", kind = "categorical", role = "item"},
  {name = "price", kind = "numeric", role = "context"},
  {name = "kind", kind = "categorical", role = "context"},
]
"""


@pytest.mark.parametrize("method", ["all", "head", "low-rank", "meta", "scratch"])
def test_a_target_with_other_fields(
    capsys: pytest.CaptureFixture[str], learned: Path, tmp_path: Path, method: str
) -> None:
    """It has no shop, and prices and kinds that the source has not."""
    (tmp_path / "games.toml").write_text(SCHEMA)
    lines = [f"u{n % 23},i{n % 11},{n % 7}.5,kind{n % 3},{n % 2}" for n in range(200)]
    (tmp_path / "games.csv").write_text("\n".join(["user,item,price,kind,liked", *lines]))
    data = tmp_path / "games"
    words = ("prepare", tmp_path / "games.csv", "--schema", tmp_path / "games.toml")
    code = main([*map(str, words), "--continue", str(learned), "--split", "random",
                 "--out", str(data)])  # fmt: skip
    assert code == 0, capsys.readouterr().err
    capsys.readouterr()
    code, told, err = call(
        capsys, "adapt", learned, data, "--method", method, "--rank", 2, "--epochs", 2,
        "--track", "jsonl", "--out", tmp_path / "own", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert told["method"] == method
    assert "valid/auc" in (tmp_path / "own.track" / "log.jsonl").read_text()
    code, found, err = call(capsys, "evaluate", tmp_path / "own", data, "--json")
    assert code == 0, err
    assert found["metrics"]["auc"] is not None
    names = [feature["name"] for feature in read_bundle(tmp_path / "own").schema["features"]]
    assert {"price", "kind", "user", "item"} <= set(names)


def test_data_that_do_not_go_on_from_the_bundle(
    capsys: pytest.CaptureFixture[str], plain: Path, tmp_path: Path
) -> None:
    make(tmp_path / "other", rows(["x1"], range(3), range(3), 50, 3), 0.0)
    code, _, err = call(capsys, "adapt", plain, tmp_path / "other", "--out", tmp_path / "own")
    assert code == 1
    assert "does not continue" in err
    assert "scalerec prepare SOURCE --continue" in err


def test_a_killed_transfer_goes_on(
    capsys: pytest.CaptureFixture[str],
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target_data(tmp_path / "target", plain)
    words = (
        "adapt", plain, tmp_path / "target", "--epochs", 3, "--set", "batch_size=32",
        "--set", "checkpoint_steps=1", "--json",
    )  # fmt: skip
    assert call(capsys, *words, "--out", tmp_path / "whole")[0] == 0

    def fail(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("scalerec.meta.transfer.write_transferred", fail)
        assert call(capsys, *words, "--out", tmp_path / "own")[0] == 130
    assert (tmp_path / "own.checkpoint").exists()
    assert call(capsys, *words, "--out", tmp_path / "own", "--resume")[0] == 0
    one, other = (read_bundle(tmp_path / name).tensors() for name in ("whole", "own"))
    for name, tensor in one.items():
        assert bool((other[name] == tensor).all())
    assert not (tmp_path / "own.checkpoint").exists()

"""`scalerec compress`: bundles that cost less, and the words of what cannot be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv
from tests.train.toys import LIKED, rating_rows, ratings

from scalerec.bundle import read_bundle
from scalerec.bundle.recommenders import open_recommender
from scalerec.cli import main
from scalerec.compress import measuring
from scalerec.compress.measuring import Meter
from scalerec.compress.pruning import GradualPruning
from scalerec.data.aside import MARK
from scalerec.data.dataset import Dataset
from scalerec.scoring import EvaluateConfig, evaluate, recommend

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ("--set", "model.dim=8", "--set", "model.hidden=[32,16]", "--set", "epochs=1")


@pytest.fixture(scope="module")
def teacher(simulated: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compress") / "teacher"
    words = ["train", str(simulated.directory), "--model", "deepfm", *SMALL, "--out", str(out)]
    assert main([*words, "--threads", "1"]) == 0
    return out


@pytest.fixture(autouse=True)
def few_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are not looked at here, nor memory, which takes a process of its own."""
    monkeypatch.setattr(measuring.Meter.__init__, "__defaults__", ("valid", 2, None))
    monkeypatch.setattr("scalerec.scoring.cost.resident_bytes", lambda path: None)


def compress(
    capsys: pytest.CaptureFixture[str], teacher: Path, data: Dataset, *words: str | Path
) -> dict[str, Any]:
    capsys.readouterr()
    said = ["compress", str(teacher), str(data.directory), *map(str, words)]
    assert main([*said, "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_steps_in_a_chain(
    teacher: Path, simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, steps = tmp_path / "small", "prune=0.5:epochs=0,distil=16-8,quantize=int8:tables=int4"
    found = compress(capsys, teacher, simulated, "--steps", steps, "--out", out)
    assert found["steps"] == steps.split(",")
    sizes = [effect["weight_bytes"] for effect in (found["given"], *found["effects"])]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] / 3
    bundle = read_bundle(out)
    assert bundle.digest == found["bundle"]
    assert [step.verb for step in bundle.lineage] == ["prepare", "train", *["compress"] * 3]
    last = bundle.lineage[-1]
    assert last.settings["step"] == "quantize=int8:tables=int4"
    assert last.parents == (read_bundle(teacher).digest,)
    assert last.effect is not None
    after: Any = last.effect["after"]
    assert after == found["effects"][-1]
    assert sum(entry.size for name, entry in bundle.files.items() if "weights" in name) == sizes[-1]
    # Only what is float still may be adapted.
    assert "*" not in bundle.adaptable
    assert all("codes" not in name for name in bundle.adaptable)
    assert main(["evaluate", str(out), str(simulated.directory), "--split", "valid"]) == 0
    metrics = read_bundle(out).attachment_json("evaluation-valid.json")["metrics"]
    assert auc_of(metrics) == pytest.approx(after["auc"], abs=1e-6)
    opened = open_recommender(out)
    assert len(recommend(opened, user=opened.user_keys[0], k=3)) == 3


def auc_of(metrics: Mapping[str, float | None]) -> float:
    """The mean over tasks that have one."""
    own = [v for n, v in metrics.items() if n.rpartition(".")[2] == "auc" and v is not None]
    return sum(own) / len(own)


def test_the_search_takes_the_cheapest_within_the_gate(
    teacher: Path, simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    tried = ("--try", "quantize=int8", "--try", "distil=nothing")
    gate = ("--max-auc-drop", "0.05", "--freeze")
    capsys.readouterr()
    words = ["compress", str(teacher), str(simulated.directory), *tried, *gate]
    assert main([*words, "--out", str(out), "--threads", "1"]) == 2
    assert "a student is hidden sizes such as 64-32" in capsys.readouterr().err
    found = compress(
        capsys, teacher, simulated, "--try", "quantize=int8", "--try", "shrink=lowrank:dim=8",
        *gate, "--out", out,
    )  # fmt: skip
    assert found["steps"] == ["quantize=int8"]
    assert found["tried"]["models"][0]["best"]
    reason = found["tried"]["left_out"]["shrink=lowrank:dim=8"]
    assert reason == "dim must be below the embedding's 8; got 8"
    bundle = read_bundle(out)
    assert bundle.adaptable == ()
    assert {"compress.json", "compress.svg"} <= set(bundle.attachments())


def test_nothing_is_written_where_the_gate_is_shut(
    teacher: Path, simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    words = ["compress", str(teacher), str(simulated.directory), "--out", str(out)]
    asked = ["--steps", "quantize=int8", "--max-bytes", "10", "--threads", "1"]
    capsys.readouterr()
    assert main([*words, *asked]) == 1
    seen = capsys.readouterr().err
    assert "error: the model does not pass the gate: bytes of weights are" in seen
    assert "at most 10" in seen
    assert not out.exists()
    assert main([*words, "--steps", "quantise=int8"]) == 2
    assert "a step must be one of prune, shrink, distil" in capsys.readouterr().err
    assert main([*words, "--steps", "tune=1", "--try", "tune=1"]) == 2
    assert "--try is for a search; with --steps there is none" in capsys.readouterr().err


def test_a_run_that_was_stopped_leaves_nothing_and_starts_again(
    teacher: Path, simulated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = "prune=0.8:what=weights:gradual=0.5,distil=8"
    words = ["compress", str(teacher), str(simulated.directory), "--steps", steps]
    words += ["--threads", "1", "--out"]
    out = tmp_path / "small"
    # As a run leaves it that was killed by force.
    left = tmp_path / ".small-abcdefgh"
    left.mkdir()
    (left / MARK).touch()
    with monkeypatch.context() as patched:

        def stop(own: GradualPruning, step: int) -> None:
            assert list(tmp_path.iterdir()), "something is there while it runs"
            if step == 1:
                raise KeyboardInterrupt

        patched.setattr(GradualPruning, "__call__", stop)
        assert main([*words, str(out)]) != 0
    assert list(tmp_path.iterdir()) == []
    assert main([*words, str(out)]) == 0
    assert main([*words, str(tmp_path / "other")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "small"]
    assert read_bundle(out).digest == read_bundle(tmp_path / "other").digest


SCHEMA = """
user = "user"
item = "item"
timestamp = "time"
features = [
    {name = "user", kind = "categorical", role = "user"},
    {name = "item", kind = "categorical", role = "item"},
]
tasks = [{name = "stars", kind = "regression"}]
"""


@pytest.fixture(scope="module")
def stars(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bundle that predicts a number, and its data: from rows, by commands."""
    folder = tmp_path_factory.mktemp("stars")
    csv.write_csv(pa.table(rating_rows()), folder / "rows.csv")
    (folder / "schema.toml").write_text(SCHEMA)
    data, out = folder / "data", folder / "teacher"
    schema = ("--schema", str(folder / "schema.toml"))
    assert main(["prepare", str(folder / "rows.csv"), *schema, "--out", str(data)]) == 0
    words = [
        "train",
        str(data),
        "--model",
        "deepfm",
        *SMALL,
        "--set",
        "epochs=10",
        "--set",
        "batch_size=32",
    ]
    assert main([*words, "--out", str(out), "--threads", "1"]) == 0
    return out, data


def test_numbers_are_judged_by_their_error(
    stars: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, data = stars
    words = ["compress", str(teacher), str(data), "--threads", "1"]
    tried = ("--try", "prune=0.9:epochs=0", "--try", "quantize=float16")
    capsys.readouterr()
    assert main([*words, *tried, "--out", str(tmp_path / "small")]) == 0
    seen = capsys.readouterr()
    assert "gate: RMSE rises by at most 0.100%" in seen.err
    assert "as given: RMSE " in seen.err
    lines = [line.strip() for line in seen.out.splitlines() if line.strip()]
    assert lines[0].split() == [
        *("steps", "parameters", "bytes", "RMSE", "p50", "ms", "p99", "ms", "gate"),
    ]
    pruned = next(line for line in lines if "prune=0.9" in line)
    assert "RMSE rose by" in pruned
    assert pruned.endswith("at most 0.100%")
    taken = next(line for line in lines if line.startswith("→"))
    assert "quantize=float16" in taken
    last = read_bundle(tmp_path / "small").lineage[-1].effect
    assert last is not None
    after: Any = last["after"]
    assert after["auc"] is None
    opened = open_recommender(tmp_path / "small")
    found = evaluate(
        opened.recommender, Dataset(data), EvaluateConfig(split="valid", ranking="no")
    ).metrics["rmse"]
    assert after["rmse"] == pytest.approx(found, rel=1e-6)
    # Steps that were asked for are judged by what was asked for.
    assert main([*words, "--steps", "prune=0.9:epochs=0", "--out", str(tmp_path / "free")]) == 0
    asked = [*words, "--steps", "prune=0.9:epochs=0", "--out", str(tmp_path / "none")]
    capsys.readouterr()
    assert main([*asked, "--max-rmse-rise", "0.01"]) == 1
    assert "error: the model does not pass the gate: RMSE rose by" in capsys.readouterr().err
    assert main([*asked, "--max-auc-drop", "0.01"]) == 2
    assert "the given model has no AUC on the validation part; it has RMSE" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("model", "tasks", "has"),
    [
        (
            "mmoe",
            (LIKED, {"name": "stars", "kind": "regression"},
             {"name": "kind", "kind": "multiclass", "num_classes": 3}),
            {"auc", "accuracy", "rmse", "log_loss", "ece", "ne"},
        ),
        ("two-tower", ({"name": "liked", "kind": "retrieval"},), {"ndcg"}),
    ],
)  # fmt: skip
def test_every_kind_of_task_has_its_metric(
    model: str,
    tasks: tuple[Mapping[str, object], ...],
    has: set[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ratings(tmp_path / "data", tasks, history=False)
    words = ["train", str(data.directory), "--model", model, "--set", "epochs=2"]
    out = tmp_path / "teacher"
    assert main([*words, "--set", "model.dim=8", "--out", str(out), "--threads", "1"]) == 0
    own = Meter(read_bundle(out), data)(open_recommender(out).recommender).to_dict()
    metrics = {"auc", "accuracy", "ndcg", "rmse", "log_loss", "ece", "ne"}
    assert {name for name in metrics if own[name] is not None} == has
    chain = "tune=1,prune=0.5:what=rows,quantize=float16"
    steps = ("--steps", chain, "--out", str(tmp_path / "small"))
    asked = ["compress", str(out), str(data.directory), *steps, "--threads", "1"]
    capsys.readouterr()
    assert main(asked) == 0
    # Experts are no linear layers; both towers of the other are.
    told = "weights are stored as before: net.experts.weights.0, "
    assert (told in capsys.readouterr().err) == (model == "mmoe")


def test_training_goes_on_while_all_parts_are_float(
    teacher: Path, simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, packed, further = (tmp_path / name for name in ("small", "packed", "further"))
    compress(capsys, teacher, simulated, "--steps", "prune=0.5:epochs=0", "--out", small)
    compress(capsys, small, simulated, "--steps", "quantize=int8", "--out", packed)
    data = str(simulated.directory)
    words = ["--epochs", "1", "--threads", "1", "--out", str(further)]

    assert main(["train", data, "--continue", str(small), *words]) == 0

    forms = open_recommender(small).recommender.spec.forms
    assert forms
    assert open_recommender(further).recommender.spec.forms == forms
    capsys.readouterr()
    assert main(["train", data, "--continue", str(packed), *words, "--overwrite"]) == 2
    told = capsys.readouterr().err
    assert "parts of this bundle have too few bits to be trained further: tables, net" in told
    assert "go on from the bundle that it was compressed from, then compress again" in told

"""Exported files run without scalerec, agree with the bundle, and appear whole or not at all."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.worlds import RICH, prepared, raw, rich_tables
from tests.models.toys import LAYOUTS
from tests.scoring.test_onnx_graphs import built
from tests.train.toys import narrow, ratings

import scalerec.scoring.onnx_export as exporting
from scalerec.bundle import Step, write_recommender
from scalerec.bundle.recommenders import OpenRecommender, open_recommender
from scalerec.data.dataset import Dataset
from scalerec.errors import BundleError, ConfigError, MissingExtraError, RequestError
from scalerec.models.forming import formed
from scalerec.models.recommender import build_recommender
from scalerec.models.zoo import ZOO
from scalerec.scoring.onnx_agreement import Agreement, measure_agreement
from scalerec.scoring.onnx_export import export_onnx
from scalerec.scoring.onnx_graph import ScoringGraph
from scalerec.scoring.onnx_inputs import draw_batch, feeds_of, graph_inputs
from scalerec.scoring.onnx_run import OnnxScorer
from scalerec.scoring.onnx_trace import trace

# Tracing takes seconds, so most nets are traced by the slow tests, and others over few fields. DIN,
# DeepFM and the two-tower net have other tests too; all are checked as modules beside this file.
QUICK = ("ple",)
LAYOUT_OF = {"din": "mixed", "esmm": "funnel", "mmoe": "several", "ple": "funnel"}
NETS = [pytest.param(net, marks=[] if net in QUICK else [pytest.mark.slow]) for net in ZOO]
TRACED: list[Any] = []
# What a server without scalerec does; run where neither scalerec nor torch can be imported.
ELSEWHERE = """
import json, sys
sys.modules["scalerec"] = sys.modules["torch"] = None
sys.path.append(sys.argv[1])
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
feeds = dict(numpy.load(sys.argv[3]))
names = [own.name for own in session.get_outputs()]
found = dict(zip(names, session.run(names, feeds)))
numpy.savez(sys.argv[4], **found)
print(json.dumps(session.get_modelmeta().custom_metadata_map))
"""


def opened_of(path: Path, dataset: Dataset, model: str) -> OpenRecommender:
    spec = narrow(model).replace(init_std=0.5)
    recommender = build_recommender(dataset.layout, spec, 2)
    write_recommender(path, recommender, dataset, (Step(verb="train"),))
    return open_recommender(path)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> OpenRecommender:
    """Every kind of feature and two tasks, read by DIN."""
    folder = tmp_path_factory.mktemp("rich")
    dataset = prepared(folder, raw(RICH, *rich_tables()))
    return opened_of(folder / "bundle", dataset, "din")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> OpenRecommender:
    """Two ids, a number and a history, read by a small net."""
    folder = tmp_path_factory.mktemp("plain")
    return opened_of(folder / "bundle", ratings(folder / "data"), "lr")


@pytest.fixture
def traced_once(plain: OpenRecommender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the graph of `plain` be traced once for all tests."""
    if not TRACED:
        TRACED.append(trace(ScoringGraph(plain.recommender)))
    monkeypatch.setattr(exporting, "trace", lambda graph: TRACED[0])


@pytest.mark.parametrize("model", NETS)
def test_every_net_agrees_in_onnx_runtime(model: str, tmp_path: Path) -> None:
    import onnx_ir

    recommender = built(model, LAYOUTS[LAYOUT_OF.get(model, "ids")])
    onnx_ir.save(trace(ScoringGraph(recommender)), tmp_path / "net.onnx")
    for rows in (1, 2, 100):
        agreement = measure_agreement(tmp_path / "net.onnx", recommender, rows)
        assert agreement.holds
        assert agreement.rows == rows


def test_the_file_runs_without_scalerec_and_agrees(rich: OpenRecommender, tmp_path: Path) -> None:
    out = tmp_path / "rich.onnx"
    done = export_onnx(rich, out)
    assert list(done.files) == ["rich.onnx", "rich.onnx.json"]
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == done.files
    batch = draw_batch(rich.layout, 50, seed=3)
    feeds = feeds_of(rich.layout, batch, graph_inputs(rich.layout))
    np.savez(tmp_path / "feeds.npz", **feeds)  # type: ignore[arg-type]
    site = Path(np.__file__).parents[1]
    words = [str(path) for path in (site, out, tmp_path / "feeds.npz", tmp_path / "found.npz")]
    ran = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ELSEWHERE, *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = np.load(tmp_path / "found.npz")
    with torch.inference_mode():
        logits = rich.recommender(batch)
    # Sums of a few hundred float32 products, in another order.
    np.testing.assert_allclose(found["logits"], logits.numpy(), rtol=1e-4, atol=1e-5)
    probability = logits[:, 0].sigmoid().numpy()
    np.testing.assert_allclose(found["prediction.y"], probability, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["prediction.z"], logits[:, 1].numpy(), rtol=1e-4, atol=1e-5)
    told = json.loads(ran.stdout)
    assert told["scalerec.bundle"] == rich.bundle.digest
    assert [own["name"] for own in json.loads(told["scalerec.inputs"])] == list(feeds)
    assert [own["name"] for own in json.loads(told["scalerec.outputs"])] == found.files


@pytest.mark.usefixtures("traced_once")
def test_nothing_of_this_machine_is_in_the_file(plain: OpenRecommender, tmp_path: Path) -> None:
    export_onnx(plain, tmp_path / "plain.onnx")
    content = (tmp_path / "plain.onnx").read_bytes()
    assert b"site-packages" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


@pytest.mark.usefixtures("traced_once")
def test_the_side_file_tells_inputs_outputs_and_digests(
    plain: OpenRecommender, tmp_path: Path
) -> None:
    export_onnx(plain, tmp_path / "plain.onnx")
    told = json.loads((tmp_path / "plain.onnx.json").read_text())
    assert told["bundle"] == plain.bundle.digest
    assert list(told["files"]) == ["plain.onnx"]
    assert len(told["files"]["plain.onnx"]) == 64
    graph = told["graphs"]["plain.onnx"]
    names = [own["name"] for own in graph["inputs"]]
    assert names == ["user", "item", "price", "past", "past.length"]
    assert [own["name"] for own in graph["outputs"]] == ["prediction.liked", "logits"]
    assert told["agreement"]["largest"] <= told["agreement"]["tolerance"]


def test_a_two_tower_model_gives_both_sides(tmp_path: Path) -> None:
    opened = opened_of(tmp_path / "bundle", ratings(tmp_path / "data"), "two-tower")
    done = export_onnx(opened, tmp_path / "two.onnx")
    assert list(done.files) == ["two.onnx", "two.user.onnx", "two.item.onnx", "two.onnx.json"]
    batch = draw_batch(opened.layout, 20, seed=3)
    vectors = []
    for side in ("user", "item"):
        scorer = OnnxScorer(tmp_path / f"two.{side}.onnx")
        feeds = feeds_of(opened.layout, batch, graph_inputs(opened.layout))
        vectors.append(scorer({name: feeds[name] for name in scorer.inputs})[f"{side}_vector"])
    assert OnnxScorer(tmp_path / "two.item.onnx").inputs == ("item",)
    with torch.inference_mode():
        logits = opened.recommender(batch)[:, 0].numpy()
    np.testing.assert_allclose((vectors[0] * vectors[1]).sum(1), logits, rtol=1e-4, atol=1e-5)


def test_a_compressed_bundle_asks_for_what_is_left(tmp_path: Path) -> None:
    dataset = ratings(tmp_path / "data")
    forms = {"fields": ["price"], "tables": {"user": {"sharing": "hash", "rows": 6}}}
    spec = narrow("deepfm").replace(init_std=0.5, forms=forms)
    start = build_recommender(dataset.layout, spec, 2)
    bits = {"item": {"bits": 4}, "user": {"sharing": "hash", "rows": 6, "bits": 8}}
    small = formed(start, spec.forms.replace(tables=bits))
    write_recommender(tmp_path / "bundle", small, dataset, (Step(verb="train"),))
    done = export_onnx(open_recommender(tmp_path / "bundle"), tmp_path / "small.onnx")
    assert done.agreement.holds
    told = json.loads((tmp_path / "small.onnx.json").read_text())
    assert [own["name"] for own in told["features"]] == ["user", "item", "past"]
    assert [own["field"] for own in told["graphs"]["small.onnx"]["inputs"]] == [
        "user", "item", "past", "past",
    ]  # fmt: skip
    # An id of each user is still wanted, though six rows are left for all.
    assert len(told["vocabularies"]["user"]["keys"]) == 12


@pytest.mark.usefixtures("traced_once")
def test_large_weights_lie_beside_the_graph(
    plain: OpenRecommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MOST_BYTES", 10)
    done = export_onnx(plain, tmp_path / "plain.onnx")
    assert list(done.files) == ["plain.onnx", "plain.onnx.data", "plain.onnx.json"]
    assert measure_agreement(tmp_path / "plain.onnx", plain.recommender).holds


def test_names_that_torch_uses_may_be_features(tmp_path: Path) -> None:
    import onnx_ir

    layout = LAYOUTS["ids"]
    names = ("embedding", "cat", "weight")
    ids = tuple(own.replace(name=name) for own, name in zip(layout.ids, names, strict=True))
    recommender = built("lr", layout.replace(ids=ids))
    onnx_ir.save(trace(ScoringGraph(recommender)), tmp_path / "net.onnx")
    assert OnnxScorer(tmp_path / "net.onnx").inputs == names
    assert measure_agreement(tmp_path / "net.onnx", recommender).holds


@pytest.mark.usefixtures("traced_once")
def test_what_is_there_is_kept_unless_told(plain: OpenRecommender, tmp_path: Path) -> None:
    out = tmp_path / "plain.onnx"
    (tmp_path / "plain.onnx.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"plain\.onnx\.json exists already; choose another"):
        export_onnx(plain, out)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.onnx.json"]
    export_onnx(plain, out, overwrite=True)
    assert (tmp_path / "plain.onnx.json").read_text() != "mine"


@pytest.mark.parametrize("name", ["plain", "plain.pt", ".onnx"])
def test_the_name_must_end_in_onnx(plain: OpenRecommender, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"--out must be a file whose name ends in \.onnx; got"):
        export_onnx(plain, tmp_path / name)


def test_a_directory_is_not_replaced(plain: OpenRecommender, tmp_path: Path) -> None:
    (tmp_path / "plain.onnx").mkdir()
    with pytest.raises(ConfigError, match=r"plain\.onnx is a directory; choose another name"):
        export_onnx(plain, tmp_path / "plain.onnx", overwrite=True)


def test_a_missing_package_is_named(
    plain: OpenRecommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime is not installed.*scalerec\[export"):
        export_onnx(plain, tmp_path / "plain.onnx")
    with pytest.raises(MissingExtraError, match="onnxruntime is not installed"):
        OnnxScorer(tmp_path / "plain.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("traced_once")
def test_a_graph_that_disagrees_does_not_appear(
    plain: OpenRecommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagree(*given: Any) -> Agreement:
        return agreement(largest=0.5)

    monkeypatch.setattr(exporting, "measure_agreement", disagree)
    with pytest.raises(BundleError, match=r"up to 0\.5, by 0 in the mean; allowed: 0\.01 and"):
        export_onnx(plain, tmp_path / "plain.onnx")
    assert not list(tmp_path.iterdir())


def agreement(largest: float, mean: float = 0.0) -> Agreement:
    return Agreement(rows=1, largest=largest, mean=mean, tolerance=0.01, mean_tolerance=0.001)


def test_agreement_bounds_the_largest_and_the_mean() -> None:
    assert agreement(0.01, 0.001).holds
    assert not agreement(0.011, 0.001).holds
    assert not agreement(0.01, 0.0011).holds
    assert not agreement(float("nan"), 0.0).holds


def test_an_output_cannot_have_a_features_name(tmp_path: Path) -> None:
    layout = LAYOUTS["ids"]
    ids = (layout.ids[0].replace(name="logits"), *layout.ids[1:])
    graph = ScoringGraph(built("lr", layout.replace(ids=ids)))
    with pytest.raises(RequestError, match="an output named 'logits', and so is a feature"):
        exporting._check_names(graph)

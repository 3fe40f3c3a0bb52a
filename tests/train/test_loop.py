"""Whole runs: what is learned, kept, stopped, tracked and refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.toys import LIKED, narrow, rating_rows, ratings

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError, DataError, TrainError
from scalerec.metrics import auc
from scalerec.models.recommender import ModelSpec
from scalerec.models.zoo import ZOO
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.track import MemorySink
from scalerec.train import Learner, Trained, train
from scalerec.train import TrainConfig as Config

FAST: dict[str, Any] = {
    "epochs": 3, "batch_size": 64, "dense": {"lr": 1e-2}, "tables": {"lr": 1e-2},
    "precision": "fp32",
}  # fmt: skip


def run(dataset: Dataset, spec: ModelSpec | None = None, **settings: Any) -> Trained:
    return train(dataset, spec or narrow(), Config.from_dict({**FAST, **settings}))


def tensors(trained: Trained) -> dict[str, torch.Tensor]:
    return trained.recommender.to_tensors()


def same(one: Trained, other: Trained) -> bool:
    theirs = tensors(other)
    return all(torch.equal(tensor, theirs[name]) for name, tensor in tensors(one).items())


def popularity_auc(dataset: Dataset) -> float:
    """The AUC of an item's share of positive labels in the training rows."""
    parts = {name: dataset.split(name) for name in ("train", "valid")}
    items = {name: np.asarray(part.column("item")) for name, part in parts.items()}
    labels = {name: np.asarray(part.column("labels"))[:, 0] for name, part in parts.items()}
    counts = np.bincount(items["train"], minlength=dataset.num_items)
    clicks = np.bincount(items["train"], labels["train"], minlength=dataset.num_items)
    found = auc(labels["valid"], (clicks / np.maximum(counts, 1))[items["valid"]])
    assert found is not None
    return found


@pytest.mark.parametrize("model", ZOO)
def test_every_model_of_the_zoo_learns(simulated: Dataset, model: str) -> None:
    """An NE below 1 beats the best constant; models with pairs of features beat popularity."""
    trained = run(simulated, narrow(model), batch_size=128, epochs=5, patience=-1)
    found = evaluate(trained.recommender, simulated, EvaluateConfig(split="valid", ranking="no"))
    ne, click_auc = found.metrics["click.ne"], found.metrics["click.auc"]
    assert ne is not None
    assert click_auc is not None
    assert ne < 1
    assert click_auc > popularity_auc(simulated)
    assert trained.curve[-1]["train/loss"] < trained.curve[0]["train/loss"]
    assert trained.num_steps == 5 * 19


def test_the_same_seed_gives_the_same_run_and_leaves_no_trace(rated: Dataset) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    spec = narrow(dropout=0.3)
    one = run(rated, spec, negatives=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(one, run(rated, spec, negatives=1))
    assert not same(one, run(rated, spec, negatives=1, seed=2))


def test_the_curve_and_the_sinks(rated: Dataset) -> None:
    sink, seen = MemorySink(), []
    config = Config.from_dict({**FAST, "epochs": 2, "evaluate_every": 3})

    def note(values: Mapping[str, float]) -> None:
        seen.append(dict(values))

    trained = train(rated, narrow(), config, sinks=[sink], on_progress=note)
    # 240 training rows are 4 steps: after steps 3 and 6, and after each epoch.
    assert [entry["step"] for entry in trained.curve] == [3, 4, 6, 8]
    assert [entry["epoch"] for entry in trained.curve] == [0.75, 1.0, 1.5, 2.0]
    assert {"train/loss", "valid/auc", "valid/log_loss", "seconds"} <= trained.curve[0].keys()
    assert [row["step"] for row in sink.rows()] == [3, 4, 6, 8]
    assert [values["num_steps"] for values in seen] == [8] * 4
    assert trained.best == max(entry["valid/auc"] for entry in trained.curve)
    assert not trained.recommender.training


class TestStopping:
    """When a run ends, and which weights it keeps."""

    def test_the_best_weights_are_kept(self, rated: Dataset) -> None:
        trained = run(rated, epochs=30, patience=1, dense={"lr": 0.05}, tables={"lr": 0.05})
        values = [entry["valid/auc"] for entry in trained.curve]
        best = int(np.argmax(values))
        # One evaluation without a gain is borne, the next one ends it.
        assert len(values) == min(30, best + 3)
        assert len(values) < 30
        found = evaluate(trained.recommender, rated, EvaluateConfig(split="valid", ranking="no"))
        assert found.metrics["auc"] == trained.best == values[best]

    def test_patience_of_minus_one_keeps_the_last(self, rated: Dataset) -> None:
        trained = run(rated, epochs=12, patience=-1, dense={"lr": 0.05}, tables={"lr": 0.05})
        assert len(trained.curve) == 12
        found = evaluate(trained.recommender, rated, EvaluateConfig(split="valid", ranking="no"))
        assert found.metrics["auc"] == trained.curve[-1]["valid/auc"]

    def test_an_error_is_better_when_lower(self, rated: Dataset) -> None:
        trained = run(rated, epochs=6, metric="log_loss", patience=9)
        assert trained.metric == "log_loss"
        assert trained.best == min(entry["valid/log_loss"] for entry in trained.curve)

    def test_without_validation_rows(self, tmp_path: Path) -> None:
        config = {"split": {"by": "time", "valid": 0.0, "test": 0.1}}
        dataset = ratings(tmp_path / "data", config=config)
        trained = run(dataset, patience=0)
        assert (trained.best, len(trained.curve)) == (None, 3)
        assert trained.curve[0].keys() == {"step", "epoch", "train/loss", "seconds"}

    def test_an_average_is_evaluated_and_kept(self, rated: Dataset) -> None:
        for patience in (-1, 5):
            trained = run(rated, ema=0.9, patience=patience)
            config = EvaluateConfig(split="valid", ranking="no")
            found = evaluate(trained.recommender, rated, config).metrics["auc"]
            expected = trained.best if patience >= 0 else trained.curve[-1]["valid/auc"]
            assert found == expected
        assert not same(trained, run(rated, patience=5))


class TestSchedules:
    """The factor on the learning rates."""

    @pytest.mark.parametrize("name", ["linear", "cosine"])
    def test_a_fall_to_zero_ends_where_it_stands(self, rated: Dataset, name: str) -> None:
        schedule = {"name": name, "warmup_steps": 2}
        trained = run(rated, schedule=schedule, patience=-1)
        assert not same(trained, run(rated, patience=-1))

    def test_a_plateau_freezes_what_does_not_gain(self, rated: Dataset) -> None:
        """No gain is large enough: after the second evaluation the factor is its floor, 0."""
        plateau = {"name": "plateau", "decay": 0.1, "patience": 0, "min_gain": 9.0, "floor": 0.0}
        short, long = (
            run(rated, schedule=plateau, patience=-1, epochs=epochs) for epochs in (40, 60)
        )
        for name, tensor in tensors(short).items():
            torch.testing.assert_close(tensors(long)[name], tensor, rtol=0, atol=1e-6)

    def test_too_few_steps(self, rated: Dataset) -> None:
        with pytest.raises(ConfigError, match="more than warmup_steps=99 steps; got 12"):
            run(rated, schedule={"name": "cosine", "warmup_steps": 99})


class TestTasks:
    """Every kind of task, and several at once."""

    @pytest.mark.parametrize(
        ("task", "metric", "bar"),
        [
            ({"name": "stars", "kind": "regression"}, "rmse", 0.8),
            ({"name": "kind", "kind": "multiclass", "num_classes": 3}, "accuracy", 0.7),
        ],
    )
    def test_one_of_another_kind(
        self, tmp_path: Path, task: dict[str, object], metric: str, bar: float
    ) -> None:
        """Half of the stars are near 0 and half near 2: the mean has an RMSE of 1."""
        dataset = ratings(tmp_path / "data", [task], weight="weight", history=False)
        trained = run(dataset, epochs=15, patience=15)
        assert trained.metric == metric
        assert trained.best is not None
        assert (trained.best > bar) == (metric == "accuracy")

    def test_several(self, tmp_path: Path) -> None:
        tasks: list[dict[str, object]] = [
            LIKED,
            {"name": "stars", "kind": "regression"},
            {"name": "kind", "kind": "multiclass", "num_classes": 3},
        ]
        dataset = ratings(tmp_path / "data", tasks)
        trained = run(dataset, narrow("mmoe"), epochs=1)
        assert trained.metric == "liked.auc+stars.rmse+kind.accuracy"
        entry = trained.curve[-1]
        signed = entry["valid/liked.auc"] - entry["valid/stars.rmse"] + entry["valid/kind.accuracy"]
        assert trained.best == pytest.approx(signed / 3)
        one = run(dataset, narrow("mmoe"), epochs=1, metric="stars.mae")
        assert one.best == one.curve[-1]["valid/stars.mae"]

    def test_retrieval(self, tmp_path: Path) -> None:
        columns = rating_rows(800)
        dataset = ratings(tmp_path / "data", [{"name": "liked", "kind": "retrieval"}], columns)
        spec = narrow("two-tower", normalise=True, temperature=0.2)
        trained = run(dataset, spec, epochs=8, patience=8)
        assert trained.metric == "ndcg@10"
        assert trained.best == max(entry["valid/ndcg@10"] for entry in trained.curve)
        assert trained.curve[-1]["train/loss"] < trained.curve[0]["train/loss"]

    @pytest.mark.parametrize("by", ["uniform", "popularity"])
    def test_negatives_stand_in_for_the_other_class(self, tmp_path: Path, by: str) -> None:
        columns = rating_rows(600)
        columns = {name: np.asarray(values) for name, values in columns.items()}
        chosen = np.flatnonzero(columns["liked"])
        positive: dict[str, Any] = {name: values[chosen] for name, values in columns.items()}
        dataset = ratings(tmp_path / "data", columns=positive)
        words = (
            r"task 'liked' has only label 1 in its \d+ training rows; a binary task needs both: "
            "check at_least/positive in the schema, draw --negatives, or use kind 'retrieval'"
        )
        with pytest.raises(DataError, match=words):
            run(dataset)
        trained = run(dataset, negatives=4, negatives_by=by, metric="ndcg@3", epochs=8, patience=8)
        assert trained.metric == "ndcg@3"
        assert trained.best is not None
        assert trained.curve[-1]["train/loss"] < trained.curve[0]["train/loss"]


class TestRefusals:
    """What a run cannot do, in words."""

    def test_an_unknown_metric_before_the_first_step(self, rated: Dataset) -> None:
        with pytest.raises(ConfigError, match=r"metric must be one of auc, .*; got 'acu'"):
            run(rated, metric="acu")

    def test_one_class_in_the_validation_part(self, tmp_path: Path) -> None:
        columns = rating_rows()
        columns["liked"][240:320] = 1
        dataset = ratings(tmp_path / "data", columns=columns)
        with pytest.raises(DataError, match="'auc' is undefined on the validation part, where"):
            run(dataset)
        assert run(dataset, metric="log_loss").best is not None

    def test_scores_out_of_range(self, rated: Dataset) -> None:
        """Weights of about 1e36 are finite, and their products are not."""
        wild: dict[str, Any] = {"batch_size": 1000, "epochs": 1, "dense": {"name": "sgd"}}
        wild["dense"]["lr"] = 1e38
        with pytest.raises(TrainError, match=r"step 1: the model's scores are not finite: .*; try"):
            run(rated, **wild)

    @pytest.mark.parametrize("valid", [0.0, 0.2])
    def test_weights_that_are_not_finite(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, valid: float
    ) -> None:
        """A finite loss may have a gradient that is not; the last one of a run shows in no loss."""
        config = {"split": {"by": "time", "valid": valid, "test": 0.1}}
        dataset, real = ratings(tmp_path / "data", config=config), Learner.step

        def spoiling(self: Learner, batch: Batch, factor: float) -> float:
            loss = real(self, batch, factor)
            self.recommender.embedder.numbers.data.fill_(float("inf"))
            return loss

        monkeypatch.setattr(Learner, "step", spoiling)
        words = "step 1: 'embedder.numbers' has weights that are not finite; try a smaller lr"
        with pytest.raises(TrainError, match=words):
            run(dataset, batch_size=1000, epochs=1)

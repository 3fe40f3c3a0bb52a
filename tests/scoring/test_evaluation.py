"""Evaluation against metrics computed on all scores at once."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from tests.train.toys import LIKED, make_data, narrow, rating_rows, ratings

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError, DataError
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.scoring import (
    EvaluateConfig,
    catalogue_scores,
    evaluate,
    predict,
    queries_of,
    rank_metrics,
    score_all,
    task_slices,
)

NO = EvaluateConfig(ranking="no")
TASKS: list[dict[str, object]] = [
    LIKED,
    {"name": "stars", "kind": "regression"},
    {"name": "kind", "kind": "multiclass", "num_classes": 3},
]


def make(dataset: Dataset, model: str = "deepfm") -> Recommender:
    return build_recommender(dataset.layout, narrow(model), seed=1).eval()


@torch.no_grad()
def all_scores(recommender: Recommender, dataset: Dataset, split: str = "test") -> Any:
    batch = dataset.split(split).read(0, dataset.num_rows(split))
    return predict(dataset.layout, recommender(batch)).double().numpy(), batch


def test_one_task_by_an_outside_reference(rated: Dataset) -> None:
    recommender = make(rated)
    scores, batch = all_scores(recommender, rated)
    labels = batch.labels[:, 0].numpy()
    found = evaluate(recommender, rated, NO)
    assert found.rows == 80
    assert found.metrics["auc"] == pytest.approx(roc_auc_score(labels, scores[:, 0]), abs=1e-12)
    assert found.metrics["log_loss"] == pytest.approx(log_loss(labels, scores[:, 0]), rel=1e-9)
    assert set(found.metrics) == {"auc", "log_loss", "ne", "ece", "gauc"}
    assert found.counts["positives"] == int(labels.sum())
    assert found.counts["groups"] == len(np.unique(batch.users))


def test_several_tasks_with_weights_and_unknown_labels(tmp_path: Path) -> None:
    columns = rating_rows()
    columns["stars"] = [None if i % 3 == 0 else v for i, v in enumerate(columns["stars"])]
    dataset = ratings(tmp_path / "data", TASKS, columns, weight="weight")
    recommender = make(dataset)
    scores, batch = all_scores(recommender, dataset)
    labels, weights = batch.labels.numpy(), batch.weights.numpy().astype(np.float64)
    found = evaluate(recommender, dataset, NO).metrics
    auc = roc_auc_score(labels[:, 0], scores[:, 0], sample_weight=weights)
    assert found["liked.auc"] == pytest.approx(auc, abs=1e-12)
    known = batch.label_mask[:, 1].numpy()
    errors = (scores[known, 1] - labels[known, 1]) ** 2
    rmse = math.sqrt(np.average(errors, weights=weights[known]))
    assert found["stars.rmse"] == pytest.approx(rmse, rel=1e-9)
    right = scores[:, 2:].argmax(1) == labels[:, 2]
    assert found["kind.accuracy"] == pytest.approx(np.average(right, weights=weights), rel=1e-9)
    counts = evaluate(recommender, dataset, NO).counts
    assert (counts["stars.rows"], counts["kind.rows"]) == (int(known.sum()), 80)


@pytest.mark.parametrize("size", [1, 7, 80])
def test_the_size_of_a_batch_changes_nothing(
    rated: Dataset, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """To 1e-6: scores of another number of rows differ in their last bits."""
    recommender = make(rated, "din")
    whole = evaluate(recommender, rated)
    monkeypatch.setattr("scalerec.scoring.scores.SCORE_BATCH", size)
    monkeypatch.setattr("scalerec.scoring.ranking.ROWS_AT_A_TIME", {"cpu": size})
    found = evaluate(recommender, rated)
    assert found.metrics.keys() == whole.metrics.keys()
    for name, value in whole.metrics.items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-6)


def test_one_class_is_undefined_and_not_nan(tmp_path: Path) -> None:
    columns = rating_rows()
    columns["liked"][320:] = 0
    dataset = ratings(tmp_path / "data", columns=columns)
    found = evaluate(make(dataset), dataset)
    assert found.metrics["auc"] is None
    assert found.metrics["gauc"] is None
    assert found.metrics["ndcg@10"] is None
    assert found.metrics["log_loss"] is not None
    assert found.counts["ranked_users"] == 0


@pytest.mark.parametrize("model", ["deepfm", "two-tower"])
def test_full_ranking_by_a_plain_loop(simulated: Dataset, model: str) -> None:
    recommender = make(simulated, model)
    queries = queries_of(simulated, "test")
    scores = catalogue_scores(recommender, queries.users, simulated.items).numpy()
    gains, hits = [], []
    for row, own in enumerate(scores):
        met = set(queries.met.take(torch.tensor([row])).values.tolist())
        relevant = set(queries.relevant.take(torch.tensor([row])).values.tolist())
        if not relevant:
            continue
        ranked = [item for item in np.argsort(-own, kind="stable") if item not in met][:10]
        found = [place for place, item in enumerate(ranked) if item in relevant]
        best = sum(1 / math.log2(place + 2) for place in range(min(10, len(relevant))))
        gains.append(sum(1 / math.log2(place + 2) for place in found) / best)
        hits.append(float(bool(found)))
    config = EvaluateConfig(ranking="yes", ks=(10,))
    measured = evaluate(recommender, simulated, config)
    assert measured.metrics["ndcg@10"] == pytest.approx(np.mean(gains), rel=1e-9)
    assert measured.metrics["hit_rate@10"] == pytest.approx(np.mean(hits), rel=1e-9)
    assert measured.counts["ranked_users"] == len(gains)
    metrics, counts = rank_metrics(torch.from_numpy(scores), queries, simulated, ks=(10,))
    assert {name: measured.metrics[name] for name in metrics} == metrics
    assert counts["ranked_items"] == simulated.num_items


def test_names_of_ranking_metrics(simulated: Dataset) -> None:
    found = evaluate(make(simulated), simulated).metrics
    lists = ["hit_rate", "recall", "precision", "ndcg", "mrr", "map"]
    lists += ["coverage", "novelty", "diversity"]
    assert {f"{name}@{k}" for name in lists for k in (5, 10, 20)} < set(found)
    assert {"click.auc", "conversion.auc"} < set(found)


def test_lists_longer_than_the_catalogue(rated: Dataset) -> None:
    found = evaluate(make(rated), rated, EvaluateConfig(ks=(50,))).metrics
    assert found["ndcg@50"] is None or found["ndcg@50"] > 0
    assert found["coverage@50"] is not None


class TestWhenToRank:
    """`auto`, `yes` and `no`."""

    def test_auto_has_a_limit(self, rated: Dataset) -> None:
        pairs = len(np.unique(rated.split("test").column("user"))) * rated.num_items
        recommender = make(rated)
        some = evaluate(recommender, rated, EvaluateConfig(max_pairs=pairs)).metrics
        none = evaluate(recommender, rated, EvaluateConfig(max_pairs=pairs - 1)).metrics
        assert "ndcg@10" in some
        assert "ndcg@10" not in none

    def test_what_cannot_be_ranked(self, tmp_path: Path) -> None:
        price = {"name": "price", "kind": "numeric"}
        plain = make_data(tmp_path / "plain", rating_rows(), [price], timestamp="time")
        numbers = ratings(tmp_path / "numbers", [TASKS[1]])
        for dataset in (plain, numbers):
            assert not any("@" in name for name in evaluate(make(dataset), dataset).metrics)
            with pytest.raises(ConfigError, match="needs a user, an item and a first task that is"):
                evaluate(make(dataset), dataset, EvaluateConfig(ranking="yes"))

    def test_retrieval_has_lists_only(self, tmp_path: Path) -> None:
        dataset = ratings(tmp_path / "data", [{"name": "liked", "kind": "retrieval"}])
        found = evaluate(make(dataset, "two-tower"), dataset)
        assert "ndcg@10" in found.metrics
        assert not any("auc" in name for name in found.metrics)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"split": "dev"}, r"split must be one of \('train', 'valid', 'test'\); got 'dev'"),
        ({"ranking": "maybe"}, r"ranking must be one of \('auto', 'yes', 'no'\); got 'maybe'"),
        ({"ks": ()}, "ks must hold at least one length of list"),
        ({"ks": (5, 0)}, r"ks must be at least 1 each; got \(5, 0\)"),
    ],
)
def test_settings_out_of_range(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EvaluateConfig.from_dict(values)


def test_a_split_without_rows(tmp_path: Path) -> None:
    config = {"split": {"by": "time", "valid": 0.0, "test": 0.2}}
    dataset = ratings(tmp_path / "data", config=config)
    with pytest.raises(DataError, match="no rows in split 'valid'"):
        evaluate(make(dataset), dataset, EvaluateConfig(split="valid"))


def test_predictions_by_hand(tmp_path: Path) -> None:
    dataset = ratings(tmp_path / "data", TASKS)
    assert task_slices(dataset.layout) == [slice(0, 1), slice(1, 2), slice(2, 5)]
    logits = torch.tensor([[math.log(3.0), -2.0, 0.0, math.log(2.0), 0.0]])
    found = predict(dataset.layout, logits)
    torch.testing.assert_close(found, torch.tensor([[0.75, -2.0, 0.25, 0.5, 0.25]]))


def test_scoring_keeps_the_mode(rated: Dataset) -> None:
    recommender = make(rated).train()
    batch = rated.split("test").read(0, 5)
    for given, logits in score_all(recommender, [batch, batch]):
        assert given is batch
        assert logits.shape == (5, 1)
        assert not recommender.training
    assert recommender.training


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(simulated: Dataset) -> None:
    recommender = make(simulated)
    here = evaluate(recommender, simulated).metrics
    there = evaluate(recommender.to("cuda"), simulated).metrics
    assert there["click.log_loss"] == pytest.approx(here["click.log_loss"], rel=1e-4)

"""Ranking the whole catalogue: against a loop over pairs, in parts, with ties and exclusions.

Scores agree to 1e-5: a product of matrices sums in another order for another number of rows.
"""

from typing import Any

import numpy as np
import pytest
import torch
from tests.train.toys import narrow

from scalerec.data.batches import Bag
from scalerec.data.dataset import Dataset
from scalerec.data.pairing import pair
from scalerec.errors import TrainError
from scalerec.models.forms import Forms
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.scoring import catalogue_scores, ranking, top_items

CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


def make(dataset: Dataset, model: str = "deepfm", **settings: object) -> Recommender:
    return build_recommender(dataset.layout, narrow(model, **settings), seed=1)


@torch.no_grad()
def one_by_one(recommender: Recommender, dataset: Dataset, output: int) -> torch.Tensor:
    """Every user with every item, a pair at a time."""
    recommender.eval()
    scores = torch.empty(4, dataset.num_items)
    for user in range(4):
        row = dataset.users.take(torch.tensor([user]))
        for item in range(dataset.num_items):
            rows = pair(dataset.layout, row, dataset.items, torch.tensor([[item]]))
            scores[user, item] = recommender(rows)[0, output]
    return scores


@pytest.mark.parametrize("model", ["lr", "deepfm", "din", "mmoe", "two-tower"])
@pytest.mark.parametrize("output", [0, 1])
def test_against_a_loop(simulated: Dataset, model: str, output: int) -> None:
    recommender = make(simulated, model)
    users = simulated.users.take(torch.arange(4))
    found = catalogue_scores(recommender, users, simulated.items, output)
    torch.testing.assert_close(found, one_by_one(recommender, simulated, output), **CLOSE)


@pytest.mark.parametrize("model", ["deepfm", "two-tower"])
@pytest.mark.parametrize("rows", [1, 7, 40, 95])
def test_parts_change_nothing(
    simulated: Dataset, monkeypatch: pytest.MonkeyPatch, model: str, rows: int
) -> None:
    recommender, users = make(simulated, model), simulated.users.take(torch.arange(5))
    whole = catalogue_scores(recommender, users, simulated.items)
    monkeypatch.setattr(ranking, "ROWS_AT_A_TIME", {"cpu": rows})
    found = catalogue_scores(recommender, users, simulated.items)
    torch.testing.assert_close(found, whole, **CLOSE)


def test_the_mode_is_kept_and_dropout_is_off(simulated: Dataset) -> None:
    recommender, users = make(simulated, dropout=0.5), simulated.users.take(torch.arange(3))
    recommender.train()
    one, other = (catalogue_scores(recommender, users, simulated.items) for _ in range(2))
    assert recommender.training
    assert torch.equal(one, other)
    recommender.eval()
    catalogue_scores(recommender, users, simulated.items)
    assert not recommender.training


@pytest.mark.parametrize("model", ["deepfm", "din", "two-tower"])
def test_recalibrated_scores(simulated: Dataset, model: str) -> None:
    spec = narrow(model).replace(forms=Forms(recalibrated=True))
    recommender = build_recommender(simulated.layout, spec, seed=1)
    assert recommender.calibration is not None
    recommender.calibration.scale.fill_(3.0)
    recommender.calibration.shift.fill_(-2.0)
    users = simulated.users.take(torch.arange(4))
    found = catalogue_scores(recommender, users, simulated.items)
    torch.testing.assert_close(found, one_by_one(recommender, simulated, 0), **CLOSE)


def test_nobody_to_rank_for(simulated: Dataset) -> None:
    nobody = simulated.users.take(torch.zeros(0, dtype=torch.int64))
    for model in ("deepfm", "two-tower"):
        scores = catalogue_scores(make(simulated, model), nobody, simulated.items)
        assert scores.shape == (0, simulated.num_items)


@pytest.mark.parametrize("model", ["deepfm", "two-tower"])
def test_scores_that_are_not_finite(simulated: Dataset, model: str) -> None:
    recommender = make(simulated, model)
    recommender.tables.table("item_id")[3] = float("nan")
    with pytest.raises(TrainError, match="scores are not finite"):
        catalogue_scores(recommender, simulated.users, simulated.items)


class TestTopItems:
    """Lists of the best items."""

    def test_by_hand(self) -> None:
        scores = torch.tensor([[0.1, 0.9, 0.5], [0.2, 0.0, -1.0]])
        lists, values = top_items(scores, 2)
        assert lists.tolist() == [[1, 2], [0, 1]]
        np.testing.assert_array_equal(values, np.array([[0.9, 0.5], [0.2, 0.0]], np.float32))

    def test_ties_go_to_the_smaller_number(self) -> None:
        scores = torch.tensor([[1.0, 2.0, 2.0, 1.0, 2.0]])
        assert top_items(scores, 5)[0].tolist() == [[1, 2, 4, 0, 3]]

    def test_what_is_excluded_is_never_listed(self) -> None:
        scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        before = scores.clone()
        exclude = Bag(torch.tensor([0, 1, 0, 1, 2]), torch.tensor([0, 2, 5, 5]))
        lists, values = top_items(scores, 2, exclude)
        assert lists.tolist() == [[2, -1], [-1, -1], [0, 1]]
        assert values[1].tolist() == [-np.inf, -np.inf]
        assert torch.equal(scores, before)

    def test_a_list_longer_than_the_catalogue(self) -> None:
        lists, values = top_items(torch.tensor([[1.0, 2.0]]), 4)
        assert lists.tolist() == [[1, 0, -1, -1]]
        assert values.tolist() == [[2.0, 1.0, -np.inf, -np.inf]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("model", ["deepfm", "two-tower"])
def test_on_a_gpu(simulated: Dataset, model: str) -> None:
    recommender, users = make(simulated, model), simulated.users
    here = catalogue_scores(recommender, users, simulated.items)
    there = catalogue_scores(recommender.to("cuda"), users, simulated.items)
    assert there.device.type == "cpu"
    torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)

"""Ranking metrics by task, worked by hand and against the metrics of whole lists."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalerec.errors import ConfigError
from scalerec.meta import Episode, Ragged
from scalerec.meta.measuring import (
    curve,
    measure,
    recovered,
    standard_error,
    task_auc,
    task_ndcg,
    top_rated,
)
from scalerec.metrics import auc, ndcg

# Two tasks of three rows, one of a single row.
QUERY = Ragged(torch.arange(7), torch.tensor([0, 3, 6, 7]))
SCORES = torch.tensor([0.1, 0.9, 0.5, 2.0, 2.0, 1.0, 0.3])
LABELS = torch.tensor([True, False, True, True, False, False, False])


def test_ndcg_by_hand() -> None:
    found = task_ndcg(SCORES.double().numpy(), LABELS.numpy(), QUERY.offsets.numpy(), 2)
    # Task 0 in order: no, yes, yes; of two places the second is a hit. Task 1: a tie, the first
    # row of it leads, a hit. Task 2 has no positive row.
    second = 1 / math.log2(3)
    assert found[:2] == pytest.approx([second / (1 + second), 1.0])
    assert math.isnan(found[2])


def test_auc_by_hand() -> None:
    found = task_auc(SCORES.double().numpy(), LABELS.numpy(), QUERY.offsets.numpy())
    # Task 0: both positives are below the negative. Task 1: a tie and a win.
    assert found[:2] == pytest.approx([0.0, 0.75])
    assert math.isnan(found[2])


@given(st.data())
def test_each_task_is_as_its_whole_list(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    size = sum(lengths)
    scores = np.array(data.draw(st.permutations(range(size))), np.float64)
    labels = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), bool)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    areas, gains = task_auc(scores, labels, offsets), task_ndcg(scores, labels, offsets, 3)
    for task, (start, stop) in enumerate(itertools.pairwise(offsets)):
        own, positive = scores[start:stop], labels[start:stop]
        wanted = auc(positive, own) if len(own) else None
        assert areas[task] == pytest.approx(math.nan if wanted is None else wanted, nan_ok=True)
        ranked = np.full((1, max(3, len(own))), -1)
        ranked[0, : len(own)] = np.argsort(-own)
        relevant = np.flatnonzero(positive)
        listed = ndcg(ranked, relevant, [0, len(relevant)], 3).value
        assert gains[task] == pytest.approx(math.nan if listed is None else listed, nan_ok=True)


def test_all_metrics_at_once() -> None:
    found = measure(SCORES, LABELS, QUERY, k=2, num_examples=5)
    assert found.num_examples == 5
    assert found.value("ndcg") == found.ndcg == pytest.approx(np.nanmean(found.by_task["ndcg"]))
    assert found.value("task_auc") == found.task_auc == pytest.approx(0.375)
    assert found.value("auc") == found.auc == auc(LABELS.numpy(), SCORES.numpy())


def test_one_class_has_no_auc() -> None:
    found = measure(SCORES, torch.zeros(7, dtype=torch.bool), QUERY)
    assert math.isnan(found.auc)
    assert math.isnan(found.task_auc)
    assert math.isnan(found.ndcg)


def test_a_curve_adapts_on_the_first_rows_and_keeps_the_queries() -> None:
    support = Ragged(torch.arange(10, 16), torch.tensor([0, 4, 5, 6]))
    episode = Episode(torch.arange(3), support, QUERY)
    met: list[list[int]] = []

    def score(few: Episode) -> torch.Tensor:
        met.append(few.support.rows.tolist())
        assert few.query is QUERY
        return SCORES

    found = curve(score, episode, LABELS, (0, 1, 3))
    assert [entry.num_examples for entry in found] == [0, 1, 3]
    assert met == [[], [10, 14, 15], [10, 11, 12, 14, 15]]


def test_what_is_recovered() -> None:
    assert recovered(0.75, 0.7, 0.8) == pytest.approx(0.5)
    assert recovered(0.65, 0.7, 0.8) == pytest.approx(-0.5)
    assert math.isnan(recovered(0.7, 0.7, 0.7))


def test_the_error_of_a_difference() -> None:
    one, other = np.array([1.0, 2.0, 4.0, math.nan]), np.array([1.0, 1.0, 2.0, math.nan])
    # Differences 0, 1, 2: deviation 1, over the root of 3.
    assert standard_error(one, other) == pytest.approx(1 / math.sqrt(3))
    with pytest.raises(ConfigError, match="an error needs at least 2 tasks; got 0"):
        standard_error(one[3:], other[3:])


def test_the_highest_ratings_are_relevant() -> None:
    ratings = torch.tensor([3.0, 5.0, 3.0, 1.0, 2.0, 2.0, 4.0])
    found = top_rated(ratings, QUERY, 2)
    # Of the two threes the first counts; the last task has one row alone.
    assert found.tolist() == [True, True, False, False, True, True, True]


def test_lists_have_a_length() -> None:
    with pytest.raises(ConfigError, match="k must be at least 1; got 0"):
        measure(SCORES, LABELS, QUERY, k=0)

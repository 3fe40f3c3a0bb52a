"""Ranking metrics: by hand, against a slow reference and scikit-learn, and by their laws."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from scalerec.errors import ConfigError, DataError
from scalerec.metrics import (
    UserMean,
    hit_rate,
    mean_average_precision,
    mrr,
    ndcg,
    precision,
    recall,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Metric = Callable[..., UserMean]
METRICS: dict[str, Metric] = {
    "hit_rate": hit_rate,
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "mrr": mrr,
    "map": mean_average_precision,
}


def slow_user(ranked: list[int], gains: dict[int, float], k: int) -> dict[str, float]:
    """Work out one user's metrics from their definitions."""
    hits = [item in gains for item in ranked[:k]]
    found = sum(gains.get(item, 0) / math.log2(i + 2) for i, item in enumerate(ranked[:k]))
    best = sorted(gains.values(), reverse=True)[:k]
    ranks = [i + 1 for i, hit in enumerate(hits) if hit]
    return {
        "hit_rate": float(any(hits)),
        "recall": sum(hits) / len(gains),
        "precision": sum(hits) / k,
        "ndcg": found / sum(gain / math.log2(i + 2) for i, gain in enumerate(best)),
        "mrr": 1 / ranks[0] if ranks else 0.0,
        "map": sum((j + 1) / rank for j, rank in enumerate(ranks)) / min(k, len(gains)),
    }


def random_lists(seed: int, num_users: int = 60) -> tuple[Ints, Ints, Ints, Floats]:
    """Draw lists of 12 from 30 items with padding at the end, and 0 to 6 relevant items a user."""
    rng = np.random.default_rng(seed)
    ranked = np.argsort(rng.random((num_users, 30)), axis=1)[:, :12].astype(np.int64)
    ranked[np.arange(12) >= rng.integers(0, 13, num_users)[:, None]] = -1
    counts = rng.integers(0, 7, num_users)
    values = np.concatenate([rng.permutation(30)[:count] for count in counts]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ranked, values, offsets, rng.integers(1, 5, len(values)).astype(np.float64)


def test_by_hand() -> None:
    # User 0: hits at ranks 2 and 4 of 3 relevant. User 1: none of 1. User 2: nothing relevant.
    ranked = [[7, 1, 9, 2, 5], [4, 3, -1, -1, -1], [1, 2, 3, 4, 5]]
    values, offsets = [1, 2, 8, 6], [0, 3, 4, 4]
    found = 1 / math.log2(3) + 1 / math.log2(5)
    best = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    expected = {
        "hit_rate": 1 / 2,
        "recall": 2 / 3 / 2,
        "precision": 2 / 5 / 2,
        "ndcg": found / best / 2,
        "mrr": 1 / 2 / 2,
        "map": (1 / 2 + 2 / 4) / 3 / 2,
    }
    for name, metric in METRICS.items():
        result = metric(ranked, values, offsets, 5)
        assert result.value == pytest.approx(expected[name], abs=1e-15), name
        assert (result.num_users, result.num_undefined) == (3, 1)


def test_only_the_first_k_count() -> None:
    ranked, values, offsets = [[7, 1, 9, 2]], [2, 1], [0, 2]
    assert hit_rate(ranked, values, offsets, 1).value == 0
    assert recall(ranked, values, offsets, 2).value == 0.5
    assert mrr(ranked, values, offsets, 1).value == 0
    # With k = 1 the best list has one hit, although two items are relevant.
    assert mean_average_precision([[1, 7]], values, offsets, 1).value == 1
    assert ndcg([[1, 7]], values, offsets, 1).value == 1


def test_graded_gains_by_hand() -> None:
    # Gains 3 (item 5) and 1 (item 2), found in the wrong order.
    value = ndcg([[2, 5]], [2, 5], [0, 2], 2, gains=[1, 3]).value
    assert value == pytest.approx((1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)), abs=1e-15)


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("k", [1, 3, 12])
def test_equal_to_a_slow_reference(k: int, graded: bool) -> None:
    for seed in range(10):
        ranked, values, offsets, drawn = random_lists(seed)
        gains = drawn if graded else np.ones(len(values))
        users = []
        for u, row in enumerate(ranked.tolist()):
            own = slice(offsets[u], offsets[u + 1])
            relevant = dict(zip(values[own].tolist(), gains[own].tolist(), strict=True))
            if relevant:
                users.append(slow_user(row, relevant, k))
        for name, metric in METRICS.items():
            extra = {"gains": gains} if name == "ndcg" and graded else {}
            result = metric(ranked, values, offsets, k, **extra)
            expected = np.mean([user[name] for user in users])
            assert result.value == pytest.approx(expected, abs=1e-12), name
            assert result.num_undefined == len(ranked) - len(users)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_equal_to_scikit_learn(k: int) -> None:
    # 1e-12: sums of at most 20 terms. Scores without ties, all 20 items ranked.
    for seed in range(10):
        rng = np.random.default_rng(seed)
        scores = rng.permuted(np.tile(np.arange(20.0), (50, 1)), axis=1)
        relevance = rng.integers(0, 4, (50, 20)) * rng.integers(0, 2, (50, 20))
        relevance[:, 0] = 1
        owner, values = np.nonzero(relevance)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner))])
        ranked = np.argsort(-scores, axis=1)
        gains = relevance[owner, values]
        graded = ndcg(ranked, values, offsets, k, gains).value
        assert graded == pytest.approx(ndcg_score(relevance, scores, k=k), abs=1e-12)
        binary = ndcg(ranked, values, offsets, k).value
        assert binary == pytest.approx(ndcg_score(relevance > 0, scores, k=k), abs=1e-12)
        if k == 20:
            whole = label_ranking_average_precision_score(relevance > 0, scores)
            value = mean_average_precision(ranked, values, offsets, k).value
            assert value == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_nothing_relevant_gives_none_and_is_counted(name: str) -> None:
    metric = METRICS[name]
    nobody = UserMean(value=None, num_users=0, num_undefined=0)
    assert metric(np.zeros((0, 3), dtype=np.int64), [], [0], 3) == nobody
    undefined = UserMean(value=None, num_users=2, num_undefined=2)
    assert metric([[1, 2], [3, 4]], [], [0, 0, 0], 2) == undefined


@pytest.mark.parametrize("name", METRICS)
def test_the_best_list_has_one_and_an_empty_list_zero(name: str) -> None:
    values, offsets = [3, 1, 2, 9, 8], [0, 3, 5]
    # At k = 2 recall of three relevant items stays below 1; at k = 3 precision of two does.
    best = METRICS[name]([[1, 2, 3], [8, 9, 4]], values, offsets, 2).value
    assert best == pytest.approx(5 / 6 if name == "recall" else 1, abs=1e-15)
    assert METRICS[name]([[-1, -1], [-1, -1]], values, offsets, 2).value == 0


def test_padding_is_no_item() -> None:
    # -1 has the key of the last item of the user before: item 3 of user 0.
    assert hit_rate([[1, 2], [-1, 0]], [3, 2], [0, 1, 2], 2).value == 0


def test_ids_beyond_the_range_of_a_joint_key() -> None:
    big = 2**62
    ranked = [[big, 5], [big + 1, big]]
    assert hit_rate(ranked, [big, 7], [0, 1, 2], 2).value == 0.5
    assert mrr(ranked, [5, big], [0, 1, 2], 2).value == 0.5
    # With 2**62 ids, the key of user 4 would wrap round to that of user 0, who wants item 7.
    ranked = [[1], [1], [1], [1], [7]]
    assert hit_rate(ranked, [7, big - 1], [0, 1, 1, 1, 1, 2], 1).value == 0


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_order_of_relevant_items_and_names_of_items_do_not_matter(seed: int, k: int) -> None:
    ranked, values, offsets, gains = random_lists(seed, num_users=8)
    rng = np.random.default_rng(seed)
    names = rng.permutation(30)
    owner = np.repeat(np.arange(8), np.diff(offsets))
    order = np.lexsort((rng.random(len(values)), owner))
    renamed = np.where(ranked >= 0, names[ranked], -1)
    for name, metric in METRICS.items():
        extra = {"gains": gains} if name == "ndcg" else {}
        moved = {"gains": gains[order]} if name == "ndcg" else {}
        before = metric(ranked, values, offsets, k, **extra)
        after = metric(renamed, names[values[order]], offsets, k, **moved)
        assert after.value == pytest.approx(before.value, abs=1e-12)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_longer_lists_never_lose_hits(seed: int) -> None:
    ranked, values, offsets, _ = random_lists(seed, num_users=8)
    for metric in (hit_rate, recall, mrr):
        found = [metric(ranked, values, offsets, k).value or 0.0 for k in range(1, 13)]
        assert found == sorted(found)
        assert 0 <= found[0] <= found[-1] <= 1


@pytest.mark.parametrize(
    ("ranked", "values", "offsets", "words"),
    [
        ([[1]], [1], [0, 1], "ranked must have at least k=2 columns (-1 where a list is shorter)"),
        ([[1, -2]], [1], [0, 1], "item ids of at least 0, or -1 for padding; got -2 at row 0, co"),
        ([[1, 2], [4, 4]], [], [0, 0, 0], "name an item once in a list; got item 4 twice at row 1"),
        ([[1.0, 2.0]], [1], [0, 1], "ranked must hold integers; got dtype float64"),
        ([1, 2], [1], [0, 1], "ranked must be an array of 2 dimension(s); got shape (2,)"),
        ([[1, 2]], [-1], [0, 1], "values must be item ids of at least 0; got -1 at row 0"),
        ([[1, 2]], [5, 5], [0, 2], "values must name an item once per user; got item 5 twice at r"),
        ([[1, 2]], [1], [0], "one entry more than ranked has rows, 2; got 1"),
        (
            [[1, 2]],
            [1, 3],
            [0, 1],
            "offsets must run from 0 to the number of values, 2; got 0 to 1",
        ),
        ([[1, 2], [3, 4]], [1], [0, 2, 1], "offsets must be in ascending order; got 1 at row 2"),
    ],
)
@pytest.mark.parametrize("name", METRICS)
def test_words_of_the_errors(
    name: str, ranked: list[list[int]], values: list[int], offsets: list[int], words: str
) -> None:
    with pytest.raises(DataError) as caught:
        METRICS[name](ranked, values, offsets, 2)
    assert words in str(caught.value)


def test_one_item_relevant_to_two_users_is_no_repeat() -> None:
    assert hit_rate([[5, 1], [5, 2]], [5, 5], [0, 1, 2], 1).value == 1
    with pytest.raises(DataError, match="got item 5 twice at row 0"):
        hit_rate([[1], [2]], [5, 5], [0, 2, 2], 1)


@pytest.mark.parametrize("k", [0, -1, 2.0, True])
def test_words_about_k(k: int) -> None:
    for metric in METRICS.values():
        with pytest.raises(ConfigError) as caught:
            metric([[1, 2]], [1], [0, 1], k)
        assert str(caught.value) == f"k must be a whole number of at least 1; got {k!r}"


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([0], "gains must be between 1e-100 and 1e+100; got 0 at row 0"),
        ([1, 1], "gains must have as many rows as values, 1; got 2"),
    ],
)
def test_words_about_gains(gains: list[float], words: str) -> None:
    with pytest.raises(DataError) as caught:
        ndcg([[1, 2]], [1], [0, 1], 2, gains=gains)
    assert str(caught.value) == words

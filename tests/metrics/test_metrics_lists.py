"""Coverage, diversity, novelty, personalisation, and ranks among candidates."""

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_distances

from scalerec.errors import ConfigError, DataError
from scalerec.metrics import (
    Ties,
    UserMean,
    catalogue_coverage,
    intra_list_diversity,
    novelty,
    personalisation,
    ranks_of,
)

NOBODY = np.zeros((0, 3), dtype=np.int64)
Ints = npt.NDArray[np.int64]


def random_lists(seed: int, num_users: int = 30) -> Ints:
    rng = np.random.default_rng(seed)
    ranked = np.argsort(rng.random((num_users, 20)), axis=1)[:, :6].astype(np.int64)
    ranked[np.arange(6) >= rng.integers(0, 7, num_users)[:, None]] = -1
    return ranked


def test_coverage_by_hand() -> None:
    ranked = [[2, 3, 9], [2, 4, -1]]
    assert catalogue_coverage(ranked, num_items=8, k=3) == 0.5
    assert catalogue_coverage(ranked, num_items=8, k=1) == 1 / 8
    assert catalogue_coverage([[-1]], num_items=8, k=1) == 0
    assert catalogue_coverage(NOBODY, num_items=8, k=3) is None


def test_diversity_by_hand() -> None:
    features = [[1, 0], [0, 2], [3, 0], [-1, 0], [0, 0]]
    # Pairs 0-1, 0-2, 1-2 at distances 1, 0, 1.
    assert intra_list_diversity([[0, 1, 2]], features, 3).value == pytest.approx(2 / 3, abs=1e-15)
    # Opposite directions are 2 apart; item 4 has none and is left out.
    assert intra_list_diversity([[0, 4, 3]], features, 3).value == 2
    # One item, or one with a direction, makes no pair.
    undefined = UserMean(value=None, num_users=2, num_undefined=2)
    assert intra_list_diversity([[0, -1], [0, 4]], features, 2) == undefined
    assert intra_list_diversity(NOBODY, features, 3).value is None


def test_diversity_equals_scikit_learn() -> None:
    for seed in range(10):
        ranked = random_lists(seed)
        features = np.random.default_rng(seed).normal(size=(20, 5))
        distance = cosine_distances(features)
        means = [
            np.mean([distance[i, j] for i, j in combinations(row[row >= 0].tolist(), 2)])
            for row in ranked
            if np.count_nonzero(row >= 0) > 1
        ]
        result = intra_list_diversity(ranked, features, 6)
        assert result.value == pytest.approx(np.mean(means), abs=1e-12)
        assert result.num_undefined == len(ranked) - len(means)


@settings(deadline=None)
@given(st.sampled_from([1e-99, 1e-30, 1.0, 3.7, 1e99]))
def test_diversity_does_not_see_the_length_of_features(scale: float) -> None:
    ranked, features = random_lists(1), np.random.default_rng(1).uniform(-1, 1, size=(20, 5))
    expected = intra_list_diversity(ranked, features, 6).value
    scaled = intra_list_diversity(ranked, features * scale, 6).value
    assert scaled == pytest.approx(expected, abs=1e-12)


def test_novelty_by_hand() -> None:
    # Shares 1/2, 1/4, 1/8, 1/8, and an unseen item that counts as one of eight.
    popularity = [4, 2, 1, 1, 0]
    result = novelty([[0, 1], [4, -1], [-1, -1]], popularity, 2)
    assert result == UserMean(value=(1.5 + 3) / 2, num_users=3, num_undefined=1)
    nothing = UserMean(value=None, num_users=1, num_undefined=1)
    assert novelty([[0, 1]], [0, 0], 2) == nothing
    assert novelty(NOBODY, popularity, 3).value is None


def test_novelty_equals_a_slow_loop() -> None:
    popularity = np.random.default_rng(0).integers(1, 1000, 20)
    for seed in range(5):
        ranked = random_lists(seed)
        share = popularity / popularity.sum()
        lists = [row[row >= 0][:4] for row in ranked]
        means = [-np.mean(np.log2(share[row])) for row in lists if len(row)]
        value = novelty(ranked, popularity, 4).value
        assert value == pytest.approx(np.mean(means), abs=1e-12)


def test_personalisation_by_hand() -> None:
    assert personalisation([[1, 2], [2, 1]], 2) == 0
    assert personalisation([[1, 2], [3, 4]], 2) == 1
    # Pairs share 1, 0 and 1 of 2.
    assert personalisation([[1, 2], [2, 3], [3, 4]], 2) == pytest.approx(2 / 3, abs=1e-15)
    assert personalisation([[1, 2]], 2) is None
    assert personalisation(NOBODY, 3) is None


def test_words_about_lists() -> None:
    with pytest.raises(DataError) as caught:
        catalogue_coverage([[1, 2]], num_items=1, k=2)
    assert str(caught.value) == "ranked must hold at most num_items=1 different items; got 2"
    with pytest.raises(DataError) as caught:
        novelty([[0, 3]], [1, 1, 1], 2)
    words = "ranked must be below the number of rows of popularity, 3; got 3 at row 0, column 1"
    assert str(caught.value) == words
    with pytest.raises(DataError, match=r"rows of features, 1; got 1 at row 0, column 0"):
        intra_list_diversity([[1]], [[1.0]], 1)
    with pytest.raises(
        DataError, match=r"features must be finite and .* got nan at row 0, column 1"
    ):
        intra_list_diversity([[0]], [[1.0, math.nan]], 1)
    with pytest.raises(DataError, match=r"popularity must be 0 or at least 1; got -1.0 at row 1"):
        novelty([[0]], [1, -1], 1)
    with pytest.raises(ConfigError, match="num_items must be a whole number of at least 1; got 0"):
        catalogue_coverage([[1]], num_items=0, k=1)
    with pytest.raises(ConfigError, match="k must be a whole number of at least 1; got 0"):
        personalisation([[1]], 0)


def test_ranks_by_hand() -> None:
    scores = [[0.5, 0.9, 0.5, 0.5], [0.7, 0.1, 0.3, 0.2], [1.0, 1.0, 1.0, 1.0]]
    assert ranks_of(scores, [0, 0, 3]).tolist() == [4, 1, 4]
    assert ranks_of(scores, [0, 0, 3], Ties.AVERAGE).tolist() == [3, 1, 2.5]
    assert ranks_of(np.zeros((0, 4)), np.zeros(0, dtype=np.int64)).tolist() == []


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ranks_without_ties_do_not_depend_on_the_rule(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(7.0), (5, 1)), axis=1)
    target = rng.integers(0, 7, 5)
    expected = 7 - scores[np.arange(5), target]
    for ties in Ties:
        assert ranks_of(scores, target, ties).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("scores", "target", "words"),
    [
        ([[1.0, 2.0]], [2], "target must be a column from 0 to 1; got 2 at row 0"),
        ([[1.0, 2.0]], [0, 1], "target must have as many rows as scores, 1; got 2"),
        ([[1.0, math.inf]], [0], "scores must be finite; got inf at row 0, column 1"),
        ([[1.0]], [0.0], "target must hold integers; got dtype float64"),
    ],
)
def test_words_about_ranks(scores: npt.ArrayLike, target: npt.ArrayLike, words: str) -> None:
    with pytest.raises(DataError) as caught:
        ranks_of(scores, target)
    assert str(caught.value) == words

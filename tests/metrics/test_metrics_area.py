"""AUC and GAUC: by hand, against scikit-learn and a slow loop, and by their laws."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from scalerec.errors import DataError
from scalerec.metrics import GroupedAuc, auc, gauc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Scores on a coarse grid, so that ties are common and affine maps of them are exact.
ROWS = st.lists(st.tuples(st.booleans(), st.integers(-8, 8)), max_size=40)


def columns(rows: list[tuple[bool, int]]) -> tuple[Ints, Floats]:
    labels = np.array([int(label) for label, _ in rows], dtype=np.int64)
    return labels, np.array([score / 16 for _, score in rows], dtype=np.float64)


def pairwise_auc(labels: Ints, scores: Floats, weights: Floats) -> float | None:
    """Count every pair of a positive and a negative."""
    won, pairs = 0.0, 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = weights[i] * weights[j]
            pairs += pair
            won += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return won / pairs if pairs > 0 else None


def slow_gauc(labels: Ints, scores: Floats, groups: Ints, weights: Floats) -> GroupedAuc:
    """Average the groups' AUC in a loop."""
    won, total, undefined = 0.0, 0.0, 0
    keys = np.unique(groups)
    for key in keys:
        rows = groups == key
        value = pairwise_auc(labels[rows], scores[rows], weights[rows])
        if value is None:
            undefined += 1
        else:
            won += value * weights[rows].sum()
            total += weights[rows].sum()
    return GroupedAuc(
        value=won / total if total > 0 else None,
        num_groups=len(keys),
        num_undefined=undefined,
        num_rows=len(labels),
    )


def test_auc_by_hand() -> None:
    # Positives .35 and .8 against negatives .1 and .4: three of four pairs are won.
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    # One tie, which counts a half: (1 + 0.5) / 2.
    assert auc([0, 0, 1], [0.1, 0.4, 0.4]) == 0.75
    # Weights: pairs weigh 2 * 1 (won) and 2 * 3 (lost).
    assert auc([1, 0, 0], [0.5, 0.2, 0.9], weights=[2, 1, 3]) == 0.25


def test_auc_takes_logits_and_any_numeric_type() -> None:
    scores = np.array([-3.0, 12.5, 700.0], dtype=np.float32)
    assert auc(np.array([False, False, True]), scores) == 1.0
    assert auc([0.0, 1.0], [5, -5]) == 0.0


@pytest.mark.parametrize("labels", [[], [1, 1], [0, 0]])
def test_auc_of_one_class_is_none(labels: list[int]) -> None:
    assert auc(labels, np.zeros(len(labels))) is None


def test_auc_without_weight_on_a_class_is_none() -> None:
    assert auc([0, 1, 1], [0.1, 0.2, 0.3], weights=[0, 1, 1]) is None


def test_auc_holds_at_the_ends_of_the_weights() -> None:
    assert auc([0, 1, 0], [0.1, 0.2, 0.2], weights=[1e-100] * 3) == 0.75
    heavy = auc([0, 1, 0], [0.1, 0.2, 0.2], weights=[1e100] * 3)
    assert heavy == pytest.approx(0.75, abs=1e-15)


@pytest.mark.parametrize("decimals", [1, 2, 12])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_equals_scikit_learn(decimals: int, weighted: bool) -> None:
    # 1e-12: both are sums of at most 2,000 products of float64.
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 2000)
        scores = np.round(rng.normal(size=2000) + labels, decimals)
        weights = rng.random(2000) if weighted else None
        expected = roc_auc_score(labels, scores, sample_weight=weights)
        assert auc(labels, scores, weights) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(ROWS)
def test_auc_sees_only_the_order_of_scores(rows: list[tuple[bool, int]]) -> None:
    labels, scores = columns(rows)
    assert auc(labels, np.exp(3 * scores) - 7) == auc(labels, scores)


@settings(deadline=None)
@given(ROWS)
def test_auc_of_reversed_scores_is_the_complement(rows: list[tuple[bool, int]]) -> None:
    labels, scores = columns(rows)
    value, reverse = auc(labels, scores), auc(labels, 1 - scores)
    assert (value is None) == (reverse is None)
    if value is not None and reverse is not None:
        assert value + reverse == pytest.approx(1, abs=1e-12)
        assert auc(1 - labels, scores) == pytest.approx(reverse, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(-8, 8), st.integers(0, 3)), max_size=30))
def test_a_weight_is_a_number_of_copies(rows: list[tuple[bool, int, int]]) -> None:
    labels, scores = columns([(label, score) for label, score, _ in rows])
    copies = np.array([count for _, _, count in rows], dtype=np.int64)
    assert auc(labels, scores, copies) == auc(labels.repeat(copies), scores.repeat(copies))


def test_gauc_by_hand() -> None:
    # Group 7: one pair, won. Group 8: two pairs, lost. Group 9: one class. (2 * 1 + 3 * 0) / 5.
    labels, groups = [0, 1, 1, 0, 0, 1], [7, 7, 8, 8, 8, 9]
    scores = [0.2, 0.9, 0.1, 0.3, 0.4, 0.5]
    result = gauc(labels, scores, groups)
    assert result == GroupedAuc(value=0.4, num_groups=3, num_undefined=1, num_rows=6)
    # Weights 3 + 1 in group 7, and 1 + 1 + 2 in group 8: (4 * 1 + 4 * 0) / 8.
    weighted = gauc(labels, scores, groups, weights=[3, 1, 1, 1, 2, 9])
    assert weighted == GroupedAuc(value=0.5, num_groups=3, num_undefined=1, num_rows=6)


def test_gauc_takes_strings_and_large_integers() -> None:
    labels, scores = [0, 1, 1, 0], [0.2, 0.9, 0.1, 0.3]
    expected = GroupedAuc(value=0.5, num_groups=2, num_undefined=0, num_rows=4)
    assert gauc(labels, scores, ["b", "b", "a", "a"]) == expected
    assert gauc(labels, scores, [2**62, 2**62, -(2**62), -(2**62)]) == expected


def test_gauc_with_nothing_defined() -> None:
    empty = GroupedAuc(value=None, num_groups=0, num_undefined=0, num_rows=0)
    assert gauc([], [], []) == empty
    one_class = GroupedAuc(value=None, num_groups=2, num_undefined=2, num_rows=3)
    assert gauc([1, 1, 0], [0.1, 0.2, 0.3], [1, 1, 2]) == one_class
    weightless = GroupedAuc(value=None, num_groups=1, num_undefined=1, num_rows=2)
    assert gauc([1, 0], [0.1, 0.2], [1, 1], weights=[1, 0]) == weightless


def test_gauc_of_one_group_is_auc() -> None:
    rng = np.random.default_rng(5)
    labels, scores, weights = rng.integers(0, 2, 500), rng.normal(size=500), rng.random(500)
    assert gauc(labels, scores, np.zeros(500, dtype=np.int32), weights).value == pytest.approx(
        auc(labels, scores, weights), abs=1e-12
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_gauc_equals_a_slow_loop(weighted: bool) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 400)
        groups = rng.integers(0, 80, 400)
        scores = rng.integers(0, 6, 400) / 5
        weights = rng.integers(0, 3, 400) * rng.random(400) if weighted else np.ones(400)
        result = gauc(labels, scores, groups, weights if weighted else None)
        expected = slow_gauc(labels, scores, groups, weights)
        assert result.value == pytest.approx(expected.value, abs=1e-12)
        assert result.num_undefined == expected.num_undefined
        assert result.num_groups == expected.num_groups


def test_a_heavy_group_does_not_blur_a_light_one() -> None:
    # One running sum over both groups would lose the light weights in the rounding of 1e30.
    labels = np.array([0, 1, 0, 0, 1, 0])
    scores = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    groups = np.array([1, 1, 1, 2, 2, 2])
    weights = np.array([1e30, 0, 3e30, 0.1, 0.2, 0.3])
    # Group 1 has no weight on its positive. Group 2: .2 * .1 won of .2 * (.1 + .3).
    result = gauc(labels, scores, groups, weights)
    assert result.num_undefined == 1
    assert result.value == pytest.approx(0.25, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 1, 2], [0.1, 0.2, 0.3], "labels must be 0 or 1; got 2 at row 2"),
        ([0.5], [0.1], "labels must be 0 or 1; got 0.5 at row 0"),
        ([0, 1], [0.1, np.nan], "scores must be finite; got nan at row 1"),
        ([0, 1], [np.inf, 0.1], "scores must be finite; got inf at row 0"),
        ([0, 1], [0.1], "scores must have as many rows as labels, 2; got 1"),
        ([[0, 1]], [0.1], "labels must be an array of 1 dimension(s); got shape (1, 2)"),
        (["a"], [0.1], "labels must hold numbers; got dtype <U1"),
        ([0, 1], [[1], [2, 3]], "scores must be an array of 1 dimension(s); got "),
    ],
)
def test_words_of_the_errors(labels: npt.ArrayLike, scores: npt.ArrayLike, words: str) -> None:
    for refused in (lambda: auc(labels, scores), lambda: gauc(labels, scores, [1, 1])):
        with pytest.raises(DataError) as caught:
            refused()
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1, -0.5], "weights must be 0 or between 1e-100 and 1e+100; got -0.5 at row 1"),
        ([np.nan, 1], "weights must be 0 or between 1e-100 and 1e+100; got nan at row 0"),
        ([1, 1e101], "weights must be 0 or between 1e-100 and 1e+100; got 1e+101 at row 1"),
        ([1], "weights must have as many rows as labels, 2; got 1"),
    ],
)
def test_words_about_weights(weights: list[float], words: str) -> None:
    with pytest.raises(DataError) as caught:
        auc([0, 1], [0.1, 0.2], weights)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([1, 2, 3], "groups must have as many rows as labels, 2; got 3"),
        ([1.5, 2.5], "groups must hold integers or strings; got dtype float64"),
        (
            np.array([1, 2**63], dtype=np.uint64),
            f"groups must be below 2**63; got {2**63} at row 1",
        ),
    ],
)
def test_words_about_groups(groups: npt.ArrayLike, words: str) -> None:
    with pytest.raises(DataError) as caught:
        gauc([0, 1], [0.1, 0.2], groups)
    assert str(caught.value) == words

"""Log loss, normalised entropy, calibration, and the metrics of several classes."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from scalerec.errors import ConfigError, DataError
from scalerec.metrics import accuracy, ece, log_loss, multiclass_log_loss, ne

Metric = Callable[..., float | None]
Floats = npt.NDArray[np.float64]
ROWS = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=40)


def columns(rows: list[tuple[bool, float]]) -> tuple[Floats, Floats]:
    return np.array([float(y) for y, _ in rows]), np.array([p for _, p in rows], dtype=np.float64)


def test_log_loss_by_hand() -> None:
    # -ln(1/2) and -ln(3/4), weights 1 and 3.
    value = log_loss([1, 0], [0.5, 0.25], weights=[1, 3])
    assert value == pytest.approx((math.log(2) + 3 * math.log(4 / 3)) / 4, abs=1e-15)


def test_a_sure_and_wrong_row_costs_the_clip() -> None:
    assert log_loss([1], [0.0]) == pytest.approx(52 * math.log(2), abs=1e-12)
    assert log_loss([0], [1.0], eps=0.01) == pytest.approx(-math.log(0.01), abs=1e-12)
    # The clip works on both sides, so a sure and right row costs -ln(1 - eps).
    assert log_loss([1], [1.0], eps=0.01) == pytest.approx(-math.log(0.99), abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_log_loss_equals_scikit_learn(weighted: bool) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        chances = rng.random(1000)
        labels = (rng.random(1000) < chances).astype(np.int64)
        weights = rng.random(1000) if weighted else None
        expected = sk.log_loss(labels, chances, sample_weight=weights)
        assert log_loss(labels, chances, weights) == pytest.approx(expected, abs=1e-12)


def test_ne_by_hand() -> None:
    # Base rate 1/2, entropy ln 2; the loss is -ln(1/4) = 2 ln 2.
    assert ne([1, 0], [0.25, 0.75]) == pytest.approx(2, abs=1e-15)


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 50))
def test_ne_of_the_base_rate_is_one(num_positive: int, num_negative: int) -> None:
    labels = np.repeat([1, 0], [num_positive, num_negative])
    rate = np.full(len(labels), num_positive / len(labels))
    assert ne(labels, rate) == pytest.approx(1, abs=1e-12)
    weights = np.linspace(0.5, 2, len(labels))
    weighted_rate = np.full(len(labels), np.average(labels, weights=weights))
    assert ne(labels, weighted_rate, weights) == pytest.approx(1, abs=1e-12)


def test_ece_by_hand() -> None:
    # Bin (.0, .1]: mean .1, rate 0. Bin (.6, .7]: .7 against 1. Bin (.8, .9]: .9 against 1.
    value = ece([0, 0, 1, 1], [0.1, 0.1, 0.9, 0.7])
    assert value == pytest.approx((2 * 0.1 + 0.3 + 0.1) / 4, abs=1e-15)
    # One bin: rate 1/2 against mean .45; with weights 3, 0, 0, 1: rate 1/4 against 1/4.
    assert ece([0, 0, 1, 1], [0.1, 0.1, 0.9, 0.7], num_bins=1) == pytest.approx(0.05, abs=1e-15)
    weighted = ece([0, 0, 1, 1], [0.1, 0.1, 0.9, 0.7], weights=[3, 0, 0, 1], num_bins=1)
    assert weighted == pytest.approx(0, abs=1e-15)


def test_ece_with_bins_of_equal_mass_by_hand() -> None:
    # Two bins of two rows: mean .15 against rate 0, mean .35 against rate 1/2.
    labels, chances = [0, 0, 1, 0], [0.1, 0.2, 0.3, 0.4]
    assert ece(labels, chances, num_bins=2, equal_mass=True) == pytest.approx(0.15, abs=1e-15)
    # With equal widths all four share a bin: mean .25 against rate 1/4.
    assert ece(labels, chances, num_bins=2) == pytest.approx(0, abs=1e-15)
    # Equal probabilities are never split.
    assert ece([0, 1, 1, 0], [0.5] * 4, num_bins=4, equal_mass=True) == 0


@pytest.mark.parametrize(("strategy", "equal_mass"), [("uniform", False), ("quantile", True)])
def test_ece_equals_scikit_learns_calibration_curve(strategy: str, equal_mass: bool) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        chances = np.round(rng.random(1000) ** 2, 3)
        labels = (rng.random(1000) < chances**0.7).astype(np.int64)
        rate, mean = calibration_curve(labels, chances, n_bins=10, strategy=strategy)
        inner = np.linspace(0, 1, 11)
        edges = np.quantile(chances, inner) if equal_mass else inner
        counts = np.bincount(np.searchsorted(edges[1:-1], chances), minlength=10)
        expected = np.sum(counts[counts > 0] / 1000 * np.abs(rate - mean))
        value = ece(labels, chances, equal_mass=equal_mass)
        assert value == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(ROWS, st.integers(1, 12))
def test_calibration_error_grows_with_the_bins_refined(
    rows: list[tuple[bool, float]], num_bins: int
) -> None:
    labels, chances = columns(rows)
    coarse = ece(labels, chances, num_bins=1)
    fine = ece(labels, chances, num_bins=num_bins)
    if coarse is None or fine is None:
        assert not rows
    else:
        # The triangle inequality, with room for rounding.
        assert 0 <= coarse <= fine + 1e-12 <= 1 + 2e-12


@pytest.mark.parametrize("metric", [log_loss, ne, ece])
def test_nothing_gives_none(metric: Metric) -> None:
    assert metric([], []) is None
    assert metric([0, 1], [0.5, 0.5], [0, 0]) is None
    assert metric(np.zeros(0, dtype=bool), np.zeros(0, dtype=np.float32)) is None


def test_one_class_has_a_loss_but_no_normalised_entropy() -> None:
    for labels in ([1, 1], [0, 0]):
        assert ne(labels, [0.5, 0.5]) is None
        assert log_loss(labels, [0.5, 0.5]) == pytest.approx(math.log(2), abs=1e-15)


@settings(deadline=None)
@given(ROWS)
def test_no_metric_is_ever_nan(rows: list[tuple[bool, float]]) -> None:
    labels, chances = columns(rows)
    values = [log_loss(labels, chances), ne(labels, chances), ece(labels, chances)]
    assert all(value is None or math.isfinite(value) for value in values)


@pytest.mark.parametrize("metric", [log_loss, ne, ece])
def test_words_of_the_errors(metric: Metric) -> None:
    for bad, shown in ((1.0000001, "1.0000001"), (-0.1, "-0.1"), (np.nan, "nan")):
        with pytest.raises(DataError) as caught:
            metric([0, 1], [0.5, bad])
        words = f"probabilities must be between 0 and 1; got {shown} at row 1"
        assert str(caught.value) == words
    with pytest.raises(DataError, match=r"^labels must be 0 or 1; got -1 at row 0$"):
        metric([-1], [0.5])
    with pytest.raises(DataError, match="probabilities must have as many rows as labels, 1; got 2"):
        metric([1], [0.5, 0.5])


@pytest.mark.parametrize("eps", [0.0, 0.5, -1.0, math.nan])
def test_words_about_the_clip(eps: float) -> None:
    for metric in (log_loss, ne):
        with pytest.raises(ConfigError, match=f"eps must be above 0 and below 0.5; got {eps!r}"):
            metric([1], [0.5], eps=eps)


@pytest.mark.parametrize("num_bins", [0, -3, 2.0, True])
def test_words_about_bins(num_bins: int) -> None:
    with pytest.raises(ConfigError) as caught:
        ece([1], [0.5], num_bins=num_bins)
    words = f"num_bins must be a whole number of at least 1; got {num_bins!r}"
    assert str(caught.value) == words


def test_accuracy_by_hand() -> None:
    assert accuracy([0, 2, 1, 1], [0, 2, 2, 1]) == 0.75
    assert accuracy([0, 2], [0, 1], weights=[1, 3]) == 0.25
    assert accuracy([], []) is None
    assert accuracy([1], [1], weights=[0]) is None


def test_multiclass_log_loss_by_hand() -> None:
    chances = [[0.5, 0.3, 0.2], [0.25, 0.5, 0.25]]
    value = multiclass_log_loss([0, 2], chances, weights=[3, 1])
    assert value == pytest.approx((3 * math.log(2) + math.log(4)) / 4, abs=1e-15)
    assert multiclass_log_loss([], np.zeros((0, 3))) is None
    assert multiclass_log_loss([0], [[1.0]], weights=[0]) is None


@pytest.mark.parametrize("weighted", [False, True])
def test_multiclass_equals_scikit_learn(weighted: bool) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        chances = rng.dirichlet(np.ones(5), 500)
        labels = rng.integers(0, 5, 500)
        weights = rng.random(500) if weighted else None
        expected = sk.log_loss(labels, chances, sample_weight=weights, labels=np.arange(5))
        assert multiclass_log_loss(labels, chances, weights) == pytest.approx(expected, abs=1e-12)
        chosen = chances.argmax(axis=1)
        right = sk.accuracy_score(labels, chosen, sample_weight=weights)
        assert accuracy(labels, chosen, weights) == pytest.approx(right, abs=1e-12)


def test_two_classes_equal_the_binary_log_loss() -> None:
    chances = np.array([0.2, 0.7, 0.9])
    both = np.stack([1 - chances, chances], axis=1)
    expected = log_loss([0, 1, 0], chances)
    assert multiclass_log_loss([0, 1, 0], both) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "chances", "words"),
    [
        ([2], [[0.5, 0.5]], "labels must be from 0 to 1, a column's number; got 2 at row 0"),
        ([0.0], [[0.5, 0.5]], "labels must hold integers; got dtype float64"),
        ([0], [[0.5, 1.5]], "probabilities must be between 0 and 1; got 1.5 at row 0, column 1"),
        (
            [0, 1],
            [[0.5, 0.5], [0.5, 0.25]],
            "probabilities must sum to 1 in each row (within 0.001); got 0.75 at row 1",
        ),
        ([0], [0.5, 0.5], "probabilities must be an array of 2 dimension(s); got shape (2,)"),
    ],
)
def test_words_about_classes(labels: npt.ArrayLike, chances: npt.ArrayLike, words: str) -> None:
    with pytest.raises(DataError) as caught:
        multiclass_log_loss(labels, chances)
    assert str(caught.value) == words

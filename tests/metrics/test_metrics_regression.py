"""RMSE and MAE: by hand, against scikit-learn, at the ends of the range."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from scalerec.errors import DataError
from scalerec.metrics import mae, rmse


def test_by_hand() -> None:
    # Errors 0, -3 and 4.
    assert rmse([1, 2, 3], [1, -1, 7]) == pytest.approx(math.sqrt(25 / 3), abs=1e-15)
    assert mae([1, 2, 3], [1, -1, 7]) == pytest.approx(7 / 3, abs=1e-15)
    assert rmse([1, 2, 3], [1, -1, 7], weights=[0, 1, 0]) == 3
    assert mae([1, 2, 3], [1, -1, 7], weights=[2, 0, 2]) == 2


def test_equal_to_scikit_learn() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        targets, predictions, weights = rng.normal(size=(3, 1000))
        for weight in (None, np.abs(weights)):
            square = sk.mean_squared_error(targets, predictions, sample_weight=weight)
            assert rmse(targets, predictions, weight) == pytest.approx(math.sqrt(square), abs=1e-12)
            size = sk.mean_absolute_error(targets, predictions, sample_weight=weight)
            assert mae(targets, predictions, weight) == pytest.approx(size, abs=1e-12)


def test_nothing_gives_none() -> None:
    assert rmse([], []) is None
    assert mae([], []) is None
    assert rmse([1.0], [2.0], weights=[0]) is None


def test_the_largest_numbers_do_not_overflow() -> None:
    ends = [1e100, -1e100]
    assert rmse(ends, ends[::-1], weights=[1e100, 1e100]) == pytest.approx(2e100, rel=1e-12)


@pytest.mark.parametrize(
    ("predictions", "weights", "words"),
    [
        (
            [1, np.nan],
            None,
            "predictions must be finite and at most 1e+100 in size; got nan at row 1",
        ),
        (
            [1e101, 1],
            None,
            "predictions must be finite and at most 1e+100 in size; got 1e+101 at row 0",
        ),
        ([1], None, "predictions must have as many rows as targets, 2; got 1"),
        ([1, 2], [1], "weights must have as many rows as targets, 2; got 1"),
    ],
)
def test_words_of_the_errors(
    predictions: list[float], weights: list[float] | None, words: str
) -> None:
    for metric in (rmse, mae):
        with pytest.raises(DataError) as caught:
            metric([1, 2], predictions, weights)
        assert str(caught.value) == words

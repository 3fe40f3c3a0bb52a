"""Statistics of numbers, against NumPy and whatever the chunks."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scalerec.data import numeric as module
from scalerec.data.numeric import NumberFitter, NumberStats
from scalerec.data.schema import Numeric

STANDARD, LOG = Numeric(name="n"), Numeric(name="n", transform="log")
QUANTILE = Numeric(name="n", transform="quantile", num_buckets=4)
PLAIN = Numeric(name="n", transform="none")


def fitted(feature: Numeric, *chunks: NDArray[np.float64]) -> NumberStats:
    fitter = NumberFitter(feature)
    for chunk in chunks:
        fitter.add(chunk)
    return fitter.fit()


def values_of(size: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).lognormal(3, 2, size)


def test_moments_are_those_of_numpy() -> None:
    values = values_of(200_001)
    stats = fitted(STANDARD, *np.array_split(values, 7))
    # Another order of summation: a few units in the last of 16 digits.
    assert stats.mean == pytest.approx(values.mean(), rel=1e-12)
    assert stats.std == pytest.approx(values.std(), rel=1e-12)
    logs = np.log1p(values)
    stats = fitted(LOG, values)
    assert (stats.mean, stats.std) == pytest.approx((logs.mean(), logs.std()), rel=1e-12)
    assert fitted(LOG, -values).mean == pytest.approx(-logs.mean(), rel=1e-12)


def test_quantiles_are_those_of_numpy() -> None:
    values = values_of(1001)
    assert fitted(QUANTILE, values).edges == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]))


@pytest.mark.parametrize("feature", [STANDARD, LOG, QUANTILE])
@given(cuts=st.lists(st.integers(0, 500), max_size=5))
def test_chunks_do_not_matter(feature: Numeric, cuts: list[int]) -> None:
    values = values_of(500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SAMPLE", 40)
        patch.setattr(module, "BLOCK", 64)
        edges = [0, *sorted(cuts), 500]
        parts = fitted(feature, *(values[a:b] for a, b in pairwise(edges)))
        assert parts == fitted(feature, values)  # to the last bit


def test_a_sample_treats_early_and_late_values_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE", 2000)
    # The values rise, so a sample that favours the late ones has too high a median.
    chunks = np.array_split(np.arange(100_000.0), 100)
    median = fitted(QUANTILE, *chunks).edges[1]
    # The deviation of a median of 2000 uniform values: 100000 / (2 sqrt(2000)) = 1118.
    assert median == pytest.approx(50_000, abs=4 * 1118)


def test_equal_values_have_no_scale() -> None:
    for value in (0.0, 0.1, 1e9 + 0.1, -7.3e20):
        stats = fitted(STANDARD, np.full(1003, value))
        assert stats.mean == pytest.approx(value)
        assert stats.std == 1.0
    # Moments of our time in seconds still have one.
    stats = fitted(STANDARD, 1.7e9 + np.array([0.0, 1.0, 2.0]))
    assert stats.std == pytest.approx((2 / 3) ** 0.5, rel=1e-6)
    assert fitted(STANDARD, np.array([1e-20, 3e-20])).std == pytest.approx(1e-20)


def test_ties_share_a_bucket() -> None:
    stats = fitted(QUANTILE, np.array([0.0] * 90 + [1.0] * 5 + [2.0] * 5))
    assert stats.edges == (0.0,)
    assert stats.num_ids == 4  # padding, unknown, below 0, from 0 on


def test_nothing_seen() -> None:
    assert fitted(STANDARD) == NumberStats()
    assert fitted(QUANTILE).edges == ()
    assert fitted(PLAIN, np.array([3.0])) == NumberStats()

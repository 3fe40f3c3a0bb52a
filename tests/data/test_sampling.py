"""Negatives: never met, never twice, and as popular as they should be."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.sampling import NegativeSampler, draw_unmet
from scalerec.errors import ConfigError, DataError

COUNTS = np.array([0, 1, 16, 0, 81, 0])


def test_uniform_draws_among_the_met(generator: torch.Generator) -> None:
    drawn = NegativeSampler.build("uniform", COUNTS).draw((30_000,), generator)
    shares = drawn.bincount(minlength=6) / 30_000
    # Deviation of a share: sqrt(p (1 - p) / n) < 0.003.
    assert shares.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 0, 1 / 3, 0], abs=0.012)
    assert set(drawn.tolist()) == {1, 2, 4}


def test_popularity_is_flattened(generator: torch.Generator) -> None:
    drawn = NegativeSampler.build("popularity", COUNTS).draw((100, 300), generator)
    assert drawn.shape == (100, 300)
    # Counts to the power 0.75: 1, 8, 27.
    shares = drawn.flatten().bincount(minlength=6) / 30_000
    assert shares.tolist() == pytest.approx([0, 1 / 36, 8 / 36, 0, 27 / 36, 0], abs=0.012)


def test_draws_follow_the_generator() -> None:
    sampler = NegativeSampler.build("popularity", COUNTS)
    first, again, other = (
        sampler.draw((50,), torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match="drawn by one of uniform, popularity; got 'chance'"):
        NegativeSampler.build("chance", COUNTS)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no item was met in training"):
        NegativeSampler.build("uniform", np.zeros(3, np.int64))


@given(st.integers(0, 9), st.integers(1, 12), st.integers(0, 40))
def test_unmet_items_are_unmet_and_differ(seed: int, count: int, size: int) -> None:
    draw = np.random.default_rng(seed)
    users, items = draw.integers(5, size=size), draw.integers(15, size=size)
    rows = draw.integers(6, size=20)  # user 5 met nothing
    met = {user: set(items[users == user].tolist()) for user in range(6)}
    most = max(len(met[user]) for user in rows.tolist())
    arguments = (rows, (users, items), 15, count)
    if 15 - most < count:
        words = f"{count} negatives asked for, but a user has met {most} of 15 items"
        with pytest.raises(DataError, match=words):
            draw_unmet(*arguments, np.random.default_rng(0))
        return
    drawn = draw_unmet(*arguments, np.random.default_rng(0))
    assert drawn.shape == (20, count)
    for user, own in zip(rows.tolist(), drawn.tolist(), strict=True):
        assert len(set(own)) == count
        assert not met[user] & set(own)
    assert (draw_unmet(*arguments, np.random.default_rng(0)) == drawn).all()


def test_unmet_items_are_equally_likely() -> None:
    users, items = np.zeros(2, np.int64), np.array([0, 5])
    rows = np.zeros(5000, np.int64)
    drawn = draw_unmet(rows, (users, items), 10, 3, np.random.default_rng(0))
    shares = np.bincount(drawn.ravel(), minlength=10) / 5000
    expected = [0 if item in (0, 5) else 3 / 8 for item in range(10)]
    # Deviation of a share: sqrt(0.375 * 0.625 / 5000) = 0.007.
    assert shares.tolist() == pytest.approx(expected, abs=0.03)


def test_rows_may_be_none() -> None:
    none = np.zeros(0, np.int64)
    drawn = draw_unmet(none, (none, none), 5, 2, np.random.default_rng(0))
    assert drawn.shape == (0, 2)

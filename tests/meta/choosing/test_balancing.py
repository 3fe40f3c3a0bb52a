"""Balanced choices: shares by hand and what always holds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalerec.errors import ConfigError
from scalerec.meta.choosing import balanced, quotas


@pytest.mark.parametrize(
    ("sizes", "budget", "shares"),
    [
        ([5, 5], 4, [2, 2]),
        ([5, 5], 5, [3, 2]),  # the first of two as large
        ([2, 9, 9], 10, [2, 4, 4]),
        ([1, 2, 9], 9, [1, 2, 6]),
        ([3, 8, 5], 2, [0, 1, 1]),  # the largest first
        ([3, 8, 5], 99, [3, 8, 5]),
        ([0, 4], 3, [0, 3]),
        ([], 3, []),
    ],
)
def test_shares(sizes: list[int], budget: int, shares: list[int]) -> None:
    assert quotas(torch.tensor(sizes, dtype=torch.int64), budget).tolist() == shares


@given(sizes=st.lists(st.integers(0, 9), max_size=6), budget=st.integers(0, 40))
def test_shares_are_as_equal_as_can_be(sizes: list[int], budget: int) -> None:
    shares = quotas(torch.tensor(sizes, dtype=torch.int64), budget).tolist()
    assert sum(shares) == min(budget, sum(sizes))
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    most = max(shares, default=0)
    # Who gives less than the most, by more than the one left over, has no more.
    pairs = zip(shares, sizes, strict=True)
    assert all(share >= most - 1 or share == size for share, size in pairs)


def _first(members: Tensor, num: int) -> Tensor:
    return torch.arange(len(members))[:num]


def test_groups_take_turns_the_largest_first() -> None:
    groups = torch.tensor([7, 7, -2, 7, -2, 7])
    assert balanced(groups, 4, _first).tolist() == [0, 2, 1, 4]
    assert balanced(groups, 1, _first).tolist() == [0]
    assert balanced(groups, 6, _first).tolist() == [0, 2, 1, 4, 3, 5]


def test_wrong_words() -> None:
    with pytest.raises(ConfigError, match=r"sizes of groups must be int64, at least 0; got \[-1\]"):
        quotas(torch.tensor([-1]), 3)
    with pytest.raises(ConfigError, match="budget of examples must be at least 0; got -2"):
        balanced(torch.tensor([1]), -2, _first)

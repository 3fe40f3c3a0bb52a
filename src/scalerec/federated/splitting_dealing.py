"""Dealing rows to parties at random: to sizes that are given, or by what a row is labelled.

Each function gives the party of each row. Shapes: n rows, N parties, K labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["apportion", "deal", "deal_by_label", "deal_equally_by_label", "even_sizes"]

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


def deal(sizes: Index | Sequence[int], numbers: np.random.Generator) -> Index:
    """Deal rows out at random, so many to each party.

    Args:
        sizes: Rows of each party, ``[N]``; their sum is n.
        numbers: The source of randomness.

    Returns:
        The party of each row, ``[n]`` int64.
    """
    party_of = np.repeat(np.arange(len(sizes)), sizes)
    numbers.shuffle(party_of)
    return party_of


def even_sizes(num_rows: int, num_parties: int) -> Index:
    """Sizes that differ by one at most, the larger ones first, ``[N]``."""
    sizes = np.full(num_parties, num_rows // num_parties)
    sizes[: num_rows % num_parties] += 1
    return sizes


def apportion(total: int, shares: NDArray[Any], least: int = 1) -> Index:
    """Whole numbers in proportion to shares, by largest remainder.

    Args:
        total: Their sum, at least N times `least`.
        shares: ``[N]``, at least 0, not all 0.
        least: What each gets first; the rest is divided.

    Example:
        >>> apportion(10, np.array([1.0, 2.0, 5.0])).tolist()
        [2, 3, 5]
    """
    rest = total - least * len(shares)
    exact = shares / shares.sum() * rest
    found: Index = np.floor(exact).astype(np.int64)
    # Sums of floats may be a hair too large.
    missing = rest - int(found.sum())
    most = np.argsort(-(exact - found), kind="stable")
    found[most[: max(0, missing)]] += 1
    found += least
    return found


def deal_by_label(
    code_of: Index, num_parties: int, alpha: float, numbers: np.random.Generator
) -> Index:
    """Divide each label's rows by shares of their own, drawn from Dir(alpha, ..., alpha).

    Paper: Federated Learning on Non-IID Data Silos: An Experimental Study, Li et al., 2022,
    https://arxiv.org/abs/2102.02079, "distribution-based label imbalance". Sizes are uneven too,
    the more so the smaller alpha is, and a party may get nothing.

    Args:
        code_of: The label of each row, from 0 to K - 1, ``[n]``.
        num_parties: N.
        alpha: Above 0; small: a label has few holders; large: all hold alike.
        numbers: The source of randomness.

    Returns:
        The party of each row, ``[n]`` int64.
    """
    party_of = np.empty(len(code_of), np.int64)
    for rows in _rows_by_code(code_of):
        shares = numbers.dirichlet(np.full(num_parties, alpha))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(rows))
        party_of[numbers.permutation(rows)] = np.searchsorted(
            cuts, np.arange(len(rows)), side="right"
        )
    return party_of


def deal_equally_by_label(
    code_of: Index, num_parties: int, alpha: float, numbers: np.random.Generator
) -> Index:
    """Give all parties as many rows, each in a mix of labels of its own, drawn from Dir(alpha p).

    Paper: Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification, Hsu et al., 2019, https://arxiv.org/abs/1909.06335, section 3; p are the labels'
    shares of all rows. Rows are drawn without replacement: where a label runs out, a party goes on
    with its mix of the others, and with what is left where its mix has run out altogether.

    Args:
        code_of: The label of each row, from 0 to K - 1, ``[n]``.
        num_parties: N.
        alpha: Above 0; small: a party has few labels; large: all have alike.
        numbers: The source of randomness.

    Returns:
        The party of each row, ``[n]`` int64.
    """
    left = np.bincount(code_of)
    mixes = numbers.dirichlet(alpha * left / len(code_of), size=num_parties)
    counts = np.zeros((num_parties, len(left)), np.int64)
    # The first in line choose freely: no party's number may say who they are.
    for party in numbers.permutation(num_parties).tolist():
        need = len(code_of) // num_parties + (party < len(code_of) % num_parties)
        while need:
            chances = mixes[party] * (left > 0)
            if not chances.sum() > 0:
                chances = left.astype(np.float64)
            drawn = np.minimum(numbers.multinomial(need, chances / chances.sum()), left)
            counts[party] += drawn
            left -= drawn
            need -= int(drawn.sum())
    party_of = np.empty(len(code_of), np.int64)
    for code, rows in enumerate(_rows_by_code(code_of)):
        party_of[rows] = deal(counts[:, code], numbers)
    return party_of


def _rows_by_code(code_of: Index) -> list[Index]:
    order = np.argsort(code_of, kind="stable")
    return np.split(order, np.cumsum(np.bincount(code_of))[:-1])

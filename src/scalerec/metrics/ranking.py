"""Metrics of ranked lists against each user's relevant items.

Legend: U users, K columns of the ranked lists, V relevant items of all users together. Lists are
[U, K] item ids, best first, -1 where a list is shorter. Relevant items are ragged: user u owns
`values[offsets[u]:offsets[u + 1]]`. A user without a relevant item has no metric: such users are
left out of the mean and counted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from scalerec.metrics import checks
from scalerec.metrics.checks import BoolArray, FloatArray
from scalerec.metrics.matching import Matches, discounts, match


@dataclass(frozen=True, kw_only=True, slots=True)
class UserMean:
    """A mean over users (or lists), with the counts behind it.

    Attributes:
        value: the mean over the users for whom the metric is defined; None if there is none.
        num_users: users that arrived, undefined ones too.
        num_undefined: users for whom the metric is not defined; `value` leaves them out.
    """

    value: float | None
    num_users: int
    num_undefined: int


def mean_over_users(values_u: FloatArray, defined_u: BoolArray) -> UserMean:
    """Return the mean of `values_u` [U] where `defined_u` [U] is true."""
    num_defined = int(np.count_nonzero(defined_u))
    return UserMean(
        value=float(values_u[defined_u].sum()) / num_defined if num_defined else None,
        num_users=len(values_u),
        num_undefined=len(values_u) - num_defined,
    )


def hit_rate(
    ranked: npt.ArrayLike, values: npt.ArrayLike, offsets: npt.ArrayLike, k: int
) -> UserMean:
    """Share of users with at least one relevant item among their first k.

    Args:
        ranked: [U, K] int, item ids, best first, -1 where a list is shorter; K at least k.
        values: [V] int, relevant item ids, each once per user.
        offsets: [U + 1] int, from 0 to V.
        k: length of list that counts, at least 1.

    Returns:
        The mean over users with a relevant item.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `k` is below 1.

    Example:
        >>> hit_rate([[3, 5], [4, 1]], values=[5, 2], offsets=[0, 1, 2], k=2).value
        0.5
    """
    return _mean_at("hit_rate", ranked, values, offsets, k)


def recall(
    ranked: npt.ArrayLike, values: npt.ArrayLike, offsets: npt.ArrayLike, k: int
) -> UserMean:
    """Share of a user's relevant items that are among the first k, averaged over users.

    The divisor is the number of relevant items, also where it is above k.

    Args:
        ranked: [U, K] int, item ids, best first, -1 where a list is shorter; K at least k.
        values: [V] int, relevant item ids, each once per user.
        offsets: [U + 1] int, from 0 to V.
        k: length of list that counts, at least 1.

    Returns:
        The mean over users with a relevant item.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `k` is below 1.

    Example:
        >>> recall([[3, 5, 8]], values=[5, 2], offsets=[0, 2], k=3).value
        0.5
    """
    return _mean_at("recall", ranked, values, offsets, k)


def precision(
    ranked: npt.ArrayLike, values: npt.ArrayLike, offsets: npt.ArrayLike, k: int
) -> UserMean:
    """Relevant items among the first k, over k (also where a list is shorter).

    Args:
        ranked: [U, K] int, item ids, best first, -1 where a list is shorter; K at least k.
        values: [V] int, relevant item ids, each once per user.
        offsets: [U + 1] int, from 0 to V.
        k: length of list that counts, at least 1.

    Returns:
        The mean over users with a relevant item.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `k` is below 1.

    Example:
        >>> precision([[3, 5, 8, -1]], values=[5, 2], offsets=[0, 2], k=4).value
        0.25
    """
    return _mean_at("precision", ranked, values, offsets, k)


def mrr(ranked: npt.ArrayLike, values: npt.ArrayLike, offsets: npt.ArrayLike, k: int) -> UserMean:
    """Mean reciprocal rank: 1 / rank of the first relevant item, 0 if it is not among the first k.

    Args:
        ranked: [U, K] int, item ids, best first, -1 where a list is shorter; K at least k.
        values: [V] int, relevant item ids, each once per user.
        offsets: [U + 1] int, from 0 to V.
        k: length of list that counts, at least 1.

    Returns:
        The mean over users with a relevant item.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `k` is below 1.

    Example:
        >>> mrr([[3, 5, 2]], values=[5, 2], offsets=[0, 2], k=3).value
        0.5
    """
    return _mean_at("mrr", ranked, values, offsets, k)


def mean_average_precision(
    ranked: npt.ArrayLike, values: npt.ArrayLike, offsets: npt.ArrayLike, k: int
) -> UserMean:
    """Mean over users of the average precision at the ranks of the hits.

    The divisor is min(k, number of relevant items), so that the best possible list has 1; some
    authors divide by the number of relevant items, which differs where it is above k.

    Args:
        ranked: [U, K] int, item ids, best first, -1 where a list is shorter; K at least k.
        values: [V] int, relevant item ids, each once per user.
        offsets: [U + 1] int, from 0 to V.
        k: length of list that counts, at least 1.

    Returns:
        The mean over users with a relevant item.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `k` is below 1.

    Example:
        >>> mean_average_precision([[5, 3, 2, 9]], values=[5, 9], offsets=[0, 2], k=4).value
        0.75
    """
    return _mean_at("map", ranked, values, offsets, k)


def ndcg(
    ranked: npt.ArrayLike,
    values: npt.ArrayLike,
    offsets: npt.ArrayLike,
    k: int,
    gains: npt.ArrayLike | None = None,
) -> UserMean:
    """Normalised discounted cumulative gain: sum of gain / log2(rank + 1), over the best list's.

    "Cumulated gain-based evaluation of IR techniques", 2002,
    https://doi.org/10.1145/582415.582418, with the discount log2(rank + 1) that is usual today.
    Gains are taken as they are; for 2**relevance - 1 pass that.

    Args:
        ranked: [U, K] int, item ids, best first, -1 where a list is shorter; K at least k.
        values: [V] int, relevant item ids, each once per user.
        offsets: [U + 1] int, from 0 to V.
        k: length of list that counts, at least 1.
        gains: [V], from 1e-100 to 1e100, the gain of each relevant item; 1 each if None.

    Returns:
        The mean over users with a relevant item.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `k` is below 1.

    Example:
        >>> ndcg([[3, 8, 5]], values=[5], offsets=[0, 1], k=3).value
        0.5
        >>> ndcg([[5, 2]], values=[2, 5], offsets=[0, 2], k=2, gains=[1, 3]).value
        1.0
    """
    return _mean_at("ndcg", ranked, values, offsets, k, gains=gains)


def _mean_at(
    name: str,
    ranked: npt.ArrayLike,
    values: npt.ArrayLike,
    offsets: npt.ArrayLike,
    k: int,
    *,
    gains: npt.ArrayLike | None = None,
) -> UserMean:
    k = checks.whole_number("k", k)
    matches = match(ranked, values, offsets, k=k, gains=gains)
    return mean_over_users(PER_USER[name](matches, k), matches.num_relevant_u > 0)


def _hit_u(matches: Matches, k: int) -> FloatArray:
    return np.minimum(_hits_u(matches, k), 1.0)


def _recall_u(matches: Matches, k: int) -> FloatArray:
    recall_u: FloatArray = _hits_u(matches, k) / np.maximum(matches.num_relevant_u, 1)
    return recall_u


def _precision_u(matches: Matches, k: int) -> FloatArray:
    return _hits_u(matches, k) / k


def _reciprocal_rank_u(matches: Matches, k: int) -> FloatArray:
    hit_uk = matches.hit_uk[:, :k]
    first_u = np.argmax(hit_uk, axis=1) + 1.0
    reciprocal_u: FloatArray = np.where(hit_uk.any(axis=1), 1.0 / first_u, 0.0)
    return reciprocal_u


def _average_precision_u(matches: Matches, k: int) -> FloatArray:
    hit_uk = matches.hit_uk[:, :k]
    precision_uk = np.cumsum(hit_uk, axis=1) / np.arange(1, k + 1)
    best_u = np.clip(matches.num_relevant_u, 1, k)
    averages: FloatArray = np.sum(precision_uk * hit_uk, axis=1) / best_u
    return averages


def _ndcg_u(matches: Matches, k: int) -> FloatArray:
    found_u = matches.gain_uk[:, :k] @ discounts(k)
    best_u = matches.best_gain(k)
    ratio_u = np.zeros(len(best_u))
    np.divide(found_u, best_u, out=ratio_u, where=best_u > 0)
    # The two sums run in different orders, so the best list may pass 1 by one unit.
    return np.minimum(ratio_u, 1.0)


def _hits_u(matches: Matches, k: int) -> FloatArray:
    hits_u: FloatArray = np.sum(matches.hit_uk[:, :k], axis=1, dtype=np.float64)
    return hits_u


#: Name of each metric and its value per user, [U]; users without a relevant item hold 0.
PER_USER: Mapping[str, Callable[[Matches, int], FloatArray]] = MappingProxyType(
    {
        "hit_rate": _hit_u,
        "recall": _recall_u,
        "precision": _precision_u,
        "ndcg": _ndcg_u,
        "mrr": _reciprocal_rank_u,
        "map": _average_precision_u,
    }
)

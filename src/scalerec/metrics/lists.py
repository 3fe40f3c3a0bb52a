"""What lists are like beyond their hits: coverage, diversity, novelty, personalisation.

Legend: U users, K columns, I items, D features of an item. Lists are [U, K] item ids, best first,
-1 where a list is shorter.
"""

import numpy as np
import numpy.typing as npt

from scalerec.errors import DataError
from scalerec.metrics import checks
from scalerec.metrics.checks import FloatArray, IntArray
from scalerec.metrics.ranking import UserMean, mean_over_users


def catalogue_coverage(ranked: npt.ArrayLike, num_items: int, k: int) -> float | None:
    """Share of the catalogue that stands in at least one user's first k.

    Args:
        ranked: [U, K] int, item ids, best first, -1 where a list is shorter; K at least k.
        num_items: number of items that could be shown, at least 1.
        k: length of list that counts, at least 1.

    Returns:
        A number in [0, 1], or None if there are no users.

    Raises:
        DataError: on wrong shapes or values, or if the lists hold more items than `num_items`.
        ConfigError: if `k` or `num_items` is below 1.

    Example:
        >>> catalogue_coverage([[2, 3], [2, 4]], num_items=6, k=2)
        0.5
    """
    lists_uk = _lists(ranked, k)
    num_items = checks.whole_number("num_items", num_items)
    if not len(lists_uk):
        return None
    num_shown = len(np.unique(lists_uk[lists_uk >= 0]))
    if num_shown > num_items:
        raise DataError(
            f"ranked must hold at most num_items={num_items} different items; got {num_shown}"
        )
    return num_shown / num_items


def intra_list_diversity(ranked: npt.ArrayLike, features: npt.ArrayLike, k: int) -> UserMean:
    """Mean of 1 - cosine over the pairs of items in a list, averaged over users.

    "Improving recommendation lists through topic diversification", 2005,
    https://doi.org/10.1145/1060745.1060754, as a mean of distances. An item whose features are all
    zero has no direction and is left out of its list; a list with fewer than two items has no
    diversity and is left out of the mean.

    Args:
        ranked: [U, K] int, rows of `features`, best first, -1 where a list is shorter.
        features: [I, D], finite, at most 1e100 in size.
        k: length of list that counts, at least 1.

    Returns:
        The mean over users, in [0, 2].

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `k` is below 1.

    Example:
        >>> intra_list_diversity([[0, 1]], features=[[1.0, 0.0], [0.0, 2.0]], k=2).value
        1.0
    """
    lists_uk = _lists(ranked, k)
    unit_id = _unit_rows(checks.reals("features", features, ndim=2, bounded=True))
    _refuse_beyond(lists_uk, len(unit_id), "features")
    known_i = np.count_nonzero(unit_id, axis=1) > 0
    sum_ud = np.zeros((len(lists_uk), unit_id.shape[1]))
    count_u = np.zeros(len(lists_uk))
    # Column by column: the sum of all cosines is |sum of unit vectors|^2, so no [U, k, D] is held.
    for item_u in lists_uk.T:
        listed_u = np.flatnonzero(item_u >= 0)
        listed_u = listed_u[known_i[item_u[listed_u]]]
        sum_ud[listed_u] += unit_id[item_u[listed_u]]
        count_u[listed_u] += 1.0
    pairs_u = count_u * (count_u - 1.0)
    cosines_u = np.einsum("ud,ud->u", sum_ud, sum_ud) - count_u
    defined_u = pairs_u > 0
    mean_u = np.divide(cosines_u, pairs_u, out=np.zeros_like(pairs_u), where=defined_u)
    return mean_over_users(np.clip(1.0 - mean_u, 0.0, 2.0), defined_u)


def novelty(ranked: npt.ArrayLike, popularity: npt.ArrayLike, k: int) -> UserMean:
    """Mean surprise of the items in a list, -log2 of their share of interactions, in bits.

    "Novelty and Diversity Metrics for Recommender Systems: Choice, Discovery and Relevance", 2011
    (Castells, Vargas, Wang), self-information; see also
    https://doi.org/10.1145/2043932.2043955. An item without interactions counts as if it had one,
    so that its surprise is large and finite. An empty list is undefined, and so are all lists if
    nothing has an interaction.

    Args:
        ranked: [U, K] int, rows of `popularity`, best first, -1 where a list is shorter.
        popularity: [I], number of interactions of each item in the training rows: 0, or from 1
            to 1e100.
        k: length of list that counts, at least 1.

    Returns:
        The mean over users, in bits.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `k` is below 1.

    Example:
        >>> novelty([[0, 1]], popularity=[2, 1, 1], k=2).value
        1.5
    """
    lists_uk = _lists(ranked, k)
    count_i = checks.reals("popularity", popularity, bounded=True)
    checks.refuse("popularity", ~((count_i == 0) | (count_i >= 1)), count_i, "0 or at least 1")
    _refuse_beyond(lists_uk, len(count_i), "popularity")
    total = float(count_i.sum())
    listed_uk = lists_uk >= 0
    length_u = np.count_nonzero(listed_uk, axis=1)
    if total == 0:
        return mean_over_users(np.zeros(len(lists_uk)), np.zeros(len(lists_uk), dtype=np.bool_))
    bits_i = np.log2(total) - np.log2(np.maximum(count_i, 1.0))
    bits_uk = np.zeros(lists_uk.shape)
    bits_uk[listed_uk] = bits_i[lists_uk[listed_uk]]
    return mean_over_users(bits_uk.sum(axis=1) / np.maximum(length_u, 1), length_u > 0)


def personalisation(ranked: npt.ArrayLike, k: int) -> float | None:
    """One minus the mean share of items that two users' lists have in common.

    Args:
        ranked: [U, K] int, item ids, best first, -1 where a list is shorter; K at least k.
        k: length of list that counts, at least 1; the divisor of every pair.

    Returns:
        A number in [0, 1]: 0 if all see one list, 1 if no two users share an item; None with fewer
        than two users.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `k` is below 1.

    Example:
        >>> personalisation([[1, 2], [2, 3]], k=2)
        0.5
    """
    lists_uk = _lists(ranked, k)
    num_users = len(lists_uk)
    if num_users < 2:
        return None
    shown = np.unique(lists_uk[lists_uk >= 0], return_counts=True)[1].astype(np.float64)
    return 1.0 - float(np.sum(shown * (shown - 1.0))) / (num_users * (num_users - 1.0) * k)


def _lists(ranked: npt.ArrayLike, k: int) -> IntArray:
    k = checks.whole_number("k", k)
    return checks.ranked_lists(ranked, k)[:, :k]


def _refuse_beyond(lists_uk: IntArray, num_items: int, name: str) -> None:
    checks.refuse(
        "ranked",
        lists_uk >= num_items,
        lists_uk,
        f"below the number of rows of {name}, {num_items}",
    )


def _unit_rows(features: FloatArray) -> FloatArray:
    """Scale rows to length 1, by the largest entry first, so that tiny rows do not vanish."""
    largest = np.abs(features).max(axis=1, keepdims=True, initial=0.0)
    scaled = np.divide(features, largest, out=np.zeros_like(features), where=largest > 0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: FloatArray = np.divide(scaled, length, out=np.zeros_like(scaled), where=length > 0)
    return unit

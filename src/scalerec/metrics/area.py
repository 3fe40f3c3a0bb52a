"""Area under the ROC curve: over all rows, and within groups.

Both sort once and then work on runs of equal scores, without a Python loop. Legend: B rows, R runs
of equal score inside a group, G groups.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scalerec.metrics.checks import (
    AnyArray,
    BoolArray,
    FloatArray,
    IntArray,
    binary_labels,
    group_keys,
    reals,
    row_weights,
    same_rows,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedAuc:
    """The result of `gauc`.

    Attributes:
        value: the weighted mean of the groups' AUC, in [0, 1]; None if no group has both classes.
        num_groups: groups that arrived, undefined ones too.
        num_undefined: groups with one class only (after weights); `value` leaves them out.
        num_rows: rows that arrived, in all groups.
    """

    value: float | None
    num_groups: int
    num_undefined: int
    num_rows: int


def auc(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """Area under the ROC curve, exact; a tie between a positive and a negative counts one half.

    Args:
        labels: [B], 0 or 1.
        scores: [B], finite; a higher score means "more likely 1". Only their order matters.
        weights: [B], 0 or from 1e-100 to 1e100; a pair weighs the product of its two weights.

    Returns:
        A number in [0, 1], or None if one class is absent (or has no weight).

    Raises:
        DataError: on wrong shapes or values.

    Example:
        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
        0.75
        >>> auc([1, 1], [0.3, 0.6]) is None
        True
    """
    positive = binary_labels(labels)
    numbers = reals("scores", scores)
    same_rows("scores", numbers, len(positive))
    row_weight = row_weights(weights, len(positive))
    if not len(positive):
        return None
    order = np.argsort(numbers, kind="stable")
    first_row_of_group = np.zeros(len(positive), dtype=np.bool_)
    first_row_of_group[0] = True
    area_g, defined_g, _ = _areas(positive, numbers, row_weight, order, first_row_of_group)
    return float(area_g[0]) if defined_g[0] else None


def gauc(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
) -> GroupedAuc:
    """AUC inside each group (usually a user), averaged by the groups' impressions.

    "Deep Interest Network for Click-Through Rate Prediction", 2017,
    https://arxiv.org/abs/1706.06978, the user-weighted AUC of its section on metrics. A group with
    one class only has no AUC; it is left out and counted. A group's impressions are its rows, or
    with `weights` the sum of its weights.

    Args:
        labels: [B], 0 or 1.
        scores: [B], finite.
        groups: [B], integers or strings.
        weights: [B], 0 or from 1e-100 to 1e100.

    Returns:
        The mean and the counts behind it.

    Raises:
        DataError: on wrong shapes or values.

    Example:
        >>> gauc([0, 1, 1, 0, 1], [0.2, 0.9, 0.1, 0.3, 0.5], [7, 7, 8, 8, 9])
        GroupedAuc(value=0.5, num_groups=3, num_undefined=1, num_rows=5)
    """
    positive = binary_labels(labels)
    numbers = reals("scores", scores)
    same_rows("scores", numbers, len(positive))
    keys = _integer_keys(group_keys(groups, len(positive)))
    row_weight = row_weights(weights, len(positive))
    if not len(positive):
        return GroupedAuc(value=None, num_groups=0, num_undefined=0, num_rows=0)
    order = np.lexsort((numbers, keys))
    area_g, defined_g, weight_g = _areas(positive, numbers, row_weight, order, _starts(keys[order]))
    impressions = weight_g[defined_g]
    value = (
        float(np.dot(area_g[defined_g], impressions) / impressions.sum())
        if len(impressions)
        else None
    )
    return GroupedAuc(
        value=None if value is None else min(value, 1.0),
        num_groups=len(area_g),
        num_undefined=int(len(area_g) - len(impressions)),
        num_rows=len(positive),
    )


def _integer_keys(keys: AnyArray) -> IntArray:
    """Number string keys, because sorting strings is slow."""
    if keys.dtype.kind != "U":
        return keys.astype(np.int64, copy=False)
    return np.unique(keys, return_inverse=True)[1].astype(np.int64, copy=False)


def _starts(ordered: AnyArray) -> BoolArray:
    """Mark the first element of each run of equal elements."""
    mark = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=mark[1:])
    return mark


def _areas(
    positive: BoolArray,
    scores: FloatArray,
    weights: FloatArray | None,
    order: IntArray,
    first_row_of_group: BoolArray,
) -> tuple[FloatArray, BoolArray, FloatArray]:
    """Return each group's AUC [G], whether it is defined [G], and its weight [G].

    `order` sorts the rows by group, then by score; `first_row_of_group` is in that order. Without
    weights every sum is a whole number or a half, so the result is exact up to the last division.
    """
    positive = positive[order]
    weight_b = np.ones(len(positive)) if weights is None else weights[order]
    run_b = np.flatnonzero(first_row_of_group | _starts(scores[order]))
    positive_r = np.add.reduceat(np.where(positive, weight_b, 0.0), run_b)
    negative_r = np.add.reduceat(np.where(positive, 0.0, weight_b), run_b)
    first_run_g = np.flatnonzero(first_row_of_group[run_b])
    positive_g = np.add.reduceat(positive_r, first_run_g)
    negative_g = np.add.reduceat(negative_r, first_run_g)
    beaten_r = _sums_before(negative_r, negative_g, first_run_g) + negative_r / 2
    pairs_g = positive_g * negative_g
    defined_g = pairs_g > 0
    won_g = np.add.reduceat(positive_r * beaten_r, first_run_g)
    area_g = np.divide(won_g, pairs_g, out=np.zeros_like(won_g), where=defined_g)
    # Rounding of weighted sums may pass 1 by one unit in the last place.
    return np.clip(area_g, 0.0, 1.0), defined_g, positive_g + negative_g


def _sums_before(values_r: FloatArray, total_g: FloatArray, first_run_g: IntArray) -> FloatArray:
    """Return, for each run, the sum of the runs before it in its own group.

    One running sum over everything would round to the size of the whole set. Taking a group's total
    off where the next one starts keeps the sum, and so its rounding, at the size of one group.
    """
    steps_r = values_r.copy()
    steps_r[first_run_g[1:]] -= total_g[:-1]
    before_r = np.cumsum(steps_r) - values_r
    runs_g = np.diff(np.append(first_run_g, len(values_r)))
    before_r -= np.repeat(before_r[first_run_g], runs_g)
    return before_r

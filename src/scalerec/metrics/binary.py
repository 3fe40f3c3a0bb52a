"""Log loss, normalised entropy and calibration of predicted probabilities of a binary label.

Each metric is a quotient of sums; the sums are functions of their own, because the accumulators add
them up over batches and processes.
"""

import numpy as np
import numpy.typing as npt

from scalerec.metrics import checks
from scalerec.metrics.checks import BoolArray, FloatArray

#: Default clip: the spacing of float64 at 1, as scikit-learn does.
EPS = float(np.finfo(np.float64).eps)


def log_loss(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    eps: float = EPS,
) -> float | None:
    """Mean negative log likelihood, in nats.

    Args:
        labels: [B], 0 or 1.
        probabilities: [B], of label 1, in [0, 1]; clipped to [eps, 1 - eps] first, so that one
            sure and wrong row costs -log(eps) (36.04 by default) and not infinity.
        weights: [B], 0 or from 1e-100 to 1e100.
        eps: the clip, above 0 and below 0.5.

    Returns:
        A number of at least 0, or None if there are no rows or no weight.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `eps` is out of range.

    Example:
        >>> round(log_loss([1, 0], [0.5, 0.5]), 6)
        0.693147
    """
    positive, numbers, row_weight = _inputs(labels, probabilities, weights)
    total = weight_sum(positive, row_weight)
    loss = log_loss_sum(positive, numbers, row_weight, checks.clip_eps(eps))
    return loss / total if total > 0 else None


def ne(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    eps: float = EPS,
) -> float | None:
    """Normalised entropy: log loss over the entropy of the base rate; below 1 is better than it.

    "Practical Lessons from Predicting Clicks on Ads at Facebook", 2014,
    https://doi.org/10.1145/2648584.2648589, equation 1. The base rate is that of these very rows.

    Args:
        labels: [B], 0 or 1.
        probabilities: [B], of label 1, in [0, 1]; clipped to [eps, 1 - eps].
        weights: [B], 0 or from 1e-100 to 1e100.
        eps: the clip, above 0 and below 0.5.

    Returns:
        A number of at least 0, or None if one class is absent (or has no weight).

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `eps` is out of range.

    Example:
        >>> ne([1, 0, 0, 0], [0.25, 0.25, 0.25, 0.25])
        1.0
    """
    positive, numbers, row_weight = _inputs(labels, probabilities, weights)
    return ne_of_sums(
        loss=log_loss_sum(positive, numbers, row_weight, checks.clip_eps(eps)),
        positive=weight_sum(positive, row_weight, of=positive),
        total=weight_sum(positive, row_weight),
    )


def ece(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    num_bins: int = 10,
    equal_mass: bool = False,
) -> float | None:
    """Expected calibration error: mean gap between predicted and observed rate over bins.

    "On Calibration of Modern Neural Networks", 2017, https://arxiv.org/abs/1706.04599, equation 3,
    for the probability of label 1. A bin holds its upper edge; the first one holds 0 as well.

    Args:
        labels: [B], 0 or 1.
        probabilities: [B], of label 1, in [0, 1].
        weights: [B], 0 or from 1e-100 to 1e100.
        num_bins: number of bins, at least 1.
        equal_mass: put the edges at quantiles of the rows (weights do not move them) instead of
            equal distances. Equal probabilities always share a bin.

    Returns:
        A number in [0, 1], or None if there are no rows or no weight.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `num_bins` is below 1.

    Example:
        >>> round(ece([0, 0, 1, 1], [0.1, 0.1, 0.9, 0.7]), 6)
        0.15
    """
    positive, numbers, row_weight = _inputs(labels, probabilities, weights)
    edges = np.linspace(0.0, 1.0, checks.whole_number("num_bins", num_bins) + 1)
    if equal_mass and len(numbers):
        edges = np.quantile(numbers, edges)
    return ece_of_sums(bin_sums(positive, numbers, row_weight, edges))


def weight_sum(rows: BoolArray, weights: FloatArray | None, of: BoolArray | None = None) -> float:
    """Return the sum of weights, of all rows or of those marked in `of`."""
    if weights is None:
        return float(len(rows) if of is None else np.count_nonzero(of))
    return float(weights.sum() if of is None else weights[of].sum())


def log_loss_sum(
    positive: BoolArray, probabilities: FloatArray, weights: FloatArray | None, eps: float
) -> float:
    """Return the weighted sum of negative log likelihoods, in nats, of clean arrays [B]."""
    clipped = np.clip(probabilities, eps, 1.0 - eps)
    loss = -np.log(np.where(positive, clipped, 1.0 - clipped))
    return float(loss.sum() if weights is None else np.sum(loss * weights))


def bin_sums(
    positive: BoolArray, probabilities: FloatArray, weights: FloatArray | None, edges: FloatArray
) -> FloatArray:
    """Return [3, bins] of clean arrays [B]: weight, weight of label 1, weighted probability."""
    bins = np.searchsorted(edges[1:-1], probabilities, side="left")
    weight = np.ones(len(bins)) if weights is None else weights
    parts = (weight, weight * positive, weight * probabilities)
    return np.stack([np.bincount(bins, part, minlength=len(edges) - 1) for part in parts])


def ne_of_sums(*, loss: float, positive: float, total: float) -> float | None:
    """Return normalised entropy from the sum of losses and the weights of label 1 and of all."""
    if not 0 < positive < total:
        return None
    rate = np.array([positive / total, (total - positive) / total])
    entropy = float(-np.sum(rate * np.log(rate)))
    return loss / total / entropy if entropy > 0 else None


def ece_of_sums(sums: FloatArray) -> float | None:
    """Return expected calibration error from what `bin_sums` gave."""
    total = float(sums[0].sum())
    return float(np.abs(sums[1] - sums[2]).sum()) / total if total > 0 else None


def _inputs(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[BoolArray, FloatArray, FloatArray | None]:
    positive = checks.binary_labels(labels)
    numbers = checks.probabilities(probabilities)
    checks.same_rows("probabilities", numbers, len(positive))
    return positive, numbers, checks.row_weights(weights, len(positive))

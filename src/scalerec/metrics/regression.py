"""Errors of predicted numbers."""

import math

import numpy as np
import numpy.typing as npt

from scalerec.metrics import checks
from scalerec.metrics.checks import FloatArray


def rmse(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """Root of the mean squared error, in the unit of the target.

    Args:
        targets: [B], finite, at most 1e100 in size.
        predictions: [B], finite, at most 1e100 in size.
        weights: [B], 0 or from 1e-100 to 1e100.

    Returns:
        A number of at least 0, or None if there are no rows or no weight.

    Raises:
        DataError: on wrong shapes or values.

    Example:
        >>> rmse([1.0, 2.0], [1.0, 4.0], weights=[1, 1])
        1.4142135623730951
    """
    squares, _, total = error_sums(targets, predictions, weights)
    return math.sqrt(squares / total) if total > 0 else None


def mae(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """Mean absolute error, in the unit of the target.

    Args:
        targets: [B], finite, at most 1e100 in size.
        predictions: [B], finite, at most 1e100 in size.
        weights: [B], 0 or from 1e-100 to 1e100.

    Returns:
        A number of at least 0, or None if there are no rows or no weight.

    Raises:
        DataError: on wrong shapes or values.

    Example:
        >>> mae([1.0, 2.0], [1.0, 4.0])
        1.0
    """
    _, sizes, total = error_sums(targets, predictions, weights)
    return sizes / total if total > 0 else None


def error_sums(
    targets: npt.ArrayLike, predictions: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[float, float, float]:
    """Return the weighted sums of squared error, of absolute error, and of the weights.

    Raises:
        DataError: on wrong shapes or values.
    """
    wanted = checks.reals("targets", targets, bounded=True)
    given = checks.reals("predictions", predictions, bounded=True)
    checks.same_rows("predictions", given, len(wanted), "targets")
    row_weight = checks.row_weights(weights, len(wanted), "targets")
    weight: FloatArray = np.ones(len(wanted)) if row_weight is None else row_weight
    error = np.abs(given - wanted)
    return float(np.sum(weight * error**2)), float(np.sum(weight * error)), float(weight.sum())

"""Accuracy and log loss of a label with several classes."""

import numpy as np
import numpy.typing as npt

from scalerec.errors import DataError
from scalerec.metrics import checks
from scalerec.metrics.binary import EPS
from scalerec.metrics.checks import FloatArray, IntArray

#: How far the probabilities of a row may sum from 1; a float32 softmax stays well inside.
SUM_TOLERANCE = 1e-3


def accuracy(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float | None:
    """Share of rows whose predicted class is the label.

    Args:
        labels: [B], integers.
        predictions: [B], integers: the predicted class.
        weights: [B], 0 or from 1e-100 to 1e100.

    Returns:
        A number in [0, 1], or None if there are no rows or no weight.

    Raises:
        DataError: on wrong shapes or values.

    Example:
        >>> accuracy([0, 2, 1, 1], [0, 2, 2, 1])
        0.75
    """
    wanted = checks.integers("labels", labels)
    given = checks.integers("predictions", predictions)
    checks.same_rows("predictions", given, len(wanted))
    weight = _weights(weights, len(wanted))
    total = float(weight.sum())
    return float(weight[wanted == given].sum()) / total if total > 0 else None


def multiclass_log_loss(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    eps: float = EPS,
) -> float | None:
    """Mean negative log probability of the label, in nats.

    Args:
        labels: [B], integers from 0 to below the number of classes.
        probabilities: [B, classes], in [0, 1]; each row sums to 1 within 1e-3 and is not
            renormalised. Clipped to [eps, 1 - eps] first.
        weights: [B], 0 or from 1e-100 to 1e100.
        eps: the clip, above 0 and below 0.5.

    Returns:
        A number of at least 0, or None if there are no rows or no weight.

    Raises:
        DataError: on wrong shapes or values.
        ConfigError: if `eps` is out of range.

    Example:
        >>> round(multiclass_log_loss([0, 2], [[0.5, 0.3, 0.2], [0.25, 0.25, 0.5]]), 6)
        0.693147
    """
    loss, _, total = class_sums(labels, probabilities, weights, checks.clip_eps(eps))
    return loss / total if total > 0 else None


def class_sums(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    weights: npt.ArrayLike | None,
    eps: float,
) -> tuple[float, float, float]:
    """Return the weighted sum of losses, the weight of right rows, and the weight of all rows.

    The predicted class is the most probable one, the first of them on a tie.

    Raises:
        DataError: on wrong shapes or values.
    """
    wanted, chances = _class_inputs(labels, probabilities)
    weight = _weights(weights, len(wanted))
    if not len(wanted):
        return 0.0, 0.0, 0.0
    chosen = chances[np.arange(len(wanted)), wanted]
    loss = -np.log(np.clip(chosen, eps, 1.0 - eps))
    right = np.argmax(chances, axis=1) == wanted
    return float(np.sum(weight * loss)), float(weight[right].sum()), float(weight.sum())


def _class_inputs(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike
) -> tuple[IntArray, FloatArray]:
    wanted = checks.integers("labels", labels)
    chances = checks.probabilities(probabilities, ndim=2)
    checks.same_rows("probabilities", chances, len(wanted))
    num_classes = chances.shape[1]
    outside = (wanted < 0) | (wanted >= num_classes)
    checks.refuse("labels", outside, wanted, f"from 0 to {num_classes - 1}, a column's number")
    sums = chances.sum(axis=1)
    off = np.abs(sums - 1.0) > SUM_TOLERANCE
    if off.any():
        row = int(np.argmax(off))
        raise DataError(
            f"probabilities must sum to 1 in each row (within {SUM_TOLERANCE:g}); "
            f"got {sums[row]} at row {row}"
        )
    return wanted, chances


def _weights(weights: npt.ArrayLike | None, num_rows: int) -> FloatArray:
    row_weight = checks.row_weights(weights, num_rows)
    return np.ones(num_rows) if row_weight is None else row_weight

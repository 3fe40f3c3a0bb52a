"""The accumulator of a binary label; `accumulate` says what all accumulators have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from scalerec.errors import DataError
from scalerec.metrics import checks
from scalerec.metrics.area import GroupedAuc, auc, gauc
from scalerec.metrics.binary import (
    EPS,
    bin_sums,
    ece_of_sums,
    log_loss_sum,
    ne_of_sums,
    weight_sum,
)
from scalerec.metrics.checks import AnyArray, BoolArray, FloatArray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Rows:
    """The rows of one batch, kept for the exact AUC."""

    positive: BoolArray
    scores: FloatArray
    weights: FloatArray | None
    groups: AnyArray | None


@dataclass(kw_only=True, slots=True, eq=False)
class BinaryMetrics:
    """AUC, log loss, normalised entropy, calibration error, and GAUC where groups are given.

    It keeps every row (9 bytes, and 8 each for a weight and a group), because an exact AUC needs
    the order of all scores; the other metrics are sums.

    Args:
        num_bins: equal-width bins of the calibration error, at least 1.
        eps: clip of the logarithm, above 0 and below 0.5.

    Example:
        >>> metrics = BinaryMetrics()
        >>> metrics.update([0, 1], [0.2, 0.7])
        >>> metrics.update([1, 0], [0.4, 0.6])
        >>> metrics.compute()["auc"]
        0.75
    """

    num_bins: int = 10
    eps: float = EPS
    _rows: list[_Rows] = field(default_factory=list, init=False, repr=False)
    _loss: float = field(default=0.0, init=False, repr=False)
    _weight: float = field(default=0.0, init=False, repr=False)
    _positive_weight: float = field(default=0.0, init=False, repr=False)
    _bins: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.num_bins = checks.whole_number("num_bins", self.num_bins)
        self.eps = checks.clip_eps(self.eps)
        self._bins = np.zeros((3, self.num_bins))

    def update(
        self,
        labels: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        *,
        groups: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
    ) -> None:
        """Add rows; the arrays are copied.

        Args:
            labels: [B], 0 or 1.
            probabilities: [B], of label 1, in [0, 1].
            groups: [B], integers or strings; in every batch or in none.
            weights: [B], 0 or from 1e-100 to 1e100; 1 each if None.

        Raises:
            DataError: on wrong shapes or values, or groups unlike those of earlier batches.
        """
        positive = checks.binary_labels(labels)
        scores = np.array(checks.probabilities(probabilities))
        checks.same_rows("probabilities", scores, len(positive))
        weight = checks.row_weights(weights, len(positive))
        keys = None if groups is None else np.array(checks.group_keys(groups, len(positive)))
        if not len(positive):
            return
        kept = None if weight is None else np.array(weight)
        rows = _Rows(positive=positive, scores=scores, weights=kept, groups=keys)
        _check_groups([*self._rows[:1], rows])
        self._rows.append(rows)
        self._loss += log_loss_sum(positive, scores, kept, self.eps)
        self._weight += weight_sum(positive, kept)
        self._positive_weight += weight_sum(positive, kept, of=positive)
        edges = np.linspace(0.0, 1.0, self.num_bins + 1)
        self._bins = self._bins + bin_sums(positive, scores, kept, edges)

    def merge(self, other: Self) -> Self:
        """Return a new accumulator of the rows of both.

        Raises:
            ConfigError: if the settings differ.
            DataError: if one has groups and the other has none, or groups of another type.
        """
        checks.same_setting("num_bins", self.num_bins, other.num_bins)
        checks.same_setting("eps", self.eps, other.eps)
        _check_groups([*self._rows[:1], *other._rows[:1]])
        merged = type(self)(num_bins=self.num_bins, eps=self.eps)
        merged._rows = [*self._rows, *other._rows]
        merged._loss = self._loss + other._loss
        merged._weight = self._weight + other._weight
        merged._positive_weight = self._positive_weight + other._positive_weight
        merged._bins = self._bins + other._bins
        return merged

    def compute(self) -> dict[str, float | None]:
        """Return `auc`, `log_loss`, `ne` and `ece`, and `gauc` if groups were given."""
        positive, scores, weights = self._columns()
        metrics = {
            "auc": auc(positive, scores, weights),
            "log_loss": self._loss / self._weight if self._weight > 0 else None,
            "ne": ne_of_sums(loss=self._loss, positive=self._positive_weight, total=self._weight),
            "ece": ece_of_sums(self._bins),
        }
        grouped = self.grouped_auc()
        return metrics if grouped is None else {**metrics, "gauc": grouped.value}

    def counts(self) -> dict[str, int]:
        """Return `rows`, `positives`, and if there are groups `groups`, `undefined_groups`."""
        counts = {
            "rows": sum(len(rows.positive) for rows in self._rows),
            "positives": sum(int(np.count_nonzero(rows.positive)) for rows in self._rows),
        }
        grouped = self.grouped_auc()
        if grouped is None:
            return counts
        return {
            **counts,
            "groups": grouped.num_groups,
            "undefined_groups": grouped.num_undefined,
        }

    def calibration(self) -> list[dict[str, float | None]]:
        """Return the bins of the calibration error, from 0 to 1.

        Each has `low` and `high`, its edges; `count`, the weight of its rows; and `mean_score` and
        `share_positive`, which are None where it has none.
        """
        counts, positives, scores = self._bins
        width = 1.0 / self.num_bins
        return [
            {
                "low": i * width,
                "high": (i + 1) * width,
                "mean_score": float(scores[i] / counts[i]) if counts[i] > 0 else None,
                "share_positive": float(positives[i] / counts[i]) if counts[i] > 0 else None,
                "count": float(counts[i]),
            }
            for i in range(self.num_bins)
        ]

    def grouped_auc(self) -> GroupedAuc | None:
        """Return GAUC with its counts, or None if no groups were given."""
        groups = [rows.groups for rows in self._rows if rows.groups is not None]
        if not groups:
            return None
        positive, scores, weights = self._columns()
        return gauc(positive, scores, np.concatenate(groups), weights)

    def _columns(self) -> tuple[BoolArray, FloatArray, FloatArray | None]:
        if not self._rows:
            return np.zeros(0, dtype=np.bool_), np.zeros(0), None
        positive = np.concatenate([rows.positive for rows in self._rows])
        scores = np.concatenate([rows.scores for rows in self._rows])
        if all(rows.weights is None for rows in self._rows):
            return positive, scores, None
        weights = [
            np.ones(len(rows.scores)) if rows.weights is None else rows.weights
            for rows in self._rows
        ]
        return positive, scores, np.concatenate(weights)


def _check_groups(batches: Sequence[_Rows]) -> None:
    kinds = ["none" if b.groups is None else _kind(b.groups) for b in batches]
    if len(set(kinds)) > 1:
        raise DataError(
            "groups must be given in every batch or in none, and of one type; "
            f"got {kinds[0]} and then {kinds[1]}"
        )


def _kind(groups: AnyArray) -> str:
    return "strings" if groups.dtype.kind == "U" else "integers"

"""Accumulators: metrics over batches and processes that equal the metric over the whole set.

Each has four methods. `update(batch)` adds rows; if it raises, the accumulator stays as it was.
`merge(other)` returns a new accumulator and changes neither; an empty one is its identity.
`compute()` returns the metrics by name, None where one is undefined. `counts()` returns the whole
numbers behind them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from scalerec.metrics import checks
from scalerec.metrics.binary import EPS
from scalerec.metrics.matching import match
from scalerec.metrics.multiclass import class_sums
from scalerec.metrics.ranking import PER_USER
from scalerec.metrics.ranks import rank_values
from scalerec.metrics.regression import error_sums


@dataclass(kw_only=True, slots=True, eq=False)
class RegressionMetrics:
    """Root mean squared error and mean absolute error.

    Example:
        >>> metrics = RegressionMetrics()
        >>> metrics.update([1.0, 2.0], [1.0, 4.0])
        >>> metrics.compute()["mae"]
        1.0
    """

    _squares: float = field(default=0.0, init=False, repr=False)
    _sizes: float = field(default=0.0, init=False, repr=False)
    _weight: float = field(default=0.0, init=False, repr=False)
    _num_rows: int = field(default=0, init=False, repr=False)

    def update(
        self,
        targets: npt.ArrayLike,
        predictions: npt.ArrayLike,
        *,
        weights: npt.ArrayLike | None = None,
    ) -> None:
        """Add rows.

        Args:
            targets: [B], finite, at most 1e100 in size.
            predictions: [B], finite, at most 1e100 in size.
            weights: [B], 0 or from 1e-100 to 1e100; 1 each if None.

        Raises:
            DataError: on wrong shapes or values.
        """
        squares, sizes, weight = error_sums(targets, predictions, weights)
        self._squares += squares
        self._sizes += sizes
        self._weight += weight
        self._num_rows += len(np.asarray(targets))

    def merge(self, other: Self) -> Self:
        """Return a new accumulator of the rows of both."""
        merged = type(self)()
        merged._squares = self._squares + other._squares
        merged._sizes = self._sizes + other._sizes
        merged._weight = self._weight + other._weight
        merged._num_rows = self._num_rows + other._num_rows
        return merged

    def compute(self) -> dict[str, float | None]:
        """Return `rmse` and `mae`."""
        if not self._weight > 0:
            return {"rmse": None, "mae": None}
        return {
            "rmse": math.sqrt(self._squares / self._weight),
            "mae": self._sizes / self._weight,
        }

    def counts(self) -> dict[str, int]:
        """Return `rows`."""
        return {"rows": self._num_rows}


@dataclass(kw_only=True, slots=True, eq=False)
class MulticlassMetrics:
    """Accuracy and log loss of a label with several classes.

    Args:
        eps: clip of the logarithm, above 0 and below 0.5.

    Example:
        >>> metrics = MulticlassMetrics()
        >>> metrics.update([0, 1], [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])
        >>> metrics.compute()["accuracy"]
        0.5
    """

    eps: float = EPS
    _loss: float = field(default=0.0, init=False, repr=False)
    _right: float = field(default=0.0, init=False, repr=False)
    _weight: float = field(default=0.0, init=False, repr=False)
    _num_rows: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.eps = checks.clip_eps(self.eps)

    def update(
        self,
        labels: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        *,
        weights: npt.ArrayLike | None = None,
    ) -> None:
        """Add rows; the first of the most probable classes is the prediction.

        Args:
            labels: [B], integers from 0 to below the number of classes.
            probabilities: [B, classes], in [0, 1], each row sums to 1 within 1e-3.
            weights: [B], 0 or from 1e-100 to 1e100; 1 each if None.

        Raises:
            DataError: on wrong shapes or values.
        """
        loss, right, weight = class_sums(labels, probabilities, weights, self.eps)
        self._loss += loss
        self._right += right
        self._weight += weight
        self._num_rows += len(np.asarray(labels))

    def merge(self, other: Self) -> Self:
        """Return a new accumulator of the rows of both.

        Raises:
            ConfigError: if the settings differ.
        """
        checks.same_setting("eps", self.eps, other.eps)
        merged = type(self)(eps=self.eps)
        merged._loss = self._loss + other._loss
        merged._right = self._right + other._right
        merged._weight = self._weight + other._weight
        merged._num_rows = self._num_rows + other._num_rows
        return merged

    def compute(self) -> dict[str, float | None]:
        """Return `accuracy` and `log_loss`."""
        if not self._weight > 0:
            return {"accuracy": None, "log_loss": None}
        return {"accuracy": self._right / self._weight, "log_loss": self._loss / self._weight}

    def counts(self) -> dict[str, int]:
        """Return `rows`."""
        return {"rows": self._num_rows}


@dataclass(slots=True, eq=False)
class RankingMetrics:
    """Hit rate, recall, precision, NDCG, MRR and MAP at several list lengths.

    Args:
        ks: list lengths, each at least 1.

    Example:
        >>> metrics = RankingMetrics(ks=(2,))
        >>> metrics.update([[3, 5], [4, 1]], values=[5, 2], offsets=[0, 1, 2])
        >>> metrics.compute()["hit_rate@2"]
        0.5
    """

    ks: Sequence[int] = (5, 10, 20)
    _sums: dict[str, float] = field(init=False, repr=False)
    _num_users: int = field(default=0, init=False, repr=False)
    _num_undefined: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self.ks = checks.cutoffs(self.ks)
        self._sums = {f"{name}@{k}": 0.0 for name in PER_USER for k in self.ks}

    def update(
        self,
        ranked: npt.ArrayLike,
        values: npt.ArrayLike,
        offsets: npt.ArrayLike,
        *,
        gains: npt.ArrayLike | None = None,
    ) -> None:
        """Add users with their lists; each user comes in one update only.

        Args:
            ranked: [U, K] int, item ids, best first, -1 where a list is shorter; K at least the
                largest of `ks`.
            values: [V] int, relevant item ids, each once per user.
            offsets: [U + 1] int; user u owns `values[offsets[u]:offsets[u + 1]]`.
            gains: [V], from 1e-100 to 1e100, for NDCG only; 1 each if None.

        Raises:
            DataError: on wrong shapes or values.
        """
        matches = match(ranked, values, offsets, k=max(self.ks), gains=gains)
        defined_u = matches.num_relevant_u > 0
        for name, per_user in PER_USER.items():
            for k in self.ks:
                self._sums[f"{name}@{k}"] += float(per_user(matches, k)[defined_u].sum())
        self._num_users += len(defined_u)
        self._num_undefined += int(np.count_nonzero(~defined_u))

    def update_ranks(self, ranks: npt.ArrayLike) -> None:
        """Add rows of a leave-one-out protocol, where one item is relevant and its rank is known.

        Args:
            ranks: [B], at least 1, as `ranks_of` gives them.

        Raises:
            DataError: on a wrong shape or a rank below 1.
        """
        numbers = checks.reals("ranks", ranks)
        checks.refuse("ranks", numbers < 1, numbers, "at least 1")
        for k in self.ks:
            for name, values in rank_values(numbers, k).items():
                self._sums[f"{name}@{k}"] += float(values.sum())
        self._num_users += len(numbers)

    def merge(self, other: Self) -> Self:
        """Return a new accumulator of the users of both.

        Raises:
            ConfigError: if the list lengths differ.
        """
        checks.same_setting("ks", self.ks, other.ks)
        merged = type(self)(ks=self.ks)
        merged._sums = {name: value + other._sums[name] for name, value in self._sums.items()}
        merged._num_users = self._num_users + other._num_users
        merged._num_undefined = self._num_undefined + other._num_undefined
        return merged

    def compute(self) -> dict[str, float | None]:
        """Return `hit_rate@k`, `recall@k`, `precision@k`, `ndcg@k`, `mrr@k`, `map@k` for each k."""
        num_defined = self._num_users - self._num_undefined
        return {
            name: value / num_defined if num_defined else None for name, value in self._sums.items()
        }

    def counts(self) -> dict[str, int]:
        """Return `users` and `undefined_users`, those without a relevant item."""
        return {"users": self._num_users, "undefined_users": self._num_undefined}

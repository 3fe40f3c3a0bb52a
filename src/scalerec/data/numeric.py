"""What the numbers of a feature look like: mean, deviation, quantiles, found in one pass.

The result does not depend on how the numbers were cut into chunks.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scalerec.data.schema import Numeric
from scalerec.data.vocabulary import FIRST_ID

__all__ = [
    "BLOCK",
    "SAMPLE",
    "Moments",
    "NumberFitter",
    "NumberStats",
    "block_moments",
    "draws_from",
    "edges_of",
    "stats_of",
    "transform",
]

Floats = NDArray[np.float64]

# Numbers of a sample that quantiles are read from.
SAMPLE = 200_000
# Numbers whose mean is taken at once, wherever chunks end.
BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class NumberStats:
    """What a numeric feature's training rows looked like.

    Args:
        mean: Of the values, after the logarithm if there is one.
        std: Their standard deviation; 1 where all are equal.
        edges: Inner edges of the quantile buckets, in order and different.
    """

    mean: float = 0.0
    std: float = 1.0
    edges: tuple[float, ...] = ()

    @property
    def num_ids(self) -> int:
        """Ids of the quantile form: padding, out-of-vocabulary, and one a bucket."""
        return len(self.edges) + 1 + FIRST_ID


def transform(feature: Numeric, values: Floats) -> Floats:
    """Apply what comes before standardisation, ``[n]``."""
    if feature.transform == "log":
        return np.sign(values) * np.log1p(np.abs(values))
    return values


def block_moments(values: Floats) -> tuple[int, float, float]:
    """How many numbers a block has, their mean, and the sum of their squared distances to it."""
    mean = float(values.mean())
    return len(values), mean, float(((values - mean) ** 2).sum())


def draws_from(first: int, count: int) -> Floats:
    """The draws that choose the sample, of the numbers from place `first` on, ``[n]``."""
    generator = np.random.PCG64(0)
    return np.random.Generator(generator.advance(first)).random(count)


def edges_of(feature: Numeric, values: Floats) -> NumberStats:
    """The inner edges of buckets that a sample, ``[n]``, gives."""
    inner = np.linspace(0, 1, feature.num_buckets + 1)[1:-1]
    # A value that would fill several buckets has one.
    edges = np.unique(np.quantile(values, inner)) if len(values) else np.zeros(0)
    return NumberStats(edges=tuple(edges.tolist()))


def stats_of(moments: "Moments") -> NumberStats:
    """The mean and the deviation that moments tell."""
    mean, std = moments.fit()
    # Equal numbers may differ from their mean in its last digit.
    return NumberStats(mean, std if std > 1e-12 * abs(mean) else 1.0)


@dataclass(slots=True)
class Moments:
    """Running mean and deviation, told block by block."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    waiting: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, values: Floats) -> None:
        """See numbers, ``[n]``."""
        self.waiting = np.concatenate([self.waiting, values])
        while len(self.waiting) >= BLOCK:
            self.merge(*block_moments(self.waiting[:BLOCK]))
            self.waiting = self.waiting[BLOCK:]

    def fit(self) -> tuple[float, float]:
        """The mean, and the deviation."""
        if len(self.waiting):
            self.merge(*block_moments(self.waiting))
            self.waiting = self.waiting[:0]
        return self.mean, (self.squares / max(1, self.count)) ** 0.5

    def merge(self, count: int, mean: float, squares: float) -> None:
        """See what `block_moments` tells of the next block."""
        # Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (Chan, Golub,
        # LeVeque, 1979, http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf).
        total = self.count + count
        delta = mean - self.mean
        between = delta**2 * self.count * count / total
        self.squares += squares + between
        self.mean += delta * count / total
        self.count = total


@dataclass(slots=True)
class _Sample:
    """A sample in which every value has the same chance: those with the lowest of random draws."""

    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    draws: Floats = field(default_factory=lambda: np.zeros(0))
    kept: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, values: Floats) -> None:
        self.draws = np.concatenate([self.draws, self.generator.random(len(values))])
        self.kept = np.concatenate([self.kept, values])
        if len(self.kept) > 2 * SAMPLE:
            self._cut()

    def values(self) -> Floats:
        if len(self.kept) > SAMPLE:
            self._cut()
        return self.kept

    def _cut(self) -> None:
        lowest = np.argpartition(self.draws, SAMPLE)[:SAMPLE]
        self.draws, self.kept = self.draws[lowest], self.kept[lowest]


@dataclass(slots=True)
class NumberFitter:
    """Sees a feature's training values chunk by chunk, in bounded memory.

    Args:
        feature: Says what is needed.
    """

    feature: Numeric
    _moments: Moments = field(default_factory=Moments)
    _sample: _Sample = field(default_factory=_Sample)

    def add(self, values: Floats) -> None:
        """See the values of a chunk, none of them missing, ``[n]``."""
        if self.feature.transform == "quantile":
            self._sample.add(values)
        elif self.feature.transform != "none":
            self._moments.add(transform(self.feature, values))

    def fit(self) -> NumberStats:
        """Tell what was seen."""
        if self.feature.transform == "quantile":
            return edges_of(self.feature, self._sample.values())
        return stats_of(self._moments)

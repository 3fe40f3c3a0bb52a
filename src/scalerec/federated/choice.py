"""Which parties take part in a round, and what each counts for.

Shapes: P parties, c parties of a cohort.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.federated.chance import numbers_of

__all__ = [
    "Choice",
    "Chosen",
    "Facts",
    "PoissonChoice",
    "SizeChoice",
    "UniformChoice",
    "check_cohort",
    "inclusion_chances",
    "keep_first",
    "num_asked",
]

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Facts:
    """What the server knows of the parties when it chooses.

    Args:
        sizes: Training rows of each party, ``[P]``, at least 1.
        losses: Mean loss at its last round, ``[P]``, NaN where it never took part; None if nobody
            ever reported any.
        available: Whether it can take part now, ``[P]`` bool; None if all can.
        seconds: About how long a round takes it, ``[P]``, above 0; None if not known.
    """

    sizes: Index
    losses: Floats | None = None
    available: NDArray[np.bool_] | None = None
    seconds: Floats | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def present(self) -> Index:
        """The parties that can take part now, in rising order."""
        if self.available is None:
            return np.arange(len(self))
        return np.flatnonzero(self.available)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chosen:
    """The cohort of a round.

    The cohort's mean is the sum of weight times update, divided by `divisor`.

    Args:
        parties: Their numbers, in rising order, each once, ``[c]`` int64; there may be none.
        weights: What each counts for, ``[c]`` float64, above 0.
        divisor: What the weighted sum is divided by; None: by the sum of the weights of those whose
            updates arrive.
    """

    parties: Index
    weights: Floats
    divisor: float | None = None

    def __len__(self) -> int:
        return len(self.parties)


@runtime_checkable
class Choice(Protocol):
    """How the parties of a round are chosen."""

    def choose(self, round_number: int, facts: Facts) -> Chosen:
        """Choose the cohort of a round.

        The answer follows from the settings, the round and the facts alone, so a resumed run
        chooses alike.

        Args:
            round_number: From 0.
            facts: What is known of the parties.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformChoice(Config):
    """A fixed number of parties, all alike likely, none twice; each counts for its rows.

    The cohort's mean is a ratio of two sums that chance moves together; it tends to the mean over
    all parties as the cohort grows.

    Args:
        cohort: c, at least 1; where fewer can take part, all of those do.
        over: So many times more are asked, from 1 to 100, because some will fail or be late.
        seed: At least 0.
    """

    cohort: int
    over: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_cohort(self.cohort, self.over)

    def choose(self, round_number: int, facts: Facts) -> Chosen:
        """Choose; see `Choice.choose`."""
        present = facts.present
        num = min(num_asked(self.cohort, self.over), len(present))
        numbers = numbers_of(self.seed, "choice/uniform", round_number)
        parties = np.sort(present[numbers.choice(len(present), num, replace=False)])
        return Chosen(parties=parties, weights=facts.sizes[parties].astype(np.float64))


@dataclass(frozen=True, kw_only=True, slots=True)
class PoissonChoice(Config):
    """Each party joins by a coin of its own; all count alike, and the divisor is fixed.

    This is the sampling that accounting of differential privacy by user assumes: whether one party
    joins says nothing of the others, and the divisor is rate times P whoever came (Learning
    Differentially Private Recurrent Language Models, McMahan et al., 2018,
    https://arxiv.org/abs/1710.06963). The mean is unbiased for the mean over parties where all can
    take part.

    The gain in privacy by sampling holds only where nobody else can tell who was drawn. So the
    coins are a stream of SHAKE-256 over the seed, and for privacy the seed is a secret of the
    server: draw it by `secrets.randbits(128)`, keep it in the checkpoint, publish it nowhere.

    Args:
        rate: The chance of each to join, above 0, at most 1.
        seed: At least 0, of any length.
    """

    rate: float
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 < self.rate <= 1, f"rate must be above 0 and at most 1; got {self.rate}")

    def choose(self, round_number: int, facts: Facts) -> Chosen:
        """Choose; see `Choice.choose`. The cohort may be empty."""
        size = len(facts)
        stream = hashlib.shake_256(f"choice/poisson {self.seed} {round_number}".encode())
        bits = np.frombuffer(stream.digest(8 * size), "<u8") >> np.uint64(11)
        joins = bits.astype(np.float64) * 2.0**-53 < self.rate
        if facts.available is not None:
            joins &= facts.available
        parties = np.flatnonzero(joins)
        return Chosen(parties=parties, weights=np.ones(len(parties)), divisor=self.rate * size)


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeChoice(Config):
    """A fixed number of parties, none twice, each with a chance in proportion to its rows.

    Party p joins with the chance pi = min(1, k n_p), k such that the chances sum to c. It counts
    n_p / pi: alike for all but those so large that they always join. So the weights sum to the rows
    of all, and the mean is the estimate of Horvitz and Thompson (A Generalization of Sampling
    Without Replacement from a Finite Universe, 1952, https://doi.org/10.2307/2280784): unbiased for
    the mean over all rows if all who are asked answer. Chances are met exactly by drawing at equal
    steps from a shuffled list (On the Theory of Systematic Sampling, Madow, 1949,
    https://doi.org/10.1214/aoms/1177729988).

    Args:
        cohort: As for `UniformChoice`.
        over: As for `UniformChoice`.
        seed: As for `UniformChoice`.
    """

    cohort: int
    over: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_cohort(self.cohort, self.over)

    def choose(self, round_number: int, facts: Facts) -> Chosen:
        """Choose; see `Choice.choose`."""
        present = facts.present
        sizes = facts.sizes[present].astype(np.float64)
        chances = inclusion_chances(sizes, num_asked(self.cohort, self.over))
        numbers = numbers_of(self.seed, "choice/size", round_number)
        taken = np.sort(_systematic(chances, numbers))
        return Chosen(parties=present[taken], weights=sizes[taken] / chances[taken])


def inclusion_chances(sizes: Floats, num: int) -> Floats:
    """Chances to join in proportion to sizes, at most 1 each, that sum to `num`, ``[P]``.

    Args:
        sizes: ``[P]``, above 0.
        num: At least 1; where there are no more parties than that, all join.

    Example:
        >>> inclusion_chances(np.array([6.0, 1.0, 1.0]), 2).tolist()
        [1.0, 0.5, 0.5]
    """
    chances, sure = np.ones(len(sizes)), np.zeros(len(sizes), np.bool_)
    while int(sure.sum()) < min(num, len(sizes)):
        rest = ~sure
        found = sizes[rest] * ((num - int(sure.sum())) / sizes[rest].sum())
        chances[rest] = np.minimum(found, 1.0)
        # A hair below 1 is 1: a step could fall on such a party twice.
        large = chances > 1.0 - 1e-9
        if (large == sure).all():
            break
        chances[large], sure = 1.0, large
    return chances


def _systematic(chances: Floats, numbers: np.random.Generator) -> Index:
    """Entries drawn with these chances, as many as they sum to, none twice."""
    sure, rest = np.flatnonzero(chances >= 1.0), np.flatnonzero(chances < 1.0)
    rest = numbers.permutation(rest)
    ends = np.cumsum(chances[rest])
    num = round(float(ends[-1])) if len(rest) else 0
    places = numbers.random() + np.arange(num)
    drawn = np.searchsorted(ends, places, side="right")
    # The last end may be a hair less than a whole number.
    return np.concatenate([sure, rest[np.minimum(drawn, len(rest) - 1)]])


def keep_first(chosen: Chosen, seconds: Floats, cohort: int) -> tuple[Chosen, float]:
    """Of those who were asked, keep the first to finish; the round ends with the last of them.

    Asking more than are needed is how a round survives those that fail or are late (Towards
    Federated Learning at Scale: System Design, Bonawitz et al., 2019,
    https://arxiv.org/abs/1902.01046, asks 130%). Fast parties so count more than slow ones.

    Args:
        chosen: Who was asked.
        seconds: When each one's update arrived, ``[c]``; infinite for one that failed.
        cohort: How many are needed.

    Returns:
        Those kept, at most `cohort`, and how long the round took, in seconds: until the last of
        them, or, where too few finished, until the last who did; 0 if nobody did.
    """
    first = np.argsort(seconds, kind="stable")[:cohort]
    first = np.sort(first[np.isfinite(seconds[first])])
    kept = Chosen(
        parties=chosen.parties[first], weights=chosen.weights[first], divisor=chosen.divisor
    )
    return kept, float(seconds[first].max(initial=0.0))


def num_asked(cohort: int, over: float) -> int:
    """How many are asked so that a cohort comes together: `cohort` times `over`, rounded up."""
    # 1.1 * 10 is a hair more than 11.
    return math.ceil(round(cohort * over, 9))


def check_cohort(cohort: int, over: float = 1.0) -> None:
    """Refuse a size of the cohort, or an excess, that cannot be.

    Raises:
        ConfigError: If one is out of range.
    """
    require(cohort >= 1, f"cohort must be at least 1; got {cohort}")
    require(1 <= over <= 100, f"over must be from 1 to 100; got {over}")

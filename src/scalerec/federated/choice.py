"""Which parties take part in a round, and what each counts for.

Shapes: P parties, c parties of a cohort.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.federated.chance import numbers_of

__all__ = ["Choice", "Chosen", "Facts", "UniformChoice"]

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

    The mean over the cohort is a ratio of two sums that chance moves together; it tends to the mean
    over all parties as the cohort grows.

    Args:
        cohort: c, at least 1; where fewer can take part, all of those do.
        over: So many times more are asked, at least 1, because some will fail or be late.
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
        num = min(asked(self.cohort, self.over), len(present))
        numbers = numbers_of(self.seed, "choice/uniform", round_number)
        parties = present[np.sort(numbers.choice(len(present), num, replace=False))]
        return Chosen(parties=parties, weights=facts.sizes[parties].astype(np.float64))


def asked(cohort: int, over: float) -> int:
    """How many are asked so that a cohort comes together, `cohort` times `over`, rounded up."""
    # 1.1 * 10 is a hair more than 11.
    return math.ceil(round(cohort * over, 9))


def check_cohort(cohort: int, over: float = 1.0) -> None:
    """Refuse a size of the cohort, or an excess, that cannot be.

    Raises:
        ConfigError: If one is out of range.
    """
    require(cohort >= 1, f"cohort must be at least 1; got {cohort}")
    require(1 <= over <= 100, f"over must be from 1 to 100; got {over}")

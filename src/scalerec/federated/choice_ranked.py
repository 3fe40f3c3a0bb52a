"""Choosing by what is known of the parties: who can take part, who is fast, who finds it hard.

Shapes: P parties, c parties of a cohort.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.errors import RoundError
from scalerec.federated.chance import key_of, numbers_of, weighted_draws
from scalerec.federated.choice import (
    Choice,
    Chosen,
    Facts,
    PoissonChoice,
    SizeChoice,
    UniformChoice,
    check_cohort,
    num_asked,
)
from scalerec.federated.draws import uniforms

__all__ = ["CHOICES", "AvailableChoice", "CurriculumChoice", "PowerChoice", "make_choice"]

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class AvailableChoice(Config):
    """Parties that can take part now, the fast ones rather than the slow; each counts for its rows.

    The next party is drawn from the rest in proportion to its speed to the power of `prefer`. With
    a preference, the data of slow parties count less than their share, which nothing makes up for.

    Args:
        cohort: As for `UniformChoice`.
        over: As for `UniformChoice`.
        prefer: At least 0; 0: speed does not matter; 1: twice as fast is twice as likely.
        seed: As for `UniformChoice`.
    """

    cohort: int
    over: float = 1.3
    prefer: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_cohort(self.cohort, self.over)
        require(0 <= self.prefer <= 10, f"prefer must be from 0 to 10; got {self.prefer}")

    def choose(self, round_number: int, facts: Facts) -> Chosen:
        """Choose; see `Choice.choose`.

        Raises:
            RoundError: If speed matters and is not known.
        """
        present = facts.present
        if self.prefer and facts.seconds is None:
            raise RoundError(
                f"a choice that prefers fast parties (prefer={self.prefer:g}) needs to know how "
                "long each takes; give Facts.seconds, or prefer=0"
            )
        log_weights = np.zeros(len(present))
        if facts.seconds is not None:
            log_weights = -self.prefer * np.log(facts.seconds[present])
        numbers = numbers_of(self.seed, "choice/available", round_number)
        first = weighted_draws(log_weights, num_asked(self.cohort, self.over), numbers)
        return _by_rows(present[first], facts)


@dataclass(frozen=True, kw_only=True, slots=True)
class CurriculumChoice(Config):
    """From easy to hard: at first only parties of low loss take part, in the end all.

    Parties are ordered by the loss of their last round. In round r the share
    ``start + (1 - start) r / rounds`` of them is open, the easiest ones, and the cohort is drawn
    uniformly from it. A party whose loss is not known yet has a place of chance in the order, the
    same in every round, so that unknown ones are neither held back nor preferred.

    Idea: When Do Curricula Work in Federated Learning?, Vahidian et al., 2023,
    https://arxiv.org/abs/2212.12712; theirs scores a party once, ours by its last loss.

    Args:
        cohort: As for `UniformChoice`.
        rounds: When all are open, at least 1.
        start: Share that is open at first, above 0, at most 1; never fewer than are asked.
        over: As for `UniformChoice`.
        seed: As for `UniformChoice`.
    """

    cohort: int
    rounds: int
    start: float = 0.3
    over: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_cohort(self.cohort, self.over)
        require(self.rounds >= 1, f"rounds must be at least 1; got {self.rounds}")
        require(0 < self.start <= 1, f"start must be above 0 and at most 1; got {self.start}")

    def choose(self, round_number: int, facts: Facts) -> Chosen:
        """Choose; see `Choice.choose`."""
        present = facts.present
        num = min(num_asked(self.cohort, self.over), len(present))
        share = self.start + (1.0 - self.start) * min(1.0, round_number / self.rounds)
        num_open = max(num, int(np.ceil(round(share * len(present), 9))))
        easiest = present
        if num_open < len(present):
            places = self._places(present, facts)
            easiest = present[np.sort(np.argpartition(places, num_open)[:num_open])]
        numbers = numbers_of(self.seed, "choice/curriculum", round_number)
        return _by_rows(easiest[numbers.choice(num_open, num, replace=False)], facts)

    def _places(self, present: Index, facts: Facts) -> Floats:
        """Where each stands between the easiest, 0, and the hardest, 1."""
        places = uniforms(key_of(self.seed, "choice/curriculum/place"), present, 1)[:, 0]
        if facts.losses is not None:
            known = np.flatnonzero(np.isfinite(facts.losses[present]))
            in_order = known[np.argsort(facts.losses[present[known]], kind="stable")]
            places[in_order] = (np.arange(len(known)) + 0.5) / max(1, len(known))
        return places


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerChoice(Config):
    """Power of choice: of some candidates, those whose last loss was the highest; all count alike.

    Candidates are drawn without replacement, the next from the rest in proportion to rows. A party
    whose loss is not known comes before all others. The mean is biased towards the hard parties:
    that is the method.

    Paper: Client Selection in Federated Learning: Convergence Analysis and Power-of-Choice
    Selection Strategies, Cho et al., 2020, https://arxiv.org/abs/2010.01243: the variant that
    takes the last known losses, so that candidates need not be asked.

    Args:
        cohort: As for `UniformChoice`.
        candidates: d; the larger, the harder. At least as many as are asked are drawn.
        over: As for `UniformChoice`.
        seed: As for `UniformChoice`.
    """

    cohort: int
    candidates: int
    over: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_cohort(self.cohort, self.over)
        good = self.candidates >= self.cohort
        require(good, f"candidates must be at least cohort={self.cohort}; got {self.candidates}")

    def choose(self, round_number: int, facts: Facts) -> Chosen:
        """Choose; see `Choice.choose`."""
        present, num = facts.present, num_asked(self.cohort, self.over)
        numbers = numbers_of(self.seed, "choice/power", round_number)
        log_sizes = np.log(facts.sizes[present].astype(np.float64))
        drawn = present[weighted_draws(log_sizes, max(num, self.candidates), numbers)]
        losses = np.full(len(drawn), np.inf)
        if facts.losses is not None:
            known = np.isfinite(facts.losses[drawn])
            losses[known] = facts.losses[drawn[known]]
        # Of equal losses, the one drawn first: an order of chance.
        parties = np.sort(drawn[np.argsort(-losses, kind="stable")[:num]])
        return Chosen(parties=parties, weights=np.ones(len(parties)))


def _by_rows(parties: Index, facts: Facts) -> Chosen:
    ordered = np.sort(parties)
    return Chosen(parties=ordered, weights=facts.sizes[ordered].astype(np.float64))


# Name to how it is made of: cohort, over, seed, parties and rounds.
_MAKERS: dict[str, Callable[[int, float, int, int, int], Choice]] = {
    "uniform": lambda cohort, over, seed, *_: UniformChoice(cohort=cohort, over=over, seed=seed),
    "poisson": lambda cohort, _over, seed, num, _: PoissonChoice(
        rate=min(1.0, cohort / num), seed=seed
    ),
    "size": lambda cohort, over, seed, *_: SizeChoice(cohort=cohort, over=over, seed=seed),
    "available": lambda cohort, over, seed, *_: AvailableChoice(
        cohort=cohort, over=over, seed=seed
    ),
    "curriculum": lambda cohort, over, seed, _, rounds: CurriculumChoice(
        cohort=cohort, over=over, seed=seed, rounds=max(1, rounds // 2)
    ),
    "power": lambda cohort, over, seed, num, _: PowerChoice(
        cohort=cohort, over=over, seed=seed, candidates=max(cohort, min(num, 3 * cohort))
    ),
}
CHOICES = tuple(_MAKERS)


def make_choice(
    name: str, *, cohort: int, num_parties: int, rounds: int, over: float = 1.0, seed: int = 0
) -> Choice:
    """Make a choice by its name.

    Args:
        name: `uniform`, `poisson` (each joins with the chance cohort / parties), `size`,
            `available`, `curriculum` (all are open after half of the rounds) or `power` (three
            times as many candidates as the cohort).
        cohort: c, at least 1.
        num_parties: P, at least 1.
        rounds: Of the run, at least 1.
        over: So many times more are asked, from 1 to 100; `poisson` asks no more.
        seed: At least 0.

    Raises:
        ConfigError: If there is no such choice, or a number is out of range.
    """
    require(name in _MAKERS, f"choice must be one of {', '.join(CHOICES)}; got {name!r}")
    check_cohort(cohort, over)
    return _MAKERS[name](cohort, over, seed, num_parties, rounds)

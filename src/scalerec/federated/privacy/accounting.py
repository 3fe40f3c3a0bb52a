"""What noise costs: from a privacy budget to a noise multiplier, and back.

The noise multiplier is the noise's standard deviation over the clipping norm, always. How far one
party can move a sum of clipped updates depends on what the guarantee hides:

- ``add-remove``: whether a party takes part at all; the sum moves by at most the clipping norm.
- ``replace``: which data a party has, where taking part is known; it moves by at most twice that.

The ways that a cohort is chosen, and what may be claimed:

- ``poisson``: each party apart from the others with probability cohort / num_parties, and nobody
  outside knows who was drawn. Hides taking part.
- ``fixed``: exactly `cohort` parties, uniformly without replacement. How many there are is known,
  so only a replacement can be hidden (Subsampled Renyi Differential Privacy, Wang et al., 2019,
  theorem 27, https://arxiv.org/abs/1808.00087): twice the sensitivity, and by RDP only.
- ``none``: any other way, by speed or by curriculum, say, or one that others can see. Nothing is
  gained from sampling: as if every party took part in every round.

Two accountants of dp-accounting: privacy loss distributions (``pld``; Numerical Composition of
Differential Privacy, Gopi et al., 2021, https://arxiv.org/abs/2106.02848, and Connect the Dots,
Doroshenko et al., 2022, https://arxiv.org/abs/2207.04380), tight up to a discretisation that is
rounded to the safe side, and Renyi differential privacy (``rdp``; Mironov, 2017,
https://arxiv.org/abs/1702.07476), 5 to 10% above. ``auto`` takes the first, and the second where
the first has no answer: for fixed cohorts.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scalerec.config import Config, require
from scalerec.errors import ConfigError, MissingExtraError

__all__ = [
    "Accountant",
    "Adjacency",
    "Phase",
    "Sampling",
    "accountant_of",
    "default_delta",
    "max_rounds",
    "solve_noise",
    "spent",
]

Sampling = Literal["poisson", "fixed", "none"]
Adjacency = Literal["add-remove", "replace"]
Accountant = Literal["auto", "pld", "rdp"]

# Not below 2: there the series for sampled noise often does not converge.
_ORDERS = [x / 2 for x in range(4, 21)] + list(range(11, 65)) + [72, 96, 128, 192, 256, 512, 1024]
# Enough to know where to look.
_FEW_ORDERS = [2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 128, 256, 1024]
_MAX_NOISE = 2.0**20
_MIN_NOISE = 2.0**-5
_MAX_ROUNDS = 2**24
_TOLERANCE = 2e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase(Config):
    """Some rounds of one kind.

    Args:
        noise_multiplier: Standard deviation of the noise on the sum over the clipping norm; with
            adaptive clipping, the one that noisy sum and noisy count have together.
        rounds: How many, at least 0.
        cohort: Parties a round: their expected number for ``poisson``, a whole number for
            ``fixed``; unused for ``none``.
        num_parties: Parties there are, public.
        sampling: How a cohort is chosen.
        adjacency: What is hidden; None for ``replace`` with fixed cohorts and ``add-remove`` else.

    Raises:
        ConfigError: If a number is outside its range, or sampling and adjacency do not go together.
    """

    noise_multiplier: float
    rounds: int
    cohort: float
    num_parties: int
    sampling: Sampling = "poisson"
    adjacency: Adjacency | None = None

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0,
            f"noise_multiplier must be finite and above 0; got {self.noise_multiplier}",
        )
        require(self.rounds >= 0, f"rounds must be at least 0; got {self.rounds}")
        require(self.num_parties >= 1, f"num_parties must be at least 1; got {self.num_parties}")
        require(
            0 < self.cohort <= self.num_parties,
            f"cohort must be above 0 and at most num_parties={self.num_parties}; got {self.cohort}",
        )
        require(
            self.sampling in ("poisson", "fixed", "none"),
            f"sampling must be one of poisson, fixed, none; got {self.sampling!r}",
        )
        require(
            self.adjacency in (None, "add-remove", "replace"),
            f"adjacency must be one of add-remove, replace; got {self.adjacency!r}",
        )
        require(
            self.sampling != "fixed" or float(self.cohort).is_integer(),
            f"a cohort of fixed size must be a whole number; got {self.cohort}",
        )
        require(
            not (self.sampling == "fixed" and self.adjacency == "add-remove"),
            "fixed cohorts can hide a replacement only: with a party more, others are drawn less "
            "often, and no bound is known here; allowed: adjacency 'replace', or sampling "
            "'poisson' or 'none'",
        )
        require(
            not (self.sampling == "poisson" and self.adjacency == "replace"),
            "poisson sampling is accounted for adjacency 'add-remove'; got 'replace'",
        )

    @property
    def relation(self) -> Adjacency:
        """What is hidden, with the default resolved."""
        return self.adjacency or ("replace" if self.sampling == "fixed" else "add-remove")

    @property
    def rate(self) -> float:
        """Probability that a party takes part in a round; 1 where none is claimed."""
        return 1.0 if self.sampling == "none" else self.cohort / self.num_parties


def default_delta(num_parties: int) -> float:
    """The delta to use if none is given: num_parties^-1.1.

    Delta is the chance that the promise of epsilon fails. A mechanism that publishes one random
    party's data whole has delta 1 / num_parties, so anything near that is no promise; the exponent
    keeps it below for any number of parties, by a factor of 2 at 1,000 and 4 at 1,000,000. It is
    the usual choice for training by user: How to DP-fy ML, Ponomareva et al., 2023, section 5.3.2,
    https://arxiv.org/abs/2303.00654.

    Args:
        num_parties: Parties, or examples where those are hidden; at least 2.

    Raises:
        ConfigError: If there are fewer than 2.
    """
    require(num_parties >= 2, f"delta needs at least 2 parties to hide among; got {num_parties}")
    return math.pow(num_parties, -1.1)


def spent(phases: Sequence[Phase], delta: float, accountant: Accountant = "auto") -> float:
    """The epsilon that phases cost together.

    Args:
        phases: In any order; all must hide the same, and parties must be the same ones.
        delta: Above 0 and below 1.
        accountant: Who counts.

    Returns:
        An upper bound of epsilon; infinity where the accountant knows none.

    Raises:
        ConfigError: If delta is outside its range, phases hide different things, or `pld` is asked
            about fixed cohorts.
        MissingExtraError: If dp-accounting is not installed.
    """
    require(0 < delta < 1, f"delta must be above 0 and below 1; got {delta}")
    used = [phase for phase in phases if phase.rounds]
    if not used:
        return 0.0
    who = accountant_of(used, accountant)
    if who == "rdp":
        return _rdp(used, delta, _ORDERS)
    rough = _rdp(used, delta, _FEW_ORDERS)
    # A step of 1e-4 of the answer: the error is far below what anyone reads, and it is fast.
    return min(_pld(used, delta, step=min(max(rough * 1e-4, 1e-5), 1e-1)), rough)


def accountant_of(phases: Sequence[Phase], accountant: Accountant) -> Literal["pld", "rdp"]:
    """Who counts these phases.

    Args:
        phases: All that are counted together.
        accountant: The wish.

    Raises:
        ConfigError: If phases hide different things, or the wish cannot be met.
    """
    require(
        accountant in ("auto", "pld", "rdp"),
        f"accountant must be one of auto, pld, rdp; got {accountant!r}",
    )
    relations = sorted({phase.relation for phase in phases})
    require(
        len(relations) <= 1,
        f"phases that are counted together must hide the same; got {' and '.join(relations)}",
    )
    fixed = any(phase.sampling == "fixed" for phase in phases)
    require(
        not (fixed and accountant == "pld"),
        "accountant 'pld' cannot count fixed cohorts; allowed: 'rdp', 'auto', or sampling "
        "'poisson' or 'none'",
    )
    return "rdp" if fixed or accountant == "rdp" else "pld"


def solve_noise(
    epsilon: float,
    delta: float,
    rounds: int,
    cohort: float,
    num_parties: int,
    sampling: Sampling = "poisson",
    *,
    adjacency: Adjacency | None = None,
    accountant: Accountant = "auto",
    before: Sequence[Phase] = (),
) -> float:
    """The smallest noise multiplier with which so many rounds stay within a budget.

    Args:
        epsilon: The budget, above 0.
        delta: Above 0 and below 1.
        rounds: At least 1.
        cohort: As in `Phase`.
        num_parties: As in `Phase`.
        sampling: As in `Phase`.
        adjacency: As in `Phase`.
        accountant: Who counts.
        before: Rounds that the same parties have paid for already.

    Returns:
        The noise multiplier, at least 2^-5; above that, it spends at least 99.98% of the budget.

    Raises:
        ConfigError: If a number is outside its range, or the rounds before leave nothing.
        MissingExtraError: If dp-accounting is not installed.
    """
    require(
        math.isfinite(epsilon) and epsilon > 0, f"epsilon must be finite and above 0; got {epsilon}"
    )
    require(rounds >= 1, f"rounds must be at least 1; got {rounds}")
    gone = spent(before, delta, accountant)
    if gone >= epsilon:
        raise ConfigError(
            f"the rounds before have spent epsilon {gone:.4g} of {epsilon:g}; nothing is left"
        )

    def cost(noise: float, who: Accountant) -> float:
        phase = Phase(
            noise_multiplier=noise,
            rounds=rounds,
            cohort=cohort,
            num_parties=num_parties,
            sampling=sampling,
            adjacency=adjacency,
        )
        return spent([*before, phase], delta, who)

    return _smallest(lambda noise: cost(noise, accountant), epsilon)


def max_rounds(
    phase: Phase,
    epsilon: float,
    delta: float,
    *,
    accountant: Accountant = "auto",
    before: Sequence[Phase] = (),
) -> int:
    """How many rounds of a kind fit into a budget.

    Args:
        phase: The kind; its own number of rounds is where the search starts.
        epsilon: The budget, above 0.
        delta: Above 0 and below 1.
        accountant: Who counts.
        before: Rounds that the same parties have paid for already.

    Returns:
        The number, 0 if not one fits, at most 2^24.

    Raises:
        ConfigError: As in `spent`.
        MissingExtraError: If dp-accounting is not installed.
    """

    def fits(rounds: int) -> bool:
        return spent([*before, replace(phase, rounds=rounds)], delta, accountant) <= epsilon

    low, high, step = 0, max(phase.rounds, 1), 1
    while high < _MAX_ROUNDS and fits(high):
        low, high, step = high, high + step, step * 2
    if high >= _MAX_ROUNDS:
        return _MAX_ROUNDS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _smallest(cost: Callable[[float], float], epsilon: float) -> float:
    """The smallest noise multiplier within the budget, by regula falsi on logarithms (Illinois)."""

    def excess(noise: float) -> float:
        return math.log(max(cost(noise), 1e-300) / epsilon)

    low, high = 0.5, 1.0
    above, below = excess(low), excess(high)
    while below > 0:
        require(
            high < _MAX_NOISE,
            f"no noise multiplier up to {_MAX_NOISE:g} keeps epsilon at {epsilon:g}",
        )
        # Cost falls about as 1 / noise or faster: a jump to a little above where that ends.
        low, above, high = high, below, min(high * math.exp(below) * 1.2, _MAX_NOISE)
        below = excess(high)
    while above <= 0:
        if low <= _MIN_NOISE:
            return _MIN_NOISE
        high, below, low = low, above, max(low / 2, _MIN_NOISE)
        above = excess(low)
    pull, falsehood = 0, (math.log(low), above, math.log(high), below)
    while below < -_TOLERANCE and high > low * (1 + 1e-7):
        x_low, f_low, x_high, f_high = falsehood
        x = x_low + (x_high - x_low) * f_low / (f_low - f_high) + _TOLERANCE / 4
        noise = math.exp(x) if x_low < x < x_high else math.sqrt(low * high)
        found = excess(noise)
        if found > 0:
            low, f_high = noise, f_high / 2 if pull > 0 else f_high
            pull, falsehood = 1, (math.log(noise), found, x_high, f_high)
        else:
            high, below, f_low = noise, found, f_low / 2 if pull < 0 else f_low
            pull, falsehood = -1, (x_low, f_low, math.log(noise), found)
    return high


def _rdp(phases: Sequence[Phase], delta: float, orders: Sequence[float]) -> float:
    dp = _engine()
    relations = dp.NeighboringRelation
    hides = {"add-remove": relations.ADD_OR_REMOVE_ONE, "replace": relations.REPLACE_ONE}
    accountant = dp.rdp.RdpAccountant(orders, hides[phases[0].relation])
    for phase in phases:
        accountant.compose(_event(phase))
    return float(accountant.get_epsilon(delta))


def _pld(phases: Sequence[Phase], delta: float, step: float) -> float:
    # Sensitivity is already in the events, and a Gaussian's loss is the same from both sides.
    dp = _engine()
    accountant = dp.pld.PLDAccountant(value_discretization_interval=step)
    for phase in phases:
        accountant.compose(_event(phase))
    return float(accountant.get_epsilon(delta))


def _event(phase: Phase) -> Any:
    """A phase as dp-accounting describes it: noise relative to how far one party moves the sum."""
    dp = _engine()
    moves = 2.0 if phase.relation == "replace" else 1.0
    event = dp.GaussianDpEvent(phase.noise_multiplier / moves)
    if phase.sampling == "fixed":
        event = dp.SampledWithoutReplacementDpEvent(phase.num_parties, int(phase.cohort), event)
    elif phase.rate < 1:
        event = dp.PoissonSampledDpEvent(phase.rate, event)
    return dp.SelfComposedDpEvent(event, phase.rounds)


def _engine() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError as error:
        raise MissingExtraError("dp-accounting", "privacy") from error
    return dp_accounting

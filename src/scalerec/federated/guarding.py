"""Differential privacy: what a run promises, and the guard that keeps a promise by user.

Three guards keep the three kinds of promise; `Guard` is what the rounds see of them.

- By user, central (`CentralGuard`, here): the server is trusted to clip updates and to add noise to
  their sum; whoever sees the model, in whatever round, learns little of any one party.
- By user, local (`scalerec.federated.guarding_local`): each party clips its update and adds noise.
- By example (`scalerec.federated.guarding_examples`): each step inside a party is private.

Private rows stay with their parties and are no part of the promise: a party that shares its own
predictions shares what it knows of itself.

Not covered by any: counts of a round (updates, bytes, empty rounds), losses, curves, the choice of
the best round by them, and a checkpoint: noise still waits in it, and it holds the key that cohorts
are drawn by. The stated epsilon counts on nobody knowing who takes part. So the key comes from the
operating system, and is written nowhere but to checkpoints; the noise has no key at all. Two runs
with one seed therefore differ under a budget, as they must: what can be drawn again hides nothing.
With `secret_sampling` off, cohorts follow from the run's seed; the record says so.
"""

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import Config, require
from scalerec.federated.cohorts import Cohort
from scalerec.federated.gradients import Gradients
from scalerec.federated.privacy import (
    AdaptiveClip,
    Clipped,
    Ledger,
    Phase,
    Promise,
    RowNoise,
    clip_cohort,
    next_clip,
    noise_rows,
    private_mean,
    promise_privacy,
    split_noise,
)
from scalerec.federated.strategies import Trained
from scalerec.rounds import Update
from scalerec.rounds.cohort import CohortUpdate

__all__ = ["CentralGuard", "Guard", "PrivacyConfig", "new_key", "still_rows"]

LEDGER, CLIP, KEY, NOISE = "ledger", "clip", "key", "row_noise/"
KEY_BITS = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacyConfig(Config):
    """A promise to every user, or for every example.

    Args:
        epsilon: The budget; 0 for no promise and no noise.
        delta: 0 for one over the number of parties, or of all examples, to the power 1.1.
        clip: The largest norm of a party's update, or of an example's gradient, above 0; the first
            one where it adapts.
        adaptive: Whether the norm follows the median of the updates' norms.
        accountant: `pld`, `rdp`, or `auto`.
        by: What is hidden: a `user`, with all that a party holds, or one `example` of a party's.
        where: Who adds the noise: the server (`central`) or each party (`local`); `auto` is the
            server by user, and the party by example.
        participations: Where parties add the noise, the most rounds that one takes part in, which
            its noise is solved for; 0 for two standard deviations above the expected number.
        secret_sampling: Whether cohorts are drawn by a key of the operating system's, which the
            stated epsilon counts on; else they follow from the run's seed.
    """

    epsilon: float = 0.0
    delta: float = 0.0
    clip: float = 0.3
    adaptive: bool = False
    accountant: Literal["auto", "pld", "rdp"] = "auto"
    by: Literal["user", "example"] = "user"
    where: Literal["auto", "central", "local"] = "auto"
    participations: int = 0
    secret_sampling: bool = True

    def __post_init__(self) -> None:
        require(self.epsilon >= 0, f"epsilon must be at least 0; got {self.epsilon}")
        require(0 <= self.delta < 1, f"delta must be at least 0 and below 1; got {self.delta}")
        require(self.clip > 0, f"clip must be above 0; got {self.clip}")
        least = f"participations must be at least 0; got {self.participations}"
        require(self.participations >= 0, least)
        fits = self.by == "user" or self.where != "central"
        words = "by example each party adds the noise to its own steps: where must be auto or local"
        require(fits, f"{words}; got {self.where}")
        words = "only the server knows the norms that an adaptive clip follows"
        require(not self.adaptive or self.is_central, f"{words}: where must be central, by user")

    @property
    def is_central(self) -> bool:
        """Whether the server adds the noise."""
        return self.by == "user" and self.where != "local"

    @property
    def at_server(self) -> bool:
        """Whether there is a budget that the server's noise keeps, so updates reach it as sent."""
        return self.epsilon > 0 and self.is_central

    @property
    def choices(self) -> tuple[str, ...]:
        """How cohorts may be chosen under a budget, `auto` aside."""
        if self.is_central:
            return ("poisson",)
        # The others follow from losses, or from sizes, which are data of a user's.
        more = ("size",) if self.by == "example" else ()
        return ("uniform", "poisson", "available", *more)

    def most_rounds(self, rounds: int, rate: float) -> int:
        """The most rounds that one party takes part in, where parties add the noise.

        Args:
            rounds: Of the run.
            rate: A party's chance to be chosen in one.
        """
        if self.participations:
            return min(self.participations, rounds)
        usual = rounds * rate + 2 * math.sqrt(rounds * rate * (1 - rate))
        return max(1, min(rounds, math.ceil(usual)))


class Guard(Protocol):
    """Keeps a promise through a run: what happens to a cohort before, in and after its training.

    Attributes:
        key: The secret that cohorts are drawn by; None where they follow from the run's seed.
        gradients: What the parties' steps follow; None where the method says.
    """

    key: int | None
    gradients: Gradients | None

    @property
    def mean_noise(self) -> float:
        """The deviation of the noise in each number of a round's mean; 0 where nobody knows."""
        ...

    def may_run(self) -> bool:
        """Whether the budget allows one more round."""
        ...

    def may_join(self, parties: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which parties' budgets allow one more round, ``[P]``."""
        ...

    def prepare(self, cohort: Cohort) -> Cohort:
        """The cohort, ready for its local training."""
        ...

    def protect(self, update: CohortUpdate, trained: Trained) -> CohortUpdate:
        """What leaves the parties; they have paid for it.

        Args:
            update: What they would send, with weights.
            trained: How it came about.
        """
        ...

    def mean(self, update: CohortUpdate) -> Update | None:
        """A round's mean with noise; None where updates are combined as without a budget."""
        ...

    def catch_up(self, matrix: Tensor, rows: Tensor) -> None:
        """Put the noise that waits into rows that are about to be read."""
        ...

    def flush(self, matrix: Tensor) -> None:
        """Put all noise that waits into all rows."""
        ...

    def record(self) -> dict[str, Any]:
        """What a bundle's lineage says of the promise."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a checkpoint must keep: tensors, and JSON."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        ...


class CentralGuard:
    """Keeps a promise by user, by noise of the server's.

    Args:
        config: The promise.
        rounds: Rounds that the budget is to last for.
        num_parties: All parties.
        cohort: How many join a round on average.
        still: Rows that the server never moves, ``[n]`` int64.
        num_rows: R, rows of all tables.
        rate: Times the mean that the server's step adds, where it is linear; None where it is not.
        before: Rounds that the same parties have paid for: those of the bundle that the run starts
            from, as `phases_of` reads them from its record.

    Raises:
        ConfigError: If settings do not go together, or the rounds before leave nothing.
        MissingExtraError: If dp-accounting is not installed.
    """

    def __init__(
        self,
        config: PrivacyConfig,
        rounds: int,
        num_parties: int,
        cohort: float,
        still: Tensor,
        num_rows: int,
        rate: float | None,
        before: Sequence[Phase] = (),
    ) -> None:
        self.config, self.cohort, self.rate = config, cohort, rate
        self.key = new_key(config)
        self.gradients: Gradients | None = None
        self.adaptive = AdaptiveClip(initial=config.clip) if config.adaptive else None
        count_std = self.adaptive.count_noise(cohort) if self.adaptive else None
        promise = promise_privacy(
            epsilon=config.epsilon,
            rounds=rounds,
            num_parties=num_parties,
            cohort=cohort,
            clip=config.clip,
            delta=config.delta or None,
            accountant=config.accountant,
            count_std=count_std,
            secret_sampling=config.secret_sampling,
            before=before,
        )
        self.ledger = Ledger(promise, before=before)
        self.clip, self.noise_multiplier = config.clip, _noise_of_sum(promise)
        self.still, self.num_rows = still, num_rows
        self.waiting = RowNoise(num_rows, still=still) if rate is not None else None

    @property
    def mean_noise(self) -> float:
        """The deviation of the noise in each number of a round's mean."""
        return self.noise_multiplier * self.clip / self.cohort

    def may_run(self) -> bool:
        """Whether the budget allows one more round."""
        return self.ledger.may_run()

    def may_join(self, parties: NDArray[np.int64]) -> NDArray[np.bool_]:
        """All may: each round costs everybody."""
        return np.ones(len(parties), np.bool_)

    def prepare(self, cohort: Cohort) -> Cohort:
        """The cohort as it is."""
        return cohort

    def protect(self, update: CohortUpdate, trained: Trained) -> CohortUpdate:
        """The updates as they are: the server is trusted."""
        del trained
        return update

    def catch_up(self, matrix: Tensor, rows: Tensor) -> None:
        """Put the noise that waits into rows that are about to be read."""
        if self.waiting is not None:
            self.waiting.catch_up(matrix, rows)

    def flush(self, matrix: Tensor) -> None:
        """Put all noise that waits into all rows."""
        if self.waiting is not None:
            self.waiting.flush(matrix)

    def mean(self, update: CohortUpdate) -> Update:
        """Pay for a round, and give the mean of its updates with noise."""
        return self._noisy(clip_cohort(update, self.clip))

    def mean_of_sum(self, total: Update) -> Update:
        """As `mean`, where the server got a sum of updates, each shrunk by its party before."""
        none = Tensor([])
        cohort = CohortUpdate.of([total])
        return self._noisy(Clipped(cohort=cohort, norms=none, num_dropped=0))

    def _noisy(self, clipped: Clipped) -> Update:
        self.ledger.advance()
        found = private_mean(
            clipped,
            clip=self.clip,
            noise_multiplier=self.noise_multiplier,
            denominator=self.cohort,
        )
        if self.adaptive is not None:
            self.clip = next_clip(self.clip, clipped.norms, self.cohort, self.adaptive)
        if self.waiting is not None and self.rate is not None:
            self.waiting.advance(self.rate * found.row_std)
            return found.update
        names = list(found.update.tables)
        sizes, still = dict.fromkeys(names, self.num_rows), dict.fromkeys(names, self.still)
        return noise_rows(found.update, found.row_std, sizes, still=still)

    def record(self) -> dict[str, Any]:
        """What a bundle's lineage says of it."""
        return self.ledger.record()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a checkpoint must keep: tensors, and JSON."""
        tensors = self.waiting.state() if self.waiting is not None else {}
        values = {LEDGER: json.loads(self.ledger.to_json()), CLIP: self.clip}
        if self.key is not None:
            values[KEY] = f"{self.key:x}"
        return {NOISE + name: tensor for name, tensor in tensors.items()}, values

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with its noise, whatever was solved for."""
        self.ledger = Ledger.from_json(json.dumps(values[LEDGER]))
        self.clip, self.noise_multiplier = float(values[CLIP]), _noise_of_sum(self.ledger.promise)
        self.key = int(values[KEY], 16) if KEY in values else None
        if self.waiting is not None:
            own = {n.removeprefix(NOISE): t for n, t in tensors.items() if n.startswith(NOISE)}
            self.waiting = RowNoise.restore(own)


def _noise_of_sum(promise: Promise) -> float:
    """The sum's noise multiplier: what is left where a count takes some of it."""
    if promise.count_std is None:
        return promise.noise_multiplier
    return split_noise(promise.noise_multiplier, promise.count_std)


def new_key(config: PrivacyConfig) -> int | None:
    """A secret of the operating system's; None where sampling follows from the run's seed."""
    return secrets.randbits(KEY_BITS) if config.secret_sampling else None


def still_rows(private: Tensor, padding: Tensor) -> Tensor:
    """Rows that the server never moves: private ones, and padding, ``[n]`` int64."""
    still = private.clone()
    still[padding] = True
    return still.nonzero().flatten()

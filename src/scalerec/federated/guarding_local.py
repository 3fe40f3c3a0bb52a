"""Differential privacy by user without trust: each party clips its update and adds its own noise.

What leaves a party is private already, so the server may do with it what it likes: codecs, screens,
robust rules and any step of its own cost nothing. Nothing is gained from sampling, as the server
knows who sends. A party's budget is spent by the rounds that it takes part in, others' rounds cost
it nothing; when it is spent, the party joins no more. A party that was asked and is no longer
waited for must not send: in the simulation it is told so, and pays nothing.

Which rows a party read must not show, so it sends all rows that parties share, noise on each, and
asks for all of them: as many bytes as the model. All messages weigh the same, as sizes would tell.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import require
from scalerec.federated.cohorts import Cohort
from scalerec.federated.gradients import Gradients
from scalerec.federated.guarding import PrivacyConfig
from scalerec.federated.privacy import (
    Ledger,
    NoiseSource,
    Phase,
    privatise_update,
    promise_privacy,
)
from scalerec.federated.strategies import TABLE, Trained
from scalerec.rounds.cohort import CohortUpdate

__all__ = ["LocalGuard"]

LEDGER, COUNTS = "ledger", "participations"


class LocalGuard:
    """Keeps a promise by user, by noise that each party adds.

    Args:
        config: The promise.
        rounds: Of the run.
        num_parties: All parties.
        cohort: How many join a round on average.
        still: Rows that never leave a party or never move, ``[n]`` int64.
        num_rows: R, rows of all tables.
        before: Rounds that every party has paid for, as in `Ledger`.
        source: Gives the noise; None for the operating system.

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
        before: Sequence[Phase] = (),
        source: NoiseSource | None = None,
    ) -> None:
        require(not config.is_central, "local noise needs where local, by user")
        self.key: int | None = None
        self.gradients: Gradients | None = None
        self.still, self.num_rows, self.source = still, num_rows, source
        promise = promise_privacy(
            epsilon=config.epsilon,
            rounds=config.most_rounds(rounds, min(1.0, cohort / num_parties)),
            num_parties=num_parties,
            cohort=cohort,
            clip=config.clip,
            delta=config.delta or None,
            accountant=config.accountant,
            sampling="none",
            adjacency="replace",
            trust="local",
            before=before,
        )
        self.ledger = Ledger(promise, before=before)
        self.cohort = cohort
        self.counts = torch.zeros(num_parties, dtype=torch.int64)

    @property
    def mean_noise(self) -> float:
        """Of the mean over a cohort, each with noise of its own."""
        promise = self.ledger.promise
        return promise.noise_multiplier * promise.clip / math.sqrt(self.cohort)

    def may_run(self) -> bool:
        """Whether any party's budget allows one more round."""
        return bool((self.counts < self.ledger.rounds_allowed).any())

    def may_join(self, parties: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which parties' budgets allow one more round, ``[P]``."""
        left: NDArray[np.bool_] = (self.counts < self.ledger.rounds_allowed).numpy()[parties]
        return left

    def prepare(self, cohort: Cohort) -> Cohort:
        """The cohort as it is."""
        return cohort

    def protect(self, update: CohortUpdate, trained: Trained) -> CohortUpdate:
        """Each party's update, clipped and with its noise, on all rows; of weight 1."""
        parties = torch.from_numpy(trained.cohort.parties)
        self.counts[parties] += 1
        self.ledger.rounds_done = int(self.counts.max())
        promise = self.ledger.promise
        sizes = dict.fromkeys(update.tables, self.num_rows)
        found = [
            privatise_update(
                update.party(number),
                clip=promise.clip,
                noise_multiplier=promise.noise_multiplier,
                sizes=sizes,
                still={TABLE: self.still},
                source=self.source,
            )
            for number in range(len(update))
        ]
        return CohortUpdate.of(found)

    def mean(self, update: CohortUpdate) -> None:
        """None: what arrives is private, and is combined as any."""
        del update

    def catch_up(self, matrix: Tensor, rows: Tensor) -> None:
        """Nothing waits."""

    def flush(self, matrix: Tensor) -> None:
        """Nothing waits."""

    def record(self) -> dict[str, Any]:
        """What a bundle's lineage says of it: of the party that took part most often."""
        return {**self.ledger.record(), "rounds_allowed": self.ledger.rounds_allowed}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a checkpoint must keep: tensors, and JSON."""
        return {COUNTS: self.counts.clone()}, {LEDGER: json.loads(self.ledger.to_json())}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with its noise, whatever was solved for."""
        self.counts = tensors[COUNTS].clone()
        self.ledger = Ledger.from_json(json.dumps(values[LEDGER]))

"""Differential privacy by example: every step inside a party is private.

For parties that are organisations. A step draws its batch by a coin for each example (Poisson
sampling), clips each example's gradient, and adds noise (`example_steps`); what leaves the party
hides any one row of its data from everyone outside, the server too. So codecs, screens, robust
rules and any step of the server's cost nothing.

A party's noise is solved for from the number of its examples, the steps of a round and the rounds
that it can take part in: smaller parties need more. All have the same budget. When it is spent, the
party joins no more.

Which rows of tables its examples read must not show: the party sends all rows that parties share.
Rows that none of its examples read get noise alone, of every step. Plain steps are linear, so that
is one Gaussian of as many variances, drawn when the round ends; momentum, L2, a bound of the step's
norm and a pull to the server's rows would move rows that are read otherwise than those that are
not, and are refused. So are negatives: which items a party draws follows from all of its examples.

An example is a row of the data set as it is encoded. An event that also stands in the histories of
other rows, and a user with several rows, is promised less. The numbers of the parties' examples are
public, as steps and noise follow from them.

Shapes: P parties of a cohort.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import require
from scalerec.federated.batches import expected_batches, turns_of_epoch
from scalerec.federated.cohorts import Cohort
from scalerec.federated.example_steps import PrivateSteps
from scalerec.federated.gradients import Gradients
from scalerec.federated.guarding import PrivacyConfig, new_key
from scalerec.federated.local import LocalConfig
from scalerec.federated.privacy import (
    Ledger,
    NoiseSource,
    Promise,
    SystemNoise,
    add_noise,
    default_delta,
    promise_privacy,
    spent,
)
from scalerec.federated.privacy.entropy import on_grid
from scalerec.federated.strategies import TABLE, Trained
from scalerec.rounds.cohort import CohortRows, CohortUpdate

__all__ = ["ExampleGuard"]

COUNTS, NOISE, KEY, LIMIT = "participations", "noise", "key", "limit"
# Parties whose sizes differ by a tenth at most have one noise: that of the worst of them.
GROUP = 1.1
# Coarser than the last bits that rows in float32 keep.
RELEASED_BITS = 12


class ExampleGuard:
    """Keeps a promise by example, by private steps inside the parties.

    Args:
        config: The promise.
        rounds: Of the run.
        sizes: Examples of all parties, ``[num_parties]``.
        cohort: How many parties join a round on average.
        local: How parties train.
        still: Rows that never leave a party or never move, ``[n]`` int64.
        num_rows: R, rows of all tables.
        source: Gives the noise; None for the operating system.

    Raises:
        ConfigError: If settings do not go together.
        MissingExtraError: If dp-accounting is not installed.
    """

    def __init__(
        self,
        config: PrivacyConfig,
        rounds: int,
        sizes: NDArray[np.int64],
        cohort: float,
        local: LocalConfig,
        still: Tensor,
        num_rows: int,
        source: NoiseSource | None = None,
    ) -> None:
        for name in ("momentum", "l2", "max_norm"):
            value = getattr(local, name)
            words = "would move rows that examples read otherwise than those that none reads"
            require(not value, f"by example, {name} {words}: it must be 0; got {value}")
        self.config, self.local, self.source = config, local, source or SystemNoise()
        self.key = new_key(config)
        self.sizes, self.num_rows = sizes, num_rows
        self.moves = torch.ones(num_rows, dtype=torch.bool)
        self.moves[still] = False
        self.delta = config.delta or default_delta(int(sizes.sum()))
        self.limit = config.most_rounds(rounds, min(1.0, cohort / len(sizes)))
        self.groups = _groups(sizes)
        self.noise = torch.zeros(len(sizes), dtype=torch.float64)
        for own in self.groups:
            self.noise[own] = self._promise(own).noise_multiplier
        self.counts = torch.zeros(len(sizes), dtype=torch.int64)
        steps = PrivateSteps(config.clip, self.noise, local.batch_size, self.source)
        self.gradients: Gradients | None = steps

    @property
    def mean_noise(self) -> float:
        """Unknown: it follows from how many steps each party takes."""
        return 0.0

    def may_run(self) -> bool:
        """Whether any party's budget allows one more round."""
        return bool((self.counts < self.limit).any())

    def may_join(self, parties: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which parties' budgets allow one more round, ``[P]``."""
        left: NDArray[np.bool_] = (self.counts < self.limit).numpy()[parties]
        return left

    def prepare(self, cohort: Cohort) -> Cohort:
        """The cohort with the coins of its batches; they are the parties' secret."""
        return replace(cohort, coins="the seed" if self.key is None else f"{self.key:x}")

    def protect(self, update: CohortUpdate, trained: Trained) -> CohortUpdate:
        """The updates on all rows that parties share; those that were not read get their noise."""
        self.counts[torch.from_numpy(trained.cohort.parties)] += 1
        if TABLE not in update.tables:
            return update
        part, stds = update.tables[TABLE], self._row_stds(trained)
        shared = self.moves.nonzero()[:, 0]
        place = torch.full((self.num_rows,), -1)
        place[shared] = torch.arange(len(shared))
        values = part.values.new_zeros(len(update) * len(shared), part.values.shape[1])
        for number in range(len(update)):
            own, read = part.part(number), torch.zeros(len(shared), dtype=torch.bool)
            whole = values[number * len(shared) : (number + 1) * len(shared)]
            at = place[own.rows]
            assert bool((at >= 0).all()), "private rows and padding are in no update"
            read[at] = True
            std = float(stds[number])
            whole[~read] = add_noise(whole[~read], std, self.source)
            whole[at] = own.values
            # The last bits of rows that were read tell what they were added to.
            whole.copy_(on_grid(whole.double(), torch.tensor(std), RELEASED_BITS))
        offsets = torch.arange(len(update) + 1) * len(shared)
        rows = CohortRows(rows=shared.repeat(len(update)), offsets=offsets, values=values)
        return replace(update, tables={**update.tables, TABLE: rows})

    def _row_stds(self, trained: Trained) -> Tensor:
        """Of the noise of a whole round on a row that no example read, ``[P]`` float64."""
        cohort = trained.cohort
        expected = expected_batches(cohort.sizes, self.local.batch_size)
        each = self.noise[torch.from_numpy(cohort.parties)] * self.config.clip
        steps = trained.local.steps.double().sqrt()
        return self.local.rows_lr * each / torch.from_numpy(expected) * steps

    def mean(self, update: CohortUpdate) -> None:
        """None: what arrives is private, and is combined as any."""
        del update

    def catch_up(self, matrix: Tensor, rows: Tensor) -> None:
        """Nothing waits."""

    def flush(self, matrix: Tensor) -> None:
        """Nothing waits."""

    def record(self) -> dict[str, Any]:
        """What a bundle's lineage says of it: of the party with the largest epsilon."""
        found = []
        for own in self.groups:
            promise = self._promise(own, float(self.noise[own[0]]))
            steps = self._steps(own) * int(self.counts[own].max())
            cost = spent([promise.phase(steps)], promise.delta, promise.accountant)
            found.append((cost, steps, promise))
        _, steps, promise = max(found, key=lambda one: one[0])
        return {
            **Ledger(promise, rounds_done=steps).record(),
            "secret_sampling": self.config.secret_sampling,
            "parties": len(self.sizes),
            "participations": int(self.counts.max()),
            "participations_allowed": self.limit,
            "noise_multipliers": [float(self.noise.min()), float(self.noise.max())],
        }

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a checkpoint must keep: tensors, and JSON."""
        values: dict[str, Any] = {LIMIT: self.limit}
        if self.key is not None:
            values[KEY] = f"{self.key:x}"
        return {COUNTS: self.counts.clone(), NOISE: self.noise.clone()}, values

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with its noise, whatever was solved for."""
        self.counts = tensors[COUNTS].clone()
        self.noise.copy_(tensors[NOISE])
        self.limit = int(values[LIMIT])
        self.key = int(values[KEY], 16) if KEY in values else None

    def _steps(self, own: NDArray[np.int64]) -> int:
        """Steps of a round of the largest of a group of parties."""
        most = turns_of_epoch(self.sizes[own], self.local.batch_size).max()
        return int(most) * self.local.epochs

    def _promise(self, own: NDArray[np.int64], noise: float | None = None) -> Promise:
        """Of a group of parties: the sampling of the smallest, the steps of the largest."""
        least = int(self.sizes[own].min())
        settings: dict[str, Any] = {
            "epsilon": self.config.epsilon,
            "delta": self.delta,
            "rounds": self._steps(own) * self.limit,
            "num_parties": least,
            "cohort": float(expected_batches(np.array([least]), self.local.batch_size)[0]),
            "clip": self.config.clip,
            "unit": "example",
            "trust": "local",
            "accountant": self.config.accountant,
            "secret_sampling": self.config.secret_sampling,
            "public": ("the number of examples of every party",),
        }
        if noise is None:
            return promise_privacy(**settings)
        return Promise.from_dict({**settings, "noise_multiplier": noise})


def _groups(sizes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Parties of about one size, together; those without an example are in none."""
    classes = np.floor(np.log(np.maximum(sizes, 1)) / math.log(GROUP)).astype(np.int64)
    held = sizes > 0
    return [np.flatnonzero(held & (classes == one)) for one in np.unique(classes[held])]

"""What lies between the parties' training and the server's step.

`Exchange.meet` is a chain of stages. The parties' part (`_sent`): updates get their weights, meet
trouble where a simulation wants some (`trouble`), pass the codec of the way up (`coding`), and go
their way, on which some are lost or late (`transit`). The server's part (`_received`): updates are
screened; parties whose update will never be combined are told, so that method and codec forget it.
What is left becomes one update (`_combined`): the strategy's mean, the same by way of `edges`, a
robust combination, or, under a privacy budget, a mean with noise. Where updates are added in secret
the server gets their sum alone, and `secrecy` takes the place of all this.

Under a budget a party may count once in a round at most, and whether it does may depend on its own
update alone. So late and second copies are refused by what is written on them, NaN by itself, and
norms are bound by clipping, not compared.

Shapes: P parties, R rows of all tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalerec.config import require
from scalerec.federated.choice import Chosen
from scalerec.federated.coding import Coding
from scalerec.federated.cohorts import Cohort
from scalerec.federated.combining import Combining
from scalerec.federated.config import FederatedConfig
from scalerec.federated.edges import Edges
from scalerec.federated.guarding import Guard, still_rows
from scalerec.federated.guards import open_guard
from scalerec.federated.hiding import Hider
from scalerec.federated.privacy import Phase
from scalerec.federated.screening import Arrivals, Seen, screen
from scalerec.federated.secrecy import Secrecy
from scalerec.federated.sending import Sending
from scalerec.federated.strategies import TABLE, FedAvg, Trained
from scalerec.federated.transit import Batch, Transit
from scalerec.federated.trouble import TROUBLES, Trouble, turns_of
from scalerec.rounds import Parameters, Update
from scalerec.rounds.cohort import CohortRows, CohortUpdate

__all__ = ["Exchange"]

CODEC, GUARD, SEEN, TRANSIT = "codec/", "guard/", "seen/", "transit/"


class Exchange:
    """Takes what a cohort sends, and gives what moves the server.

    Args:
        config: The run's settings.
        strategy: Combines, where nothing else does.
        parameters: The server's, for their shapes.
        private: Whether a row never leaves its party, ``[R]`` bool.
        padding: Rows that stay zero, ``[n]`` int64.
        num_parties: All parties.
        before: Rounds that they have paid for.
        hider: Which rows travel.

    Raises:
        ConfigError: If settings do not go together.
    """

    def __init__(
        self,
        config: FederatedConfig,
        strategy: FedAvg,
        parameters: Parameters,
        private: Tensor,
        padding: Tensor,
        num_parties: int,
        before: Sequence[Phase] = (),
        *,
        hider: Hider,
    ) -> None:
        self.config, self.strategy = config, strategy
        self.shapes = {name: tensor.shape for name, tensor in parameters.dense.items()}
        self.coding = Coding(config.codec, config.seed)
        self.sending = Sending(strategy, self.coding, hider)
        self.trouble = Trouble(config.trouble, config.seed, num_parties)
        self.transit = Transit(config.trouble.late_rounds)
        self.screen = config.screen.private() if config.privacy.at_server else config.screen
        self.seen = Seen()
        self.combining = Combining.parse(config.combine)
        self._plainly = self.combining == Combining()
        self.combining.check(min(config.cohort, num_parties))
        self.guard: Guard | None = None
        matrix = parameters.tables[TABLE]
        self._row_type = matrix[:0]
        plain = type(strategy).combine is FedAvg.combine
        others = "use fedavg, fedprox, fedadam, fedyogi or fedadagrad"
        head = f"strategy {config.strategy} weighs or corrects updates itself, which"
        robust = self._plainly or plain
        require(robust, f"{head} combine {config.combine} does not; {others}")
        self.edges: Edges | None = None
        if config.edges:
            require(plain, f"{head} edges do not; with edges {others}, or fedbuff")
            self.edges = Edges(config.edges, config.seed, strategy.config.rows_over)
        if config.privacy.epsilon:
            cohort = float(min(config.cohort, num_parties))
            still = still_rows(private, padding)
            args = (config.privacy, strategy, config.rounds, cohort, still, len(matrix))
            self.guard = open_guard(*args, before)
            strategy.expect_noise(self.guard.mean_noise)
        self.secrecy: Secrecy | None = None
        if config.secure.kind != "none":
            self.secrecy = Secrecy(config, strategy, self.sending, self.trouble, self.guard)

    @property
    def choice_seed(self) -> int:
        """What cohorts are drawn by: the run's seed, or a secret under a budget."""
        key = self.guard.key if self.guard is not None else None
        return self.config.seed if key is None else key

    def may_run(self) -> bool:
        """Whether a round may run; not when a privacy budget is spent."""
        return self.guard is None or self.guard.may_run()

    def admit(self, chosen: Chosen) -> Chosen:
        """Those of the chosen whose privacy budgets are not spent."""
        if self.guard is None:
            return chosen
        joins = self.guard.may_join(chosen.parties)
        if joins.all():
            return chosen
        return replace(chosen, parties=chosen.parties[joins], weights=chosen.weights[joins])

    def prepare(self, cohort: Cohort) -> Cohort:
        """The cohort, ready for its local training."""
        return cohort if self.guard is None else self.guard.prepare(cohort)

    def catch_up(self, matrix: Tensor, rows: Tensor) -> None:
        """Make rows ready to be read."""
        if self.guard is not None:
            self.guard.catch_up(matrix, rows)

    def flush(self, matrix: Tensor) -> None:
        """Make all rows ready to be read."""
        if self.guard is not None:
            self.guard.flush(matrix)

    def meet(
        self, trained: Trained | None, chosen: Chosen | None, number: int
    ) -> tuple[Update | None, dict[str, float]]:
        """What moves the server after a cohort's training.

        Args:
            trained: The cohort; None if nobody joined.
            chosen: Who was chosen, with their weights; None where the updates have theirs.
            number: Of the round.

        Returns:
            The update, None if there is none; and what is to be counted.
        """
        if self.secrecy is not None and trained is not None and chosen is not None:
            met = self.secrecy.meet(trained, _weighed(trained, chosen), chosen, number)
            if met.update is None and self.guard is not None:
                return self.guard.mean(self._nobody()), met.counts
            return met.update, met.counts
        counts: dict[str, float] = {}
        batches = self.transit.due(number)
        if trained is not None:
            batches.insert(0, self._sent(trained, chosen, number, counts))
        kept = self._received(batches, number, counts)
        if kept is None or not len(kept):
            counts["empty_rounds"] = 1
        if self.guard is not None:
            private = self.guard.mean(self._nobody() if kept is None else kept.update)
            if private is not None:
                return private, counts
        if kept is None or not len(kept):
            return None, counts
        return self._combined(kept, chosen, counts), counts

    def _sent(
        self, trained: Trained, chosen: Chosen | None, number: int, counts: dict[str, float]
    ) -> Batch:
        """The parties' part: weights, trouble, the codec, and the way to the server."""
        parties = trained.cohort.parties
        turns, weighed = turns_of(parties), trained.update
        if chosen is not None:
            weighed = _weighed(trained, chosen)
        if self.guard is not None:
            weighed = self.guard.protect(weighed, trained)
            trained = replace(trained, update=weighed)
        kinds = self.trouble.draw(number, parties, turns)
        spoilt = self.trouble.spoil(weighed, number, parties, kinds)
        arrived, sizes = self.sending.encoded(spoilt, trained, turns, number)
        again = sizes[torch.from_numpy(kinds == TROUBLES.index("duplicated"))]
        counts |= self.sending.bytes_down(trained, number) | self.trouble.count(parties, kinds)
        counts["bytes_up"] = int(sizes.sum()) + int(again.sum())
        arrivals = Arrivals(
            update=arrived,
            parties=torch.from_numpy(parties),
            rounds=torch.full((len(parties),), number),
            steps=trained.local.steps,
            turns=torch.from_numpy(turns),
        )
        return self.transit.carry(Batch.whole(arrivals, trained.update, number), kinds)

    def _received(
        self, batches: list[Batch], number: int, counts: dict[str, float]
    ) -> Arrivals | None:
        """The server's part: what it lets pass; the others' parties are told. None of nothing."""
        if not batches:
            return None
        arrivals = Arrivals.join([batch.arrivals for batch in batches])
        found = screen(arrivals, number, self.seen, self.screen)
        self.seen = found.seen
        counts |= found.counts
        first = 0
        for batch in batches:
            last = first + len(batch.arrivals)
            own = (found.places >= first) & (found.places < last)
            self._forget(batch, batch.lost(found.places[own] - first), number)
            first = last
        return found.kept

    def _forget(self, batch: Batch, gone: Tensor, number: int) -> None:
        """Some of those who sent, ``[n]`` places, sent in vain."""
        if not len(gone):
            return
        self.strategy.lost(batch.senders[gone].numpy(), batch.sent.take(gone))
        if batch.number == number and not self.coding.does_nothing:
            self.coding.take_back(gone)

    def _combined(
        self, kept: Arrivals, chosen: Chosen | None, counts: dict[str, float]
    ) -> Update | None:
        """One update of those that are left."""
        update = kept.update
        if chosen is not None and chosen.divisor is not None:
            # The mean divides by the sum of weights; what to divide by is known beforehand.
            share = float(update.weights.sum()) / chosen.divisor
            update = update.scale(torch.full((len(update),), share))
        if self.edges is not None:
            found, counts["bytes_edge_up"] = self.edges.combine(update, kept.parties.numpy())
            return found
        if self._plainly:
            return self.strategy.combine(update, kept.steps, kept.parties.numpy())
        tried = self.combining.attempt(update, self.strategy.config.rows_over)
        if tried.update is None:
            counts["not_combined"] = 1
        return tried.update

    def _nobody(self) -> CohortUpdate:
        """The updates of no party."""
        none = torch.zeros(0, dtype=torch.int64)
        rows = CohortRows(
            rows=none, offsets=torch.zeros(1, dtype=torch.int64), values=self._row_type
        )
        dense = {name: torch.zeros(0, *shape) for name, shape in self.shapes.items()}
        return CohortUpdate(
            dense=dense, tables={TABLE: rows}, weights=torch.zeros(0, dtype=torch.float64)
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a checkpoint must keep: tensors, and JSON."""
        tensors = {SEEN + name: tensor for name, tensor in self.seen.state().items()}
        tensors |= {CODEC + name: tensor for name, tensor in self.coding.state().items()}
        tensors |= {TRANSIT + name: tensor for name, tensor in self.transit.state().items()}
        if self.guard is None:
            return tensors, {}
        noise, values = self.guard.state()
        return tensors | {GUARD + name: tensor for name, tensor in noise.items()}, values

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.seen = Seen.of_state(_under(SEEN, tensors))
        self.coding.load_state(_under(CODEC, tensors))
        self.transit.load_state(_under(TRANSIT, tensors))
        if self.guard is not None:
            self.guard.load_state(_under(GUARD, tensors), values)


def _weighed(trained: Trained, chosen: Chosen) -> CohortUpdate:
    """The updates with the weights that the choice gives."""
    order = np.argsort(chosen.parties)
    places = order[np.searchsorted(chosen.parties[order], trained.cohort.parties)]
    weights = torch.from_numpy(chosen.weights[places])
    return replace(trained.update, weights=weights)


def _under(head: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n[len(head) :]: tensor for n, tensor in tensors.items() if n.startswith(head)}

"""What parties measure on their own rows with models of their own.

A method may leave each party with parameters that no other has: its last layers, or all of them.
Each then scores its own rows of a split, and the metrics are over the rows of all.

Shapes: P parties, n rows of a split, B rows of each party at once, K rows of tables.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.dataset import Events
from scalerec.federated.cohorts import Cohort, gather_cohort
from scalerec.federated.splitting import Parties
from scalerec.federated.strategies import TABLE, FedAvg
from scalerec.federated.supply import Supply
from scalerec.models.recommender import Recommender
from scalerec.rounds import Parameters
from scalerec.scoring import measure
from scalerec.scoring.scores import Scored
from scalerec.train.cohort.holdings import hold

__all__ = ["Judge"]

# Parties that score at once.
TOGETHER = 64
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judge:
    """Measures a method's personal models.

    Args:
        recommender: The model; its tables say which row an id reads.
        strategy: Gives each party's parameters.
        supply: What each party trains on.
        parties: Who they are; only users know which rows of a split are theirs.
    """

    recommender: Recommender
    strategy: FedAvg
    supply: Supply
    parties: Parties

    @property
    def applies(self) -> bool:
        """Whether parties have models of their own, and rows to measure them on."""
        own = type(self.strategy).personal is not FedAvg.personal
        return own and self.parties.users is not None

    @torch.no_grad()
    def metrics(self, parameters: Parameters, events: Events) -> dict[str, float | None]:
        """Each task's metrics over the rows of all parties; rows of nobody are left out.

        Args:
            parameters: The server's.
            events: A split.

        Raises:
            TrainError: If a score is not finite.
        """
        return measure(self.recommender.layout, self._scored(parameters, events))

    def _scored(self, parameters: Parameters, events: Events) -> Iterator[Scored]:
        owners = self._owners(events)
        rows = np.flatnonzero(owners >= 0)
        rows = rows[np.argsort(owners[rows], kind="stable")]
        parties, starts = np.unique(owners[rows], return_index=True)
        starts = np.append(starts, len(rows))
        for first in range(0, len(parties), TOGETHER):
            some = parties[first : first + TOGETHER]
            bounds = starts[first : first + len(some) + 1]
            batch = events.take(rows[bounds[0] : bounds[-1]])
            yield self._score(parameters, batch, some, bounds - bounds[0])

    def _owners(self, events: Events) -> Numbers:
        """The party that each row is of, ``[n]``; -1 for nobody."""
        users = self.parties.users
        assert users is not None, "it applies to users alone"
        found = np.full(max(int(users.max(initial=-1)), self._num_users(events)) + 1, -1, np.int64)
        found[users] = np.arange(len(users))
        return found[np.asarray(events.column("user")).astype(np.int64)]

    @staticmethod
    def _num_users(events: Events) -> int:
        return int(events.dataset.num_users)

    def _score(
        self, parameters: Parameters, batch: Batch, parties: Numbers, offsets: Numbers
    ) -> Scored:
        """Score some parties' rows, each by its own model."""
        holdings, local = hold(batch, self.recommender.tables, np.arange(len(batch)), offsets)
        model = self.supply.model.with_examples(local)
        asked = gather_cohort(model, holdings, np.arange(len(parties)), parties)
        trained = self.supply.gather(parties, 0)
        own = self.strategy.personal(parameters, trained)
        assert own is not None, "it applies"
        dense, rows = own
        place = {int(party): number for number, party in enumerate(trained.parties)}
        order = torch.tensor([place[int(party)] for party in asked.parties])
        dense = {name: tensor[order] for name, tensor in dense.items()}
        matrix = _overlaid(parameters.tables[TABLE], asked, trained, rows)
        examples, mask, width = _places(asked)
        shift = asked.offsets[:-1].repeat_interleave(width)
        taken = model.take(examples, shift, mask)
        logits = model.score(dense, matrix, taken, len(asked))[mask]
        known = batch.take(examples[mask])
        return Scored(known.labels, known.label_mask, known.weights, known.groups, logits)


def _places(asked: Cohort) -> tuple[Tensor, Tensor, int]:
    """All rows of each party, filled up to the most; which of them count; how many each has."""
    width = int(asked.sizes[0])
    mask = np.arange(width) < asked.sizes[:, None]
    places = asked.starts[:, None] + np.where(mask, np.arange(width), 0)
    examples = torch.from_numpy(asked.order[places].reshape(-1))
    return examples, torch.from_numpy(mask.reshape(-1)), width


def _overlaid(matrix: Tensor, asked: Cohort, trained: Cohort, rows_kw: Tensor) -> Tensor:
    """The rows that are asked for: a party's own where it has them, else the server's."""
    wanted, held = (_keys(cohort, len(matrix)) for cohort in (asked, trained))
    found = matrix[asked.rows].clone()
    order = np.argsort(held)
    places = np.minimum(np.searchsorted(held[order], wanted), len(held) - 1)
    there = held[order][places] == wanted
    found[torch.from_numpy(there)] = rows_kw[torch.from_numpy(order[places[there]])]
    return found


def _keys(cohort: Cohort, num_rows: int) -> Numbers:
    owners = np.repeat(cohort.parties, np.diff(cohort.offsets.numpy()))
    keys: Numbers = owners * num_rows + cohort.rows.numpy()
    return keys

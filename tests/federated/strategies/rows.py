"""A model of rows alone: an example reads one row, and is to be near its label."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalerec.federated.local import LocalConfig
from scalerec.federated.strategies import TABLE, Ground
from scalerec.rounds import Parameters
from scalerec.train.cohort.holdings import Holdings
from scalerec.train.cohort.models import PartyModel

Tensors = Mapping[str, Tensor]


class RowModel:
    """The loss of an example is half the square of its row less its label, and of `w` as well.

    Args:
        places: Which of its party's rows each example reads, ``[n]``.
        labels: ``[n]``.
    """

    def __init__(self, places: list[int], labels: list[float]) -> None:
        self.places, self.labels = torch.tensor(places), torch.tensor(labels)
        self.dense = {"w": torch.tensor(0.0)}
        self.num_examples, self.draws = len(labels), False

    def for_worker(self, number: int) -> PartyModel:
        """Itself."""
        del number
        return self

    def take(self, examples: Tensor, shift: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, labels, and what counts."""
        return self.places[examples] + shift, self.labels[examples], mask.float()

    def losses(
        self, dense: Tensors, rows_kw: Tensor, batch: Any, num_parties: int, **moving: Any
    ) -> Tensor:
        """Each party's mean loss."""
        del moving
        places, labels, mask = (part.view(num_parties, -1) for part in batch)
        far = (rows_kw[places, 0] - labels).square() + (dense["w"][:, None] - labels).square()
        found: Tensor = (far / 2 * mask).sum(1) / mask.sum(1).clamp(min=1)
        return found

    def loss_of_one(self, dense: Tensors, rows_kw: Tensor, batch: Any) -> Tensor:
        """The mean loss of one party."""
        return self.losses({"w": dense["w"][None]}, rows_kw, batch, 1)[0]


def two_rows(local: LocalConfig, engine: Any = "batched") -> tuple[Ground, Parameters]:
    """Party 0 reads row 0 (label 1); party 1 reads row 0 (label 5) and row 1 (label 2)."""
    model = RowModel([0, 0, 1], [1.0, 5.0, 2.0])
    holdings = Holdings(
        np.arange(3),
        np.array([0, 1, 3]),
        torch.tensor([0, 0, 1]),
        torch.tensor([0, 1, 3]),
        torch.zeros(3, dtype=torch.bool),
    )
    private = torch.zeros(2, dtype=torch.bool)
    ground = Ground(model=model, holdings=holdings, private=private, local=local, engine=engine)
    return ground, Parameters(dense=dict(model.dense), tables={TABLE: torch.zeros(2, 1)})

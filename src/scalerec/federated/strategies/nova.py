"""FedNova: parties count by what they moved a step, not by how many steps they took."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import Config
from scalerec.federated.strategies.base import FedAvg, FedAvgConfig
from scalerec.rounds import TableRows, Update
from scalerec.rounds.cohort import CohortUpdate, cohort_mean

__all__ = ["FedNova", "FedNovaConfig", "steps_in_effect"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FedNovaConfig(FedAvgConfig):
    """As `FedAvgConfig`: a server's rate of 1 is the paper's, whose parties set all else."""


class FedNova(FedAvg):
    """Divides each party's displacement by its steps; the mean takes their mean number of steps.

    With FedAvg, a party that takes more steps than another counts for more than its examples, and
    rounds tend to a point that is not the parties' common optimum. Here ``d = tau sum_i p_i d_i /
    |a_i|`` with ``tau = sum_i p_i |a_i|`` and |a_i| the steps in effect; where all take equally
    many, it is FedAvg. Parties may have momentum; the server's is `server_momentum`, the paper's
    section 4.2.

    Paper: Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization,
    Wang et al., 2020, equation 12 and section 3.1, https://arxiv.org/abs/2007.07481
    """

    Config: ClassVar[type[Config]] = FedNovaConfig

    def combine(
        self, update: CohortUpdate, steps: Tensor, parties: NDArray[np.int64] | None = None
    ) -> Update:
        """The mean of displacements a step, times the mean number of steps."""
        del parties
        each = steps_in_effect(steps, self.ground.local.momentum)
        mean = cohort_mean(update.scale(1 / each.clamp(min=1)), self.config.rows_over)
        tau = float(update.weights @ each.to(update.weights) / update.weights.sum())
        return Update(
            dense={name: tensor * tau for name, tensor in mean.dense.items()},
            tables={
                name: TableRows(rows=part.rows, values=part.values * tau)
                for name, part in mean.tables.items()
            },
            weight=mean.weight,
        )


def steps_in_effect(steps: Tensor, momentum: float) -> Tensor:
    """|a_i|: how far parties get with gradients of size 1 and a rate of 1, ``[P]`` float64.

    A gradient goes on in the steps after it, so the one of step k counts
    ``1 + rho + ... + rho^(n - k)`` times: in all ``(n - rho (1 - rho^n) / (1 - rho)) / (1 - rho)``.

    Args:
        steps: n, ``[P]``.
        momentum: rho, in [0, 1).
    """
    num = steps.double()
    if not momentum:
        return num
    return (num - momentum * (1 - momentum**num) / (1 - momentum)) / (1 - momentum)

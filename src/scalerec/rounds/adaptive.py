"""Servers that adapt their step to each number: FedAdagrad, FedYogi, FedAdam.

Shapes: K touched rows, W a table's width, R a table's rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scalerec.config import Config, require
from scalerec.rounds.aggregate import Aggregator, Over, put_rows, weighted_mean
from scalerec.rounds.parties import Parameters
from scalerec.rounds.update import Update, check_update

__all__ = ["Adaptive", "Method", "adaptive_mean"]

Method = Literal["adagrad", "yogi", "adam"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptive(Config):
    """How an adaptive server steps.

    Args:
        method: What becomes of the mean square.
        lr: Learning rate of the dense part, at least 0.
        rows_lr: Learning rate of rows, at least 0.
        beta1: Share of the last mean that is kept, in [0, 1).
        beta2: Share of the last mean square that is kept, in [0, 1); Adagrad keeps all.
        tau: What is added to the root of the mean square, above 0; the mean square starts at its
            square. The larger, the less the step adapts.
    """

    method: Method
    lr: float
    rows_lr: float
    beta1: float
    beta2: float
    tau: float

    def __post_init__(self) -> None:
        for name in ("lr", "rows_lr"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be at least 0; got {value}")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} must be in [0, 1); got {value}")
        require(self.tau > 0, f"tau must be above 0; got {self.tau}")

    def stepped(
        self, weight: Tensor, moved: Tensor, mean: Tensor, square: Tensor, lr: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, mean and mean square after a round; the inputs stay as they are.

        Args:
            weight: Any shape.
            moved: The parties' mean displacement, in the shape of `weight`.
            mean: m, likewise.
            square: v, likewise.
            lr: Learning rate.
        """
        mean = mean.mul(self.beta1).add_(moved, alpha=1 - self.beta1)
        new = moved.square()
        if self.method == "adagrad":
            square = square + new
        elif self.method == "adam":
            square = square.mul(self.beta2).add_(new, alpha=1 - self.beta2)
        else:
            square = square.sub(new * torch.sign(square - new), alpha=1 - self.beta2)
        return weight.add(mean / square.sqrt().add_(self.tau), alpha=lr), mean, square


def adaptive_mean(settings: Adaptive, *, over: Over = "all", in_place: bool = False) -> Aggregator:
    """Step along the mean of the updates, each number by its own history; without bias correction.

    Only rows that the round touched are stepped, with their state. A dense tensor that no party
    sent is stepped with displacement 0.

    Paper: Adaptive Federated Optimization, Reddi et al., 2021, algorithm 2, with v0 = tau^2,
    https://arxiv.org/abs/2003.00295

    Args:
        settings: How it steps.
        over: As in `weighted_mean`.
        in_place: As in `optimised_mean`.
    """

    def init(parameters: Parameters) -> dict[str, Tensor]:
        state = {}
        for key, tensor in parameters.flat().items():
            state[f"mean/{key}"] = torch.zeros_like(tensor)
            state[f"square/{key}"] = torch.full_like(tensor, settings.tau**2)
        return state

    def apply(
        parameters: Parameters, updates: Sequence[Update], state: Mapping[str, Tensor]
    ) -> tuple[Parameters, dict[str, Tensor]]:
        moved = weighted_mean(updates, over)
        check_update(moved, parameters)
        after, dense, tables = dict(state), {}, dict(parameters.tables)
        for name, weight in parameters.dense.items():
            mean, square = f"mean/dense/{name}", f"square/dense/{name}"
            own = moved.dense[name] if name in moved.dense else torch.zeros_like(weight)
            found = settings.stepped(weight, own, state[mean], state[square], settings.lr)
            dense[name], after[mean], after[square] = found
        for name, part in moved.tables.items():
            mean, square = f"mean/tables/{name}", f"square/tables/{name}"
            weight, m, v = (t[part.rows] for t in (tables[name], state[mean], state[square]))
            rows = settings.stepped(weight, part.values, m, v, settings.rows_lr)
            tables[name] = put_rows(tables[name], part.rows, rows[0], in_place)
            after[mean] = put_rows(state[mean], part.rows, rows[1], in_place)
            after[square] = put_rows(state[square], part.rows, rows[2], in_place)
        return Parameters(dense=dense, tables=tables), after

    return Aggregator(init, apply)

"""What a federated run gives, and what of it a server has."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalerec.federated.config import FederatedConfig
from scalerec.models.recommender import Recommender, build_recommender

__all__ = ["Federated", "without_private"]


@dataclass(frozen=True, slots=True)
class Federated:
    """What a federated run gives.

    Args:
        recommender: Trained; private rows are those that each party has.
        private: Whether a row of its tables never left its party, ``[R]`` bool.
        curve: One entry an evaluation.
        best: The best value of the metric; None without a validation part.
        metric: Its name.
        rounds: Rounds that were run.
        totals: Bytes each way and counts of trouble, summed over the rounds.
        privacy: What was promised and spent, as a lineage records it; none without a budget.
        seconds: Time taken.
    """

    recommender: Recommender
    private: Tensor
    curve: list[dict[str, float]]
    best: float | None
    metric: str
    rounds: int
    totals: dict[str, float]
    privacy: dict[str, Any] | None
    seconds: float


def without_private(found: Federated, config: FederatedConfig) -> Recommender:
    """What the server has: private rows as they were drawn, which every party can draw too.

    Args:
        found: The outcome of a run.
        config: Its settings.
    """
    own = found.recommender
    recommender = build_recommender(own.layout, own.spec, config.seed)
    drawn = recommender.tables.matrix[found.private].clone()
    recommender.load_tensors(own.to_tensors())
    with torch.no_grad():
        recommender.tables.matrix[found.private] = drawn
    return recommender.eval()

"""Herding: examples whose mean is that of all candidates."""

import torch
from torch import Tensor

from scalerec.meta.choosing.candidates import check_budget

__all__ = ["herding"]


def herding(points_nd: Tensor, budget: int) -> Tensor:
    """Choose again and again the candidate that brings the mean of the chosen nearest to all's.

    Papers: Herding Dynamical Weights to Learn, Welling, 2009,
    https://dl.acm.org/doi/10.1145/1553374.1553517; as each candidate is taken once only, it is
    algorithm 4 of iCaRL: Incremental Classifier and Representation Learning, Rebuffi et al., 2017,
    https://arxiv.org/abs/1611.07725. Embeddings are taken as they are; the paper's are of length 1.

    Args:
        points_nd: The candidates, ``[n, D]`` floats.
        budget: How many are chosen, at least 0.

    Returns:
        Their numbers in the order of being chosen, ``[min(budget, n)]`` int64; each prefix is the
        choice under that smaller budget. Of several as near, the first is taken.

    Raises:
        ConfigError: If the budget is negative.
    """
    budget = check_budget(budget, len(points_nd))
    if not budget:
        return torch.zeros(0, dtype=torch.int64)
    points = points_nd.double()
    # Distances follow from points around their mean, where few digits cancel.
    points = points - points.mean(0)
    sizes = points.square().sum(1)
    total = torch.zeros_like(points[0])
    free = torch.ones(len(points), dtype=torch.bool)
    chosen: list[int] = []
    for _ in range(budget):
        # |total + x|^2 less |total|^2, which is the same for all.
        gaps = (sizes + 2.0 * (points @ total)).masked_fill(~free, torch.inf)
        number = int(gaps.argmin())
        chosen.append(number)
        free[number] = False
        total = total + points[number]
    return torch.tensor(chosen)

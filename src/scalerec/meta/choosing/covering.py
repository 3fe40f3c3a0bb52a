"""k-centre greedy: examples such that every candidate has a chosen one near it."""

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.meta.choosing.candidates import check_budget

__all__ = ["covering_radius", "k_centre_greedy"]


def k_centre_greedy(points_nd: Tensor, budget: int, held: Tensor | None = None) -> Tensor:
    """Choose again and again the candidate that is farthest from all chosen ones.

    Paper: Active Learning for Convolutional Neural Networks: A Core-Set Approach, Sener and
    Savarese, 2018, https://arxiv.org/abs/1708.00489, algorithm 1. The largest distance from a
    candidate to its nearest chosen one is at most twice the smallest possible. The paper starts
    from examples that are labelled already; without any, the first chosen one is here the candidate
    nearest to the mean of all.

    Args:
        points_nd: The candidates, ``[n, D]`` floats.
        budget: How many are chosen, at least 0.
        held: Candidates that are chosen already, ``[h]`` int64; they are not given back.

    Returns:
        Their numbers in the order of being chosen, ``[min(budget, n - h)]`` int64; each prefix is
        the choice under that smaller budget. Of several as far, the first is taken.

    Raises:
        ConfigError: If the budget is negative, or a held number is no candidate's.
    """
    num = len(points_nd)
    points = points_nd.double()
    start = points.new_zeros(0, dtype=torch.int64) if held is None else held
    fits = not len(start) or (int(start.min()) >= 0 and int(start.max()) < num)
    require(fits, f"held candidates must be from 0 to {num - 1}; got {start.tolist()[:5]}")
    left = num - len(start.unique())
    budget = check_budget(budget, left)
    if not budget:
        return torch.zeros(0, dtype=torch.int64)
    nearest = points.new_full((num,), torch.inf)
    for number in start.tolist():
        nearest = torch.minimum(nearest, _squares(points, points[number]))
    # A candidate that coincides with a chosen one may be chosen; a chosen one never again.
    nearest[start] = -1.0
    chosen: list[int] = []
    for _ in range(budget):
        if chosen or len(start):
            number = int(nearest.argmax())
        else:
            number = int(_squares(points, points.mean(0)).argmin())
        chosen.append(number)
        nearest = torch.minimum(nearest, _squares(points, points[number]))
        nearest[number] = -1.0
    return torch.tensor(chosen)


def covering_radius(points_nd: Tensor, chosen: Tensor) -> float:
    """The largest distance from a candidate to its nearest chosen one.

    Args:
        points_nd: The candidates, ``[n, D]`` floats, at least one.
        chosen: Numbers of the chosen ones, ``[k]`` int64, at least one.
    """
    points = points_nd.double()
    nearest = torch.stack([_squares(points, points[i]) for i in chosen.tolist()]).amin(0)
    return float(nearest.max().sqrt())


def _squares(points_nd: Tensor, centre_d: Tensor) -> Tensor:
    """Squared distances to a centre, ``[n]``."""
    return (points_nd - centre_d).square().sum(1)

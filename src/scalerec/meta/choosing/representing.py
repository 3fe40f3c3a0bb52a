"""k-means representatives: the examples nearest to the centres of clusters."""

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.meta.choosing.candidates import check_budget

__all__ = ["cluster", "representatives"]


def representatives(
    points_nd: Tensor, budget: int, generator: torch.Generator, *, num_iterations: int = 50
) -> Tensor:
    """Cluster the candidates into as many parts as the budget, and take the nearest of each centre.

    Paper: Representative Sampling for Text Classification Using Support Vector Machines, Xu et al.,
    2003, https://link.springer.com/chapter/10.1007/3-540-36618-0_28, which clusters what a
    classifier is unsure of; here all candidates are clustered, by `cluster`.

    Args:
        points_nd: The candidates, ``[n, D]`` floats.
        budget: How many are chosen, at least 0.
        generator: Draws the first centres.
        num_iterations: The most iterations of the clustering, at least 1.

    Returns:
        Their numbers, ``[min(budget, n)]`` int64, that of the largest cluster first.

    Raises:
        ConfigError: If the budget is negative, or there are no iterations.
    """
    budget = check_budget(budget, len(points_nd))
    if not budget:
        return torch.zeros(0, dtype=torch.int64)
    points = points_nd.double()
    centres_kd, owners = cluster(points, budget, generator, num_iterations=num_iterations)
    gaps_kn = torch.cdist(centres_kd, points, compute_mode="donot_use_mm_for_euclid_dist")
    chosen: list[int] = []
    for centre in owners.bincount(minlength=budget).argsort(descending=True, stable=True).tolist():
        # Two centres may share their nearest candidate where candidates coincide.
        gaps_kn[centre, chosen] = torch.inf
        chosen.append(int(gaps_kn[centre].argmin()))
    return torch.tensor(chosen)


def cluster(
    points_nd: Tensor, num_clusters: int, generator: torch.Generator, *, num_iterations: int = 50
) -> tuple[Tensor, Tensor]:
    """k-means: Lloyd's iterations from centres that are drawn far from each other.

    Papers: Least Squares Quantization in PCM, Lloyd, 1982,
    https://ieeexplore.ieee.org/document/1056489; k-means++: The Advantages of Careful Seeding,
    Arthur and Vassilvitskii, 2007, https://dl.acm.org/doi/10.5555/1283383.1283494.

    Args:
        points_nd: ``[n, D]`` floats.
        num_clusters: K, from 1 to n.
        generator: Draws the first centres.
        num_iterations: The most iterations, at least 1; it stops where no point changes its centre.

    Returns:
        The centres, ``[K, D]`` float64, and the number of each point's, ``[n]`` int64. A cluster
        that lost all its points keeps its centre.

    Raises:
        ConfigError: If a setting is out of range.
    """
    num = len(points_nd)
    require(1 <= num_clusters <= num, f"num_clusters must be from 1 to {num}; got {num_clusters}")
    require(num_iterations >= 1, f"num_iterations must be at least 1; got {num_iterations}")
    points = points_nd.double()
    centres_kd = _seeds(points, num_clusters, generator)
    owners = _owners(points, centres_kd)
    for _ in range(num_iterations):
        sums = torch.zeros_like(centres_kd).index_add(0, owners, points)
        counts = owners.bincount(minlength=num_clusters).unsqueeze(1)
        centres_kd = torch.where(counts > 0, sums / counts.clamp(min=1), centres_kd)
        after = _owners(points, centres_kd)
        if torch.equal(after, owners):
            break
        owners = after
    return centres_kd, owners


def _seeds(points_nd: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """The first centres: each a point, drawn by its squared distance to those before."""
    first = int(torch.randint(len(points_nd), (), generator=generator))
    seeds = [first]
    nearest = (points_nd - points_nd[first]).square().sum(1)
    for _ in range(num_clusters - 1):
        # Where all points coincide with a seed, any will do.
        weights = nearest if float(nearest.sum()) > 0 else torch.ones_like(nearest)
        seeds.append(int(torch.multinomial(weights, 1, generator=generator)))
        nearest = torch.minimum(nearest, (points_nd - points_nd[seeds[-1]]).square().sum(1))
    return points_nd[seeds]


def _owners(points_nd: Tensor, centres_kd: Tensor) -> Tensor:
    """The nearest centre of each point, the first of several as near, ``[n]``."""
    gaps = torch.cdist(points_nd, centres_kd, compute_mode="donot_use_mm_for_euclid_dist")
    return gaps.argmin(1)

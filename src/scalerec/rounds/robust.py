"""Robust combination: one update from a cohort's, of which some may be wrong or hostile.

Every function stands in the place of `cohort_mean`. In all but the norm bound each party counts for
one: how many examples it has is its own word, and a lie would buy influence. A party of weight 0
has nothing to say and is left out.

Rows of tables are a problem of their own. The members of a row are the parties that hold it, and
those are often one or two: then no rule can tell who is right, and the median and the trimmed mean
are the mean. `least` leaves a row with fewer holders than this where it is.

The rules that work coordinate by coordinate (median, trimmed mean) look at a row's holders only.
Those that look at whole updates (Krum, the geometric median) take an absent row for zero, as the
party left it where it was, and then average those they trust, as `cohort_mean` does.

Shapes: P parties, N numbers, G rows that equally many hold, c parties that hold them, W a width.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.rounds.aggregate import Over
from scalerec.rounds.cohort import CohortRows, CohortUpdate, cohort_mean, flat
from scalerec.rounds.holders import Holders, gram
from scalerec.rounds.update import TableRows, Update

__all__ = [
    "bound_norms",
    "cohort_median",
    "geometric_median",
    "krum",
    "krum_scores",
    "most_chosen",
    "trimmed_mean",
]


def cohort_median(cohort: CohortUpdate, least: int = 1) -> Update:
    """The median of each number; of an even count the mean of the two in the middle.

    Paper: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, Yin et al.,
    2018, definition 1, https://arxiv.org/abs/1803.01498

    Args:
        cohort: At least one party of a weight above 0.
        least: A row that fewer hold stays where it is, at least 1.

    Returns:
        The median, whose weight is the sum of the weights.

    Raises:
        ConfigError: If `least` is below 1.
        RoundError: If nobody has a weight, or a number or weight is not finite or the latter below
            0.
    """
    return _by_coordinate(cohort, lambda num: (num - 1) // 2, least)


def trimmed_mean(cohort: CohortUpdate, trim: float, least: int = 1) -> Update:
    """The mean of each number without its largest and smallest ones.

    From each side goes the share `trim`, rounded up, as long as one or two are left. So the trimmed
    mean of one or two holders is their mean, and that of three or four their median or the mean of
    the two in the middle, however small the share.

    Paper: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, Yin et al.,
    2018, definition 2, https://arxiv.org/abs/1803.01498; there the share of the parties is a whole
    number.

    Args:
        cohort: As in `cohort_median`.
        trim: The share that goes from each side, in [0, 0.5): at least that of the bad parties.
        least: As in `cohort_median`.

    Raises:
        ConfigError: If `trim` or `least` is out of range.
        RoundError: As in `cohort_median`.
    """
    require(0 <= trim < 0.5, f"trim must be in [0, 0.5); got {trim}")

    def cut(num: int) -> int:
        # 0.07 * 100 is a hair more than 7.
        return min(math.ceil(round(trim * num, 9)), (num - 1) // 2)

    return _by_coordinate(cohort, cut, least)


def krum(cohort: CohortUpdate, num_bad: int, num_kept: int = 1, over: Over = "all") -> Update:
    """The update whose nearest others are nearest, or the mean of the best few (multi-Krum).

    Paper: Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, Blanchard et al.,
    2017, sections 4 and 6, https://arxiv.org/abs/1703.02757. We differ: at most ``P - f - 2``, as
    many as a score looks at, may be kept, not all.

    Args:
        cohort: More than ``2 f + 2`` parties of a weight above 0.
        num_bad: f, how many of them may be bad, at least 0.
        num_kept: How many are averaged, from 1 to P - f - 2.
        over: How their rows are averaged; as in `weighted_mean`.

    Returns:
        The mean, whose weight is the sum of the weights of those kept. Of equals the first is kept.

    Raises:
        ConfigError: If `num_bad` is below 0 or `num_kept` below 1.
        RoundError: If there are too few parties, or as in `cohort_median`.
    """
    require(num_kept >= 1, f"num_kept must be at least 1; got {num_kept}")
    voters = _voters(cohort)
    most = most_chosen(len(voters), num_bad)
    if num_kept > most:
        raise RoundError(
            f"multi-Krum of {len(voters)} updates, {num_bad} of them bad, can keep 1 to {most}; "
            f"got {num_kept}"
        )
    scores = krum_scores(gram(voters), num_bad)
    kept = voters.take(torch.sort(scores, stable=True).indices[:num_kept].sort().values)
    return _equal_mean(kept, torch.ones(num_kept, dtype=torch.float64), over)


def most_chosen(num_parties: int, num_bad: int) -> int:
    """How many updates multi-Krum may keep, ``P - f - 2``.

    Args:
        num_parties: P.
        num_bad: f.

    Raises:
        ConfigError: If `num_bad` is below 0.
        RoundError: If there are not more than ``2 f + 2`` parties.
    """
    require(num_bad >= 0, f"num_bad must be at least 0; got {num_bad}")
    if num_parties <= 2 * num_bad + 2:
        raise RoundError(
            f"Krum with {num_bad} bad parties needs at least {2 * num_bad + 3} updates, more than "
            f"2 * {num_bad} + 2; got {num_parties}"
        )
    return num_parties - num_bad - 2


def krum_scores(products: Tensor, num_bad: int) -> Tensor:
    """The sum of each update's squared distances to its ``P - f - 2`` nearest others, ``[P]``.

    Args:
        products: Inner products, ``[P, P]`` float64.
        num_bad: f.

    Raises:
        RoundError: As in `most_chosen`.
    """
    nearest = most_chosen(len(products), num_bad)
    squares = products.diagonal()
    distances = (squares[:, None] + squares - 2 * products).clamp(min=0)
    distances.fill_diagonal_(math.inf)
    return distances.sort(1).values[:, :nearest].sum(1)


def bound_norms(cohort: CohortUpdate, max_norm: float | None = None) -> CohortUpdate:
    """Shrink each update whose L2 norm is above a bound to that bound.

    Paper: Can You Really Backdoor Federated Learning?, Sun et al., 2019, section 4,
    https://arxiv.org/abs/1911.07963

    Where rows are averaged over their holders, the mean's own norm may be above the bound, as rows
    that few hold are divided by few.

    Args:
        cohort: Some parties, their numbers finite.
        max_norm: The bound, above 0; None for the median of the cohort's norms.

    Raises:
        ConfigError: If `max_norm` is not above 0.
    """
    if max_norm is not None:
        require(max_norm > 0, f"max_norm must be above 0; got {max_norm}")
    norms = cohort.norms()
    bound = norms.quantile(0.5) if max_norm is None else norms.new_tensor(max_norm)
    return cohort.scale(torch.where(norms > bound, bound / norms, 1.0))


def geometric_median(
    cohort: CohortUpdate, over: Over = "all", *, num_steps: int = 100, smoothing: float = 1e-6
) -> Update:
    """The update whose sum of distances to all is smallest, by smoothed Weiszfeld steps.

    It is a weighted mean, and distances follow from inner products, so the steps are taken on P
    weights and the updates themselves are read twice.

    Paper: Robust Aggregation for Federated Learning, Pillutla et al., 2022, algorithm 2,
    https://arxiv.org/abs/1912.13445. We differ: parties count alike, and the smoothing is a share
    of the median norm.

    Args:
        cohort: As in `cohort_median`.
        over: How the weighted mean treats rows, as in `weighted_mean`; only `all` is the geometric
            median itself.
        num_steps: Steps at most, at least 1.
        smoothing: Distances below so many times the median norm count as that, above 0.

    Raises:
        ConfigError: If `num_steps` or `smoothing` is out of range.
        RoundError: As in `cohort_median`.
    """
    require(num_steps >= 1, f"num_steps must be at least 1; got {num_steps}")
    require(smoothing > 0, f"smoothing must be above 0; got {smoothing}")
    voters = _voters(cohort)
    products = gram(voters)
    squares = products.diagonal()
    nearest = (smoothing * squares.sqrt().quantile(0.5)).clamp(min=torch.finfo(torch.float64).tiny)
    shares = torch.full_like(squares, 1 / len(voters))
    for _ in range(num_steps):
        inner = products @ shares
        distances = (squares - 2 * inner + shares @ inner).clamp(min=0).sqrt()
        pulls = nearest / distances.clamp(min=nearest)
        after = pulls / pulls.sum()
        moved = float((after - shares).abs().sum())
        shares = after
        if moved < 1e-12:
            break
    return _equal_mean(voters, shares, over)


def _equal_mean(cohort: CohortUpdate, shares: Tensor, over: Over) -> Update:
    """A mean by shares that are not the parties' own weights."""
    mean = cohort_mean(replace(cohort, weights=shares), over)
    return replace(mean, weight=float(cohort.weights.sum()))


def _voters(cohort: CohortUpdate) -> CohortUpdate:
    """Those who have a weight, all their numbers checked."""
    weights = cohort.weights
    if bool((weights < 0).any()) or not bool(cohort.are_finite().all()):
        bad = (~cohort.are_finite() | (weights < 0)).nonzero().flatten().tolist()
        shown = ", ".join(map(str, bad[:5])) + (" ..." if len(bad) > 5 else "")
        raise RoundError(
            "updates must be finite and their weights at least 0; "
            f"{len(bad)} of {len(cohort)} are not, at place {shown}"
        )
    voters = (weights > 0).nonzero().flatten()
    if not len(voters):
        raise RoundError(f"one of {len(cohort)} updates must have a weight above 0; got none")
    return cohort if len(voters) == len(cohort) else cohort.take(voters)


def _by_coordinate(cohort: CohortUpdate, cut: Callable[[int], int], least: int) -> Update:
    """The mean of what is left of each number's values when `cut` go from each side."""
    require(least >= 1, f"least must be at least 1; got {least}")
    voters = _voters(cohort)
    dense = {
        name: _middle(flat(tensor).unsqueeze(0), cut).view(tensor.shape[1:])
        for name, tensor in voters.dense.items()
    }
    tables = {name: _middle_rows(part, cut, least) for name, part in voters.tables.items()}
    return Update(dense=dense, tables=tables, weight=float(voters.weights.sum()))


def _middle_rows(part: CohortRows, cut: Callable[[int], int], least: int) -> TableRows:
    holders = Holders.of(part)
    values = part.values.new_zeros(len(holders.rows), part.values.shape[1])
    for places, entries in holders.groups():
        if entries.shape[1] >= least:
            values[places] = _middle(part.values[entries], cut)
    return TableRows(rows=holders.rows, values=values)


def _middle(values_gcw: Tensor, cut: Callable[[int], int]) -> Tensor:
    """``[G, c, W]`` -> ``[G, W]``."""
    num = values_gcw.shape[1]
    gone = cut(num)
    if not gone:
        return values_gcw.mean(1)
    # NumPy sorts ten times as fast as torch, and short lines faster than columns.
    lines = np.sort(values_gcw.transpose(1, 2).contiguous().numpy(), axis=2)
    return torch.from_numpy(lines[:, :, gone : num - gone].mean(2))

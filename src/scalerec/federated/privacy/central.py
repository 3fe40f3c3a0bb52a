"""Central differential privacy by user: clipped updates, a noisy sum, a fixed denominator.

Federated learning with user-level privacy: Learning Differentially Private Recurrent Language
Models, McMahan et al., 2018, algorithm 1, https://arxiv.org/abs/1710.06963, with the estimator of a
fixed denominator. A party adds to the sum a vector of norm at most `clip`, over dense tensors and
rows of tables together, so adding or removing a party moves the sum by at most `clip`.

Noise belongs on *every* row of a table: noise on touched rows alone would tell which rows the
cohort touched. The sum here holds exact touched rows, and `RowNoise` or `noise_rows` adds what is
due on all of them before anyone reads. Until then it is the server's secret.

What breaks the promise, and so must not be combined with it: a mean over the holders of a row, a
mean by true weights, medians, Krum and other robust rules, and publishing figures of single rounds
(norms, losses, numbers of examples, of failures) without noise of their own.

Shapes: P parties, R a table's rows, W its width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.federated.privacy.entropy import NoiseSource, SystemNoise, add_noise
from scalerec.rounds import TableRows, Update
from scalerec.rounds.cohort import CohortRows, CohortUpdate

__all__ = [
    "Clipped",
    "PrivateMean",
    "clip_cohort",
    "empty_cohort",
    "noise_rows",
    "private_mean",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Clipped:
    """A cohort whose parties move a sum by at most a clipping norm each.

    Args:
        cohort: Updates of norm at most the clip, of parties that sent finite numbers.
        norms: Their norms before clipping, ``[P]`` float64; not to be published.
        num_dropped: Parties left out for NaN or infinity; not to be published.
    """

    cohort: CohortUpdate
    norms: Tensor
    num_dropped: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivateMean:
    """A round's mean under differential privacy.

    Args:
        update: Dense tensors with their noise; rows of tables *without*, the touched ones only.
        row_std: Standard deviation of the noise that is still due on every number of every row.
    """

    update: Update
    row_std: float


def clip_cohort(cohort: CohortUpdate, clip: float) -> Clipped:
    """Shrink each party's update to a norm of at most `clip`.

    A party with NaN or infinity counts as if it had sent zeros: to stop instead would tell of it.

    Args:
        cohort: As it arrived; it may be empty.
        clip: The largest norm over dense tensors and rows together, finite and above 0.

    Raises:
        ConfigError: If `clip` is outside its range.
    """
    require(math.isfinite(clip) and clip > 0, f"clip must be finite and above 0; got {clip}")
    fine = cohort.are_finite()
    kept = cohort if bool(fine.all()) else cohort.take(fine.nonzero().flatten())
    norms = kept.norms()
    # Products are rounded: a little less than clip / norm, so that norms never end above the clip.
    factors = torch.where(norms > clip, clip / norms * (1 - 4 * _precision(kept)), 1.0)
    return Clipped(
        cohort=kept.scale(factors), norms=norms, num_dropped=len(cohort) - len(kept.weights)
    )


def private_mean(
    clipped: Clipped,
    *,
    clip: float,
    noise_multiplier: float,
    denominator: float,
    max_weight: float | None = None,
    source: NoiseSource | None = None,
) -> PrivateMean:
    """The mean of a clipped cohort, with noise on its dense part.

    The sum is formed in float64, gets noise of standard deviation ``noise_multiplier * clip`` on
    each number and is divided by a denominator that no party moves. An empty cohort gives noise
    alone, as it must.

    Args:
        clipped: From `clip_cohort` with the same `clip`.
        clip: The clipping norm.
        noise_multiplier: Of the sum: with adaptive clipping, that of `split_noise`.
        denominator: The expected cohort (with `max_weight`, times the expected share of it), fixed
            beforehand, above 0.
        max_weight: None counts every party as 1. A number counts a party as its weight over this,
            at most 1, so the sum still moves by at most `clip`.
        source: Gives the noise; None for the operating system.

    Returns:
        The mean; its weight is the denominator.

    Raises:
        ConfigError: If a number is outside its range.
        RoundError: If a weight is below 0.
    """
    _check(clip, noise_multiplier, denominator, max_weight)
    cohort = clipped.cohort
    shares = _shares(cohort.weights, max_weight)
    source = source or SystemNoise()
    std = noise_multiplier * clip
    dense = {}
    for name, tensor in cohort.dense.items():
        total = torch.tensordot(shares.to(tensor.device), tensor.double(), dims=1)
        dense[name] = (add_noise(total, std, source) / denominator).to(tensor.dtype)
    tables = {name: _sum(part, shares, denominator) for name, part in cohort.tables.items()}
    return PrivateMean(
        update=Update(dense=dense, tables=tables, weight=denominator), row_std=std / denominator
    )


def noise_rows(
    update: Update,
    std: float,
    sizes: Mapping[str, int],
    *,
    still: Mapping[str, Tensor] | None = None,
    source: NoiseSource | None = None,
) -> Update:
    """Put noise on all rows of all tables at once: what a non-linear server optimiser needs.

    It takes a table's size in memory, and time that follows it, every round.

    Args:
        update: With the rows that were touched.
        std: Standard deviation of the noise: `PrivateMean.row_std`.
        sizes: Table to R; the update holds every table, without a row where none was touched.
        still: Table to rows that nobody ever moves (padding, rows that stay with their users),
            chosen without looking at data, ``[n]`` int64; they get no noise and are left out.
        source: Gives the noise; None for the operating system.

    Returns:
        The update with every row of every table but the `still` ones.

    Raises:
        RoundError: If the tables differ from those of `sizes`, or a still row was touched.
    """
    if update.tables.keys() != sizes.keys():
        raise RoundError(f"tables must be {sorted(sizes)}; got {sorted(update.tables)}")
    source = source or SystemNoise()
    tables = {}
    for name, part in update.tables.items():
        moves = torch.ones(sizes[name], dtype=torch.bool)
        if still and name in still:
            moves[still[name]] = False
        if not bool(moves[part.rows].all()):
            raise RoundError(f"table {name!r}: a row that must stay still was touched")
        whole = part.values.new_zeros(sizes[name], part.values.shape[1])
        whole[part.rows] = part.values
        rows = moves.nonzero().flatten()
        tables[name] = TableRows(rows=rows, values=add_noise(whole[rows], std, source))
    return replace(update, tables=tables)


def empty_cohort(cohort: CohortUpdate) -> CohortUpdate:
    """A cohort of nobody with the tensors and tables of this one, for rounds that drew no party."""
    return cohort.take(torch.empty(0, dtype=torch.int64))


def _shares(weights: Tensor, max_weight: float | None) -> Tensor:
    if max_weight is None:
        return torch.ones_like(weights)
    if bool((weights < 0).any()):
        raise RoundError(f"weights must be at least 0; got {float(weights.min())}")
    return (weights / max_weight).clamp(max=1.0)


def _sum(part: CohortRows, shares: Tensor, denominator: float) -> TableRows:
    rows, places = torch.unique(part.rows, return_inverse=True)
    values = part.values.double() * shares[part.owners, None]
    sums = values.new_zeros(len(rows), values.shape[1]).index_add_(0, places, values)
    return TableRows(rows=rows, values=(sums / denominator).to(part.values.dtype))


def _precision(cohort: CohortUpdate) -> float:
    """The coarsest relative step of the cohort's numbers."""
    tensors = [*cohort.dense.values(), *(part.values for part in cohort.tables.values())]
    return max((torch.finfo(tensor.dtype).eps for tensor in tensors), default=0.0)


def _check(
    clip: float, noise_multiplier: float, denominator: float, max_weight: float | None
) -> None:
    require(math.isfinite(clip) and clip > 0, f"clip must be finite and above 0; got {clip}")
    require(
        math.isfinite(noise_multiplier) and noise_multiplier >= 0,
        f"noise_multiplier must be finite and at least 0; got {noise_multiplier}",
    )
    require(
        math.isfinite(denominator) and denominator > 0,
        f"denominator must be finite and above 0; got {denominator}",
    )
    require(
        max_weight is None or max_weight > 0,
        f"max_weight must be None or above 0; got {max_weight}",
    )

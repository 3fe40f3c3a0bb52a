"""The updates of a whole cohort as one object: what batched engines compute, encode and combine.

Parties stand one after the other. Dense tensors have the same shape for all and are stacked; rows
of tables are ragged, so they lie in one list with offsets, and nothing is padded.

Shapes: P parties, K rows of all of them together, W a table's width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scalerec.errors import RoundError
from scalerec.rounds.aggregate import Over
from scalerec.rounds.update import TableRows, Update

__all__ = ["CohortRows", "CohortUpdate", "cohort_mean", "flat"]

# Rows are marked, not sorted, where there may be at most so many times as many numbers.
DENSE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortRows:
    """Rows of one table that the parties of a cohort displaced.

    Args:
        rows: Row numbers, ``[K]`` int64: those of each party in turn, sorted, each once.
        offsets: Where each party's start; the last entry is K; ``[P + 1]`` int64.
        values: One vector a row, ``[K, W]``.

    Raises:
        RoundError: If the shapes do not fit.
    """

    rows: Tensor
    offsets: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        num = int(self.offsets[-1])
        if self.rows.shape != (num,) or self.values.ndim != 2 or len(self.values) != num:
            raise RoundError(
                f"rows of a cohort must be [{num}] and their values [{num}, W], as the offsets "
                f"say; got {list(self.rows.shape)} and {list(self.values.shape)}"
            )

    @property
    def lengths(self) -> Tensor:
        """How many rows each party has, ``[P]`` int64."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def owners(self) -> Tensor:
        """Whose each row is, ``[K]`` int64."""
        return torch.repeat_interleave(self.lengths)

    def part(self, party: int) -> TableRows:
        """The rows of one party, as views."""
        low, high = int(self.offsets[party]), int(self.offsets[party + 1])
        return TableRows(rows=self.rows[low:high], values=self.values[low:high])

    def take(self, parties: Tensor) -> "CohortRows":
        """The rows of some parties, ``[n]`` int64, in this order."""
        lengths = self.lengths[parties]
        offsets = torch.zeros(len(parties) + 1, dtype=torch.int64)
        torch.cumsum(lengths, 0, out=offsets[1:])
        shift = torch.repeat_interleave(self.offsets[:-1][parties] - offsets[:-1], lengths)
        places = shift + torch.arange(int(offsets[-1]))
        return CohortRows(rows=self.rows[places], offsets=offsets, values=self.values[places])


@dataclass(frozen=True, kw_only=True, slots=True)
class CohortUpdate:
    """The updates of several parties, each with the number of examples behind it.

    Args:
        dense: Name to the parties' displacements, ``[P, ...]``.
        tables: Table to the parties' rows.
        weights: ``[P]`` float64, at least 0.
    """

    dense: Mapping[str, Tensor]
    tables: Mapping[str, CohortRows]
    weights: Tensor

    def __len__(self) -> int:
        return len(self.weights)

    def party(self, number: int) -> Update:
        """The update of one party, as views."""
        return Update(
            dense={name: tensor[number] for name, tensor in self.dense.items()},
            tables={name: rows.part(number) for name, rows in self.tables.items()},
            weight=float(self.weights[number]),
        )

    @staticmethod
    def of(updates: Sequence[Update]) -> "CohortUpdate":
        """Put updates side by side; all must hold the same dense tensors and tables.

        Raises:
            RoundError: If there is none, or names or shapes differ.
        """
        if not updates:
            raise RoundError("a cohort needs at least one update; got none")
        first = updates[0]
        for update in updates:
            if update.dense.keys() != first.dense.keys():
                raise RoundError(
                    f"updates of a cohort must hold the same dense tensors, {sorted(first.dense)}; "
                    f"got {sorted(update.dense)}"
                )
            if update.tables.keys() != first.tables.keys():
                raise RoundError(
                    f"updates of a cohort must hold the same tables, {sorted(first.tables)}; "
                    f"got {sorted(update.tables)}"
                )
        tables = {}
        for name in first.tables:
            parts = [update.tables[name] for update in updates]
            lengths = torch.tensor([0, *(len(part.rows) for part in parts)])
            tables[name] = CohortRows(
                rows=torch.cat([part.rows for part in parts]),
                offsets=lengths.cumsum(0),
                values=torch.cat([part.values for part in parts]),
            )
        return CohortUpdate(
            dense={name: torch.stack([u.dense[name] for u in updates]) for name in first.dense},
            tables=tables,
            weights=torch.tensor([update.weight for update in updates], dtype=torch.float64),
        )

    @staticmethod
    def join(parts: Sequence["CohortUpdate"]) -> "CohortUpdate":
        """The parties of several cohorts, one after the other; all hold the same names."""
        first = parts[0]
        tables = {}
        for name in first.tables:
            own = [part.tables[name] for part in parts]
            lengths = torch.cat([part.lengths for part in own])
            tables[name] = CohortRows(
                rows=torch.cat([part.rows for part in own]),
                offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
                values=torch.cat([part.values for part in own]),
            )
        return CohortUpdate(
            dense={name: torch.cat([part.dense[name] for part in parts]) for name in first.dense},
            tables=tables,
            weights=torch.cat([part.weights for part in parts]),
        )

    def take(self, parties: Tensor) -> "CohortUpdate":
        """The updates of some parties, ``[n]`` int64, in this order."""
        return CohortUpdate(
            dense={name: tensor[parties] for name, tensor in self.dense.items()},
            tables={name: rows.take(parties) for name, rows in self.tables.items()},
            weights=self.weights[parties],
        )

    def scale(self, factors: Tensor) -> "CohortUpdate":
        """Multiply each party's displacement by its factor, ``[P]``; the weights stay."""
        tables = {
            name: replace(part, values=part.values * factors[part.owners, None].to(part.values))
            for name, part in self.tables.items()
        }
        dense = {
            name: tensor * factors.to(tensor).view(-1, *[1] * (tensor.ndim - 1))
            for name, tensor in self.dense.items()
        }
        return CohortUpdate(dense=dense, tables=tables, weights=self.weights)

    def norms(self) -> Tensor:
        """Each party's L2 norm over dense tensors and rows together, ``[P]`` float64."""
        squares = torch.zeros(len(self), dtype=torch.float64)
        for tensor in self.dense.values():
            squares += flat(tensor).double().square().sum(1)
        for part in self.tables.values():
            squares.index_add_(0, part.owners, part.values.double().square().sum(1))
        return squares.sqrt()

    def are_finite(self) -> Tensor:
        """Whether each party's update holds neither NaN nor infinity, ``[P]`` bool."""
        # A sum of squares would take large numbers for infinity.
        fine = self.weights.isfinite()
        for tensor in self.dense.values():
            fine &= flat(tensor).isfinite().all(1)
        for part in self.tables.values():
            odd = part.owners[~part.values.isfinite().all(1)]
            fine[odd] = False
        return fine


def cohort_mean(cohort: CohortUpdate, over: Over = "all") -> Update:
    """The weighted mean of a cohort; what `weighted_mean` gives for its parties one by one.

    Args:
        cohort: At least one party.
        over: As in `weighted_mean`.

    Raises:
        RoundError: If a weight is below 0 or not finite, or the weights sum to 0.
    """
    weights = cohort.weights
    if not bool((weights.isfinite() & (weights >= 0)).all()):
        raise RoundError("weights must be finite and at least 0")
    total = float(weights.sum())
    if total <= 0:
        raise RoundError(f"the weights of {len(cohort)} updates sum to 0; one must be above 0")
    shares = weights / total
    dense = {
        name: (shares.to(tensor) @ flat(tensor)).view(tensor.shape[1:])
        for name, tensor in cohort.dense.items()
    }
    tables = {name: _mean_rows(part, shares, over) for name, part in cohort.tables.items()}
    return Update(dense=dense, tables=tables, weight=total)


def flat(tensor: Tensor) -> Tensor:
    """The numbers of each party side by side, ``[P, n]``; also of a single number each, or none."""
    return tensor.reshape(len(tensor), math.prod(tensor.shape[1:]))


def _mean_rows(part: CohortRows, shares: Tensor, over: Over) -> TableRows:
    own = shares.to(part.values)[part.owners, None]
    rows, places = _distinct(part.rows)
    sums = part.values.new_zeros(len(rows), part.values.shape[1])
    sums.index_add_(0, places, part.values * own)
    if over == "holders":
        held = part.values.new_zeros(len(rows), 1).index_add_(0, places, own)
        sums /= torch.where(held > 0, held, 1.0)
    return TableRows(rows=rows, values=sums)


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows in order, and where each one stands among them."""
    num = int(rows.max()) + 1 if len(rows) else 0
    if num > DENSE * len(rows):
        found: tuple[Tensor, Tensor] = torch.unique(rows, return_inverse=True)
        return found
    # A mark for every number there may be takes less than to sort.
    held = torch.zeros(num, dtype=torch.bool)
    held[rows] = True
    return held.nonzero()[:, 0], held.cumsum(0)[rows] - 1

"""The update: what a party sends, and the algebra that combines it.

An update is a displacement of parameters: dense tensors beside sparse rows of tables, with the
number of examples behind it. A tensor or row that is absent counts as zero, so the empty update is
the zero of the algebra. The laws (tests hold them, exactly or to rounding):

- add is commutative and associative, with the empty update as zero; weights add up;
- subtract undoes add, weights included;
- scale distributes over add and leaves the weight alone: clipping a party's update does not make it
  a smaller party.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scalerec.errors import RoundError
from scalerec.rounds.parties import Parameters

__all__ = ["TableRows", "Update", "apply_update", "check_update", "difference", "sum_rows"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRows:
    """Some rows of one table.

    Args:
        rows: Row numbers, sorted, each once, ``[K]`` int64.
        values: One vector per row, ``[K, W]`` floating point.

    Raises:
        RoundError: If the shapes do not fit.
    """

    rows: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        if self.rows.ndim != 1 or self.values.ndim != 2 or len(self.rows) != len(self.values):
            raise RoundError(
                "rows must be [K] and values [K, W]; "
                f"got {list(self.rows.shape)} and {list(self.values.shape)}"
            )
        if self.rows.dtype != torch.int64:
            raise RoundError(f"rows must be torch.int64; got {self.rows.dtype}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """A displacement of parameters, with the number of examples behind it.

    Args:
        dense: Name to displacement.
        tables: Table to displaced rows.
        weight: Number of examples; after a subtraction it may be below 0.
    """

    dense: Mapping[str, Tensor]
    tables: Mapping[str, TableRows]
    weight: float

    @staticmethod
    def zero() -> "Update":
        """The update that changes nothing and that any update can be added to."""
        return Update(dense={}, tables={}, weight=0.0)

    def __add__(self, other: "Update") -> "Update":
        """Add displacements name by name and row by row, and the weights.

        Raises:
            RoundError: If tensors of one name differ in shape.
        """
        dense = dict(self.dense)
        for name, tensor in other.dense.items():
            dense[name] = _add(name, dense[name], tensor) if name in dense else tensor
        tables = dict(self.tables)
        for name, rows in other.tables.items():
            tables[name] = sum_rows(name, [tables[name], rows]) if name in tables else rows
        return Update(dense=dense, tables=tables, weight=self.weight + other.weight)

    def __sub__(self, other: "Update") -> "Update":
        """Subtract displacements and weights; what is left of an update after a lossy codec, say.

        Raises:
            RoundError: If tensors of one name differ in shape.
        """
        return self + replace(other.scale(-1.0), weight=-other.weight)

    def scale(self, factor: float | Tensor) -> "Update":
        """Multiply the displacement; the weight stays.

        Args:
            factor: A number, or a tensor without dimensions; types of the displacement stay.
        """
        tables = {
            name: TableRows(rows=part.rows, values=_times(part.values, factor))
            for name, part in self.tables.items()
        }
        dense = {name: _times(tensor, factor) for name, tensor in self.dense.items()}
        return Update(dense=dense, tables=tables, weight=self.weight)

    def values(self) -> list[Tensor]:
        """All displaced numbers, dense tensors first."""
        return [*self.dense.values(), *(part.values for part in self.tables.values())]

    def norm(self) -> Tensor:
        """The L2 norm over all displaced numbers, a float64 tensor without dimensions."""
        squares = [value.double().square().sum() for value in self.values()]
        return (
            torch.stack(squares).sum().sqrt() if squares else torch.zeros((), dtype=torch.float64)
        )

    def is_finite(self) -> bool:
        """Whether no displaced number and not the weight is NaN or infinite."""
        return math.isfinite(self.weight) and all(bool(v.isfinite().all()) for v in self.values())


def sum_rows(name: str, parts: Sequence[TableRows]) -> TableRows:
    """Add several sets of rows of one table; a row's sum runs in the order of the parts.

    Args:
        name: The table's name, for messages.
        parts: At least one.

    Raises:
        RoundError: If the widths or types differ.
    """
    first = parts[0].values
    for part in parts:
        if part.values.shape[1] != first.shape[1] or part.values.dtype != first.dtype:
            raise RoundError(
                f"rows of table {name!r} must all have width {first.shape[1]} and type "
                f"{first.dtype}; got {part.values.shape[1]} and {part.values.dtype}"
            )
    rows, places = torch.unique(torch.cat([part.rows for part in parts]), return_inverse=True)
    values = torch.zeros(len(rows), first.shape[1], dtype=first.dtype, device=first.device)
    return TableRows(
        rows=rows, values=values.index_add(0, places, torch.cat([part.values for part in parts]))
    )


def difference(
    after: Parameters, before: Parameters, rows: Mapping[str, Tensor], weight: float
) -> Update:
    """The update that leads from one set of parameters to another.

    Args:
        after: New parameters, tables gathered, ``[K, W]``.
        before: Old parameters of the same names and shapes.
        rows: The row numbers of the gathered tables, ``[K]`` int64.
        weight: Number of examples behind the change.

    Raises:
        RoundError: If names or shapes differ.
    """
    _check_same(before.dense, after.dense, "dense tensors")
    _check_same(before.tables, after.tables, "tables")
    _check_same(before.tables, rows, "tables with row numbers", shapes=False)
    return Update(
        dense={name: tensor - before.dense[name] for name, tensor in after.dense.items()},
        tables={
            name: TableRows(rows=rows[name], values=table - before.tables[name])
            for name, table in after.tables.items()
        },
        weight=weight,
    )


def apply_update(parameters: Parameters, update: Update) -> Parameters:
    """Move whole parameters by an update; they themselves stay as they are.

    Args:
        parameters: The server's, with tables ``[R, W]``.
        update: A displacement of all or some of them.

    Raises:
        RoundError: If the update does not fit the parameters.
    """
    check_update(update, parameters)
    dense, tables = dict(parameters.dense), dict(parameters.tables)
    for name, tensor in update.dense.items():
        dense[name] = dense[name] + tensor
    for name, part in update.tables.items():
        tables[name] = tables[name].index_add(0, part.rows, part.values)
    return Parameters(dense=dense, tables=tables)


def check_update(update: Update, parameters: Parameters, place: str = "") -> None:
    """Refuse an update that does not fit; one from outside may hold anything.

    Args:
        update: What arrived.
        parameters: The server's, with tables ``[R, W]``.
        place: Who sent it; it heads the message.

    Raises:
        RoundError: If a name is unknown, a shape or type differs, rows are not sorted and unique or
            lie outside their table, or the weight is below 0.
    """
    try:
        if update.weight < 0:
            raise RoundError(f"weight must be at least 0; got {update.weight}")
        for name, tensor in update.dense.items():
            _check_known(name, parameters.dense, "dense tensor")
            _check_like(f"dense tensor {name!r}", tensor, parameters.dense[name])
        for name, part in update.tables.items():
            _check_known(name, parameters.tables, "table")
            _check_rows(name, part, parameters.tables[name])
    except RoundError as error:
        raise RoundError(f"{place}: {error}") if place else error from None


def _check_rows(name: str, part: TableRows, table: Tensor) -> None:
    _check_like(f"a row of table {name!r}", part.values[:1], table[:1] if len(part.rows) else None)
    if not len(part.rows):
        return
    if bool((part.rows[1:] <= part.rows[:-1]).any()):
        raise RoundError(f"rows of table {name!r} must be sorted, each once")
    first, last = int(part.rows[0]), int(part.rows[-1])
    if first < 0 or last >= len(table):
        raise RoundError(
            f"rows of table {name!r} must be in [0, {len(table)}); got {first} to {last}"
        )


def _check_known(name: str, allowed: Iterable[str], kind: str) -> None:
    if name not in allowed:
        raise RoundError(f"there is no {kind} {name!r}; allowed: {sorted(allowed)}")


def _check_like(what: str, tensor: Tensor, wanted: Tensor | None) -> None:
    if wanted is None or (tensor.shape == wanted.shape and tensor.dtype == wanted.dtype):
        return
    raise RoundError(
        f"{what} must be {list(wanted.shape)} of {wanted.dtype}; "
        f"got {list(tensor.shape)} of {tensor.dtype}"
    )


def _check_same(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], kind: str, *, shapes: bool = True
) -> None:
    if wanted.keys() != found.keys():
        raise RoundError(f"{kind} must be {sorted(wanted)}; got {sorted(found)}")
    if shapes:
        for name, tensor in found.items():
            _check_like(f"{kind}: {name!r}", tensor, wanted[name])


def _times(tensor: Tensor, factor: float | Tensor) -> Tensor:
    # A float64 factor would turn a tensor without dimensions into float64.
    return tensor * (factor.to(tensor.dtype) if isinstance(factor, Tensor) else factor)


def _add(name: str, left: Tensor, right: Tensor) -> Tensor:
    _check_like(f"dense tensor {name!r}", right, left)
    return left + right

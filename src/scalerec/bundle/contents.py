"""What a verb hands over to be written: a whole bundle's contents, or a delta's changes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from scalerec.bundle.lineage import Step
from scalerec.bundle.pieces import Pieces
from scalerec.errors import BundleError

__all__ = ["Changes", "Contents", "RowChange"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """Everything that a whole bundle holds, attachments aside.

    Args:
        schema: The schema of the data, as JSON.
        spec: The model spec, as JSON; its `kind` says who reads it, as ``{"kind": "recommender"}``.
        layout: The layout of a batch, as JSON.
        adaptable: Names of parameters that may be adapted; ``*``, ``?`` and ``[ab]`` match as in a
            shell, so ``("*",)`` frees all.
        lineage: The steps that made it, the oldest first; this verb's own is the last.
        tensors: Name to tensor; any text but ``__metadata__`` is a name.
        encoders: Vocabularies and bucket edges.
        catalogue: Item rows that serving needs.
        users: User rows that serving needs.
        pieces: Name to tensor, of those that no memory holds whole.
    """

    schema: Mapping[str, Any]
    spec: Mapping[str, Any]
    layout: Mapping[str, Any]
    adaptable: tuple[str, ...] = ()
    lineage: tuple[Step, ...] = ()
    tensors: Mapping[str, Tensor]
    pieces: Mapping[str, Pieces] = field(default_factory=dict)
    encoders: pa.Table | None = None
    catalogue: pa.Table | None = None
    users: pa.Table | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowChange:
    """Some rows of a tensor: their numbers and their new values.

    Args:
        rows: int64 [R], each number once, at least 0. Numbers past the end let the tensor grow;
            then every new row must be given.
        values: [R, ...], of the tensor's dtype and with its other dimensions.
    """

    rows: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        rows, values = self.rows, self.values
        if rows.dtype is not torch.int64 or rows.ndim != 1:
            raise BundleError(f"rows must be int64 [R]; got {rows.dtype} {list(rows.shape)}")
        if values.ndim < 1 or len(values) != len(rows):
            raise BundleError(f"values must be [{len(rows)}, ...]; got {list(values.shape)}")
        if len(rows) and int(rows.min()) < 0:
            raise BundleError(f"rows must be at least 0; got {int(rows.min())}")
        if len(rows.unique()) != len(rows):
            raise BundleError("rows must be given once each; got a row twice")

    def ordered(self) -> "RowChange":
        """Give the same change with the row numbers ascending."""
        order = self.rows.argsort()
        return RowChange(rows=self.rows[order], values=self.values[order])

    def shape_after(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Give the shape of a tensor once the rows are put in.

        Args:
            name: The tensor's name, for the message.
            dtype: The tensor's dtype before the change.
            shape: The tensor's shape before the change.

        Raises:
            BundleError: If the change does not fit the tensor, or leaves a gap behind its end.
        """
        found = (self.values.dtype, tuple(self.values.shape[1:]))
        if not shape or found != (dtype, shape[1:]):
            raise BundleError(
                f"rows of {name!r} must be {dtype} [R, *{list(shape[1:])}], as the base's tensor "
                f"{list(shape)} is; got {found[0]} {list(self.values.shape)}"
            )
        new = int((self.rows >= shape[0]).sum())
        last = int(self.rows.max()) if len(self.rows) else -1
        if last >= shape[0] + new:
            raise BundleError(
                f"rows of {name!r} must leave no gap after row {shape[0] - 1}, the base's last; "
                f"got row {last} with {new} new rows"
            )
        return (shape[0] + new, *shape[1:])

    def applied(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Put the rows into a tensor, which is written to unless it has to grow.

        Args:
            tensor: The tensor before the change.
            shape: Its shape after the change.
        """
        if shape != tuple(tensor.shape):
            grown = tensor.new_zeros(shape)
            grown[: len(tensor)] = tensor
            tensor = grown
        tensor[self.rows] = self.values
        return tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What a delta changes; everything that is not named here stays as in its base.

    Args:
        step: The verb that made the changes; the base's digest is among its parents.
        tensors: Tensors that are new, or replaced whole.
        rows: Tensors of which only some rows changed.
        schema: A new schema.
        spec: A new model spec.
        layout: A new layout.
        adaptable: New names of parameters that may be adapted.
        encoders: New encoders.
        catalogue: A new catalogue.
        users: New user rows.
    """

    step: Step
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    rows: Mapping[str, RowChange] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    spec: Mapping[str, Any] | None = None
    layout: Mapping[str, Any] | None = None
    adaptable: tuple[str, ...] | None = None
    encoders: pa.Table | None = None
    catalogue: pa.Table | None = None
    users: pa.Table | None = None

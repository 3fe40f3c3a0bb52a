"""Look up and assemble the fields of a batch in one pass of compiled kernels.

It gives what `Tables.forward` and `FieldEmbedder` give one after the other, and its backward pass
sums gradients and moves rows without any of the tensors between. It is the plain way's twin: on
other devices, under `vmap`, in second-order gradients and for nets that read histories item by item
the plain way is taken.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.layout import Layout
from scalerec.models.compiled import CompiledEngine, as_array
from scalerec.models.engines import DenseEngine, Fetched, RemoteEngine
from scalerec.models.inputs import folded_columns
from scalerec.models.kernels.assemble import assemble
from scalerec.models.kernels.move import KINDS, NUM_SETTINGS, move_fields, sum_numbers, sum_others
from scalerec.models.kernels.threads import run_shares
from scalerec.models.tables import Tables

__all__ = ["can_embed", "embed"]

Numbers = NDArray[np.int64]
Embedded = tuple[Tensor, Tensor, Tensor]
# Below so many looked-up rows another thread is not worth its start.
ROWS_A_SHARE = 8192


def can_embed(tables: Tables, *, looked_up: bool = False) -> bool:
    """Whether the tables are where compiled kernels reach them.

    Args:
        tables: The tables.
        looked_up: Whether rows are looked up beforehand, which has no gradient.
    """
    if (
        tables.device.type != "cpu"
        or torch.onnx.is_in_onnx_export()
        or torch.compiler.is_compiling()
    ):
        return False
    if looked_up:
        return not torch.is_grad_enabled()
    if not isinstance(tables.engine, CompiledEngine | DenseEngine | RemoteEngine):
        return False
    matrix = tables.matrix
    return matrix.dtype in (torch.float32, torch.float16) and matrix.is_contiguous()


def embed(
    tables: Tables,
    numbers: Tensor,
    others: Tensor,
    batch: Batch,
    *,
    folded: bool = False,
    rows_kw: Tensor | None = None,
) -> Embedded:
    """Look up a batch and assemble its fields.

    Args:
        tables: They must fit `can_embed`.
        numbers: What each number is multiplied with, ``[N, W]`` float32.
        others: Fields that were embedded before, ``[B, X, W]`` float32.
        batch: The batch.
        folded: Whether numbers are left for `Folded` to take into a layer.
        rows_kw: The batch's rows where they were looked up beforehand, ``[K, W]`` float32; they
            get no gradient.

    Returns:
        The fields ``[B, F, D]`` in the order ids, numbers, bags, others, or the values of `Folded`,
        in bfloat16 under autocast, else float32; the sum of first-order weights ``[B]``; and the
        sum of the products of all pairs of fields ``[B, D]``.

    Raises:
        IndexError: If an id is beyond its table.
    """
    engine = tables.engine
    if rows_kw is not None:
        lookup = _Lookup.given(tables, batch, rows_kw)
        return _Embed.apply(numbers, numbers, others, lookup, folded)  # type: ignore[no-any-return]
    lookup = _Lookup.of(tables, batch)
    anchor = engine.get_parameter("weight" if isinstance(engine, DenseEngine) else "anchor")
    return _Embed.apply(anchor, numbers, others, lookup, folded)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class _Lookup:
    """What a batch reads from the tables.

    Args:
        tables: The tables.
        rows: Rows of the matrix, ``[K]``.
        matrix: ``[R, W]``.
        padding: Rows of the matrix that are padding, one a table, ``[T]``.
        fetched: Where the matrix was brought here for this step alone.
        dense: ``[B, N]``.
        offsets: Where each bag's values start within `rows`, ``[J, B + 1]``.
        segments: See `move_fields`.
        num_ids: I.
    """

    tables: Tables
    rows: Numbers
    matrix: Tensor
    padding: Numbers
    fetched: Fetched | None
    dense: NDArray[np.float32]
    offsets: Numbers
    segments: Numbers
    num_ids: int

    @classmethod
    def of(cls, tables: Tables, batch: Batch) -> "_Lookup":
        """Check and lay out what a batch reads."""
        rows, layout, size = tables.rows_of(batch), tables.layout, len(batch)
        _check_rows(tables, rows, batch)
        dense, starts = _beside(layout, batch)
        segments = _segments(layout, size, starts)
        matrix, padding, fetched = tables.matrix, tables.get_buffer("padding"), None
        if isinstance(tables.engine, RemoteEngine):
            fetched = tables.engine.fetch(rows)
            rows, matrix, padding = fetched.places, fetched.rows_mw, torch.zeros_like(padding)
        held = rows.numpy(), matrix, padding.numpy(), fetched
        return cls(tables, *held, dense, starts, segments, len(layout.ids))

    @classmethod
    def given(cls, tables: Tables, batch: Batch, rows_kw: Tensor) -> "_Lookup":
        """Lay out rows that were looked up beforehand."""
        layout, none = tables.layout, np.zeros(0, np.int64)
        rows, segments = np.arange(len(rows_kw)), np.zeros((0, 4), np.int64)
        held = rows, rows_kw.contiguous(), none, None
        return cls(tables, *held, *_beside(layout, batch), segments, len(layout.ids))


def _beside(layout: Layout, batch: Batch) -> tuple[NDArray[np.float32], Numbers]:
    """The numbers of a batch, and where each bag's values start within its rows."""
    starts = np.zeros((len(batch.bags), len(batch) + 1), np.int64)
    first = len(layout.ids) * len(batch)
    for j, bag in enumerate(batch.bags):
        starts[j] = first + bag.offsets.numpy()
        first += len(bag.values)
    return batch.dense.contiguous().numpy(), starts


def _check_rows(tables: Tables, rows: Tensor, batch: Batch) -> None:
    """Refuse a row outside its own table, where the kernels would read and move another's."""
    ids, bags = tables.layout.ids, tables.layout.bags
    whole = len(ids) * len(batch)
    lows: list[int] = []
    highs: list[int] = []
    if whole:
        low, high = rows[:whole].view(len(ids), -1).aminmax(dim=1)
        lows, highs = low.tolist(), high.tolist()
    fields = [(field.name, field.table) for field in ids] if whole else []
    values = rows[whole:].split([len(bag.values) for bag in batch.bags])
    for bag, own in zip(bags, values, strict=True):
        if len(own):
            fields.append((bag.name, bag.table))
            lows.append(int(own.min()))
            highs.append(int(own.max()))
    for (name, table), first, last in zip(fields, lows, highs, strict=True):
        start, size = tables.start[table], tables.num_rows[table]
        if first < start or last >= start + size:
            raise IndexError(
                f"rows that field {name!r} reads must be within table {table!r}, from 0 to "
                f"{size - 1}; got {first - start} to {last - start}"
            )


def _segments(layout: Layout, size: int, starts: Numbers) -> Numbers:
    """The stretches of the looked-up rows, those of one table together."""
    number = {name: place for place, name in enumerate(layout.tables)}
    found = [
        (number[field.table], i * size, (i + 1) * size, i) for i, field in enumerate(layout.ids)
    ]
    found += [
        (number[field.table], int(starts[j, 0]), int(starts[j, -1]), -1 - j)
        for j, field in enumerate(layout.bags)
    ]
    # A stable order: a row's gradients are summed as `move_rows` would.
    return np.array(sorted(found, key=lambda stretch: stretch[0]), np.int64).reshape(-1, 4)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, numbers: Tensor, others: Tensor, lookup: _Lookup, folded: bool
    ) -> Embedded:
        size, dim = len(lookup.dense), numbers.shape[1] - 1
        num_fields = lookup.num_ids + len(numbers) + len(lookup.offsets) + others.shape[1]
        low = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if low else torch.float32
        columns = num_fields * dim
        if folded:
            columns += folded_columns(len(numbers)) - len(numbers) * dim
        fields = torch.empty(size, columns, dtype=dtype)
        linear, totals, pairs = (
            torch.empty(shape) for shape in ((size,), (size, dim), (size, dim))
        )
        run_shares(
            assemble,
            lookup.rows,
            as_array(lookup.matrix),
            lookup.dense,
            as_array(numbers),
            lookup.offsets,
            as_array(others),
            as_array(fields),
            as_array(linear),
            as_array(totals),
            as_array(pairs),
            folded,
            most=_shares(lookup),
        )
        ctx.lookup, ctx.folded = lookup, folded
        ctx.save_for_backward(anchor, numbers, others, fields, totals)
        ctx.set_materialize_grads(False)
        return fields if folded else fields.view(size, num_fields, dim), linear, pairs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        anchor, numbers, others, fields, totals = ctx.saved_tensors
        lookup, most = ctx.lookup, _shares(ctx.lookup)
        size, dim = totals.shape
        whole, linear, pairs = grads
        whole = torch.zeros_like(fields) if whole is None else whole.reshape(fields.shape)
        linear = torch.zeros(size) if linear is None else linear
        pairs = torch.zeros(0, dim) if pairs is None else pairs
        own = [as_array(grad.contiguous()) for grad in (whole, linear, pairs)]
        with_totals = (*own, as_array(totals))
        grad_numbers, grad_others = torch.empty_like(numbers), torch.empty_like(others)
        args = as_array(numbers), *with_totals, lookup.num_ids, ctx.folded, as_array(grad_numbers)
        run_shares(sum_numbers, lookup.dense, *args, most=most)
        first_bag = lookup.num_ids if ctx.folded else lookup.num_ids + len(numbers)
        first_other = first_bag + len(lookup.offsets)
        args = as_array(others), *with_totals, first_other, as_array(grad_others)
        run_shares(sum_others, *args, most=most)
        engine = lookup.tables.engine
        sources = (
            lookup.rows,
            *with_totals,
            as_array(fields),
            lookup.offsets,
            first_bag,
            lookup.segments,
            lookup.padding,
        )
        grad = None
        near = lookup.fetched.near if lookup.fetched else engine
        if isinstance(near, CompiledEngine):
            near.move(move_fields, *sources)
        elif isinstance(engine, RemoteEngine):
            assert lookup.fetched is not None, "a remote engine fetches"
            engine.push(lookup.fetched, _gradient(lookup.matrix, sources, most))
        else:
            grad = _gradient(anchor, sources, most)
        return grad, grad_numbers, grad_others, None, None


def _gradient(weight: Tensor, sources: tuple[Any, ...], most: int) -> Tensor:
    grad = torch.zeros(weight.shape)
    args = np.zeros(NUM_SETTINGS, np.float32), as_array(weight), as_array(grad)
    none = np.zeros((0, 1), np.float32)
    run_shares(move_fields, *sources, KINDS["gradient"], *args, none, np.uint64(0), most=most)
    return grad


def _shares(lookup: _Lookup) -> int:
    return 1 + len(lookup.rows) // ROWS_A_SHARE

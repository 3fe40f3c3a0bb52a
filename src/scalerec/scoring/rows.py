"""Scoring of whole rows with the first layer split by every field.

Where a schema names no items, each candidate is a whole row, and nothing is the same for all of a
request. But an id adds to the first layer what it always adds: that is computed once for each id of
small tables, and a row then costs a sum of such rows and the upper layers, without the products of
the first layer.

Shapes: B rows, F fields, N numbers, R prepared ids, H, T and C as in `scalerec.scoring.sums`,
S = H + T + C.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.frames import empty_batch
from scalerec.data.pairing import RoleFilter
from scalerec.data.schema import Role
from scalerec.errors import ConfigError
from scalerec.models.compiled import as_array
from scalerec.models.inputs import Inputs
from scalerec.models.kernels.score import sum_rows
from scalerec.models.kernels.threads import run_shares
from scalerec.models.recommender import Recommender
from scalerec.scoring.scores import evaluating
from scalerec.scoring.sums import FieldSums, Sums

__all__ = ["MOST_BYTES", "PreparedSize", "RowScorer", "StoredRows", "prepared_size"]

StoredRows = Literal["float32", "float16"]
# What prepared ids may take in memory: more does not stay in the processor's caches anyway.
MOST_BYTES = 2**28
IDS_AT_A_TIME = 8_192
# Rows below which another thread is not worth its start.
ROWS_A_SHARE = 256


class PreparedSize(NamedTuple):
    """What `RowScorer` holds: S numbers an id, and bytes of memory in all."""

    width: int
    num_bytes: int


def prepared_size(
    recommender: Recommender, *, stored: StoredRows = "float32"
) -> PreparedSize | None:
    """What `RowScorer` would hold; none where it cannot score with a recommender.

    It can on the CPU alone, and for nets that offer a split.

    Args:
        recommender: Any.
        stored: As in `RowScorer`.
    """
    sums = _sums(recommender)
    if sums is None:
        return None
    layout, width = recommender.embedder.layout, sum(sums.sizes)
    num_ids = sum(layout.tables[field.table] for field in layout.ids)
    return PreparedSize(width, num_ids * width * (2 if stored == "float16" else 4))


class RowScorer:
    """Scores whole rows as the recommender does, from what each id adds to the first sums.

    It holds what ids add, as the recommender's weights are now; make it anew when they move.

    Args:
        recommender: On the CPU; dropout is off while scoring, whatever its mode.
        stored: How that is held; `float16` rounds it and takes a half of the memory.
        roles: Whose fields are read; all others count as empty.

    Raises:
        ConfigError: If the net has no split, or the recommender is elsewhere.
    """

    def __init__(
        self,
        recommender: Recommender,
        *,
        stored: StoredRows = "float32",
        roles: Collection[Role] = tuple(Role),
    ) -> None:
        known = get_args(StoredRows)
        require(stored in known, f"stored must be one of {', '.join(known)}; got {stored!r}")
        sums = _sums(recommender)
        if sums is None:
            raise ConfigError(
                f"model {recommender.spec.model!r} cannot be split by field here: it needs a net "
                "that reads its fields side by side, on the CPU"
            )
        self._recommender, self._sums = recommender, sums
        self._layout = layout = recommender.embedder.layout
        self._keep = RoleFilter(layout, roles)
        fields = [i for i, field in enumerate(layout.ids) if field.role in roles]
        sizes = [layout.tables[layout.ids[field].table] for field in fields]
        self._fields = torch.tensor(fields, dtype=torch.int64)
        self._sizes = torch.tensor(sizes, dtype=torch.int64)
        self._starts = np.cumsum([0, *sizes])[:-1].astype(np.int64)
        whole = torch.float16 if stored == "float16" else torch.float32
        self._matrix = torch.empty(sum(sizes), sum(sums.sizes), dtype=whole)
        first = len(layout.ids) + len(layout.numbers)
        others = [i for i in layout.fields_of(*roles) if i >= first]
        self._others = sums.side(others, starts=True) if others else None
        with torch.inference_mode(), evaluating(recommender):
            for place, field in enumerate(fields):
                self._prepare(place, field)
            self._start = self._added(sums.side([], starts=True)(self._read(self._empty(1))))
            self._numbers, self._squares = self._number_parts(roles)

    @property
    def num_bytes(self) -> int:
        """Memory that prepared ids take, in bytes."""
        return self._matrix.numel() * self._matrix.element_size()

    def __call__(self, rows: Batch) -> Tensor:
        """Score rows.

        Args:
            rows: ``[B]`` on the CPU.

        Returns:
            Logits ``[B, C]`` float32.

        Raises:
            IndexError: If an id is beyond its table.
        """
        with torch.inference_mode(), evaluating(self._recommender):
            sums = self.sums(rows)
            return self._sums.logits(sums.first, sums.wide)

    @torch.inference_mode()
    def sums(self, rows: Batch) -> Sums:
        """What rows add to the sums, with what all start from.

        Args:
            rows: ``[B]`` on the CPU.

        Raises:
            IndexError: If an id is beyond its table.
        """
        batch, (wide, num_totals, _) = self._recommender.narrow(rows), self._sums.sizes
        whole = len(self._fields) == len(batch.ids)
        ids = batch.ids.contiguous() if whole else batch.ids.index_select(0, self._fields)
        self._check(ids)
        out = torch.empty(len(batch), self._matrix.shape[1])
        held = ids.numpy(), self._starts, as_array(self._matrix)
        base = self._base(batch).contiguous()
        most = 1 + len(batch) // ROWS_A_SHARE
        run_shares(sum_rows, *held, as_array(base), out.numpy(), most=most)
        totals, ends = out[:, wide : wide + num_totals], out[:, wide + num_totals :]
        return Sums(out[:, :wide], totals, ends + self._sums.squared(totals))

    def _base(self, batch: Batch) -> Tensor:
        """What all but ids add, with the start: ``[B, S]``, or ``[1, S]`` where it is the same."""
        base = self._start
        if self._others is not None:
            kept = self._keep(batch)
            none = torch.zeros_like(batch.ids), torch.zeros_like(batch.dense)
            bare = replace(kept, ids=none[0], dense=none[1])
            base = self._added(self._others(self._read(bare)))
        if len(self._numbers):
            base = torch.addmm(base, batch.dense, self._numbers)
            if self._squares is not None:
                ends = base[:, -self._sums.num_outputs :]
                ends.addmm_(batch.dense.square(), self._squares)
        return base

    def _prepare(self, place: int, field: int) -> None:
        """Note what every id of a field adds."""
        side, size = self._sums.side([field], starts=False), int(self._sizes[place])
        first = int(self._starts[place])
        for start in range(0, size, IDS_AT_A_TIME):
            stop = min(start + IDS_AT_A_TIME, size)
            batch = self._empty(stop - start)
            batch.ids[field] = torch.arange(start, stop)
            self._matrix[first + start : first + stop] = self._added(side(self._read(batch)))

    def _number_parts(self, roles: Collection[Role]) -> tuple[Tensor, Tensor | None]:
        """What a number is multiplied with to give what it adds, and what its square is."""
        num, first = len(self._layout.numbers), len(self._layout.ids)
        kept = torch.tensor([field.role in roles for field in self._layout.numbers])
        if not kept.any():
            return torch.zeros(0, self._matrix.shape[1]), None
        batch = self._empty(num)
        batch.dense.copy_(torch.diag(kept.float()))
        side = self._sums.side(range(first, first + num), starts=False)
        sums = side(self._read(batch))
        added = torch.cat([sums.first, sums.totals, sums.wide], 1)
        return added, -self._sums.squared(sums.totals) if sums.totals.shape[1] else None

    def _added(self, sums: Sums) -> Tensor:
        """Sums as rows that may be added up whatever they meet, ``[B, S]``.

        The products of all pairs are half of the squared total, less half of each field's squares.
        """
        return torch.cat([sums.first, sums.totals, sums.wide - self._sums.squared(sums.totals)], 1)

    def _empty(self, size: int) -> Batch:
        return empty_batch(self._layout, size)

    def _read(self, batch: Batch) -> Inputs:
        return self._recommender.read(batch)

    def _check(self, ids: Tensor) -> None:
        if not ids.numel():
            return
        low, high = ids.aminmax(dim=1)
        if bool(((low >= 0) & (high < self._sizes)).all()):
            return
        number = int(((low < 0) | (high >= self._sizes)).nonzero()[0])
        field = self._layout.ids[int(self._fields[number])]
        raise IndexError(
            f"ids of field {field.name!r} must be from 0 to {int(self._sizes[number]) - 1}; "
            f"got {int(low[number])} to {int(high[number])}"
        )


def _sums(recommender: Recommender) -> FieldSums | None:
    if recommender.tables.device.type != "cpu":
        return None
    with torch.inference_mode(), evaluating(recommender):
        return FieldSums.of(recommender)

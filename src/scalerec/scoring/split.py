"""Scoring with the first layer split by field: a candidate costs one gather and the upper layers.

What the item's fields add to a net's first sums is computed once for the catalogue, and what the
user's and the context's fields add once for a request. See `scalerec.models.split`.

Shapes: I items, K candidates, U users, H sums of first layers, T totals, C columns of the logits.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.pairing import RoleFilter
from scalerec.data.schema import Role
from scalerec.errors import ConfigError
from scalerec.models.inputs import Inputs
from scalerec.models.recommender import Recommender
from scalerec.scoring.rows import RowScorer
from scalerec.scoring.scores import evaluating
from scalerec.scoring.sums import FieldSums, Sums

__all__ = ["SplitScorer", "Stored", "check_request", "split_width"]

Stored = Literal["float32", "float16", "int8"]
ASKING = (Role.USER, Role.CONTEXT)
# Rows that are computed at a time, which the processor's caches should hold.
ROWS_AT_A_TIME = 2_048
# What ids of users and contexts may take in memory, in float32: 32 MiB.
NUMBERS_OF_ASKING = 2**23


def split_width(recommender: Recommender) -> int | None:
    """H + T + C, the numbers that `SplitScorer` holds of an item; none where it cannot score.

    For that the layout must have fields of the item and others, and the net must offer a split.
    """
    sums = _sums(recommender)
    return None if sums is None else sum(sums.sizes)


class SplitScorer:
    """Scores candidates of one request after another, as the recommender scores their pairs.

    It holds what items add, as the recommender's weights are now; make it anew when they move.

    Args:
        recommender: Dropout is off while scoring, whatever its mode.
        items: The catalogue, ``[I]``, on the CPU.
        stored: How the items' part of first layers is held. `float16` takes half of the memory, and
            `int8`, with a scale a row, a quarter; both round what is added.

    Raises:
        ConfigError: If the net or the layout has no split; see `split_width`.
    """

    def __init__(
        self, recommender: Recommender, items: Batch, *, stored: Stored = "float32"
    ) -> None:
        known = get_args(Stored)
        require(stored in known, f"stored must be one of {', '.join(known)}; got {stored!r}")
        sums = _sums(recommender)
        if sums is None:
            raise ConfigError(
                f"model {recommender.spec.model!r} cannot be split by field here: it needs a net "
                "that reads its fields side by side, and fields of the item and others"
            )
        self._recommender, self._sums = recommender, sums
        layout = recommender.embedder.layout
        self._asking = sums.side(layout.fields_of(*ASKING), starts=True)
        self._asked = sums.side(layout.fields_of(Role.ITEM), starts=False)
        self._prepared = _prepare_asking(recommender, sums)
        self._keep_asking = RoleFilter(recommender.layout, ASKING)
        self._keep_asked = RoleFilter(recommender.layout, (Role.ITEM,))
        self.num_items = len(items)
        first, self._rest = self._parts(items)
        self._first, self._scales = _store(first, stored)

    @property
    def num_bytes(self) -> int:
        """Memory that what is held of items, users and contexts takes, in bytes."""
        held = (self._first, self._scales, self._rest)
        own = 0 if self._prepared is None else self._prepared.num_bytes
        return own + sum(tensor.numel() * tensor.element_size() for tensor in held)

    def __call__(self, user: Batch, candidates: Tensor) -> Tensor:
        """Score candidates for one user.

        Args:
            user: One row, of which the fields of user and context are read, on the CPU.
            candidates: Numbers of items, ``[K]`` int64 on the CPU.

        Returns:
            Logits ``[K, C]`` float32, where the recommender is.

        Raises:
            ConfigError, IndexError: As `check_request`.
        """
        check_request(user, candidates, self.num_items)
        with torch.inference_mode(), evaluating(self._recommender):
            index = candidates.to(self._sums.device)
            return self._score(self._users(user), *self._gather(index))

    def score_items(self, user: Batch, items: Batch) -> Tensor:
        """Score items that the catalogue may not have.

        Args:
            user: As in a call.
            items: Rows, of which the item's fields are read, ``[K]`` on the CPU.

        Returns:
            Logits ``[K, C]`` float32, where the recommender is.

        Raises:
            ConfigError: If there is not one row of a user.
        """
        _check_user(user)
        with torch.inference_mode(), evaluating(self._recommender):
            return self._score(self._users(user), *self._parts(items))

    def catalogue(self, users: Batch, output: int = 0) -> Tensor:
        """Score every item for users.

        Args:
            users: ``[U]`` on the CPU.
            output: Which column of the logits.

        Returns:
            Logits ``[U, I]`` float32, on the CPU.
        """
        size = self.num_items
        scores_ui = torch.empty(len(users), size)
        together = max(1, ROWS_AT_A_TIME // max(1, size))
        with torch.inference_mode(), evaluating(self._recommender):
            asking = self._users(users)
            for row in range(0, len(users), together):
                some = slice(row, row + together)
                own = Sums(asking.first[some], asking.totals[some], asking.wide[some])
                for start in range(0, size, ROWS_AT_A_TIME):
                    part = slice(start, min(start + ROWS_AT_A_TIME, size))
                    found = self._score(own, *self._gather(part))[:, output]
                    scores_ui[some, part] = found.view(-1, len(own.wide)).T
        return scores_ui

    def _gather(self, items: Tensor | slice) -> tuple[Tensor, Tensor]:
        """What some items add, float32, as `_parts` gives it; it may be overwritten."""
        if isinstance(items, slice):
            first, rest = self._first[items], self._rest[items]
        else:
            first, rest = self._first.index_select(0, items), self._rest.index_select(0, items)
        if not len(self._scales):
            return first.float(), rest
        return first * self._scales[items].unsqueeze(1), rest

    def _score(self, asking: Sums, first: Tensor, rest: Tensor) -> Tensor:
        """Logits of every item for every user, ``[I U, C]``.

        Args:
            asking: What users add, ``[U]``.
            first: What items add to first layers, ``[I, H]``.
            rest: What they add to the rest, ``[I, T + C]``.
        """
        meeting_suc = self._sums.meeting(asking).transpose(0, 1).flatten(1)
        wide = torch.addmm(asking.wide.flatten(), rest, meeting_suc)
        whole = (first.unsqueeze(1) + asking.first).flatten(0, 1)
        return self._sums.logits(whole, wide.view(-1, self._sums.num_outputs))

    def _users(self, rows: Batch) -> Sums:
        if self._prepared is not None:
            return self._prepared.sums(rows)
        return self._asking(self._read(self._keep_asking(rows)))

    def _read(self, rows: Batch) -> Inputs:
        device = self._sums.device
        return self._recommender.read(rows if device.type == "cpu" else rows.to(device))

    @torch.inference_mode()
    def _parts(self, items: Batch) -> tuple[Tensor, Tensor]:
        """What items add: to first layers ``[I, H]``, and to the rest ``[I, T + C]``."""
        wide, *ends = self._sums.sizes
        first, rest = (
            torch.empty(len(items), size, device=self._sums.device) for size in (wide, sum(ends))
        )
        with evaluating(self._recommender):
            for start in range(0, len(items), ROWS_AT_A_TIME):
                stop = min(start + ROWS_AT_A_TIME, len(items))
                found = self._asked(self._read(self._keep_asked(items.slice(start, stop))))
                first[start:stop] = found.first
                rest[start:stop] = torch.cat([found.totals, found.wide], 1)
        return first, rest


def _prepare_asking(recommender: Recommender, sums: FieldSums) -> RowScorer | None:
    """What every id of user and context adds, where that takes little memory.

    A user's part is then one kernel's work. Lists and vectors must be read anyway.
    """
    layout = recommender.embedder.layout
    single = len(layout.ids) + len(layout.numbers)
    read = any(place >= single for place in layout.fields_of(*ASKING))
    sizes = [layout.tables[field.table] for field in layout.ids if field.role in ASKING]
    small = sum(sizes) * sum(sums.sizes) <= NUMBERS_OF_ASKING
    if read or not small or sums.device.type != "cpu":
        return None
    return RowScorer(recommender, roles=ASKING)


def _sums(recommender: Recommender) -> FieldSums | None:
    layout = recommender.embedder.layout
    if not 0 < len(layout.fields_of(Role.ITEM)) < layout.num_fields:
        return None
    with torch.inference_mode(), evaluating(recommender):
        return FieldSums.of(recommender)


def _store(first: Tensor, stored: Stored) -> tuple[Tensor, Tensor]:
    """The matrix as it is held, and a scale a row where it has one."""
    none = first.new_empty(0)
    if stored != "int8":
        return first.to(torch.float16 if stored == "float16" else torch.float32), none
    largest = first.abs().amax(1) if first.shape[1] else first.new_ones(len(first))
    scales = largest.clamp(min=1e-30) / 127
    return (first / scales.unsqueeze(1)).round().to(torch.int8), scales


def check_request(user: Batch, candidates: Tensor, num_items: int) -> None:
    """Refuse a request that is not one user and numbers of items.

    Raises:
        ConfigError: If there is not one row, or candidates are not ``[K]`` int64.
        IndexError: If there is no such item.
    """
    _check_user(user)
    if candidates.dtype is not torch.int64 or candidates.ndim != 1:
        got = f"{candidates.dtype} {list(candidates.shape)}"
        raise ConfigError(f"candidates must be int64 [K]; got {got}")
    if not len(candidates):
        return
    low, high = (int(bound) for bound in candidates.aminmax())
    if low < 0 or high >= num_items:
        raise IndexError(f"candidates must be from 0 to {num_items - 1}; got {low} to {high}")


def _check_user(user: Batch) -> None:
    require(len(user) == 1, f"a request must have one row of a user; got {len(user)}")

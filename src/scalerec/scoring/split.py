"""Scoring with the first layer split by field: a candidate costs one gather and the upper layers.

What the item's fields add to a net's first sums is computed once for the catalogue, and what the
user's and the context's fields add once for a request. See `scalerec.models.split`.

Shapes: I items, K candidates, U users, S = H + T + C sums; see `scalerec.scoring.sums`.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.pairing import keep_roles
from scalerec.data.schema import Role
from scalerec.errors import ConfigError
from scalerec.models.recommender import Recommender
from scalerec.scoring.narrow import NarrowNet
from scalerec.scoring.scores import evaluating
from scalerec.scoring.sums import FieldSums

__all__ = ["SplitScorer", "Stored", "split_width"]

Stored = Literal["float32", "float16", "int8"]
ASKING = (Role.USER, Role.CONTEXT)
# Rows that are computed at a time, which the processor's caches should hold.
ROWS_AT_A_TIME = 2_048


def split_width(recommender: Recommender) -> int | None:
    """S, the numbers that `SplitScorer` holds of an item; none where it cannot score.

    For that the layout must have fields of the item and others, and the net must offer a split.
    """
    sums = _sums(recommender)
    return None if sums is None else sums.width


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
        self._asking, self._asked = layout.fields_of(*ASKING), layout.fields_of(Role.ITEM)
        self.num_items = len(items)
        first, self._rest = self._parts(items)
        self._first, self._scales = _store(first, stored)
        self._narrow = NarrowNet.of(sums)

    @property
    def num_bytes(self) -> int:
        """Memory that the items' part takes, in bytes."""
        held = (self._first, self._scales, self._rest)
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def __call__(self, user: Batch, candidates: Tensor) -> Tensor:
        """Score candidates for one user.

        Args:
            user: One row, of which the fields of user and context are read, on the CPU.
            candidates: Numbers of items, ``[K]`` int64 on the CPU.

        Returns:
            Logits ``[K, C]`` float32, where the recommender is.

        Raises:
            ConfigError: If there is not one row.
            IndexError: If there is no such item.
        """
        _check_user(user)
        _check_items(candidates, self.num_items)
        return self._score(self.users(user), candidates)

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
        first, rest = self._parts(items)
        base, wide = self.users(user), self._sums.first
        with torch.inference_mode(), evaluating(self._recommender):
            return self._sums.logits(first + base[:, :wide], rest + base[:, wide:])

    def users(self, rows: Batch) -> Tensor:
        """What users and contexts add to the sums, and what all start from, ``[U, S]``."""
        return self._read(rows, ASKING, self._asking) + self._sums.start

    def catalogue(self, users: Batch, output: int = 0) -> Tensor:
        """Score every item for users.

        Args:
            users: ``[U]`` on the CPU.
            output: Which column of the logits.

        Returns:
            Logits ``[U, I]`` float32, on the CPU.
        """
        scores_ui = torch.empty(len(users), self.num_items)
        bases, size = self.users(users), self.num_items
        together = 1 if self._narrow else max(1, ROWS_AT_A_TIME // max(1, size))
        step = max(1, size) if self._narrow else ROWS_AT_A_TIME
        for row in range(0, len(users), together):
            some = slice(row, row + together)
            for start in range(0, size, step):
                stop = min(start + step, size)
                found = self._score(bases[some], torch.arange(start, stop))[:, output]
                scores_ui[some, start:stop] = found.view(-1, stop - start)
        return scores_ui

    def _score(self, bases: Tensor, candidates: Tensor) -> Tensor:
        """Every candidate for the users of some bases ``[U, S]``: ``[U K, C]``."""
        if self._narrow is not None:
            held = self._first, self._scales, self._rest
            return self._narrow(candidates.unsqueeze(0), *held, bases)
        wide = self._sums.first
        with torch.inference_mode(), evaluating(self._recommender):
            index = candidates.to(self._rest.device)
            first = self._first.index_select(0, index).float()
            if len(self._scales):
                first.mul_(self._scales.index_select(0, index).unsqueeze(1))
            first, rest = (
                (part + base.unsqueeze(1)).flatten(0, 1)
                for part, base in zip(
                    (first, self._rest.index_select(0, index)),
                    bases.tensor_split([wide], dim=1),
                    strict=True,
                )
            )
            return self._sums.logits(first, rest)

    @torch.inference_mode()
    def _read(self, rows: Batch, roles: tuple[Role, ...], places: list[int]) -> Tensor:
        recommender = self._recommender
        own = keep_roles(recommender.layout, rows, roles)
        with evaluating(recommender):
            inputs = recommender.read(own.to(self._sums.start.device))
            return self._sums.of_inputs(inputs, places)

    def _parts(self, items: Batch) -> tuple[Tensor, Tensor]:
        """What items add: to first layers ``[I, H]``, and to the rest ``[I, T + C]``."""
        sums, size = self._sums, len(items)
        held = (
            sums.start.new_empty(size, sums.first),
            sums.start.new_empty(size, sums.width - sums.first),
        )
        for start in range(0, size, ROWS_AT_A_TIME):
            stop = min(start + ROWS_AT_A_TIME, size)
            found = self._read(items.slice(start, stop), (Role.ITEM,), self._asked)
            held[0][start:stop], held[1][start:stop] = found.tensor_split([sums.first], dim=1)
        return held


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


def _check_user(user: Batch) -> None:
    require(len(user) == 1, f"a request must have one row of a user; got {len(user)}")


def _check_items(candidates: Tensor, num_items: int) -> None:
    if candidates.dtype is not torch.int64 or candidates.ndim != 1:
        got = f"{candidates.dtype} {list(candidates.shape)}"
        raise ConfigError(f"candidates must be int64 [K]; got {got}")
    if not len(candidates):
        return
    low, high = (int(bound) for bound in candidates.aminmax())
    if low < 0 or high >= num_items:
        raise IndexError(f"candidates must be from 0 to {num_items - 1}; got {low} to {high}")

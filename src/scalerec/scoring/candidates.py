"""Scorers of a request: one user and some candidates, or rows where a schema has no items.

Shapes: I items of the catalogue, K candidates, C columns of the logits, E size of a tower's vector.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.pairing import RoleFilter, pair
from scalerec.data.schema import Role
from scalerec.models.packed import PackedTables
from scalerec.models.recommender import Recommender
from scalerec.models.zoo.two_tower import TwoTower
from scalerec.scoring.rows import MOST_BYTES, RowScorer, StoredRows, prepared_size
from scalerec.scoring.scores import evaluating
from scalerec.scoring.split import SplitScorer, Stored, check_request, split_width

__all__ = [
    "CandidateScorer",
    "PairScorer",
    "TowerScorer",
    "candidate_scorer",
    "row_scorer",
    "score_rows",
]

# Rows that are scored at a time; see `scalerec.scoring.ranking`.
ROWS_AT_A_TIME = 2_048
# Numbers that an id adds, up to which it is quicker to add them than to compute them.
WIDEST = 200


class CandidateScorer(Protocol):
    """Scores candidates for one user after another."""

    def __call__(self, user: Batch, candidates: Tensor) -> Tensor:
        """Logits ``[K, C]`` float32.

        Args:
            user: One row, of which the fields of user and context are read, on the CPU.
            candidates: Numbers of items, ``[K]`` int64 on the CPU.
        """
        ...


def candidate_scorer(
    recommender: Recommender, items: Batch, *, stored: Stored = "float32"
) -> CandidateScorer:
    """The quickest scorer for a recommender, prepared; it holds what its weights are now.

    Args:
        recommender: Any.
        items: The catalogue, ``[I]``, on the CPU.
        stored: How the items' part of a split net is held; see `SplitScorer`.
    """
    if isinstance(recommender.net, TwoTower):
        return TowerScorer(recommender, items)
    if split_width(recommender) is not None:
        return SplitScorer(recommender, items, stored=stored)
    return PairScorer(recommender, items)


def score_rows(recommender: Recommender, rows: Batch) -> Tensor:
    """Logits ``[B, C]`` of whole rows, without dropout and gradients, whatever the mode.

    Args:
        recommender: Any.
        rows: ``[B]``, on the CPU.
    """
    device, size = recommender.tables.device, len(rows)
    with torch.inference_mode(), evaluating(recommender):
        if 0 < size <= ROWS_AT_A_TIME and device.type == "cpu":
            whole: Tensor = recommender(rows)
            return whole
        parts = [recommender(part.to(device)) for part in _parts(rows)]
        return torch.cat(parts) if parts else torch.zeros(0, recommender.layout.num_outputs)


def _parts(rows: Batch) -> Iterator[Batch]:
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        yield rows.slice(start, min(start + ROWS_AT_A_TIME, len(rows)))


def row_scorer(
    recommender: Recommender, *, stored: StoredRows | None = None
) -> Callable[[Batch], Tensor]:
    """The quickest scorer of whole rows for a recommender, prepared; see `candidate_scorer`.

    Ids are prepared where what they add is narrow and takes little memory: else products of the
    first layer cost no more than to read it.

    Args:
        recommender: Any.
        stored: How what ids add is held; `float16` rounds it. Where nothing is said, it does so if
            all tables are rounded already: less memory is read.
    """
    if stored is None:
        tables = recommender.tables
        rounded = isinstance(tables, PackedTables) and max(tables.bits.values()) < 32
        stored = "float16" if rounded else "float32"
    found = prepared_size(recommender, stored=stored)
    if found is None or found.width > WIDEST or found.num_bytes > MOST_BYTES:
        return partial(score_rows, recommender)
    return RowScorer(recommender, stored=stored)


class PairScorer:
    """The generic way: every candidate becomes a whole row.

    Args:
        recommender: Any.
        items: The catalogue, ``[I]``, on the CPU.
    """

    def __init__(self, recommender: Recommender, items: Batch) -> None:
        self._recommender, self._items = recommender, items

    def __call__(self, user: Batch, candidates: Tensor) -> Tensor:
        """See `CandidateScorer`."""
        check_request(user, candidates, len(self._items))
        layout = self._recommender.layout
        rows = pair(layout, user, self._items, candidates.unsqueeze(0))
        return score_rows(self._recommender, rows)


class TowerScorer:
    """The items' vectors of a two-tower net, made once.

    Args:
        recommender: One with a two-tower net.
        items: The catalogue, ``[I]``, on the CPU.

    Raises:
        ConfigError: If the net is another.
    """

    def __init__(self, recommender: Recommender, items: Batch) -> None:
        net = recommender.net
        fits = isinstance(net, TwoTower)
        require(fits, f"a two-tower model is needed; got {recommender.spec.model!r}")
        assert isinstance(net, TwoTower), "that was checked"
        self._recommender, self._net, self.num_items = recommender, net, len(items)
        self._keep = RoleFilter(recommender.layout, (Role.USER, Role.CONTEXT))
        device = recommender.tables.device
        with torch.inference_mode(), evaluating(recommender):
            parts = [net.item_vectors(recommender.read(part.to(device))) for part in _parts(items)]
            none = torch.zeros(0, net.vector_dim, device=device)
            self._items_ie = torch.cat(parts) if parts else none

    def __call__(self, user: Batch, candidates: Tensor) -> Tensor:
        """See `CandidateScorer`."""
        check_request(user, candidates, self.num_items)
        recommender = self._recommender
        with torch.inference_mode(), evaluating(recommender):
            rows = self._keep(user).to(self._items_ie.device)
            user_ce = self._net.user_vectors(recommender.read(rows))[0]
            items_ke = self._items_ie.index_select(0, candidates.to(self._items_ie.device))
            logits: Tensor = items_ke @ user_ce.T
            calibration = recommender.calibration
            return logits if calibration is None else calibration(logits)

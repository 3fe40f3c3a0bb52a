"""Ranking the full catalogue for users.

What items add to a score is computed once, where the net allows it: the vectors of two towers, or
the items' part of a first layer.

Shapes: U users, I items of the catalogue, K items of a list, E size of a tower's vector.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.data.batches import Bag, Batch
from scalerec.data.pairing import pair
from scalerec.models.net import TwoTowers
from scalerec.models.recommender import Recommender
from scalerec.scoring.scores import check_scores, evaluating
from scalerec.scoring.split import SplitScorer, split_width

__all__ = ["CatalogueScorer", "catalogue_scores", "top_items"]

# Pairs scored at a time. What a processor's caches hold is scored up to six times as fast as tens
# of thousands of rows (DIN); a GPU wants many.
ROWS_AT_A_TIME = {"cpu": 2_048}
ROWS_ON_A_DEVICE = 65_536
# Where items were prepared: users at a time, and scores, 64 MB of them.
USERS_AT_A_TIME = 256
SCORES_AT_A_TIME = 16_000_000
# What items may take in memory, in float32: 1 GiB.
NUMBERS_OF_ITEMS = 2**28


class CatalogueScorer:
    """Scores every item for users who come some at a time.

    Args:
        recommender: In any mode, on any device; dropout is off while scoring.
        items: The catalogue, ``[I]``, on the CPU.
        output: Which column of the model's output ranks.
    """

    def __init__(self, recommender: Recommender, items: Batch, output: int = 0) -> None:
        self._recommender, self._items, self._output = recommender, items, output
        self._items_ie: Tensor | None = None
        self._split: SplitScorer | None = None
        if output == 0 and isinstance(recommender.net, TwoTowers):
            with torch.inference_mode(), evaluating(recommender):
                self._items_ie = _vectors(recommender, items, tower=1)
        elif _pays(recommender, len(items)):
            self._split = SplitScorer(recommender, items)

    @property
    def users_at_a_time(self) -> int:
        """How many users are best scored together."""
        if self._items_ie is not None or self._split is not None:
            return min(USERS_AT_A_TIME, max(1, SCORES_AT_A_TIME // max(1, len(self._items))))
        size = _rows_at_a_time(self._recommender.tables.device)
        return max(1, size // max(1, len(self._items)))

    def __call__(self, users: Batch) -> Tensor:
        """Score users; see `catalogue_scores`."""
        with torch.inference_mode(), evaluating(self._recommender):
            if self._split is not None:
                scores = self._split.catalogue(users, self._output)
            elif self._items_ie is None:
                scores = _score_pairs(self._recommender, users, self._items, self._output)
            else:
                user_ue = _vectors(self._recommender, users, tower=0)
                scores = (user_ue @ self._items_ie.T).float()
                if (calibration := self._recommender.calibration) is not None:
                    scores = scores * calibration.scale[0] + calibration.shift[0]
                scores = scores.cpu()
            return check_scores(scores)


def catalogue_scores(
    recommender: Recommender, users: Batch, items: Batch, output: int = 0
) -> Tensor:
    """Score every item for every user.

    Args:
        recommender: In any mode, on any device; dropout is off.
        users: Rows with user and context fields, ``[U]``, on the CPU.
        items: The catalogue, ``[I]``, on the CPU.
        output: Which column of the model's output ranks.

    Returns:
        Logits ``[U, I]`` float32, on the CPU.

    Raises:
        TrainError: If a score is not finite.
    """
    return CatalogueScorer(recommender, items, output)(users)


def _vectors(recommender: Recommender, rows: Batch, tower: int) -> Tensor:
    device = recommender.tables.device
    size = _rows_at_a_time(device)
    parts = [rows] if len(rows) <= size else [rows.take(i) for i in _parts(len(rows), size)]
    return torch.cat([recommender.towers(part.to(device))[tower] for part in parts])


def _score_pairs(recommender: Recommender, users: Batch, items: Batch, output: int) -> Tensor:
    device = recommender.tables.device
    size = _rows_at_a_time(device)
    scores_ui = torch.empty(len(users), len(items))
    for item in _parts(len(items), size):
        for user in _parts(len(users), max(1, size // len(item))):
            index = item.expand(len(user), -1)
            rows = pair(recommender.layout, users.take(user), items, index)
            logits = recommender(rows.to(device))[:, output].float().cpu()
            scores_ui[user[0] : user[-1] + 1, item[0] : item[-1] + 1] = logits.view(index.shape)
    return scores_ui


def _pays(recommender: Recommender, num_items: int) -> bool:
    """Whether the net is split by field: not on a GPU, where many pairs at a time are quicker."""
    if recommender.tables.device.type != "cpu":
        return False
    width = split_width(recommender)
    return width is not None and width * num_items <= NUMBERS_OF_ITEMS


def _rows_at_a_time(device: torch.device) -> int:
    return ROWS_AT_A_TIME.get(device.type, ROWS_ON_A_DEVICE)


def _parts(size: int, step: int) -> Iterator[Tensor]:
    """The numbers below `size`, at most `step` at a time."""
    for start in range(0, size, step):
        yield torch.arange(start, min(start + step, size))


def top_items(
    scores_ui: Tensor, k: int, exclude: Bag | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best items of each user.

    Args:
        scores_ui: ``[U, I]``; not changed.
        k: Length of a list, at least 1.
        exclude: Items that each user must not get, such as those met before.

    Returns:
        Numbers of items, best first, ``[U, K]``, -1 where fewer are left, and their scores, -inf
        there. Ties go to the item with the smaller number.
    """
    if exclude is not None and len(exclude.values):
        scores_ui = scores_ui.clone()
        scores_ui[exclude.rows, exclude.values] = -torch.inf
    values, index = scores_ui.sort(dim=1, descending=True, stable=True)
    missing = max(0, k - values.shape[1])
    values = torch.nn.functional.pad(values[:, :k], (0, missing), value=-torch.inf)
    index = torch.nn.functional.pad(index[:, :k], (0, missing), value=-1)
    index[values == -torch.inf] = -1
    return index.numpy(), values.float().numpy()

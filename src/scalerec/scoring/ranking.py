"""Ranking the full catalogue for users.

Shapes: U users, I items of the catalogue, K items of a list.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.data.batches import Bag, Batch
from scalerec.data.layout import Layout
from scalerec.data.pairing import pair
from scalerec.models.net import TwoTowers
from scalerec.models.recommender import Recommender

__all__ = ["catalogue_scores", "top_items"]

ROWS_AT_A_TIME = 65_536


@torch.inference_mode()
def catalogue_scores(
    recommender: Recommender, users: Batch, items: Batch, output: int = 0
) -> Tensor:
    """Score every item for every user.

    Args:
        recommender: In any mode; dropout is off.
        users: Rows with user and context fields, ``[U]``.
        items: The catalogue, ``[I]``.
        output: Which column of the model's output ranks.

    Returns:
        Logits ``[U, I]``.
    """
    was_training = recommender.training
    recommender.eval()
    try:
        if isinstance(recommender.net, TwoTowers):
            user_ue = recommender.towers(users)[0]
            item_ie = recommender.towers(items)[1]
            return user_ue @ item_ie.T
        return _score_pairs(recommender, users, items, output)
    finally:
        recommender.train(was_training)


def _score_pairs(recommender: Recommender, users: Batch, items: Batch, output: int) -> Tensor:
    layout, num_items = recommender.layout, len(items)
    everything = torch.arange(num_items)
    step = max(1, ROWS_AT_A_TIME // max(1, num_items))
    scores = []
    for start in range(0, len(users), step):
        some = users.take(torch.arange(start, min(start + step, len(users))))
        rows = _pair_all(layout, some, items, everything)
        scores.append(recommender(rows)[:, output].view(len(some), num_items))
    return torch.cat(scores) if scores else torch.zeros(0, num_items)


def _pair_all(layout: Layout, users: Batch, items: Batch, everything: Tensor) -> Batch:
    return pair(layout, users, items, everything.expand(len(users), -1))


def top_items(
    scores_ui: Tensor, k: int, exclude: Bag | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best items of each user.

    Args:
        scores_ui: ``[U, I]``; not changed.
        k: Length of a list.
        exclude: Items that each user must not get, such as those met before.

    Returns:
        Numbers of items, best first, ``[U, K]``, -1 where fewer are left, and their scores. Ties go
        to the item with the smaller number.
    """
    if exclude is not None:
        scores_ui = scores_ui.clone()
        scores_ui[exclude.rows, exclude.values] = -torch.inf
    k = min(k, scores_ui.shape[1])
    values, index = scores_ui.sort(dim=1, descending=True, stable=True)
    values, index = values[:, :k], index[:, :k].clone()
    index[values == -torch.inf] = -1
    return index.numpy(), values.numpy()

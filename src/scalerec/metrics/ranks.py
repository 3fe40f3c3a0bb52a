"""Ranks of one positive among candidates, for leave-one-out protocols with sampled negatives.

Legend: B rows, C candidates.
"""

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from scalerec.metrics import checks
from scalerec.metrics.checks import BoolArray, FloatArray


class Ties(StrEnum):
    """Where the positive stands among candidates of equal score.

    `PESSIMISTIC` puts it last of them: a model that gives one score to all gains nothing by it.
    `AVERAGE` puts it in the middle, so a rank may end in .5; this is what a random order gives on
    average.
    """

    PESSIMISTIC = "pessimistic"
    AVERAGE = "average"


def ranks_of(
    scores: npt.ArrayLike, target: npt.ArrayLike, ties: Ties = Ties.PESSIMISTIC
) -> FloatArray:
    """Return the rank of the positive candidate in each row; 1 is best.

    Args:
        scores: [B, C], finite; higher is better.
        target: [B] int, the positive's column, from 0 to C - 1.
        ties: where the positive stands among equal scores.

    Returns:
        [B] float64, from 1 to C.

    Raises:
        DataError: on wrong shapes or values.

    Example:
        >>> ranks_of([[0.2, 0.9, 0.2], [0.7, 0.1, 0.3]], target=[0, 0])
        array([3., 1.])
        >>> ranks_of([[0.2, 0.9, 0.2]], target=[0], ties=Ties.AVERAGE)
        array([2.5])
    """
    score_bc = checks.reals("scores", scores, ndim=2)
    column = checks.integers("target", target)
    checks.same_rows("target", column, len(score_bc), "scores")
    num_candidates = score_bc.shape[1]
    outside = (column < 0) | (column >= num_candidates)
    checks.refuse("target", outside, column, f"a column from 0 to {num_candidates - 1}")
    if not len(column):
        return np.zeros(0)
    own_b = score_bc[np.arange(len(column)), column][:, None]
    above_b = np.count_nonzero(score_bc > own_b, axis=1)
    others_b = np.count_nonzero(score_bc == own_b, axis=1) - 1
    share = 1.0 if Ties(ties) is Ties.PESSIMISTIC else 0.5
    return np.asarray(1.0 + above_b + share * others_b, dtype=np.float64)


def rank_values(ranks: FloatArray, k: int) -> dict[str, FloatArray]:
    """Return every ranking metric at `k` per row, [B], of a positive with these ranks.

    One item is relevant, so recall is hit rate and average precision is reciprocal rank.
    """
    hit: BoolArray = ranks <= k
    reciprocal = np.where(hit, 1.0 / ranks, 0.0)
    return {
        "hit_rate": hit.astype(np.float64),
        "recall": hit.astype(np.float64),
        "precision": hit / k,
        "ndcg": np.where(hit, 1.0 / np.log2(ranks + 1.0), 0.0),
        "mrr": reciprocal,
        "map": reciprocal,
    }

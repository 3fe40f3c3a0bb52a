"""MWUF: cold rows are trained as those of new ids will be, and two nets learn to warm them.

Paper: Learning to Warm Up Cold Item Embeddings for Cold-start Recommendation with Meta Scaling and
Shifting Networks, Zhu et al., 2021, https://arxiv.org/abs/2105.04790.

Shapes: T ids, K numbers that describe one, W columns of a row, D embedding, B events.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.meta.warm_up.config import WarmUpConfig
from scalerec.meta.warm_up.known import Known, move
from scalerec.meta.warm_up.rows import logits_with, mean_partners, refine
from scalerec.models.recommender import Recommender
from scalerec.models.warming import RowScaler, WarmUp
from scalerec.train.losses import task_loss

__all__ = ["ColdRows", "cold_rows", "mwuf_loss", "scale_epoch"]

CHUNK_ROWS = 65_536


class ColdRows:
    """Second rows of known ids, which start as those of new ids do.

    Args:
        features_tk: Of the ids.
        partners_td: The mean embedding of those who met each in all its events.
        rows_tw: The first rows; they are copied.
    """

    def __init__(self, features_tk: Tensor, partners_td: Tensor, rows_tw: Tensor) -> None:
        self.features, self.partners = features_tk, partners_td
        self.rows = rows_tw.detach().clone()


def cold_rows(warmer: RowScaler, known: Known) -> ColdRows:
    """Begin the cold rows of known ids; their events are read once, in chunks.

    Args:
        warmer: Gives the first rows.
        known: The ids and their events.
    """
    whole, num = known.tasks.rows, len(known.tasks)
    sums_td = torch.zeros(num, len(warmer.common) - 1)
    for start in range(0, len(whole.rows), CHUNK_ROWS):
        batch = known.events.take(whole.rows[start : start + CHUNK_ROWS].numpy())
        tasks_b = whole.tasks[start : start + CHUNK_ROWS]
        means = mean_partners(known.recommender, known.warm_up, batch, tasks_b, num)
        sums_td += means * tasks_b.bincount(minlength=num).unsqueeze(1)
    partners_td = sums_td / whole.lengths.unsqueeze(1)
    return ColdRows(known.features[known.tasks.keys], partners_td, warmer.cold(num))


def mwuf_loss(
    recommender: Recommender,
    warm_up: WarmUp,
    warmer: RowScaler,
    cold: ColdRows,
    batch: Batch,
    tasks_b: Tensor,
) -> Tensor:
    """Train the cold rows that a batch reads, and give the loss of the warm ones.

    Algorithm 1 of the paper: the cold rows take a step against the loss of the model that reads
    them; then the loss of the model that reads ``scaling(features) * cold + shifting(partners)`` is
    what the nets minimise. A row's step follows the mean loss of its own events in the batch, and
    so does not depend on the others; the paper leaves the optimiser open.

    Args:
        recommender: In evaluation mode; it is held fixed.
        warm_up: Names the key.
        warmer: Its nets get gradients.
        cold: Its rows are changed.
        batch: Events.
        tasks_b: The place in `cold` of each event's id.

    Returns:
        The loss of the batch, a scalar.
    """
    some, own_b = tasks_b.unique(return_inverse=True)
    once = warm_up.replace(steps=1)
    rows_uw = refine(recommender, once, cold.rows[some], batch, own_b, warmer.pace)
    cold.rows[some] = rows_uw
    warm_uw = warmer(rows_uw, cold.features[some], cold.partners[some])
    field = warm_up.field(recommender.narrow.layout)
    logits = logits_with(recommender, field, batch, warm_uw[own_b])
    return task_loss(recommender.layout, logits, batch)


def scale_epoch(
    warmer: RowScaler,
    known: Known,
    config: WarmUpConfig,
    optimiser: torch.optim.Optimizer,
    cold: ColdRows,
) -> None:
    """Show the nets every event of the known ids once, in the order of time.

    Args:
        warmer: It is trained.
        known: The ids and their events.
        config: The size of a batch.
        optimiser: Of the warmer.
        cold: Their cold rows; they go on from epoch to epoch.
    """
    for rows, tasks_b in _in_time(known, config.batch_size):
        batch = known.events.take(rows.numpy())
        move(
            optimiser,
            mwuf_loss(known.recommender, known.warm_up, warmer, cold, batch, tasks_b),
        )


def _in_time(known: Known, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of events, earlier ones first, and the places of their ids."""
    whole = known.tasks.rows
    keys = whole.rows
    if known.events.dataset.schema.timestamp:
        times = np.asarray(known.events.column("time"))[whole.rows.numpy()]
        keys = torch.from_numpy(times)
    order = keys.argsort(stable=True)
    for some in order.split(batch_size):
        yield whole.rows[some], whole.tasks[some]

"""Score events with other rows for their users or items, and refine such rows by examples.

Shapes: B events, T users or items, W columns of a row, D embedding, C columns of the logits.
"""

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.models.recommender import Recommender
from scalerec.models.warming import Pace, RowScaler, WarmUp
from scalerec.train.losses import row_losses

__all__ = ["logits_with", "mean_losses", "mean_partners", "refine"]


def logits_with(recommender: Recommender, field: int, batch: Batch, rows_bw: Tensor) -> Tensor:
    """Logits of events in which an id field reads given rows, ``[B, C]``.

    Everything else is the model's. Of a history, that holds new ids as others do, nothing is
    replaced.

    Args:
        recommender: In evaluation mode, so that one event's logits do not depend on others.
        field: The number of the id field in the layout of the model's net.
        batch: The events.
        rows_bw: What each event reads there; gradients flow to it.
    """
    tables = recommender.tables
    rows_kw = tables.read(tables.rows_of(batch))
    start = field * len(batch)
    parts = (rows_kw[:start], rows_bw, rows_kw[start + len(batch) :])
    return recommender.score(torch.cat(parts), batch).float()


def mean_losses(
    recommender: Recommender, logits_bc: Tensor, batch: Batch, tasks_b: Tensor, num: int
) -> Tensor:
    """The loss of each user's or item's events: their weighted mean, ``[T]``; 0 without events.

    Args:
        recommender: Its layout names what is predicted, and how much each counts.
        logits_bc: Of the events.
        batch: The events.
        tasks_b: Whose each is, 0 to T - 1.
        num: T.
    """
    losses_bn, weights_bn = row_losses(recommender.layout, logits_bc, batch)
    kinds = losses_bn.new_tensor([task.weight for task in recommender.layout.tasks])
    shape = num, len(kinds)
    sums_tn = losses_bn.new_zeros(shape).index_add(0, tasks_b, losses_bn * weights_bn)
    weights_tn = losses_bn.new_zeros(shape).index_add(0, tasks_b, weights_bn)
    return (sums_tn / weights_tn.clamp(min=1e-12) * kinds).sum(1)


@torch.no_grad()
def mean_partners(
    recommender: Recommender, warm_up: WarmUp, batch: Batch, tasks_b: Tensor, num: int
) -> Tensor:
    """The mean embedding of those whom each user or item met, ``[T, D]``; zero for nobody.

    Args:
        recommender: Gives the embeddings.
        warm_up: Names the partners' key.
        batch: The events.
        tasks_b: Whose each is, 0 to T - 1.
        num: T.
    """
    layout, tables = recommender.narrow.layout, recommender.tables
    place = warm_up.partner_field(layout)
    ids = recommender.narrow(batch).ids[place]
    rows_bd = tables.read(tables.addresses(layout.ids[place].table, ids)[0])[:, :-1]
    sums_td = rows_bd.new_zeros(num, rows_bd.shape[1]).index_add(0, tasks_b, rows_bd)
    return sums_td / tasks_b.bincount(minlength=num).clamp(min=1).unsqueeze(1)


def refine(
    recommender: Recommender,
    warm_up: WarmUp,
    rows_tw: Tensor,
    batch: Batch,
    tasks_b: Tensor,
    pace: Pace,
    *,
    scaled: "Scaled | None" = None,
    create_graph: bool = False,
) -> Tensor:
    """Take gradient steps on rows by their own events; all rows at once, each by itself.

    Args:
        recommender: In evaluation mode.
        warm_up: Names the key, and the number of steps.
        rows_tw: Rows of T users or items.
        batch: Their first events.
        tasks_b: Whose each is, 0 to T - 1; who has none keeps the row.
        pace: How far rows move.
        scaled: With `mwuf`, what a row goes through before it is scored.
        create_graph: Whether gradients of the result shall be taken.

    Returns:
        ``[T, W]``.
    """
    field = warm_up.field(recommender.narrow.layout)
    if not rows_tw.requires_grad:
        rows_tw = rows_tw.detach().requires_grad_()
    rates_tw = pace(tasks_b.bincount(minlength=len(rows_tw)))
    for _ in range(warm_up.steps):
        read_tw = rows_tw if scaled is None else scaled(rows_tw)
        logits = logits_with(recommender, field, batch, read_tw[tasks_b])
        total = mean_losses(recommender, logits, batch, tasks_b, len(rows_tw)).sum()
        # The sum's gradient is each row's own: no event reads two rows.
        (gradient,) = torch.autograd.grad(total, rows_tw, create_graph=create_graph)
        rows_tw = rows_tw - rates_tw * gradient
        if not create_graph:
            rows_tw = rows_tw.detach().requires_grad_()
    return rows_tw if create_graph else rows_tw.detach()


class Scaled:
    """What `RowScaler` does to rows of users or items whose features and partners are known.

    Args:
        scaler: Of the recommender.
        features_tk: Of each.
        partners_td: As `mean_partners` gives them.
    """

    def __init__(self, scaler: RowScaler, features_tk: Tensor, partners_td: Tensor) -> None:
        self._scaler, self._features, self._partners = scaler, features_tk, partners_td

    def __call__(self, rows_tw: Tensor) -> Tensor:
        """Warm rows ``[T, W]`` from cold ones."""
        warm: Tensor = self._scaler(rows_tw, self._features, self._partners)
        return warm

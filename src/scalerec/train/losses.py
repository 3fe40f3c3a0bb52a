"""The loss of a batch: each task's own, over the rows whose label is known."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from scalerec.data.batches import Batch
from scalerec.data.layout import Layout
from scalerec.data.schema import Task, TaskKind

__all__ = ["retrieval_loss", "row_losses", "task_loss"]

OnTensor = Callable[[Tensor], Tensor]


def task_loss(
    layout: Layout, logits_bc: Tensor, batch: Batch, total: OnTensor | None = None
) -> Tensor:
    """The sum over tasks of their weight times their mean loss; retrieval tasks are left out.

    Args:
        layout: Names the tasks.
        logits_bc: The model's output, ``[B, C]``, float32.
        batch: Its labels, masks and sample weights.
        total: Sums weights over all processes that have a part of the batch; the result is then
            this part's share of the whole batch's loss.

    Returns:
        A scalar. A task without a known label in the batch adds nothing.
    """
    losses_bt, weights_bt = row_losses(layout, logits_bc, batch)
    totals_t, weights_t = (losses_bt * weights_bt).sum(0), weights_bt.sum(0)
    means_t = totals_t / (total(weights_t) if total else weights_t).clamp(min=1e-12)
    task_weights = means_t.new_tensor([task.weight for task in layout.tasks])
    return (means_t * task_weights).sum()


def row_losses(layout: Layout, logits_bc: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Every row's loss for every task, and how much it counts, ``[B, T]`` each."""
    columns, start = [], 0
    for i, task in enumerate(layout.tasks):
        own = logits_bc[:, start : start + task.num_outputs]
        columns.append(_row_loss(task, own, batch.labels[:, i]))
        start += task.num_outputs
    kinds = [task.kind is not TaskKind.RETRIEVAL for task in layout.tasks]
    counted_bt = batch.label_mask & torch.tensor(kinds, device=batch.label_mask.device)
    return torch.stack(columns, 1), batch.weights.unsqueeze(1) * counted_bt


def _row_loss(task: Task, logits_bc: Tensor, labels_b: Tensor) -> Tensor:
    if task.kind is TaskKind.BINARY:
        return functional.binary_cross_entropy_with_logits(
            logits_bc[:, 0], labels_b, reduction="none"
        )
    if task.kind is TaskKind.MULTICLASS:
        return functional.cross_entropy(logits_bc, labels_b.long(), reduction="none")
    if task.kind is TaskKind.REGRESSION:
        return (logits_bc[:, 0] - labels_b).square()
    return torch.zeros_like(labels_b)


def retrieval_loss(
    user_pe: Tensor,
    item_ne: Tensor,
    items_n: Tensor,
    log_share_i: Tensor,
    weights_p: Tensor,
    total: OnTensor | None = None,
    first: int = 0,
) -> Tensor:
    """Softmax over the items of the batch, corrected for how often they come.

    Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations (Yi et al., 2019,
    https://dl.acm.org/doi/10.1145/3298689.3346996), equations 2 to 4; the item's share in the
    training rows stands for its sampling probability, and other rows' copies of the same item do
    not count as negatives.

    Args:
        user_pe: Vectors of the users of the positive rows, ``[P, E]``.
        item_ne: Vectors of all items of the batch, ``[N, E]``; of one process, those of the rows.
        items_n: Numbers of these items, ``[N]``.
        log_share_i: Logarithm of each catalogue item's share in the training rows, ``[I]``.
        weights_p: Sample weights, ``[P]``.
        total: As in `task_loss`.
        first: Where the own rows' items start among all; they are P in a row.

    Returns:
        The weighted mean over the positive rows, a scalar; 0 without any.
    """
    logits_pn = (user_pe @ item_ne.T).float() - log_share_i[items_n]
    target = torch.arange(first, first + len(user_pe), device=items_n.device)
    same_pn = items_n[target].unsqueeze(1) == items_n.unsqueeze(0)
    same_pn.scatter_(1, target.unsqueeze(1), False)
    logits_pn = logits_pn.masked_fill(same_pn, -torch.inf)
    losses_p = functional.cross_entropy(logits_pn, target, reduction="none")
    weight = weights_p.sum()
    return (losses_p * weights_p).sum() / (total(weight) if total else weight).clamp(min=1e-12)

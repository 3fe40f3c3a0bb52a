"""Reptile: the start moves towards where tasks went.

Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms, 2018,
https://arxiv.org/abs/1803.02999, algorithm 2: ``phi + epsilon * mean(W - phi)``, where W is phi
after some steps on all that is known of a task, support and query. The displacement stands as a
gradient (section 2), so that a plain outer optimiser of rate epsilon gives the paper's step.

Where only parts adapt, the paper says nothing of the others; they follow the gradient of the mean
loss after adapting, in the first order.
"""

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.meta.adapting import adapt
from scalerec.meta.algorithms.base import Lesson, MetaGradient, mean_of_tasks
from scalerec.meta.parts import OWN
from scalerec.meta.personal import Examples, Fast, PersonalModel, Shared

__all__ = ["displacement"]


def displacement(lesson: Lesson) -> MetaGradient:
    """How far tasks went, negated, and the gradient of what they share.

    Args:
        lesson: What is learned from.
    """
    model, shared = lesson.model, lesson.shared
    known = _together(lesson)
    fast = adapt(model, shared, known, lesson.rates, lesson.steps, prior=lesson.prior)
    with torch.enable_grad():
        losses = model.open(shared, lesson.query).losses(fast)
        total = mean_of_tasks(losses, lesson.query)
    moving = set(model.parts.names)
    others = [name for name in shared.dense if name not in moving]
    wanted = [*(shared.dense[name] for name in others), shared.rows]
    grads = torch.autograd.grad(total, wanted, allow_unused=True)
    found = {n: g for n, g in zip(others, grads, strict=False) if g is not None}
    found |= {name: -mean for name, mean in _mean_moves(model, shared, fast).items()}
    rows = grads[-1]
    if OWN in fast.tensors:
        rows = _with_own(model, shared, fast, known, rows)
    return MetaGradient(found, rows, {}, losses.detach())


@torch.no_grad()
def _mean_moves(model: PersonalModel, shared: Shared, fast: Fast) -> dict[str, Tensor]:
    found = {
        name: tensor.mean(0) - shared.dense[name]
        for name, tensor in fast.tensors.items()
        if name != OWN
    }
    for weight, moved in fast.products.items():
        if moved is not None:
            found[weight] = moved.mean_weight()
            if moved.bias is not None:
                found[model.whole[weight]] = moved.bias.mean((0, 1))
    return found


@torch.no_grad()
def _with_own(
    model: PersonalModel, shared: Shared, fast: Fast, known: Examples, grad: Tensor | None
) -> Tensor:
    """The gradient of rows, with minus the mean displacement in those that were tasks' own."""
    places = model.own_rows(known)
    assert places is not None, "a row that adapted has a place"
    out = torch.zeros_like(shared.rows) if grad is None else grad.clone()
    rows, inverse, counts = torch.unique(places, return_inverse=True, return_counts=True)
    moves = fast.tensors[OWN] - shared.rows[places]
    # One row may be that of many tasks, such as that of all unknown users.
    total = torch.zeros(len(rows), moves.shape[1], dtype=moves.dtype).index_add_(0, inverse, moves)
    out[rows] = -total / counts.unsqueeze(1)
    return out


def _together(lesson: Lesson) -> Examples:
    """The examples of support and query, those of each task side by side."""
    num, parts, start = lesson.support.num_tasks, [], 0
    for part in (lesson.support, lesson.query):
        size = len(part.batch)
        parts.append(torch.arange(start, start + size).view(num, -1))
        start += size
    both = Batch.concat([lesson.support.batch, lesson.query.batch])
    return lesson.model.read(both.take(torch.cat(parts, 1).flatten()), num, lesson.numbers)

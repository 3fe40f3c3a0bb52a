"""Reptile: the start moves towards where tasks went.

Nichol, Achiam, Schulman: On First-Order Meta-Learning Algorithms, 2018,
https://arxiv.org/abs/1803.02999, algorithm 2: ``phi + epsilon * mean(W - phi)``, where W is phi
after some steps on all that is known of a task, support and query. The displacement stands for
minus a gradient (section 2), so that a plain outer optimiser of rate epsilon gives the paper's
step.

Where only parts adapt, the paper says nothing of the others; they follow the gradient of the mean
loss after adapting, in the first order.
"""

from dataclasses import replace

import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.meta.adapting import adapt
from scalerec.meta.algorithms.base import (
    OWN_ROWS,
    Learned,
    Lesson,
    against,
    judged_tasks,
    mean_of_tasks,
)
from scalerec.meta.parts import OWN
from scalerec.meta.personal import Examples, Fast, PersonalModel, Shared
from scalerec.rounds import TableRows

__all__ = ["displacement"]


def displacement(lesson: Lesson) -> Learned:
    """How far tasks went, and against the gradient of what they share.

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
    *dense, rows = torch.autograd.grad(total, wanted, allow_unused=True)
    judged = judged_tasks(lesson.query)
    weight = float(judged.sum())
    update = against(lesson, dict(zip(others, dense, strict=True)), rows, weight)
    if weight:
        went = fast if judged.all() else fast.take(judged)
        moves = _mean_moves(model, shared, went)
        tables = dict(update.tables)
        if OWN in fast.tensors:
            tables[OWN_ROWS] = _own_moves(lesson, known, went, judged)
        update = replace(update, dense={**update.dense, **moves}, tables=tables)
    return Learned(update, losses.detach())


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
def _own_moves(lesson: Lesson, known: Examples, went: Fast, judged: Tensor) -> TableRows:
    """How far tasks' own rows went, each with the share of tasks whose it is, ``[K, W + 1]``."""
    every = lesson.model.own_rows(known)
    assert every is not None, "a row that adapted has a place"
    places = every[judged]
    moves = went.tensors[OWN] - lesson.shared.rows[places]
    moves = torch.cat([moves, moves.new_ones(len(moves), 1)], 1)
    rows, inverse = torch.unique(lesson.row_numbers[places], return_inverse=True)
    total = moves.new_zeros(len(rows), moves.shape[1]).index_add_(0, inverse, moves)
    return TableRows(rows=rows, values=total / len(places))


def _together(lesson: Lesson) -> Examples:
    """The examples of support and query, those of each task side by side."""
    num, parts, start = lesson.support.num_tasks, [], 0
    for part in (lesson.support, lesson.query):
        size = len(part.batch)
        parts.append(torch.arange(start, start + size).view(num, -1))
        start += size
    both = Batch.concat([lesson.support.batch, lesson.query.batch])
    return lesson.model.read(both.take(torch.cat(parts, 1).flatten()), num, lesson.numbers)

"""The gradient of the loss after adapting: MAML, its first order, ANIL and Meta-SGD.

They differ in what adapts, in whether the gradients of adapting are differentiated, and in whether
rates are learned.

Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017,
https://arxiv.org/abs/1703.03400, equations 1 and 2 (algorithm 2). First order: section 5.2, "the
second derivative part ... is omitted".
Raghu, Raghu, Bengio, Vinyals: Rapid Learning or Feature Reuse? Towards Understanding the
Effectiveness of MAML, 2020, https://arxiv.org/abs/1909.09157, section 4 (ANIL: the head alone
adapts).
Li, Zhou, Chen, Li: Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, 2017,
https://arxiv.org/abs/1707.09835, equation 3 (a rate for each number, learned with the start).
"""

import torch

from scalerec.meta.adapting import adapt
from scalerec.meta.algorithms.base import (
    RATES,
    Learned,
    Lesson,
    against,
    judged_tasks,
    mean_of_tasks,
)

__all__ = ["query_gradient"]


def query_gradient(lesson: Lesson) -> Learned:
    """Go against the gradient of the mean query loss, of the start and of learned rates.

    Args:
        lesson: What is learned from.
    """
    model, shared = lesson.model, lesson.shared
    fast = adapt(
        model,
        shared,
        lesson.support,
        lesson.rates,
        lesson.steps,
        prior=lesson.prior,
        second_order=lesson.second_order,
    )
    with torch.enable_grad():
        losses = model.open(shared, lesson.query).losses(fast)
        total = mean_of_tasks(losses, lesson.query)
    rates = {RATES + name: rate for name, rate in lesson.rates.items() if rate.requires_grad}
    leaves = {**shared.dense, **rates}
    *dense, rows = torch.autograd.grad(total, [*leaves.values(), shared.rows], allow_unused=True)
    weight = float(judged_tasks(lesson.query).sum())
    update = against(lesson, dict(zip(leaves, dense, strict=True)), rows, weight)
    return Learned(update, losses.detach())

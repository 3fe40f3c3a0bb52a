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
from scalerec.meta.algorithms.base import Lesson, MetaGradient, mean_of_tasks

__all__ = ["query_gradient"]


def query_gradient(lesson: Lesson) -> MetaGradient:
    """Differentiate the mean query loss by the start and by learned rates.

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
    leaves = {name: rate for name, rate in lesson.rates.items() if rate.requires_grad}
    wanted = [*shared.dense.values(), shared.rows, *leaves.values()]
    grads = torch.autograd.grad(total, wanted, allow_unused=True)
    num = len(shared.dense)
    dense = dict(zip(shared.dense, grads, strict=False))
    rates = dict(zip(leaves, grads[num + 1 :], strict=True))
    return MetaGradient(
        {name: grad for name, grad in dense.items() if grad is not None},
        grads[num],
        {name: grad for name, grad in rates.items() if grad is not None},
        losses.detach(),
    )

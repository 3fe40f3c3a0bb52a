"""Adapting: a few steps of gradient descent on each task's support, for all tasks at once.

Shapes: T tasks, S examples of each.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from scalerec.meta.parts import OWN
from scalerec.meta.passing import Products, Read
from scalerec.meta.personal import Examples, Fast, Pass, PersonalModel, Shared

__all__ = ["Rates", "adapt", "dense_after", "moves_by_products"]

# Weights of fewer numbers, of all tasks together, are moved sooner than products are arranged.
FEW_NUMBERS = 200_000

Rates = Mapping[str, Tensor]
"""The rate of each adapted parameter: one number, or one for each of its numbers."""


def adapt(
    model: PersonalModel,
    shared: Shared,
    support: Examples,
    rates: Rates,
    steps: int,
    *,
    prior: float = 0.0,
    second_order: bool = False,
    products: bool | None = None,
) -> Fast:
    """Move each task's own parameters by ``steps`` gradients of its mean support loss.

    A task without examples stays where it starts.

    Args:
        model: The model.
        shared: Where tasks start.
        support: What each adapts on.
        rates: Of each adapted parameter.
        steps: At least 0.
        prior: Examples that the start is worth: the sum of n losses is divided by n + prior, so
            that few examples move a task less; 0 for the papers' mean.
        second_order: Whether what is found can be differentiated through the steps' gradients; if
            not, these are constants, as in first-order MAML.
        products: Whether linear layers move by products; None to choose what costs less.

    Returns:
        What tasks have of their own; it depends on `shared` (and, in the second order, on `rates`)
        as autograd has it.
    """
    if products is None:
        products = moves_by_products(model, shared, rates, support, steps)
    with torch.enable_grad():
        work = model.open(shared if second_order else shared.detach(), support)
        fast = _begin(model, shared, support, products=products)
        for _ in range(steps):
            fast = _step(work, fast, rates, prior, second_order=second_order)
    return fast


def moves_by_products(
    model: PersonalModel, shared: Shared, rates: Rates, support: Examples, steps: int
) -> bool:
    """Whether products of examples cost less than each task's own weights.

    A product reads R (I + O) numbers for an example, and a weight I O numbers, from memory, and
    writes as many for its gradient. Rates for each number of a weight need the weight.

    Args:
        model: The model.
        shared: Where tasks start.
        rates: Of each adapted parameter.
        support: What each task adapts on.
        steps: Of adapting.
    """
    if not model.whole or not model.stacks(shared, support) or not model.moves:
        return False
    if any(rates[name].ndim for pair in model.whole.items() for name in pair if name):
        return False
    num_moves = steps * (len(support.batch) // support.num_tasks)
    shapes = [shared.dense[name].shape for name in model.whole]
    numbers = sum(o * i for o, i in shapes)
    if numbers * support.num_tasks < FEW_NUMBERS:
        return False
    return sum(num_moves * (o + i) for o, i in shapes) <= 3 * numbers


def _begin(model: PersonalModel, shared: Shared, support: Examples, *, products: bool) -> Fast:
    tensors = model.start(shared, support.num_tasks, model.own_rows(support))
    if not products:
        return Fast(support.num_tasks, tensors)
    moved = {name for pair in model.whole.items() for name in pair}
    kept = {name: tensor for name, tensor in tensors.items() if name not in moved}
    return Fast(support.num_tasks, kept, dict.fromkeys(model.whole))


def _step(work: Pass, fast: Fast, rates: Rates, prior: float, *, second_order: bool) -> Fast:
    """One step of all tasks."""
    reads: list[Read] = []
    tensors = fast.tensors
    if not second_order:
        tensors = {name: own.detach().requires_grad_() for name, own in tensors.items()}
    losses = work.losses(Fast(fast.num_tasks, tensors, fast.products), reads, prior)
    wanted = [*tensors.values(), *(read.output for read in reads)]
    grads = torch.autograd.grad(losses.sum(), wanted, create_graph=second_order, allow_unused=True)
    # A parameter that no loss reads stays where it is.
    found = dict(zip(tensors, grads, strict=False))
    moved = {
        name: own if found[name] is None else own - _fitted(rates[name], own) * found[name]
        for name, own in fast.tensors.items()
    }
    products = dict(fast.products)
    for read, grad in zip(reads, grads[len(tensors) :], strict=True):
        if grad is not None:
            bias = work.model.whole[read.name]
            rate = rates[read.name], rates[bias] if bias else None
            inputs = read.inputs if second_order else read.inputs.detach()
            products[read.name] = _moved(products[read.name], inputs, grad, rate)
    return Fast(fast.num_tasks, moved, products)


def _fitted(rate: Tensor, own: Tensor) -> Tensor:
    return rate if rate.ndim == 0 else rate.unsqueeze(0).to(own)


def _moved(
    before: Products | None, inputs: Tensor, grad: Tensor, rate: tuple[Tensor, Tensor | None]
) -> Products:
    """The moves of a layer with one more step's."""
    moves = -rate[0] * grad
    bias = None if rate[1] is None else -rate[1] * grad.sum(1, keepdim=True)
    if before is None:
        return Products(inputs, moves, bias)
    if bias is not None and before.bias is not None:
        bias = before.bias + bias
    return Products(
        torch.cat([before.inputs, inputs], 1), torch.cat([before.moves, moves], 1), bias
    )


def dense_after(model: PersonalModel, shared: Shared, fast: Fast) -> dict[str, Tensor]:
    """Every adapted tensor of each task, written out, ``[T, ...]``; `OWN` among them.

    Args:
        model: The model.
        shared: Where tasks started.
        fast: What they have of their own.
    """
    found = dict(fast.tensors)
    for weight, moved in fast.products.items():
        bias, own = model.whole[weight], shared.dense[weight]
        num = fast.num_tasks
        found[weight] = own.expand(num, *own.shape) if moved is None else own + moved.weight()
        if bias:
            start = shared.dense[bias]
            shift = None if moved is None else moved.bias
            found[bias] = start.expand(num, -1) if shift is None else start + shift.squeeze(1)
    order = [*model.parts.names, *([OWN] if OWN in found else [])]
    return {name: found[name] for name in order}

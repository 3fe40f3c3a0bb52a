"""Weights moved while their gradients are found, so that no gradient of a weight is written.

Under plain gradient descent a linear layer's weight moves by a product of two small matrices. Added
to the weight in one call, it takes half the memory traffic of a gradient that is written first and
added then; that traffic is most of what a step of a wide layer costs.

Shapes: P parties, B examples of each, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor

from scalerec.train.cohort.products import batched_linear

__all__ = ["Moves", "moving_linear"]


class Moves:
    """Which weights a pass backwards may move, and which it moved.

    A weight is moved if a linear layer reads it once in a pass, nothing else reads it, and it is a
    parameter and not made of one; the gradients of the others are found as ever.

    Args:
        lr: Times the gradient that a weight moves.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.done: set[str] = set()
        self._reads: dict[str, int] = {}

    def count(self, name: str) -> None:
        """Something reads a weight."""
        self._reads[name] = self._reads.get(name, 0) + 1

    def may_move(self, name: str) -> bool:
        """Whether one linear layer alone read a weight."""
        return self._reads.get(name) == 1


def moving_linear(
    x_pbi: Tensor, weight_poi: Tensor, bias_po: Tensor | None, moves: Moves, name: str
) -> Tensor:
    """Each party's linear layer, ``[P, B, O]``; its weight is moved on the way back if it may be.

    Args:
        x_pbi: Inputs, ``[P, B, I]``.
        weight_poi: Weights, ``[P, O, I]``.
        bias_po: Biases, ``[P, O]``; they have a gradient as ever.
        moves: Says which weights may be moved, and is told which were.
        name: Of the weight.
    """
    out: Tensor = _MovingLinear.apply(x_pbi, weight_poi, bias_po, moves, name)
    return out


class _MovingLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, moves: Moves, name: str
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.moves, ctx.name = moves, name
        return batched_linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grad_x = grad @ weight if needs[0] else None
        grad_bias = grad.sum(1) if needs[2] else None
        moves: Moves = ctx.moves
        if not moves.may_move(ctx.name):
            return grad_x, grad.mT @ x, grad_bias, None, None
        weight.data.baddbmm_(grad.mT, x, alpha=-moves.lr)
        moves.done.add(ctx.name)
        return grad_x, None, grad_bias, None, None

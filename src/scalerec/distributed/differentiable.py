"""Messages between processes that gradients go back through.

What every process works out from them is its share of one loss, so the gradient of what one process
sent is the sum of what all of them say of it.
"""

from typing import Any

import torch
from torch import Tensor

from scalerec.distributed.group import Group

__all__ = ["join_rows_of_all", "sum_of_all"]


def sum_of_all(value: Tensor, group: Group, purpose: str) -> Tensor:
    """The sum of a tensor over all processes.

    Args:
        value: Of one shape on all.
        group: The processes.
        purpose: Under which bytes are counted, both ways.
    """
    if group.world == 1:
        return value
    return _Sum.apply(value, group, purpose)  # type: ignore[no-any-return]


def join_rows_of_all(value: Tensor, group: Group, purpose: str) -> tuple[Tensor, int]:
    """The rows of all processes, by rank, and where the own ones start.

    Args:
        value: ``[n, ...]``; n may differ, and be 0.
        group: The processes.
        purpose: Under which bytes are counted, both ways.
    """
    if group.world == 1:
        return value, 0
    joined, first = _Join.apply(value, group, purpose)
    return joined, first


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Group, purpose: str) -> Tensor:
        ctx.group, ctx.purpose = group, purpose
        return group.sum(value.clone(), purpose)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.group.sum(grads[0].clone(), ctx.purpose), None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Group, purpose: str) -> tuple[Tensor, int]:
        parts = group.gather(value, purpose)
        ctx.group, ctx.purpose, ctx.sizes = group, purpose, [len(part) for part in parts]
        return torch.cat(parts), sum(ctx.sizes[: group.rank])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        group, own = ctx.group, ctx.sizes[ctx.group.rank]
        said = group.exchange(grads[0].contiguous(), ctx.sizes, [own] * group.world, ctx.purpose)
        return said.view(group.world, own, *grads[0].shape[1:]).sum(0), None, None

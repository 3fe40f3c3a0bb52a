"""Batch statistics of a batch that several processes share: theirs together, as if it were whole.

A process whose part is empty adds nothing to them. Running means stay the same on all processes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from scalerec.distributed.differentiable import sum_of_all
from scalerec.distributed.group import Group
from scalerec.models.sequence import Dice

__all__ = ["share_statistics"]

PURPOSE = "batch statistics"


def share_statistics(module: nn.Module, group: Group) -> None:
    """Let every layer with statistics of the batch take them over all processes.

    Args:
        module: Such layers in it are replaced; parameters and buffers stay, with their names.
        group: The processes; all of them must take every step at once.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm1d:
                setattr(parent, name, _of(SharedBatchNorm, child, group))
            elif type(child) is Dice:
                setattr(parent, name, _of(SharedDice, child, group))


def _of(kind: Any, layer: nn.Module, group: Group) -> nn.Module:
    """The layer as one of a kind derived from its own; all it holds is shared."""
    found: nn.Module = kind.__new__(kind)
    found.__dict__.update(layer.__dict__)
    found._group = group  # type: ignore[assignment]
    return found


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the rows of all processes.

    Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift
    (Ioffe and Szegedy, 2015), https://arxiv.org/abs/1502.03167, algorithm 1.
    """

    _group: Group

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``[B, H]``; in evaluation by the running means."""
        if not self.training:
            return super().forward(input)
        x_bh = input.float()
        ones = x_bh.new_ones(len(x_bh), 1)
        mean_h, var_h, count = _moments(x_bh, ones, self._mean, self._group)
        self._remember(mean_h.detach(), var_h.detach() * (count / (count - 1).clamp(min=1)))
        scale_h = torch.rsqrt(var_h + self.eps) * self.weight
        return ((x_bh - mean_h) * scale_h + self.bias).to(input.dtype)

    @property
    def _mean(self) -> Tensor:
        assert self.running_mean is not None, "nets of the zoo track it"
        return self.running_mean

    @torch.no_grad()
    def _remember(self, mean_h: Tensor, var_h: Tensor) -> None:
        assert self.running_var is not None, "nets of the zoo track it"
        assert self.num_batches_tracked is not None, "nets of the zoo track it"
        assert self.momentum is not None, "nets of the zoo use one"
        self.num_batches_tracked += 1
        self._mean.lerp_(mean_h, self.momentum)
        self.running_var.lerp_(var_h, self.momentum)


class SharedDice(Dice):
    """Dice over the rows of all processes."""

    _group: Group

    def _batch(self, x_blh: Tensor, mask_bl: Tensor) -> tuple[Tensor, Tensor]:
        x_nh = x_blh.float().flatten(0, 1)
        weight_n1 = mask_bl.flatten().unsqueeze(1).float()
        mean_h, var_h, _ = _moments(x_nh, weight_n1, self.mean, self._group)
        with torch.no_grad():
            self.mean.lerp_(mean_h, 0.1)
            self.var.lerp_(var_h, 0.1)
        return mean_h, var_h


def _moments(
    x_nh: Tensor, weight_n1: Tensor, near_h: Tensor, group: Group
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and weight over all processes, tied to the backward pass, in one message.

    Sums are of distances to `near_h`, the same on all processes, so that the variance is not the
    small difference of large numbers.
    """
    # A copy: running means move before the backward pass.
    near_h = near_h.clone()
    far_nh = x_nh - near_h
    sums = ((far_nh * weight_n1).sum(0), (far_nh.square() * weight_n1).sum(0), weight_n1.sum(0))
    whole = sum_of_all(torch.cat(sums), group, PURPOSE)
    total_h, squares_h, count = whole.split([x_nh.shape[1], x_nh.shape[1], 1])
    count = count.detach().clamp(min=1)
    mean_h = total_h / count
    return near_h + mean_h, (squares_h / count - mean_h.square()).clamp(min=0), count

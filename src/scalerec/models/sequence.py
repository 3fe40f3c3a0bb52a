"""Pooling of histories. Shapes: B rows, L history length, D embedding, H a layer's size."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from scalerec.models.heads import init_linear

__all__ = ["Dice", "TargetAttention"]


class Dice(nn.Module):
    """A ReLU whose bend follows the data, over the places of a history that are filled.

    Deep Interest Network for Click-Through Rate Prediction (Zhou et al., 2018),
    https://arxiv.org/abs/1706.06978, section 5.2: ``p s + (1 - p) alpha s`` with
    ``p = sigmoid((s - mean) / sqrt(var + eps))``. Mean and variance are of the batch while training
    and running means afterwards, as in batch normalisation.

    Args:
        dim: H, the size of the last dimension.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))

    def forward(self, x_blh: Tensor, mask_bl: Tensor) -> Tensor:
        """Map ``[B, L, H]`` to the same shape; places without a mask do not count in the means."""
        mean_h, var_h = self._batch(x_blh, mask_bl) if self.training else (self.mean, self.var)
        gate = torch.sigmoid((x_blh - mean_h) * torch.rsqrt(var_h + 1e-8))
        return gate * x_blh + (1 - gate) * self.alpha * x_blh

    def _batch(self, x_blh: Tensor, mask_bl: Tensor) -> tuple[Tensor, Tensor]:
        weight = mask_bl.unsqueeze(-1).to(x_blh.dtype)
        count = weight.sum().clamp(min=1)
        mean_h = (x_blh * weight).sum((0, 1)) / count
        var_h = ((x_blh - mean_h).square() * weight).sum((0, 1)) / count
        with torch.no_grad():
            self.mean.lerp_(mean_h.to(self.mean.dtype), 0.1)
            self.var.lerp_(var_h.to(self.var.dtype), 0.1)
        return mean_h, var_h


class TargetAttention(nn.Module):
    """Pools a history, each item weighed by how it goes with the item to be scored.

    Deep Interest Network (Zhou et al., 2018), https://arxiv.org/abs/1706.06978, equation 3: the sum
    of ``a(e_l, target) e_l``. The activation unit `a` is a perceptron over the item, the target,
    their difference and their product (as in the authors' code; the paper draws an outer product).
    As in the paper the weights are not normalised, so that a strong interest keeps its strength;
    softmax is an option.

    Args:
        dim: D.
        hidden: Sizes of the activation unit's hidden layers; at least one.
        generator: Draws the initial weights.
        activation: Of the hidden layers: `sigmoid` or `dice`.
        softmax: Whether the weights are normalised over the history.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        *,
        activation: Literal["sigmoid", "dice"] = "sigmoid",
        softmax: bool = False,
    ) -> None:
        super().__init__()
        sizes = [4 * dim, *hidden]
        self.layers = nn.ModuleList(
            init_linear(nn.Linear(i, o), generator) for i, o in pairwise(sizes)
        )
        dices = [Dice(size) for size in hidden] if activation == "dice" else []
        self.dices = nn.ModuleList(dices)
        # A bias would be the same for all places, and softmax would not see it.
        self.out = init_linear(nn.Linear(sizes[-1], 1, bias=not softmax), generator)
        self.softmax = softmax

    def forward(self, history: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Pool a history.

        Args:
            history: ``[B, L, D]``.
            target: ``[B, D]``.
            mask: Which places are filled, ``[B, L]`` bool. A row without any gives zero.

        Returns:
            ``[B, D]``.
        """
        weights_bl = self.weigh(history, target, mask)
        return torch.einsum("bl,bld->bd", weights_bl, history)

    def weigh(self, history: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """The weights ``[B, L]`` of the places, zero where they are not filled."""
        target_bld = target.unsqueeze(1).expand_as(history)
        pairs = (history, target_bld, history - target_bld, history * target_bld)
        x_blh = torch.cat(pairs, dim=-1)
        for place, layer in enumerate(self.layers):
            x_blh = layer(x_blh)
            x_blh = self.dices[place](x_blh, mask) if self.dices else torch.sigmoid(x_blh)
        scores_bl = self.out(x_blh).squeeze(-1)
        if self.softmax:
            # The lowest number and not minus infinity: a row without any place stays finite.
            lowest = torch.finfo(scores_bl.dtype).min
            scores_bl = torch.softmax(scores_bl.masked_fill(~mask, lowest), dim=-1)
        return scores_bl * mask.to(scores_bl.dtype)  # type: ignore[no-any-return]

"""LR: logistic regression on the one-hot input.

Richardson, Dominowska, Ragno: Predicting Clicks: Estimating the Click-Through Rate for New Ads,
2007, https://doi.org/10.1145/1242572.1242643. The logit is the sum of a weight a value, and a bias.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.data.layout import Layout
from scalerec.models.heads import FirstOrder
from scalerec.models.inputs import Inputs
from scalerec.models.net import NetConfig
from scalerec.models.split import Split

__all__ = ["LR", "LRConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LRConfig(NetConfig):
    """Settings of LR.

    With one output the embedding is not read, so `dim` is 1 and a row is a weight and one spare
    float. With C outputs a `dim` of C or more makes it C separate regressions (see `FirstOrder`).
    """

    dim: int = 1


class LR(nn.Module):
    """The first-order logits and nothing else: the yardstick of all other nets."""

    def __init__(self, layout: Layout, config: LRConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.first_order = FirstOrder(config.dim, layout.num_outputs, generator)

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        return self.first_order(inputs)  # type: ignore[no-any-return]

    def split(self) -> Split:
        """Itself as a function of sums over fields."""
        own = self.first_order.own
        totals = None if own is None else own.weight
        return Split(linear=True, totals=totals, constant=self.first_order.bias)

"""Wide & Deep: a linear model and a deep tower, trained together.

Cheng et al.: Wide & Deep Learning for Recommender Systems, 2016, https://arxiv.org/abs/1606.07792.
Equation 3 without the cross-product features, which a schema may add as hashed columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.data.layout import Layout
from scalerec.models.heads import Mlp
from scalerec.models.inputs import Inputs
from scalerec.models.net import NetConfig, check_hidden, check_rate
from scalerec.models.split import Split, split_tower

__all__ = ["WideAndDeep", "WideAndDeepConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WideAndDeepConfig(NetConfig):
    """Settings of Wide & Deep.

    Args:
        hidden: Sizes of the tower's hidden layers. The paper has 1024-512-256; the default is
            DeepFM's, so that the two can be compared.
        dropout: Of the tower, in [0, 1).
        batch_norm: Whether the tower's layers are normalised over the batch.
    """

    hidden: tuple[int, ...] = (400, 400, 400)
    dropout: float = 0.0
    batch_norm: bool = False

    def __post_init__(self) -> None:
        NetConfig.__post_init__(self)
        check_hidden("hidden", self.hidden)
        check_rate("dropout", self.dropout)


class WideAndDeep(nn.Module):
    """The first-order and the tower's logits, added; several tasks share the first-order one."""

    def __init__(
        self, layout: Layout, config: WideAndDeepConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.size = layout.num_fields * config.dim
        self.tower = Mlp(
            self.size,
            config.hidden,
            generator,
            out_dim=layout.num_outputs,
            dropout=config.dropout,
            batch_norm=config.batch_norm,
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        return inputs.linear.unsqueeze(-1) + self.tower(inputs.flat)  # type: ignore[no-any-return]

    def split(self) -> Split:
        """Itself as a function of sums over fields."""
        weight, bias, upper = split_tower(self.tower, self.size)
        return Split(weight=weight, bias=bias, upper=upper, linear=True)

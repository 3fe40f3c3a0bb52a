"""DeepFM: a factorisation machine and a deep tower over the same embeddings.

Guo, Tang, Ye, Li, He: DeepFM: A Factorization-Machine based Neural Network for CTR Prediction,
2017, https://arxiv.org/abs/1703.04247. Equation 1: the logit is the sum of the FM's (equation 2)
and the tower's (equation 4).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.data.layout import Layout
from scalerec.models.heads import Mlp
from scalerec.models.inputs import Inputs
from scalerec.models.interactions import pairs_of
from scalerec.models.net import NetConfig, check_hidden, check_rate
from scalerec.models.split import Split, split_tower

__all__ = ["DeepFM", "DeepFMConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepFMConfig(NetConfig):
    """Settings of DeepFM.

    Args:
        hidden: Sizes of the tower's hidden layers; the paper's is 400-400-400.
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


class DeepFM(nn.Module):
    """The first-order, FM and tower logits, added; several tasks share the first two."""

    def __init__(self, layout: Layout, config: DeepFMConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.num_outputs, self.dim = layout.num_outputs, config.dim
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
        wide_b = inputs.linear + pairs_of(inputs).sum(-1)
        return wide_b.unsqueeze(-1) + self.tower(inputs.flat)  # type: ignore[no-any-return]

    def split(self) -> Split:
        """Itself as a function of sums over fields."""
        weight, bias, upper = split_tower(self.tower, self.size)
        pairs = torch.ones(self.num_outputs, self.dim)
        return Split(weight=weight, bias=bias, upper=upper, linear=True, pairs=pairs)

"""AutoInt: self-attention finds which fields to combine.

Song et al.: AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks,
2018, https://arxiv.org/abs/1810.11921. Equations 5 to 9; with a tower beside it, AutoInt+.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.models.heads import Mlp, init_linear
from scalerec.models.inputs import Inputs
from scalerec.models.interactions import FieldAttention
from scalerec.models.net import NetConfig, check_count, check_hidden, check_rate

__all__ = ["AutoInt", "AutoIntConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoIntConfig(NetConfig):
    """Settings of AutoInt; the defaults are the paper's.

    Args:
        num_layers: Number of attention layers.
        num_heads: Heads of each layer.
        head_dim: Size of each head.
        scale: Whether products are divided by the root of `head_dim`; the paper does not.
        hidden: Sizes of a tower beside the attention (AutoInt+); empty for none.
        dropout: Of the tower, in [0, 1).
        batch_norm: Whether the tower's layers are normalised over the batch.
    """

    num_layers: int = 3
    num_heads: int = 2
    head_dim: int = 32
    scale: bool = False
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    batch_norm: bool = False

    def __post_init__(self) -> None:
        NetConfig.__post_init__(self)
        check_count("num_layers", self.num_layers)
        check_count("num_heads", self.num_heads)
        check_count("head_dim", self.head_dim)
        check_hidden("hidden", self.hidden)
        check_rate("dropout", self.dropout)
        spare = self.dropout > 0 or self.batch_norm
        require(
            len(self.hidden) > 0 or not spare,
            "dropout and batch_norm belong to the tower, which an empty hidden leaves out",
        )


class AutoInt(nn.Module):
    """Attention layers over the fields and a linear read-out; plus a tower's logits, if set."""

    def __init__(self, layout: Layout, config: AutoIntConfig, generator: torch.Generator) -> None:
        super().__init__()
        layers, size = [], config.dim
        for _ in range(config.num_layers):
            layer = FieldAttention(
                size, config.num_heads, config.head_dim, generator, scale=config.scale
            )
            layers.append(layer)
            size = layer.out_dim
        self.layers = nn.Sequential(*layers)
        top = layout.num_fields * size
        self.out = init_linear(nn.Linear(top, layout.num_outputs), generator)
        self.tower = None
        if config.hidden:
            self.tower = Mlp(
                layout.num_fields * config.dim,
                config.hidden,
                generator,
                out_dim=layout.num_outputs,
                dropout=config.dropout,
                batch_norm=config.batch_norm,
            )

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        logits_bc: Tensor = self.out(self.layers(inputs.fields).flatten(1))
        if self.tower is None:
            return logits_bc
        return logits_bc + self.tower(inputs.fields.flatten(1))  # type: ignore[no-any-return]

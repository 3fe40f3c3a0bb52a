"""DIN: the history is pooled anew for each item, by what in it goes with the item.

Zhou et al.: Deep Interest Network for Click-Through Rate Prediction, 2018,
https://arxiv.org/abs/1706.06978. Equation 3 and figure 2 (right).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.models.heads import Mlp, pick_fields
from scalerec.models.inputs import Inputs
from scalerec.models.net import NetConfig, check_hidden, check_rate
from scalerec.models.sequence import TargetAttention

__all__ = ["DIN", "DINConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DINConfig(NetConfig):
    """Settings of DIN.

    Args:
        attention_hidden: Sizes of the activation unit's layers, at least one; 80-40 is the authors'
            code.
        activation: Of the activation unit. `sigmoid` is the authors' code and depends on no batch;
            `dice` is the paper's, with running means.
        softmax: Whether weights are normalised over the history; the paper does not.
        hidden: Sizes of the tower's hidden layers; 200-80 is the paper's figure.
        dropout: Of the tower, in [0, 1).
        batch_norm: Whether the tower's layers are normalised over the batch.
    """

    attention_hidden: tuple[int, ...] = (80, 40)
    activation: Literal["sigmoid", "dice"] = "sigmoid"
    softmax: bool = False
    hidden: tuple[int, ...] = (200, 80)
    dropout: float = 0.0
    batch_norm: bool = False

    def __post_init__(self) -> None:
        NetConfig.__post_init__(self)
        check_hidden("attention_hidden", self.attention_hidden)
        given = len(self.attention_hidden) > 0
        require(given, "attention_hidden must have at least one size; got none")
        allowed = ("sigmoid", "dice")
        known = self.activation in allowed
        require(known, f"activation must be one of {', '.join(allowed)}; got {self.activation!r}")
        check_hidden("hidden", self.hidden)
        check_rate("dropout", self.dropout)


class DIN(nn.Module):
    """Attention over each history in place of its mean, and a tower over all fields.

    Raises:
        ConfigError: If the layout has no history, or one without an item's id of the same table.
    """

    def __init__(self, layout: Layout, config: DINConfig, generator: torch.Generator) -> None:
        super().__init__()
        histories = [bag for bag in layout.bags if bag.history]
        require(
            len(histories) > 0,
            "din needs a history, a sequence feature with history = 'all' or 'positive'; "
            "the layout has none",
        )
        for bag in histories:
            require(
                len(layout.targets_of(bag)) > 0,
                f"din needs an item's id that shares the table {bag.table!r} with the history "
                f"{bag.name!r}; the layout has none",
            )
        self.attentions = nn.ModuleList(
            TargetAttention(
                config.dim,
                config.attention_hidden,
                generator,
                activation=config.activation,
                softmax=config.softmax,
            )
            for _ in histories
        )
        names = {bag.name for bag in histories}
        self.kept = [i for i, field in enumerate(layout.fields) if field.name not in names]
        self.targets = [layout.targets_of(bag)[0] for bag in histories]
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
        parts = [pick_fields(inputs.fields, self.kept)]
        views = zip(self.attentions, self.targets, inputs.histories, strict=True)
        for attention, target, history in views:
            parts.append(attention(history.values, inputs.fields[:, target], history.mask))
        return self.tower(torch.cat(parts, dim=-1))  # type: ignore[no-any-return]

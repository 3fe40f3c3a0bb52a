"""Shared-bottom: one tower for all tasks, and a small one for each above it.

Caruana: Multitask Learning, 1997, https://doi.org/10.1023/A:1007379606734; also the baseline of
MMoE (Ma et al., 2018, https://doi.org/10.1145/3219819.3220007).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.data.layout import Layout
from scalerec.models.heads import Mlp, TaskTowers
from scalerec.models.inputs import Inputs
from scalerec.models.net import NetConfig, check_hidden, check_rate
from scalerec.models.split import Split, split_heads, split_tower

__all__ = ["SharedBottom", "SharedBottomConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedBottomConfig(NetConfig):
    """Settings of shared-bottom.

    Args:
        hidden: Sizes of the shared tower's layers.
        tower_hidden: Sizes of each task's own layers.
        dropout: Of all layers, in [0, 1).
    """

    hidden: tuple[int, ...] = (512, 256)
    tower_hidden: tuple[int, ...] = (64,)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        NetConfig.__post_init__(self)
        check_hidden("hidden", self.hidden)
        check_hidden("tower_hidden", self.tower_hidden)
        check_rate("dropout", self.dropout)


class SharedBottom(nn.Module):
    """A shared tower and a tower a task."""

    def __init__(
        self, layout: Layout, config: SharedBottomConfig, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.size = layout.num_fields * config.dim
        self.bottom = Mlp(self.size, config.hidden, generator, dropout=config.dropout)
        self.heads = TaskTowers(
            [task.num_outputs for task in layout.tasks],
            self.bottom.out_dim,
            config.tower_hidden,
            generator,
            dropout=config.dropout,
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        return self.heads(self.bottom(inputs.flat))  # type: ignore[no-any-return]

    def split(self) -> Split:
        """Itself as a function of sums over fields."""
        if not len(self.bottom):
            weight, bias, whole = split_heads(self.heads, self.size)
            return Split(weight=weight, bias=bias, upper=whole)
        weight, bias, rest = split_tower(self.bottom, self.size)
        return Split(weight=weight, bias=bias, upper=lambda first: self.heads(rest(first)))

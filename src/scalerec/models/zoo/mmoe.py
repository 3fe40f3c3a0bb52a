"""MMoE: shared experts, mixed for each task by a gate of its own.

Ma, Zhao, Yi, Chen, Hong, Chi: Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts, 2018, https://doi.org/10.1145/3219819.3220007. Task k is
``h_k(sum_e g_k(x)_e f_e(x))``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.models.heads import ExpertGate, Experts, TaskTowers
from scalerec.models.inputs import Inputs
from scalerec.models.net import NetConfig, check_count, check_hidden, check_rate
from scalerec.models.split import Split, split_experts

__all__ = ["MMoE", "MMoEConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MMoEConfig(NetConfig):
    """Settings of MMoE.

    Args:
        num_experts: Number of experts; the paper's is 8.
        expert_hidden: Sizes of each expert's layers, at least one. Eight of 128 have about the
            weights of one shared bottom of 1024.
        tower_hidden: Sizes of each task's own layers.
        dropout: Of all layers, in [0, 1).
    """

    num_experts: int = 8
    expert_hidden: tuple[int, ...] = (128,)
    tower_hidden: tuple[int, ...] = (64,)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        NetConfig.__post_init__(self)
        check_count("num_experts", self.num_experts)
        check_hidden("expert_hidden", self.expert_hidden)
        given = len(self.expert_hidden) > 0
        require(given, "expert_hidden must have at least one size; got none")
        check_hidden("tower_hidden", self.tower_hidden)
        check_rate("dropout", self.dropout)


class MMoE(nn.Module):
    """Experts, a gate a task, a tower a task."""

    def __init__(self, layout: Layout, config: MMoEConfig, generator: torch.Generator) -> None:
        super().__init__()
        size = layout.num_fields * config.dim
        self.experts = Experts(
            config.num_experts, size, config.expert_hidden, generator, dropout=config.dropout
        )
        self.gate = ExpertGate(len(layout.tasks), size, config.num_experts, generator)
        self.heads = TaskTowers(
            [task.num_outputs for task in layout.tasks],
            self.experts.out_dim,
            config.tower_hidden,
            generator,
            dropout=config.dropout,
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        x_bi = inputs.fields.flatten(1)
        mixed_tbo = self.gate(x_bi, self.experts(x_bi))
        return self.heads(mixed_tbo)  # type: ignore[no-any-return]

    def split(self) -> Split:
        """Itself as a function of sums over fields."""
        experts, bias, onward = split_experts(self.experts)
        gates = self.gate.weight.transpose(1, 2).flatten(0, 1)

        def upper(first: Tensor) -> Tensor:
            tops, shares = first.split([len(experts), len(gates)], dim=-1)
            gates_gbe = shares.unflatten(-1, (len(self.gate.weight), -1)).transpose(0, 1)
            return self.heads(self.gate.mix(gates_gbe, onward(tops)))  # type: ignore[no-any-return]

        return Split(
            weight=torch.cat([experts, gates]),
            bias=torch.cat([bias, bias.new_zeros(len(gates))]),
            upper=upper,
        )

"""PLE: experts of each task beside shared ones, in several levels.

Tang, Liu, Zhao, Gong: Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model
for Personalized Recommendations, 2020, https://doi.org/10.1145/3383313.3412236. One level is the
paper's customised gate control (CGC); several are PLE.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.models.heads import ExpertGate, Experts, TaskTowers
from scalerec.models.inputs import Inputs
from scalerec.models.net import NetConfig, check_count, check_hidden, check_rate
from scalerec.models.split import Split, Upper, split_experts

__all__ = ["PLE", "CgcLevel", "PLEConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PLEConfig(NetConfig):
    """Settings of PLE.

    Args:
        num_levels: Number of levels; 1 is the paper's CGC, and two are its PLE.
        num_task_experts: Experts that belong to one task, for each task and level.
        num_shared_experts: Experts that all tasks use, for each level.
        expert_hidden: Sizes of each expert's layers, at least one.
        tower_hidden: Sizes of each task's own layers.
        dropout: Of all layers, in [0, 1).
    """

    num_levels: int = 2
    num_task_experts: int = 2
    num_shared_experts: int = 2
    expert_hidden: tuple[int, ...] = (128,)
    tower_hidden: tuple[int, ...] = (64,)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        NetConfig.__post_init__(self)
        check_count("num_levels", self.num_levels)
        check_count("num_task_experts", self.num_task_experts)
        check_count("num_shared_experts", self.num_shared_experts)
        check_hidden("expert_hidden", self.expert_hidden)
        given = len(self.expert_hidden) > 0
        require(given, "expert_hidden must have at least one size; got none")
        check_hidden("tower_hidden", self.tower_hidden)
        check_rate("dropout", self.dropout)


class CgcLevel(nn.Module):
    """One level of customised gate control (CGC).

    A task's gate mixes its own experts and the shared ones. Unless the level is the last, a shared
    gate mixes all experts for the shared part of the next level.

    Args:
        num_tasks: T.
        in_dim: I, the size of the input.
        config: How many experts there are, and their sizes.
        generator: Draws the initial weights.
        last: Whether no level follows.
    """

    def __init__(
        self,
        num_tasks: int,
        in_dim: int,
        config: PLEConfig,
        generator: torch.Generator,
        *,
        last: bool,
    ) -> None:
        super().__init__()
        own, shared = config.num_task_experts, config.num_shared_experts
        self.num_tasks = num_tasks
        self.per_group = (*[own] * num_tasks, shared)
        # The experts of task 0, of task 1, ..., then the shared ones.
        num_experts = sum(self.per_group)
        self.experts = Experts(
            num_experts, in_dim, config.expert_hidden, generator, dropout=config.dropout
        )
        self.task_gate = ExpertGate(num_tasks, in_dim, own + shared, generator)
        self.shared_gate = None if last else ExpertGate(1, in_dim, num_experts, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Run the level.

        Args:
            x: ``[B, I]`` for all, or an input a task and one for the shared part, ``[T+1, B, I]``.

        Returns:
            ``[T+1, B, O]``, or ``[T, B, O]`` from the last level.
        """
        several = x.dim() == 3
        top_ebo = self.experts(self._spread(x) if several else x)
        task_gates = torch.matmul(x[: self.num_tasks] if several else x, self.task_gate.weight)
        if self.shared_gate is None:
            return self.mix(top_ebo, task_gates, None)
        seen = x[self.num_tasks] if several else x
        return self.mix(top_ebo, task_gates, torch.matmul(seen, self.shared_gate.weight))

    def mix(self, top_ebo: Tensor, task_gates: Tensor, shared_gates: Tensor | None) -> Tensor:
        """Mix the experts by the gates' logits; see `forward`.

        Args:
            top_ebo: The experts' top layers, ``[E, B, O]``.
            task_gates: ``[T, B, own + shared experts]``.
            shared_gates: ``[1, B, E]``; none in the last level.
        """
        num_shared = self.per_group[-1]
        own_tebo = top_ebo[:-num_shared].unflatten(0, (self.num_tasks, -1))
        shared_ebo = top_ebo[-num_shared:]
        shared_tebo = shared_ebo.expand(self.num_tasks, *shared_ebo.shape)
        mixed_tbo = self.task_gate.mix(task_gates, torch.cat([own_tebo, shared_tebo], dim=1))
        if self.shared_gate is None or shared_gates is None:
            return mixed_tbo
        return torch.cat([mixed_tbo, self.shared_gate.mix(shared_gates, top_ebo)], dim=0)

    def split(self) -> tuple[Tensor, Tensor, Upper]:
        """The weight ``[H, I]`` and bias of all first layers that see one input, and what follows.

        What follows maps ``[B, H]`` to what the level gives.
        """
        experts, bias, onward = split_experts(self.experts)
        gates = [gate for gate in (self.task_gate, self.shared_gate) if gate is not None]
        weights = [experts, *(gate.weight.transpose(1, 2).flatten(0, 1) for gate in gates)]
        sizes = [len(weight) for weight in weights]

        def upper(first: Tensor) -> Tensor:
            top, *shares = first.split(sizes, dim=-1)
            task, *shared = (
                own.unflatten(-1, (len(gate.weight), -1)).transpose(0, 1)
                for own, gate in zip(shares, gates, strict=True)
            )
            return self.mix(onward(top), task, shared[0] if shared else None)

        return torch.cat(weights), torch.cat([bias, bias.new_zeros(sum(sizes[1:]))]), upper

    def _spread(self, x_gbi: Tensor) -> Tensor:
        """Give each expert the input of its group, ``[E, B, I]``."""
        groups = zip(x_gbi.unbind(0), self.per_group, strict=True)
        return torch.cat([x.expand(num, *x.shape) for x, num in groups])


class PLE(nn.Module):
    """Levels of task and shared experts, and a tower a task."""

    def __init__(self, layout: Layout, config: PLEConfig, generator: torch.Generator) -> None:
        super().__init__()
        levels, size = [], layout.num_fields * config.dim
        for place in range(config.num_levels):
            last = place == config.num_levels - 1
            levels.append(CgcLevel(len(layout.tasks), size, config, generator, last=last))
            size = config.expert_hidden[-1]
        self.levels = nn.Sequential(*levels)
        self.heads = TaskTowers(
            [task.num_outputs for task in layout.tasks],
            size,
            config.tower_hidden,
            generator,
            dropout=config.dropout,
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        return self.heads(self.levels(inputs.fields.flatten(1)))  # type: ignore[no-any-return]

    def split(self) -> Split:
        """Itself as a function of sums over fields."""
        first, *rest = self.levels
        assert isinstance(first, CgcLevel), "levels are of this class"
        weight, bias, level = first.split()
        others = nn.Sequential(*rest)
        return Split(weight=weight, bias=bias, upper=lambda x: self.heads(others(level(x))))

"""ESMM: conversion is learned on all impressions, as a click times a conversion after it.

Ma et al.: Entire Space Multi-Task Model: An Effective Approach for Estimating Post-Click Conversion
Rate, 2018, https://arxiv.org/abs/1804.07931. Equation 1: ``pCTCVR = pCTR * pCVR``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.data.schema import TaskKind
from scalerec.models.heads import TaskTowers
from scalerec.models.inputs import Inputs
from scalerec.models.net import NetConfig, check_hidden, check_rate
from scalerec.models.split import Split, split_heads

__all__ = ["ESMM", "ESMMConfig", "product_logit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ESMMConfig(NetConfig):
    """Settings of ESMM.

    Args:
        hidden: Sizes of both towers' layers; the paper's are 360-200-80.
        dropout: Of the towers, in [0, 1).
    """

    hidden: tuple[int, ...] = (360, 200, 80)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        NetConfig.__post_init__(self)
        check_hidden("hidden", self.hidden)
        check_rate("dropout", self.dropout)


class ESMM(nn.Module):
    """Two towers over shared embeddings: for the click, and for the conversion after a click.

    The first task's label is the click; the second's is click and conversion, known for every
    impression. The logits are those of pCTR and of pCTCVR.

    Raises:
        ConfigError: If the tasks are not exactly two, both binary.
    """

    def __init__(self, layout: Layout, config: ESMMConfig, generator: torch.Generator) -> None:
        super().__init__()
        kinds = [task.kind for task in layout.tasks]
        require(
            kinds == [TaskKind.BINARY, TaskKind.BINARY],
            "esmm needs exactly two binary tasks, the click and then the conversion; got "
            + ", ".join(f"{task.name} ({task.kind.value})" for task in layout.tasks),
        )
        self.size = layout.num_fields * config.dim
        self.heads = TaskTowers([1, 1], self.size, config.hidden, generator, dropout=config.dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """The logits of pCTR and of pCTCVR, ``[B, 2]``."""
        return _funnel(self.heads(inputs.fields.flatten(1)))

    def split(self) -> Split:
        """Itself as a function of sums over fields."""
        weight, bias, upper = split_heads(self.heads, self.size)
        return Split(weight=weight, bias=bias, upper=lambda first: _funnel(upper(first)))


def _funnel(logits_b2: Tensor) -> Tensor:
    click_b, after_b = logits_b2.unbind(-1)
    return torch.stack([click_b, product_logit(click_b, after_b)], dim=-1)


def product_logit(one: Tensor, two: Tensor) -> Tensor:
    """The logit of the product of two probabilities, from their logits, without overflow.

    With ``p = sigmoid(a) sigmoid(b)``: ``1 / p - 1 = exp(-a) + exp(-b) + exp(-a - b)``, whose
    negative logarithm is the logit.

    Args:
        one: The logit a, any shape.
        two: The logit b, of the same shape.

    Example:
        >>> torch.sigmoid(product_logit(torch.tensor(0.0), torch.tensor(0.0)))
        tensor(0.2500)
    """
    return -torch.logsumexp(torch.stack([-one, -two, -one - two]), dim=0)

"""FM: a weight a value and a dot product a pair of fields.

Rendle: Factorization Machines, 2010, https://doi.org/10.1109/ICDM.2010.127. Equation 1, computed in
O(F D) by the lemma below it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.data.layout import Layout
from scalerec.models.heads import FirstOrder, init_linear
from scalerec.models.inputs import Inputs
from scalerec.models.interactions import pairs_of
from scalerec.models.net import NetConfig
from scalerec.models.split import Split

__all__ = ["FM", "FMConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FMConfig(NetConfig):
    """Settings of FM: those that all nets share."""


class FM(nn.Module):
    """First-order and pairwise logits, added.

    With one output all pairs count alike, as in the paper. Several outputs share the embeddings,
    and each weighs the dimensions of the pairwise term in its own way.
    """

    def __init__(self, layout: Layout, config: FMConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.first_order = FirstOrder(config.dim, layout.num_outputs, generator)
        self.dim = config.dim
        several = layout.num_outputs > 1
        self.own = nn.Linear(config.dim, layout.num_outputs, bias=False) if several else None
        if self.own is not None:
            init_linear(self.own, generator)

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        pairs_bd = pairs_of(inputs)
        pairs_bc = pairs_bd.sum(-1, keepdim=True) if self.own is None else self.own(pairs_bd)
        return self.first_order(inputs) + pairs_bc  # type: ignore[no-any-return]

    def split(self) -> Split:
        """Itself as a function of sums over fields."""
        first, dim = self.first_order, self.dim
        totals = None if first.own is None else first.own.weight
        pairs = torch.ones(1, dim) if self.own is None else self.own.weight
        return Split(linear=True, totals=totals, pairs=pairs, constant=first.bias)

"""DCNv2: explicit crosses of growing degree, and a deep tower beside or above them.

Wang et al.: DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to
Rank Systems, 2020, https://arxiv.org/abs/2008.13535. Equation 1 for the crosses; figure 1 for both
structures.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.models.heads import Mlp, init_linear
from scalerec.models.inputs import Inputs
from scalerec.models.interactions import CrossLayer
from scalerec.models.net import NetConfig, check_count, check_hidden, check_rate
from scalerec.models.split import Split, affine_of, split_tower

__all__ = ["DCNv2", "DCNv2Config"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DCNv2Config(NetConfig):
    """Settings of DCNv2.

    Args:
        num_layers: Number of cross layers; the degree of the crosses is one more.
        rank: Rank of the cross matrices; none for full ones. It pays below F D / 2.
        structure: `parallel`: tower and crosses both see the fields; `stacked`: the tower sees the
            crosses. The paper finds that the data decide which is better.
        hidden: Sizes of the tower's hidden layers; empty for crosses alone, which is what the
            BARS benchmark runs on Frappe.
        dropout: Of the tower, in [0, 1).
        batch_norm: Whether the tower's layers are normalised over the batch.
    """

    num_layers: int = 3
    rank: int | None = None
    structure: Literal["parallel", "stacked"] = "parallel"
    hidden: tuple[int, ...] = (400, 400, 400)
    dropout: float = 0.0
    batch_norm: bool = False

    def __post_init__(self) -> None:
        NetConfig.__post_init__(self)
        check_count("num_layers", self.num_layers)
        if self.rank is not None:
            check_count("rank", self.rank)
        allowed = ("parallel", "stacked")
        known = self.structure in allowed
        require(known, f"structure must be one of {', '.join(allowed)}; got {self.structure!r}")
        check_hidden("hidden", self.hidden)
        check_rate("dropout", self.dropout)
        spare = self.dropout > 0 or self.batch_norm
        require(
            len(self.hidden) > 0 or not spare,
            "dropout and batch_norm belong to the tower, which an empty hidden leaves out",
        )


class DCNv2(nn.Module):
    """Cross layers and a tower over the same fields; a linear read-out gives the logits."""

    def __init__(self, layout: Layout, config: DCNv2Config, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size = layout.num_fields * config.dim
        self.crosses = nn.ModuleList(
            CrossLayer(size, generator, rank=config.rank) for _ in range(config.num_layers)
        )
        self.tower = Mlp(
            size, config.hidden, generator, dropout=config.dropout, batch_norm=config.batch_norm
        )
        self.parallel = config.structure == "parallel" and len(config.hidden) > 0
        top = size + self.tower.out_dim if self.parallel else self.tower.out_dim
        self.out = init_linear(nn.Linear(top, layout.num_outputs), generator)

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        first_bi = inputs.fields.flatten(1)
        crossed_bi = first_bi
        for layer in self.crosses:
            crossed_bi = layer(first_bi, crossed_bi)
        if self.parallel:
            top = torch.cat([crossed_bi, self.tower(first_bi)], dim=-1)
        else:
            top = self.tower(crossed_bi)
        return self.out(top)  # type: ignore[no-any-return]

    def split(self) -> Split:
        """Itself as a function of sums over fields: themselves, a cross layer's, and a tower's."""
        crosses = [layer for layer in self.crosses if isinstance(layer, CrossLayer)]
        inner = crosses[0].up if crosses[0].down is None else crosses[0].down
        cross, cross_bias = affine_of(inner, self.size)
        deep, deep_bias, rest = split_tower(self.tower, self.size)
        weights = [torch.eye(self.size, device=cross.device), cross]
        biases = [None, cross_bias]
        if self.parallel:
            weights, biases = [*weights, deep], [*biases, deep_bias]
        sizes = [len(weight) for weight in weights]

        def upper(sums: Tensor) -> Tensor:
            first_bi, crossed, *deep_in = sums.split(sizes, dim=-1)
            if crosses[0].down is not None:
                crossed = crosses[0].up(crossed)
            crossed = first_bi * crossed + first_bi
            for layer in crosses[1:]:
                crossed = layer(first_bi, crossed)
            top = torch.cat([crossed, rest(deep_in[0])], -1) if deep_in else self.tower(crossed)
            return self.out(top)  # type: ignore[no-any-return]

        own = [
            weight.new_zeros(len(weight)) if bias is None else bias
            for weight, bias in zip(weights, biases, strict=True)
        ]
        return Split(weight=torch.cat(weights), bias=torch.cat(own), upper=upper)

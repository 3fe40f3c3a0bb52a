"""FinalMLP: two towers that each see their own selection of the features, fused by a bilinear form.

Mao, Zhu, Su, Cai, Li, Dong: FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction, 2023,
https://arxiv.org/abs/2304.00902.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.data.schema import Role
from scalerec.models.heads import Mlp, pick_fields
from scalerec.models.inputs import Inputs
from scalerec.models.interactions import BilinearFusion, FeatureGate
from scalerec.models.net import NetConfig, check_count, check_hidden, check_rate
from scalerec.models.split import Split, split_tower

__all__ = ["FinalMLP", "FinalMLPConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalMLPConfig(NetConfig):
    """Settings of FinalMLP.

    Args:
        hidden_one: Sizes of the first stream's layers, at least one.
        hidden_two: Sizes of the second stream's layers, at least one. Streams of different depth
            and width are what the paper is about: one of 400s, one of 800 as in the authors' BARS
            runs, whose gates and heads are the defaults too.
        dropout_one: Of the first stream, in [0, 1).
        dropout_two: Of the second stream, in [0, 1).
        batch_norm: Whether the streams' layers are normalised over the batch; BARS has it on.
        gate: What the feature gates see. `roles`: the user's fields for the first stream and the
            item's for the second, and a learned constant where there are none; `constant`: learned
            constants; `none`: no gates.
        gate_hidden: Sizes of the gates' hidden layers.
        num_heads: Heads of the fusion; divides the last size of both streams.
    """

    hidden_one: tuple[int, ...] = (400, 400, 400)
    hidden_two: tuple[int, ...] = (800,)
    dropout_one: float = 0.0
    dropout_two: float = 0.0
    batch_norm: bool = False
    gate: Literal["roles", "constant", "none"] = "roles"
    gate_hidden: tuple[int, ...] = (800,)
    num_heads: int = 10

    def __post_init__(self) -> None:
        NetConfig.__post_init__(self)
        check_count("num_heads", self.num_heads)
        check_hidden("gate_hidden", self.gate_hidden)
        allowed = ("roles", "constant", "none")
        require(
            self.gate in allowed, f"gate must be one of {', '.join(allowed)}; got {self.gate!r}"
        )
        streams = (("one", self.hidden_one), ("two", self.hidden_two))
        for name, hidden in streams:
            check_hidden(f"hidden_{name}", hidden)
            require(len(hidden) > 0, f"hidden_{name} must have at least one size; got none")
            require(
                hidden[-1] % self.num_heads == 0,
                f"the last size of hidden_{name} must be a multiple of "
                f"num_heads={self.num_heads}; got {hidden[-1]}",
            )
        check_rate("dropout_one", self.dropout_one)
        check_rate("dropout_two", self.dropout_two)


class _Stream(nn.Module):
    """A feature gate, if there is one, and a tower behind it."""

    def __init__(
        self,
        layout: Layout,
        config: FinalMLPConfig,
        generator: torch.Generator,
        *,
        role: Role,
        hidden: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        self.size = size = layout.num_fields * config.dim
        self.seen = layout.fields_of(role) if config.gate == "roles" else []
        self.gate = None
        if config.gate != "none":
            self.gate = FeatureGate(
                size,
                max(1, len(self.seen)) * config.dim,
                config.gate_hidden,
                generator,
                constant=not self.seen,
            )
        self.tower = Mlp(size, hidden, generator, dropout=dropout, batch_norm=config.batch_norm)

    def forward(self, fields_bfd: Tensor) -> Tensor:
        """The stream's top layer ``[B, O]``."""
        x_bi = fields_bfd.flatten(1)
        if self.gate is not None:
            x_bi = self.gate(x_bi, pick_fields(fields_bfd, self.seen) if self.seen else None)
        return self.tower(x_bi)  # type: ignore[no-any-return]

    def split(self) -> tuple[Tensor, Tensor | None, nn.Sequential]:
        """As `split_tower`, of a stream whose gate sees no field."""
        weight, bias, rest = split_tower(self.tower, self.size)
        if self.gate is not None:
            weight = weight * self.gate(torch.ones(self.size))
        return weight, bias, rest


class FinalMLP(nn.Module):
    """Two gated streams and their multi-head bilinear fusion."""

    def __init__(self, layout: Layout, config: FinalMLPConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.one = _Stream(
            layout,
            config,
            generator,
            role=Role.USER,
            hidden=config.hidden_one,
            dropout=config.dropout_one,
        )
        self.two = _Stream(
            layout,
            config,
            generator,
            role=Role.ITEM,
            hidden=config.hidden_two,
            dropout=config.dropout_two,
        )
        self.fusion = BilinearFusion(
            config.hidden_one[-1],
            config.hidden_two[-1],
            config.num_heads,
            layout.num_outputs,
            generator,
        )

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        return self.fusion(self.one(inputs.fields), self.two(inputs.fields))  # type: ignore[no-any-return]

    def split(self) -> Split | None:
        """Itself as a function of sums over fields; none where a gate sees some of them.

        Such a gate multiplies each side's fields by what it sees of the other's.
        """
        streams = (self.one, self.two)
        if any(stream.seen for stream in streams):
            return None
        (weight_one, bias_one, rest_one), (weight_two, bias_two, rest_two) = (
            stream.split() for stream in streams
        )
        sizes = [len(weight_one), len(weight_two)]

        def upper(first: Tensor) -> Tensor:
            one, two = first.split(sizes, dim=-1)
            return self.fusion(rest_one(one), rest_two(two))  # type: ignore[no-any-return]

        assert bias_one is not None, "a stream has a layer"
        assert bias_two is not None, "a stream has a layer"
        return Split(
            weight=torch.cat([weight_one, weight_two]),
            bias=torch.cat([bias_one, bias_two]),
            upper=upper,
        )

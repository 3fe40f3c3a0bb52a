"""Interactions between embedded fields.

Shapes: B rows, F fields, D embedding, I = F D the fields side by side, H heads, A the size of a
head, C columns of the logits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.models.heads import Mlp, init_linear
from scalerec.models.inputs import Inputs

__all__ = [
    "BilinearFusion",
    "CrossLayer",
    "FeatureGate",
    "FieldAttention",
    "pair_interaction",
    "pairs_of",
]


def pair_interaction(fields_bfd: Tensor) -> Tensor:
    """Sum of the elementwise products of all pairs of fields, in O(F D).

    Args:
        fields_bfd: ``[B, F, D]``.

    Returns:
        ``[B, D]``.
    """
    total_bd = fields_bfd.sum(1)
    return 0.5 * (total_bd.square() - fields_bfd.square().sum(1))


def pairs_of(inputs: Inputs) -> Tensor:
    """`pair_interaction` of all fields, taken from the lookup where that gave it, ``[B, D]``.

    Its sum over D is that of the dot products of all pairs: Factorization Machines (Rendle, 2010),
    equation 5 with the lemma of section III B.
    """
    return pair_interaction(inputs.fields) if inputs.pairs is None else inputs.pairs


class CrossLayer(nn.Module):
    """One layer of explicit crosses: each raises the degree of the polynomial of the input by one.

    DCN V2: Improved Deep & Cross Network (Wang et al., 2020), https://arxiv.org/abs/2008.13535.
    Full matrix, equation 1: ``x' = x0 * (W x + b) + x``. Low rank, section "Cost-Effective Mixture
    of Low-Rank DCN": ``x' = x0 * (U (V^T x) + b) + x``, with 2 I R weights in place of I I.

    Args:
        dim: I, the size of the input.
        generator: Draws the initial weights.
        rank: R; None for the full matrix.
    """

    def __init__(self, dim: int, generator: torch.Generator, *, rank: int | None = None) -> None:
        super().__init__()
        self.down = None if rank is None else nn.Linear(dim, rank, bias=False)
        if self.down is not None:
            init_linear(self.down, generator)
        self.up = init_linear(nn.Linear(dim if rank is None else rank, dim), generator)

    def forward(self, first_bi: Tensor, x_bi: Tensor) -> Tensor:
        """Cross the layer's input with the net's.

        Args:
            first_bi: The net's input x0, ``[B, I]``.
            x_bi: The layer's input, ``[B, I]``.

        Returns:
            ``[B, I]``.
        """
        inner = x_bi if self.down is None else self.down(x_bi)
        return first_bi * self.up(inner) + x_bi  # type: ignore[no-any-return]


class FieldAttention(nn.Module):
    """Multi-head self-attention over the fields, with a residual.

    AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks (Song et al.,
    2018), https://arxiv.org/abs/1810.11921, equations 5 to 8:
    ``relu(concat_h(softmax(Q_h K_h^T) V_h) + W_res x)``. The paper does not scale the products.

    It is written out, and not torch's fused attention, which has no second-order gradients.

    Args:
        in_dim: Size of a field.
        num_heads: H.
        head_dim: A.
        generator: Draws the initial weights.
        scale: Whether products are divided by the square root of A, as in Transformers.
    """

    def __init__(
        self,
        in_dim: int,
        num_heads: int,
        head_dim: int,
        generator: torch.Generator,
        *,
        scale: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.out_dim = num_heads * head_dim
        self.scale = head_dim**-0.5 if scale else 1.0
        self.query = init_linear(nn.Linear(in_dim, self.out_dim, bias=False), generator)
        self.key = init_linear(nn.Linear(in_dim, self.out_dim, bias=False), generator)
        self.value = init_linear(nn.Linear(in_dim, self.out_dim, bias=False), generator)
        self.residual = init_linear(nn.Linear(in_dim, self.out_dim, bias=False), generator)

    def attend(self, fields: Tensor) -> Tensor:
        """What the heads gather, side by side, before the residual: ``[B, F, H A]``."""
        query_bhfa, key_bhfa, value_bhfa = (
            layer(fields).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        products_bhff = torch.matmul(query_bhfa, key_bhfa.transpose(-1, -2)) * self.scale
        gathered_bhfa = torch.matmul(torch.softmax(products_bhff, dim=-1), value_bhfa)
        return gathered_bhfa.transpose(1, 2).flatten(2)

    def forward(self, fields: Tensor) -> Tensor:
        """Map ``[B, F, in_dim]`` to ``[B, F, H A]``."""
        return torch.relu(self.attend(fields) + self.residual(fields))


class FeatureGate(nn.Module):
    """Weighs every value of the input by a gate that sees a context: soft feature selection.

    FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction (Mao et al., 2023),
    https://arxiv.org/abs/2304.00902, section "Stream-Specific Feature Selection":
    ``2 sigmoid(MLP(context)) * x``.

    Args:
        dim: I, the size of the input.
        context_dim: Size of the context.
        hidden: Sizes of the gate's hidden layers.
        generator: Draws the initial weights.
        constant: Whether the context is a learned constant instead of an input.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        hidden: Sequence[int],
        generator: torch.Generator,
        *,
        constant: bool = False,
    ) -> None:
        super().__init__()
        # Not zero: with zero biases a zero context would leave every ReLU of the gate without
        # a gradient for ever.
        start = torch.randn(context_dim, generator=generator) if constant else None
        self.context = None if start is None else nn.Parameter(start)
        self.net = Mlp(context_dim, hidden, generator, out_dim=dim)

    def forward(self, x_bi: Tensor, context: Tensor | None = None) -> Tensor:
        """Gate ``[B, I]`` by a context ``[B, K]``; there is none if it is a learned constant."""
        seen = self.context if context is None else context
        return x_bi * (2.0 * torch.sigmoid(self.net(seen)))


class BilinearFusion(nn.Module):
    """Fuses two vectors by their product under a matrix, head by head.

    FinalMLP (Mao et al., 2023), https://arxiv.org/abs/2304.00902, section "Stream-Level Fusion":
    ``b + w1^T x + w2^T y + sum_h x_h^T W_h y_h`` with x and y cut into H parts.

    Args:
        one_dim: Size of x; a multiple of H.
        two_dim: Size of y; a multiple of H.
        num_heads: H.
        num_outputs: C; each output has its own weights.
        generator: Draws the initial weights.

    Raises:
        ConfigError: If a size is not a multiple of H.
    """

    def __init__(
        self,
        one_dim: int,
        two_dim: int,
        num_heads: int,
        num_outputs: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        for size in (one_dim, two_dim):
            fits = size % num_heads == 0
            require(fits, f"fused sizes must be multiples of num_heads={num_heads}; got {size}")
        self.num_heads = num_heads
        self.one = init_linear(nn.Linear(one_dim, num_outputs), generator)
        self.two = init_linear(nn.Linear(two_dim, num_outputs, bias=False), generator)
        one_part, two_part = one_dim // num_heads, two_dim // num_heads
        start = torch.randn(num_outputs, num_heads, one_part, two_part, generator=generator)
        # Xavier-normal a head; the sum over heads keeps the variance of one.
        self.weight = nn.Parameter(start * (2.0 / (one_part + two_part) / num_heads) ** 0.5)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Fuse ``[B, one_dim]`` and ``[B, two_dim]`` to ``[B, C]``."""
        one_bhi = one.unflatten(-1, (self.num_heads, -1))
        two_bhj = two.unflatten(-1, (self.num_heads, -1))
        mapped_bchj = torch.einsum("bhi,chij->bchj", one_bhi, self.weight)
        products_bc = torch.einsum("bchj,bhj->bc", mapped_bchj, two_bhj)
        return self.one(one) + self.two(two) + products_bc  # type: ignore[no-any-return]

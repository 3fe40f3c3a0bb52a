"""Nets as functions of sums over fields, so that a user's and an item's part are computed apart.

The first thing that most nets do with their fields is linear: a layer over all fields side by side,
a sum of first-order weights, and for a factorisation machine a sum of fields. What is linear can be
split: the user's fields give one part of each sum and the item's the other, whoever they meet. The
rest of the net is computed from the sums.

A net offers it by a method `split`; see `SplitNet`. A net that has none is scored the generic way.

Shapes: B rows, F fields, D embedding, I = F D, H sums of first layers, C columns of the logits, E
experts, O outputs of an expert.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from scalerec.models.dropout import Dropout
from scalerec.models.heads import Experts, Mlp, TaskTowers
from scalerec.models.layers import HalfLinear, IntLinear, LowRankLinear, dense_weight

__all__ = [
    "Split",
    "SplitNet",
    "Upper",
    "affine_of",
    "split_experts",
    "split_heads",
    "split_tower",
]

# From the sums of first layers on.
Upper = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """A net's logits, from sums over its fields e_f.

    They are ``upper(sum_f W_f e_f + bias) + wide``, where ``wide_c`` is the sum of first-order
    weights, if `linear`, plus ``<totals_c, sum_f e_f>``, plus the sum of products of all pairs of
    fields weighed by ``pairs_c``, plus ``constant_c``. What is None is left out.

    Args:
        weight: Of all first layers together, ``[H, I]``.
        bias: Of them, ``[H]``.
        upper: From the first layers' sums ``[B, H]`` to ``[B, C]``, for evaluation. An
            `nn.Sequential` where it is one layer after the other.
        linear: Whether first-order weights are added to every logit.
        totals: ``[C, D]``.
        pairs: ``[C, D]``.
        constant: ``[C]``.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    upper: Upper | None = None
    linear: bool = False
    totals: Tensor | None = None
    pairs: Tensor | None = None
    constant: Tensor | None = None


@runtime_checkable
class SplitNet(Protocol):
    """A net that can be split by field."""

    def split(self) -> Split | None:
        """Itself as a function of sums; none where its settings do not allow it.

        Its tensors may be the net's own: whoever keeps sums must make them anew when weights move.
        """
        ...


def affine_of(layer: nn.Module, size: int) -> tuple[Tensor, Tensor | None]:
    """The weight ``[O, I]`` and bias ``[O]`` of an affine layer, whatever its form, as float32.

    Args:
        layer: A linear layer of any form, or another affine module, which is asked for its answers
            to unit vectors.
        size: I.
    """
    if isinstance(layer, nn.Linear):
        return layer.weight, layer.bias
    if isinstance(layer, LowRankLinear):
        whole = dense_weight(layer)
        return whole, layer(whole.new_zeros(1, size))[0]
    if isinstance(layer, HalfLinear | IntLinear):
        return dense_weight(layer), layer.bias
    held = next(chain(layer.parameters(), layer.buffers()), torch.empty(0))
    bias: Tensor = layer(torch.zeros(1, size, device=held.device))[0]
    return (layer(torch.eye(size, device=held.device)) - bias).T, bias


def split_tower(tower: nn.Sequential, size: int) -> tuple[Tensor, Tensor | None, nn.Sequential]:
    """The weight and bias of a tower's first layer, and the layers after it.

    Args:
        tower: Linear layers, each followed by what is done to its output; without any layer the
            first one is taken to be the identity.
        size: I, the size of its input.
    """
    layers = [layer for layer in tower if not isinstance(layer, Dropout | nn.Dropout)]
    if not layers:
        return torch.eye(size), None, nn.Sequential()
    weight, bias = affine_of(layers[0], size)
    # A tower without layers of its own, which then gets these: it knows how to run them.
    rest = Mlp(0, (), torch.Generator())
    return weight, bias, rest.extend(layers[1:])


def split_experts(experts: Experts) -> tuple[Tensor, Tensor, Upper]:
    """The weight ``[E O, I]`` and bias of the experts' first layers, and what follows.

    Args:
        experts: With at least one layer.

    Returns:
        Weight, bias, and a function from ``[B, E O]`` to ``[E, B, O']``.
    """
    weight_eio, bias_e1o = experts.weights[0], experts.biases[0]

    def onward(first: Tensor) -> Tensor:
        x_ebo = torch.relu(first.unflatten(-1, (experts.num, -1)).transpose(0, 1))
        return experts.onward(x_ebo, 1)

    return weight_eio.transpose(1, 2).flatten(0, 1), bias_e1o.flatten(), onward


def split_heads(heads: TaskTowers, size: int) -> tuple[Tensor, Tensor | None, Upper]:
    """The weight and bias of the first layers of all tasks' towers, and what follows.

    Args:
        heads: The towers, which see one input.
        size: I, the size of that.

    Returns:
        Weight ``[H, I]``, bias, and a function from ``[B, H]`` to ``[B, C]``.
    """
    if not len(heads.towers.weights):
        return torch.eye(size), None, heads
    weight, bias, onward = split_experts(heads.towers)
    return weight, bias, lambda first: heads.read_out(onward(first))

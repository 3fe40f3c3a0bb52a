"""Layers that may stand in the place of an `nn.Linear` in any net: factors, 16 bits, whole numbers.

Shapes: N rows, I inputs, O outputs, R rank.
"""

from typing import Any

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.models.inputs import Folded
from scalerec.models.products import can_multiply, multiply_plain, multiply_rows

__all__ = ["HalfLinear", "IntLinear", "LowRankLinear", "dense_weight"]


class HalfLinear(nn.Module):
    """A linear layer whose weights are float16 and are computed with as float32.

    They are buffers: a step of training would mostly be lost in their rounding.

    Args:
        inputs: I.
        outputs: O.
        bias: Whether it has one; that is float32.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.register_buffer("weight", torch.zeros(outputs, inputs, dtype=torch.float16))
        self.register_buffer("bias", torch.zeros(outputs) if bias else None)

    def forward(self, x: Tensor | Folded) -> Tensor:
        """Map ``[..., I]``, or all fields folded, to ``[..., O]``."""
        weight = self.weight.float()
        if isinstance(x, Folded):
            return nn.functional.linear(x.values, x.fold(weight), self.bias)
        return nn.functional.linear(x, weight, self.bias)


class LowRankLinear(nn.Module):
    """A linear layer whose weights are the product of two factors: ``up(down(x))``.

    Args:
        down: From I to R, without a bias.
        up: From R to O.
    """

    def __init__(self, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.down, self.up = down, up

    @property
    def in_features(self) -> int:
        """I."""
        return int(self.down.in_features)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        """O."""
        return int(self.up.out_features)  # type: ignore[arg-type]

    def forward(self, x: Tensor | Folded) -> Tensor:
        """Map ``[..., I]``, or all fields folded, to ``[..., O]``."""
        if isinstance(x, Folded) and type(self.down) is nn.Linear:
            inner = nn.functional.linear(x.values, x.fold(self.down.weight))
        else:
            inner = self.down(x)
        out: Tensor = self.up(inner)
        return out


class IntLinear(nn.Module):
    """A linear layer of whole numbers: weights from -127 to 127, inputs from 0 to 255.

    The weights of an output have a scale of their own. The inputs have a scale and a zero for each
    row, found anew, or one fixed beforehand for all (`calibrated`); either way a row's result does
    not depend on the other rows. Products are summed as whole numbers of 32 bits.

    Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference
    (Jacob et al., 2017), https://arxiv.org/abs/1712.05877, equations 1 to 9, with a scale an
    output and float32 results.

    A gradient passes to the inputs as if the layer were one of float32 with the same weights, so
    that what lies below can still be trained. The layer itself cannot.

    Args:
        inputs: I.
        outputs: O.
        bias: Whether it has one; that is float32.
        calibrated: Whether the inputs' range is fixed: the buffer `range`, lowest and highest.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None
    range: Tensor | None

    def __init__(
        self, inputs: int, outputs: int, *, bias: bool = True, calibrated: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.register_buffer("codes", torch.zeros(outputs, inputs, dtype=torch.int8))
        self.register_buffer("scales", torch.zeros(outputs))
        self.register_buffer("bias", torch.zeros(outputs) if bias else None)
        self.register_buffer("range", torch.zeros(2) if calibrated else None)
        # Of the codes of each output; made again when those change.
        self._sums: tuple[tuple[int, int], Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """The weights as float32, ``[O, I]``; a copy."""
        return self.codes.float() * self.scales.unsqueeze(1)

    def forward(self, x: Tensor | Folded, *, relu: bool = False) -> Tensor:
        """Map ``[..., I]``, or all fields folded, to ``[..., O]``.

        Args:
            x: The inputs.
            relu: Whether what is below zero becomes zero.
        """
        whole = x.unfold() if isinstance(x, Folded) else x
        rows = whole.reshape(-1, self.in_features).float()
        if rows.requires_grad and torch.is_grad_enabled():
            out = _StraightThrough.apply(rows, self, relu)
        else:
            out = self.multiply(rows, relu=relu)
        return out.view(*whole.shape[:-1], self.out_features)  # type: ignore[no-any-return]

    def multiply(self, rows_ni: Tensor, *, relu: bool = False) -> Tensor:
        """The layer's result for ``[N, I]`` float32, without a gradient."""
        bias = self.bias if self.bias is not None else torch.zeros_like(self.scales)
        given = bias, self.range
        if not can_multiply(rows_ni):
            return multiply_plain(rows_ni, self.codes, self.scales, *given, relu=relu)
        # What was made in inference mode counts no changes, and is changed by nobody.
        version = -1 if self.codes.is_inference() else self.codes._version
        key = self.codes.data_ptr(), version
        if self._sums is None or self._sums[0] != key:
            self._sums = key, self.codes.sum(1, dtype=torch.float32)
        return multiply_rows(rows_ni, self.codes, self.scales, self._sums[1], *given, relu=relu)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: IntLinear, relu: bool) -> Tensor:
        out = layer.multiply(rows, relu=relu)
        ctx.layer = layer
        ctx.save_for_backward(out if relu else out.new_zeros(0))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (out,) = ctx.saved_tensors
        grad = grads[0] * (out > 0) if len(out) else grads[0]
        return grad @ ctx.layer.weight, None, None


def dense_weight(layer: nn.Module) -> Tensor:
    """The weights of a linear layer of any form as float32, ``[O, I]``; a copy.

    Raises:
        ConfigError: If it is no linear layer.
    """
    if isinstance(layer, LowRankLinear):
        return dense_weight(layer.up) @ dense_weight(layer.down)
    linear = isinstance(layer, nn.Linear | HalfLinear | IntLinear)
    require(linear, f"a linear layer is needed; got {type(layer).__name__}")
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach().float().clone()

"""Linear layers with ReLU, in one call each way where the processor computes in bfloat16."""

from typing import Any

import torch
from torch import Tensor, nn

from scalerec.models.compiled import as_array
from scalerec.models.kernels.relu import relu_backward
from scalerec.models.kernels.threads import run_shares

__all__ = ["linear_relu"]


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``relu(x weight^T + bias)``.

    Under bf16 autocast on the CPU the ReLU is part of the product, its derivative is taken from the
    output, and the gradient of the bias is summed in the same pass.
    Elsewhere, and under `vmap` or other transforms, it is torch's two functions.

    Args:
        x: ``[..., I]``.
        weight: ``[O, I]``.
        bias: ``[O]``.
    """
    if _is_fused(x):
        return _LinearRelu.apply(x, weight, bias)  # type: ignore[no-any-return]
    return torch.relu(nn.functional.linear(x, weight, bias))


def _is_fused(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        and x.numel() > 0
        and not torch._C._are_functorch_transforms_active()
        and not torch.compiler.is_compiling()
        and not torch.onnx.is_in_onnx_export()
    )


class _LinearRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        low = [tensor.to(torch.bfloat16) for tensor in (x, weight, bias)]
        y: Tensor = torch.ops.mkldnn._linear_pointwise(*low, "relu", [], "")
        ctx.save_for_backward(low[0], low[1], y)
        ctx.dtypes = x.dtype, weight.dtype, bias.dtype
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        grad, total = _relu_backward(grads[0].to(torch.bfloat16), y)
        rows = grad.flatten(0, -2)
        found: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0]:
            found[0] = (grad @ weight).to(ctx.dtypes[0])
        if ctx.needs_input_grad[1]:
            found[1] = (rows.T @ x.flatten(0, -2)).to(ctx.dtypes[1])
        if ctx.needs_input_grad[2]:
            found[2] = total.to(ctx.dtypes[2])
        return tuple(found)


def _relu_backward(grad: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the ReLU's input, and its sum over all rows, ``[O]`` float32."""
    out = torch.empty_like(y)
    sums = torch.zeros(torch.get_num_threads(), y.shape[-1])
    flat = (as_array(tensor.contiguous().flatten(0, -2)) for tensor in (grad, y, out))
    run_shares(relu_backward, *flat, sums.numpy())
    return out, sums.sum(0)

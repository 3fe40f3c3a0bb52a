"""Products of whole numbers: rows of inputs from 0 to 255 times weights from -127 to 127.

Torch's product of 8-bit matrices runs on the processor's instructions for such sums (VNNI, AMX)
where it has them: 1,000 rows through a layer of 400 x 400 take a fifth of the time of float32.

Shapes: N rows, I inputs, O outputs.
"""

import numpy as np
import torch
from torch import Tensor, nn

from scalerec.models.kernels.integers import encode_rows, finish_rows
from scalerec.models.kernels.threads import run_shares

__all__ = ["LARGEST", "bounds", "can_multiply", "multiply_plain", "multiply_rows"]

LARGEST = 255.0
# Below so many numbers another thread is not worth its start.
NUMBERS_A_SHARE = 65_536


def can_multiply(rows: Tensor) -> bool:
    """Whether products of whole numbers are quick here: on a processor that sums them exactly.

    Without instructions for it they are slower than float32, and sums of pairs may overflow.
    """
    return (
        rows.device.type == "cpu"
        and torch.cpu._is_vnni_supported()
        and not torch._C._are_functorch_transforms_active()
        and not torch.compiler.is_compiling()
        and not torch.onnx.is_in_onnx_export()
    )


def multiply_rows(
    rows_ni: Tensor,
    codes_oi: Tensor,
    scales_o: Tensor,
    sums_o: Tensor,
    bias_o: Tensor,
    fixed: Tensor | None,
    *,
    relu: bool = False,
) -> Tensor:
    """A linear layer by products of whole numbers.

    Args:
        rows_ni: Inputs, ``[N, I]`` float32.
        codes_oi: Weights, ``[O, I]`` int8.
        scales_o: What a weight's code is worth, ``[O]``.
        sums_o: Sum of the codes of each output, ``[O]`` float32.
        bias_o: ``[O]``.
        fixed: Lowest and highest input, ``[2]``; none to find them for each row.
        relu: Whether what is below zero becomes zero.

    Returns:
        ``[N, O]`` float32.
    """
    num, size = rows_ni.shape
    rows = rows_ni.detach().contiguous().numpy()
    codes, ends = torch.empty(num, size, dtype=torch.uint8), torch.empty(2, num)
    own = np.zeros(0, np.float32) if fixed is None else fixed.numpy()
    scales, zeros = ends.numpy()
    sinks = codes.numpy(), scales, zeros
    most = 1 + num * size // NUMBERS_A_SHARE
    run_shares(encode_rows, rows, rows.view(np.int32), own, *sinks, most=most)
    # The result takes the place of the sums: memory that is new costs more than what is done in it.
    out = _multiply(codes, codes_oi).view(torch.float32)
    run_shares(
        finish_rows,
        out.numpy(),
        scales,
        zeros,
        scales_o.numpy(),
        sums_o.numpy(),
        bias_o.numpy(),
        relu,
        most=1 + out.numel() // NUMBERS_A_SHARE,
    )
    return out


def _multiply(codes_ni: Tensor, codes_oi: Tensor) -> Tensor:
    """The sums of products, ``[N, O]`` int32."""
    if codes_oi.shape[1] == 1:
        # Torch 2.13 reads the weights of a single input from the wrong places.
        return codes_ni.int() * codes_oi.int().t()
    return torch._int_mm(codes_ni, codes_oi.t())


def bounds(rows_ni: Tensor, fixed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Lowest and highest input of each row, ``[N, 1]`` or one for all, zero among them."""
    if fixed is not None:
        return fixed[0].clamp(max=0.0), fixed[1].clamp(min=0.0)
    return rows_ni.amin(1, keepdim=True).clamp(max=0.0), rows_ni.amax(1, keepdim=True).clamp(
        min=0.0
    )


def multiply_plain(
    rows_ni: Tensor,
    codes_oi: Tensor,
    scales_o: Tensor,
    bias_o: Tensor,
    fixed: Tensor | None,
    *,
    relu: bool = False,
) -> Tensor:
    """The plain twin of `multiply_rows`, on any device: the same codes, summed as float32."""
    low, high = bounds(rows_ni, fixed)
    scale = (high - low) / LARGEST
    inverse = torch.where(scale > 0, 1.0 / scale, 0.0)
    zero = torch.round(-low * inverse)
    steps = torch.round(rows_ni * inverse).maximum(-zero).minimum(LARGEST - zero)
    products = nn.functional.linear(steps, codes_oi.float())
    out = products * (scale * scales_o) + bias_o
    return torch.relu(out) if relu else out

"""The derivative of a ReLU and the sum over rows, in one pass."""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import load

__all__ = ["relu_backward"]


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def relu_backward(grad: Any, y: Any, out: Any, sums: Any, share: Any, num_shares: Any) -> None:
    """Fill one share of the rows.

    Args:
        grad: The gradient of the ReLU's output, ``[B, O]`` bfloat16 as uint16.
        y: That output, likewise.
        out: To be filled: the gradient of its input, likewise.
        sums: To be filled: the sum of that over the share's rows, ``[num_shares, O]`` float32.
        share: Number of this share.
        num_shares: Number of shares.
    """
    size, width = out.shape
    total = np.zeros(width, np.float32)
    for b in range(size * share // num_shares, size * (share + 1) // num_shares):
        for o in range(width):
            # All bits but the sign: a ReLU may give a negative zero.
            passes = (y[b, o] & np.uint16(0x7FFF)) != 0
            out[b, o] = grad[b, o] if passes else np.uint16(0)
        for o in range(width):
            total[o] += load(out, b, o)
    sums[share] = total

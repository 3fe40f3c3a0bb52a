"""Normal numbers that follow from where they stand, so any process can draw any row alone."""

from typing import Any

import numpy as np
from numba import njit

from scalerec.models.kernels.bits import mix

__all__ = ["draw_normal"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
UNIT = 2.0**-32
TURN = 2.0 * np.pi * UNIT


@njit(nogil=True, cache=True)
def draw_normal(
    matrix: Any, first_row: Any, row_step: Any, seed: Any, std: Any, share: Any, num_shares: Any
) -> None:
    """Fill one share of a matrix: row i holds the numbers of row ``first_row + i * row_step``.

    Two numbers come of 64 bits by the transform of Box and Muller (A Note on the Generation of
    Random Normal Deviates, 1958, https://doi.org/10.1214/aoms/1177706645).

    Args:
        matrix: To be filled, ``[R, W]`` float32.
        first_row: Number of the first row.
        row_step: Distance of the rows' numbers.
        seed: Of all rows, uint64.
        std: Standard deviation.
        share: Number of this share.
        num_shares: Number of shares.
    """
    size, width = matrix.shape
    for i in range(size * share // num_shares, size * (share + 1) // num_shares):
        own = mix(mix(np.uint64(first_row + i * row_step) * GOLDEN + GOLDEN) ^ np.uint64(seed))
        for w in range(0, width, 2):
            bits = mix(own + np.uint64(w) * GOLDEN)
            # Above 0, so that its logarithm is finite.
            uniform = (np.float64(bits >> np.uint64(32)) + 1.0) * UNIT
            angle = np.float64(bits & np.uint64(0xFFFFFFFF)) * TURN
            radius = std * np.sqrt(-2.0 * np.log(uniform))
            matrix[i, w] = radius * np.cos(angle)
            if w + 1 < width:
                matrix[i, w + 1] = radius * np.sin(angle)

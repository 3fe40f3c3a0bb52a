"""Counting numbers: NumPy for few of them, compiled code for many."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["count_numbers"]

# Up to so many different numbers NumPy is as fast, and nothing needs to be loaded.
FEW = 4096


def count_numbers(numbers: NDArray[Any], counts: NDArray[np.int64]) -> None:
    """Add how often each number comes.

    Args:
        numbers: From -1 to ``C - 2``, ``[n]`` of any whole type.
        counts: Place ``i + 1`` counts number ``i``, ``[C]``; changed in place.
    """
    if len(counts) <= FEW:
        counts += np.bincount(numbers + 1, minlength=len(counts))
        return
    from scalerec.data.keytable import count_many

    count_many(numbers.astype(np.int32, copy=False), counts)

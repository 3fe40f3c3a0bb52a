"""Compiled kernels for embedding rows on the processor: look up, assemble, sum, move.

They are Numba's, so they come with pip and need no compiler. Each has a plain twin in torch
operations, and tests hold the two together.
"""

from scalerec.models.kernels.assemble import assemble
from scalerec.models.kernels.move import move_fields, move_rows, sum_numbers, sum_others

__all__ = ["assemble", "move_fields", "move_rows", "sum_numbers", "sum_others"]

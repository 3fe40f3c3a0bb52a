"""How rows and their gradients look while they travel: the numbers themselves, or shorter ones."""

from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from scalerec.models.kernels.quantise import SCALE_BYTES, dequantise, quantise

__all__ = ["WIRES", "Wire", "make_wire"]

NOISE = 0x9E3779B97F4A7C15


class Wire(Protocol):
    """Turns rows into what travels, and back.

    Attributes:
        is_plain: Whether rows travel as they are.
    """

    is_plain: bool

    def pack(self, rows_kw: Tensor, *, is_gradient: bool) -> Tensor:
        """What travels for rows ``[K, W]``, ``[K, ...]``."""
        ...

    def unpack(self, message: Tensor) -> Tensor:
        """The rows ``[K, W]`` float32."""
        ...


class Plain:
    """Numbers as they are: float32, or what the rows are held in."""

    is_plain = True

    def pack(self, rows_kw: Tensor, *, is_gradient: bool) -> Tensor:  # noqa: ARG002
        """The rows themselves."""
        return rows_kw

    def unpack(self, message: Tensor) -> Tensor:
        """The rows as float32."""
        return message.float()


class Short:
    """Numbers as bfloat16."""

    is_plain = False

    def pack(self, rows_kw: Tensor, *, is_gradient: bool) -> Tensor:  # noqa: ARG002
        """The rows, rounded to the nearest."""
        return rows_kw.bfloat16()

    def unpack(self, message: Tensor) -> Tensor:
        """The rows as float32."""
        return message.float()


class Bytes:
    """One byte a number, and a scale a row; on the CPU.

    Rows are rounded to the nearest code, gradients up or down by chance, so that what is lost is
    not lost at every step in the same direction.

    Args:
        seed: Of the rounding by chance.
    """

    is_plain = False

    def __init__(self, seed: int) -> None:
        self.seed, self._calls = seed, 0

    def pack(self, rows_kw: Tensor, *, is_gradient: bool) -> Tensor:
        """Codes, then the scale's bytes, ``[K, W + 4]`` int8."""
        self._calls += 1
        rows = rows_kw.detach().float().contiguous()
        message = torch.empty(len(rows), rows.shape[1] + SCALE_BYTES, dtype=torch.int8)
        codes, scales = message[:, :-SCALE_BYTES], torch.empty(len(rows))
        noise = np.uint64((self.seed + self._calls) * NOISE % 2**64 if is_gradient else 0)
        quantise(rows.numpy(), noise, codes.numpy(), scales.numpy())
        message[:, -SCALE_BYTES:] = scales.view(torch.int8).view(-1, SCALE_BYTES)
        return message

    def unpack(self, message: Tensor) -> Tensor:
        """The rows, each code times its row's scale."""
        codes = message[:, :-SCALE_BYTES]
        # A copy even of one row: floats must start at a multiple of four bytes.
        scales = message[:, -SCALE_BYTES:].clone(memory_format=torch.contiguous_format)
        rows = torch.empty(codes.shape)
        dequantise(codes.numpy(), scales.view(torch.float32).view(-1).numpy(), rows.numpy())
        return rows


WIRES = ("fp32", "bf16", "int8")


def make_wire(kind: Literal["fp32", "bf16", "int8"], seed: int = 0) -> Wire:
    """The wire of a name, one of `WIRES`.

    Args:
        kind: Its name.
        seed: Of rounding by chance; another on each process.
    """
    if kind == "int8":
        return Bytes(seed)
    return Short() if kind == "bf16" else Plain()

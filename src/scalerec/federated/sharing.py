"""Memory that forked processes see alike: one gives tensors their places, the others view them."""

import ctypes
import math
import mmap
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Arena", "FullError", "Place"]

ALIGNED = 64
Place = dict[str, Any]


class FullError(Exception):
    """There is no room left in an arena."""


class Arena:
    """A stretch of memory, shared with the processes that are forked after it was made.

    Only the process that made it takes memory from it. What is no longer used is given to whoever
    asks next, from the start on, so that rounds go over the same pages again and again.

    Args:
        size: Bytes, a quarter of the machine's memory by default. It takes what is written to it,
            no more.
    """

    def __init__(self, size: int = 0) -> None:
        self.size = size or os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 4
        self.memory = mmap.mmap(-1, self.size)
        self._start = torch.frombuffer(self.memory, dtype=torch.uint8).data_ptr()
        self._ends: dict[int, int] = {}

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A new tensor; what it holds is not said. Its memory is free once no tensor uses it.

        Raises:
            FullError: If there is no room.
        """
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        start = self._free_place(-(-count * dtype.itemsize // ALIGNED) * ALIGNED)
        owner = (ctypes.c_char * (count * dtype.itemsize)).from_buffer(self.memory, start)
        weakref.finalize(owner, self._ends.pop, start)
        return torch.frombuffer(owner, dtype=dtype).view(torch.Size(shape))

    def put(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor.

        Raises:
            FullError: If there is no room.
        """
        return self.take(tensor.shape, tensor.dtype).copy_(tensor)

    def place(self, tensor: Tensor) -> Place:
        """Where a tensor of this memory lies, in words that JSON knows."""
        start = tensor.data_ptr() - self._start if tensor.numel() else 0
        kind = str(tensor.dtype).removeprefix("torch.")
        return {"start": start, "shape": list(tensor.shape), "type": kind}

    def view(self, place: Place) -> Tensor:
        """The tensor at a place, in any of the processes."""
        shape, dtype = place["shape"], getattr(torch, place["type"])
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        found = torch.frombuffer(self.memory, dtype=dtype, count=count, offset=place["start"])
        return found.view(shape)

    def places(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Place] | None:
        """Where tensors lie, by name; none for none."""
        return None if tensors is None else {n: self.place(t) for n, t in tensors.items()}

    def views(self, places: Mapping[str, Place] | None) -> dict[str, Tensor] | None:
        """The tensors at places, by name; none for none."""
        return None if places is None else {n: self.view(p) for n, p in places.items()}

    def _free_place(self, size: int) -> int:
        """The first gap so large, which is no gap from now on."""
        at = 0
        for start in sorted(self._ends):
            if start - at >= size:
                break
            at = self._ends[start]
        if at + size > self.size:
            raise FullError
        self._ends[at] = at + size
        return at

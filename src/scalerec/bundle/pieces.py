"""Tensors that are never whole in memory: they come piece by piece when a bundle is written."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from scalerec.bundle.weights import DTYPES, dtype_name
from scalerec.errors import BundleError

__all__ = ["Pieces", "write_pieces"]

# A header ends at a multiple of this, so that the numbers behind it are aligned.
ALIGNED = 8
# Bytes of a tensor that are handed to the file at a time.
CHUNK = 1 << 24


@dataclass(frozen=True, slots=True)
class Pieces:
    """A tensor whose rows come from somewhere else, a few at a time.

    Args:
        dtype: Of all pieces.
        shape: Of the whole.
        read: Gives the pieces in order, ``[n, ...]`` each; they may be read more than once.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Iterator[Tensor]]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole."""
        return prod(self.shape) * self.dtype.itemsize


def write_pieces(path: Path, tensors: Mapping[str, Tensor | Pieces]) -> None:
    """Write a safetensors file without ever having a whole tensor that comes in pieces.

    Args:
        path: The file, new.
        tensors: Name to tensor.

    Raises:
        BundleError: If pieces do not add up to their tensor.
        OSError: If the file cannot be written.
    """
    # The widest numbers first, so that all of them are aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, object] = {}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        code = DTYPES[dtype_name(tensor.dtype)]
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNED)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = tensors[name]
            pieces = tensor.read() if isinstance(tensor, Pieces) else iter([tensor])
            written = sum(_write(file, piece, tensor.dtype) for piece in pieces)
            if written != tensor.nbytes:
                raise BundleError(
                    f"tensor {name!r} has {tensor.nbytes} bytes; its pieces have {written}"
                )


def _write(file: BinaryIO, piece: Tensor, dtype: torch.dtype) -> int:
    """Write a piece's bytes; give how many."""
    if piece.dtype is not dtype:
        raise BundleError(f"pieces must be {dtype}; got {piece.dtype}")
    rows = piece.detach() if piece.ndim else piece.detach().view(1)
    each = max(1, CHUNK // max(1, rows[:1].nbytes))
    for part in rows.split(each):
        if part.numel():
            flat = part.cpu().contiguous().view(-1).view(torch.uint8)
            file.write(memoryview(flat.numpy()))
    return piece.nbytes

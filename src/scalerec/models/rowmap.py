"""From an id to its row."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from scalerec.data.vocabulary import OOV
from scalerec.errors import ConfigError

__all__ = ["RowMap", "pack_map", "stored_map", "unpack_map"]

# The first byte of a map of bits: what those ids read that have no row of their own.
READ_UNKNOWN, READ_LAST = 0, 1


class RowMap:
    """From an id to its row within a table: append-only, so an id keeps its meaning for ever.

    Args:
        num_ids: Number of ids, each of which has its own row at first.

    Example:
        >>> rows = RowMap(3)
        >>> rows.append(torch.tensor([1]))      # id 3 shares the out-of-vocabulary row
        >>> rows(torch.tensor([0, 2, 3]))
        tensor([0, 2, 1])
    """

    def __init__(self, num_ids: int) -> None:
        self.num_ids = num_ids
        self.rows: Tensor | None = None

    def __call__(self, ids: Tensor) -> Tensor:
        """The rows of these ids, same shape."""
        if self.rows is None:
            return ids
        if self.rows.device != ids.device:
            self.rows = self.rows.to(ids.device)
        # A compressed map may be of int16 or int32.
        return self.rows[ids].long()

    def append(self, rows: Tensor) -> None:
        """Give the next `len(rows)` ids these rows; earlier ids stay where they are.

        Args:
            rows: ``[n]`` int64, at least 0; several ids may share a row.

        Raises:
            ConfigError: If a row is negative, or they are not whole numbers in one dimension.
        """
        if rows.dtype is not torch.int64 or rows.ndim != 1:
            raise ConfigError(f"rows must be int64 [n]; got {rows.dtype} {list(rows.shape)}")
        if len(rows) and int(rows.min()) < 0:
            raise ConfigError(f"rows must be at least 0; got {int(rows.min())}")
        known = torch.arange(self.num_ids) if self.rows is None else self.rows
        self.rows = torch.cat([known.to(rows.device), rows])
        self.num_ids += len(rows)


def pack_map(rows: Tensor) -> Tensor:
    """A compressed map as one bit an id, where some ids have rows of their own and all others one.

    A table of few bits a number is no larger than a map of two bytes an id would be.

    Args:
        rows: The row of each id, ``[ids]``; those of int64 are live, as growth makes them, and stay
            as they are, and so does a map of another kind.

    Returns:
        uint8: which row the others read (the unknown ids', or the last one), then a bit an id, set
        where it has its own, in order; the last set bit is the end.

    Example:
        >>> pack_map(torch.tensor([0, 1, 3, 2, 3], dtype=torch.int16))
        tensor([  1, 212], dtype=torch.uint8)
    """
    if rows.dtype in (torch.int64, torch.uint8) or not len(rows):
        return rows
    for kind, shared in ((READ_LAST, int(rows.max())), (READ_UNKNOWN, OOV)):
        own = rows != shared
        if kind == READ_UNKNOWN:
            own[OOV : OOV + 1] = True
        count = int(own.sum())
        fits = kind == READ_UNKNOWN or count == shared
        if fits and torch.equal(rows[own].long(), torch.arange(count, device=rows.device)):
            bits = np.packbits(np.append(own.cpu().numpy(), True))
            return torch.cat([torch.tensor([kind], dtype=torch.uint8), torch.from_numpy(bits)])
    return rows


def unpack_map(stored: Tensor) -> Tensor:
    """Undo `pack_map`.

    Returns:
        The row of each id, of int16 or int32; a map that was not packed as it is.

    Raises:
        ConfigError: If the bytes are no map.

    Example:
        >>> unpack_map(torch.tensor([1, 212], dtype=torch.uint8))
        tensor([0, 1, 3, 2, 3], dtype=torch.int16)
    """
    if stored.dtype is not torch.uint8:
        return stored
    flat = stored.cpu().numpy()
    fits = flat.ndim == 1 and len(flat) > 1 and flat[0] in (READ_UNKNOWN, READ_LAST) and flat[-1]
    if not fits:
        raise ConfigError(
            "a row map of bits must be uint8 [n], its first byte 0 or 1 and its last not 0; "
            f"got {list(stored.shape)} bytes {flat.flatten()[:4].tolist()}..."
        )
    bits = np.unpackbits(flat[1:])
    own = torch.from_numpy(bits[: int(np.flatnonzero(bits)[-1])]).bool()
    count = int(own.sum())
    rows = own.long().cumsum(0) - 1
    rows[~own] = count if flat[0] == READ_LAST else OOV
    narrow = torch.int16 if count <= torch.iinfo(torch.int16).max else torch.int32
    return rows.to(narrow)


def stored_map(tensors: Mapping[str, Tensor], table: str) -> Tensor | None:
    """The row of each id of a table among a model's tensors; none where each id has its own."""
    stored = tensors.get(f"tables.{table}.rows")
    return None if stored is None else unpack_map(stored)

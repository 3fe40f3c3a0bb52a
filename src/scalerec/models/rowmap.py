"""From an id to its row."""

import torch
from torch import Tensor

from scalerec.errors import ConfigError

__all__ = ["RowMap"]


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

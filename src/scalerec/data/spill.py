"""Columns that wait on disk until it is known how they are encoded.

They are written block by block and read back by plain reads: pages of a mapped file would count as
memory of the process. Each block takes the narrowest type that holds its values exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spill", "Stretch"]

Array = NDArray[Any]
# Blocks are read back together up to so many rows.
STRETCH_ROWS = 262_144


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some consecutive blocks, and the rows they hold.

    Args:
        blocks: Their numbers.
        rows: Their rows among all.
    """

    blocks: range
    rows: slice

    def __len__(self) -> int:
        return int(self.rows.stop - self.rows.start)


@dataclass(slots=True)
class _Column:
    """A column on disk: its type, and each block's type and length."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: list[tuple[np.dtype[Any], int]] = field(default_factory=list)
    # Where each block starts, in bytes, the end included.
    starts: list[int] = field(default_factory=lambda: [0])


class Spill:
    """Writes columns in blocks, and reads them back.

    Threads may write at once, each its own columns.

    Args:
        folder: Is made; must not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._columns: dict[str, _Column] = {}
        self._ends: list[int] = [0]

    def __len__(self) -> int:
        return self._ends[-1]

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def reserve(self, name: str, dtype: Any, shape: tuple[int, ...] = ()) -> None:
        """Announce a column: its type and the shape of a row."""
        path = self._folder / f"{len(self._columns)}.bin"
        self._columns[name] = _Column(path, np.dtype(dtype), shape)

    def end_block(self, size: int) -> None:
        """Close a block of so many rows, to which each column was appended once."""
        self._ends.append(self._ends[-1] + size)

    def append(self, name: str, values: Array) -> None:
        """Append a block of a column, ``[n, ...]``; lists have blocks of any length."""
        column = self._columns[name]
        assert values.dtype == column.dtype, f"column {name} is {column.dtype}, not {values.dtype}"
        narrow = np.ascontiguousarray(_narrowed(values))
        with column.path.open("ab") as file:
            file.write(narrow.data if narrow.size else b"")
        column.blocks.append((narrow.dtype, len(values)))
        column.starts.append(column.starts[-1] + narrow.nbytes)

    def stretches(self) -> Iterator[Stretch]:
        """All blocks in order, several at a time."""
        first, last = 0, len(self._ends) - 1
        while first < last:
            stop = first + 1
            while stop < last and self._ends[stop + 1] - self._ends[first] <= STRETCH_ROWS:
                stop += 1
            yield Stretch(range(first, stop), slice(self._ends[first], self._ends[stop]))
            first = stop

    def read(self, name: str, stretch: Stretch) -> Array:
        """Read some blocks of a column, ``[n, ...]`` in the type that was announced."""
        column = self._columns[name]
        blocks = [column.blocks[i] for i in stretch.blocks]
        whole = np.empty((sum(size for _, size in blocks), *column.shape), column.dtype)
        done = 0
        with column.path.open("rb") as file:
            file.seek(column.starts[stretch.blocks.start])
            for dtype, size in blocks:
                shape = (size, *column.shape)
                part = np.fromfile(file, dtype, int(np.prod(shape))).reshape(shape)
                whole[done : done + size] = part
                done += size
        return whole

    def drop(self, name: str) -> None:
        """Remove a column that has been used."""
        self._columns.pop(name).path.unlink(missing_ok=True)


def _narrowed(values: Array) -> Array:
    """The same values in the narrowest type that holds them exactly."""
    if values.dtype == np.int32 and values.size:
        low, high = values.min(), values.max()
        for kind in (np.int8, np.int16):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return values.astype(kind)
    if values.dtype == np.float64:
        single = values.astype(np.float32)
        # NaN differs from itself.
        exact = np.count_nonzero(single == values) + np.count_nonzero(values != values)  # noqa: PLR0124
        if exact == values.size:
            return single
    return values

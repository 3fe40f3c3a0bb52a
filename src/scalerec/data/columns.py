"""Columns on disk: one raw little-endian file a column, written in a stream, read memory-mapped."""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerec.errors import DataError

__all__ = ["ColumnWriter", "Columns", "Specs"]

Array = NDArray[Any]
# Column to its file, dtype, shape of a row, number of rows and SHA-256.
Specs = dict[str, dict[str, Any]]


class ColumnWriter:
    """Writes columns chunk by chunk.

    Args:
        directory: Is made; must not be there yet.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._specs: Specs = {}
        self._digests: dict[str, Any] = {}
        self._totals: dict[str, int] = {}
        self._files: dict[str, str] = {}

    def reserve(self, names: Iterable[str]) -> None:
        """Name columns in the order of their files, whichever is then written first.

        Threads may append to reserved columns at once, each to its own.
        """
        for name in names:
            self._files.setdefault(name, f"{len(self._files):04d}.bin")

    def append(self, name: str, values: Array) -> None:
        """Append rows ``[n, ...]``; dtype and trailing shape must be those of the first call."""
        # Bytes of one order on every machine.
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        kind = {"dtype": values.dtype.str, "shape": list(values.shape[1:])}
        if name not in self._specs:
            self.reserve([name])
            self._specs[name] = {"file": self._files[name], **kind, "rows": 0}
            self._digests[name] = hashlib.sha256()
        spec = self._specs[name]
        assert kind.items() <= spec.items(), f"column {name} changed from {spec} to {kind}"
        data = values.data if values.size else b""
        # Opened each time: a wide table has more columns than a process may have open files.
        with (self._directory / spec["file"]).open("ab") as file:
            file.write(data)
        self._digests[name].update(data)
        spec["rows"] += len(values)

    def append_lists(self, name: str, values: Array, lengths: Array) -> None:
        """Append lists: all their values ``[V]``, and the length of each ``[n]``."""
        if name not in self._totals:
            self._totals[name] = 0
            self.append(f"{name}/offsets", np.zeros(1, np.int64))
        ends = np.cumsum(lengths, dtype=np.int64) + self._totals[name]
        self._totals[name] += len(values)
        self.append(f"{name}/values", values)
        self.append(f"{name}/offsets", ends)

    def close(self) -> Specs:
        """Give what `Columns` needs to read them."""
        for name, digest in self._digests.items():
            self._specs[name]["sha256"] = digest.hexdigest()
        return self._specs


class Columns:
    """Memory-mapped columns by name; a file is mapped when it is first used.

    Args:
        directory: Where `ColumnWriter` wrote.
        specs: What its `close` gave.

    Raises:
        DataError: If a file is missing, or has another size than it should.
    """

    def __init__(self, directory: Path, specs: Specs) -> None:
        self._directory = directory
        self._specs = specs
        self._arrays: dict[str, Array] = {}
        for name, spec in specs.items():
            path, size = self._path(name), _size(spec)
            if not path.is_file():
                raise DataError(
                    f"{path}: the file of column {name!r} is missing; prepare the data set again"
                )
            if path.stat().st_size != size:
                raise DataError(
                    f"{path}: {path.stat().st_size} bytes, but column {name!r} has {size}; "
                    "prepare the data set again"
                )

    def __contains__(self, name: str) -> bool:
        return name in self._specs or f"{name}/values" in self._specs

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            spec = self._specs[name]
            shape = (spec["rows"], *spec["shape"])
            dtype = np.dtype(spec["dtype"])
            empty = np.empty(shape, dtype)
            self._arrays[name] = (
                np.memmap(self._path(name), dtype, "r", shape=shape) if empty.size else empty
            )
        return self._arrays[name]

    def lists(self, name: str, rows: slice | Array) -> tuple[Array, NDArray[np.int64]]:
        """The lists of some rows: all their values, and where each starts, the end included.

        Args:
            name: As given to `append_lists`.
            rows: A stretch, or the numbers of rows in any order.
        """
        values, offsets = self[f"{name}/values"], self[f"{name}/offsets"]
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(offsets) - 1)
            own = np.asarray(offsets[start : stop + 1])
            return values[own[0] : own[-1]], own - own[0]
        starts = np.asarray(offsets[rows])
        lengths = offsets[np.asarray(rows) + 1] - starts
        taken = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return values[np.repeat(starts - taken[:-1], lengths) + np.arange(taken[-1])], taken

    def lengths(self, name: str, rows: slice | Array) -> NDArray[np.int64]:
        """How long the lists of some rows are, without reading their values."""
        offsets = self[f"{name}/offsets"]
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(offsets) - 1)
            return np.diff(offsets[start : stop + 1])
        return np.asarray(offsets[np.asarray(rows) + 1] - offsets[rows])

    def verify(self) -> None:
        """Check every file against its digest.

        Raises:
            DataError: If one was changed.
        """
        for name, spec in self._specs.items():
            check_digest(self._path(name), spec["sha256"])

    def _path(self, name: str) -> Path:
        file = self._specs[name]["file"]
        if Path(file).name != file:
            raise DataError(f"{self._directory}: column {name!r} has its file elsewhere: {file}")
        return self._directory / str(file)


def check_digest(path: Path, sha256: str) -> None:
    """Check a file against its digest.

    Raises:
        DataError: If it is missing or was changed.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if found != sha256:
        raise DataError(f"{path}: was changed since it was written; prepare the data set again")


def _size(spec: dict[str, Any]) -> int:
    shape: tuple[int, ...] = (spec["rows"], *spec["shape"])
    return math.prod(shape) * np.dtype(str(spec["dtype"])).itemsize

"""Columns on disk: one raw little-endian file a column, written in a stream, read memory-mapped."""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from scalerec.errors import DataError

__all__ = ["ColumnWriter", "Columns", "Ragged"]

Array = NDArray[Any]


class ColumnWriter:
    """Writes columns chunk by chunk.

    Args:
        directory: Is made; must not hold anything yet.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._files: dict[str, BinaryIO] = {}
        self._specs: dict[str, dict[str, Any]] = {}
        self._digests: dict[str, Any] = {}

    def append(self, name: str, values: Array) -> None:
        """Append rows ``[n, ...]``; dtype and trailing shape must be those of the first call."""
        values = np.ascontiguousarray(values)
        spec = self._specs.get(name)
        if spec is None:
            file = f"{len(self._specs):04d}.bin"
            spec = {
                "file": file,
                "dtype": values.dtype.str,
                "shape": list(values.shape[1:]),
                "rows": 0,
            }
            self._specs[name] = spec
            self._files[name] = (self._directory / file).open("wb")
            self._digests[name] = hashlib.sha256()
        same = values.dtype.str == spec["dtype"] and list(values.shape[1:]) == spec["shape"]
        assert same, f"column {name} changed from {spec} to {values.dtype} {values.shape}"
        data = memoryview(values).cast("B") if values.size else b""
        self._files[name].write(data)
        self._digests[name].update(data)
        spec["rows"] += len(values)

    def append_ragged(self, name: str, values: Array, lengths: Array) -> None:
        """Append lists: all their values, and the length of each."""
        self.append(f"{name}/values", values)
        self.append(f"{name}/lengths", lengths.astype(np.int32))

    def close(self) -> dict[str, dict[str, Any]]:
        """Flush, and give what `Columns` needs to read them: file, dtype, shape, rows, sha256."""
        for name, file in self._files.items():
            file.close()
            self._specs[name]["sha256"] = self._digests[name].hexdigest()
        return self._specs


class Ragged:
    """Lists on disk: values, and where each list starts.

    Args:
        values: ``[V]``.
        offsets: ``[N+1]`` int64.
    """

    def __init__(self, values: Array, offsets: Array) -> None:
        self.values = values
        self.offsets = offsets

    def slice(self, start: int, stop: int) -> tuple[Array, Array]:
        """The values of rows start .. stop and their offsets from 0."""
        offsets = self.offsets[start : stop + 1]
        return self.values[offsets[0] : offsets[-1]], offsets - offsets[0]


class Columns:
    """Memory-mapped columns by name.

    Args:
        directory: Where `ColumnWriter` wrote.
        specs: What its `close` gave.

    Raises:
        DataError: If a file is missing or has another size than it should.
    """

    def __init__(self, directory: Path, specs: dict[str, dict[str, Any]]) -> None:
        self._arrays: dict[str, Array] = {}
        self._ragged: dict[str, Ragged] = {}
        for name, spec in specs.items():
            path, dtype = directory / spec["file"], np.dtype(spec["dtype"])
            shape = (spec["rows"], *spec["shape"])
            size = int(np.prod(shape)) * dtype.itemsize
            if not path.is_file():
                raise DataError(f"{path}: the file of column {name!r} is missing; prepare it again")
            if path.stat().st_size != size:
                raise DataError(
                    f"{path}: {path.stat().st_size} bytes; column {name!r} needs {size}"
                )
            empty = np.empty(shape, dtype)
            self._arrays[name] = np.memmap(path, dtype, "r", shape=shape) if size else empty

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self._arrays or f"{name}/values" in self._arrays

    def ragged(self, name: str) -> Ragged:
        """The lists of a ragged column; their offsets are summed up once."""
        if name not in self._ragged:
            lengths = self._arrays[f"{name}/lengths"]
            offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
            np.cumsum(lengths, out=offsets[1:])
            self._ragged[name] = Ragged(self._arrays[f"{name}/values"], offsets)
        return self._ragged[name]

"""Small files that wait in the scratch folder between tasks.

Each is written under another name and renamed, so a task that is run twice, as Spark may do, never
leaves half a file; what it holds is the same each time.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from scalerec.data.encoding import Encoders
from scalerec.data.keys import KeyIndex

__all__ = [
    "encoders_at",
    "forget",
    "index_at",
    "load_array",
    "load_table",
    "put",
    "save_array",
    "save_table",
]


def put(path: Path, write: Callable[[Path], None]) -> None:
    """Let a file be written under another name, then give it its own."""
    aside = path.with_name(f"{path.name}.{uuid4().hex}")
    write(aside)
    os.replace(aside, path)  # noqa: PTH105  both names are in one folder


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Keep an array of numbers."""

    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            np.save(file, values)

    put(path, write)


def load_array(path: Path) -> NDArray[Any]:
    """A kept array, memory-mapped."""
    values: NDArray[Any] = np.load(path, mmap_mode="r")
    return values


def save_table(path: Path, table: pa.Table) -> None:
    """Keep a table."""

    def write(aside: Path) -> None:
        with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    put(path, write)


def load_table(path: Path) -> pa.Table:
    """A kept table."""
    with pa.OSFile(str(path), "rb") as file:
        return pa.ipc.open_file(file).read_all()


@lru_cache(maxsize=3)
def index_at(path: Path) -> KeyIndex:
    """The numbers of keys that are kept in the column `key`; a worker reads them once."""
    return KeyIndex(load_table(path)["key"].combine_chunks().cast(pa.large_string()))


@lru_cache(maxsize=1)
def encoders_at(path: Path) -> Encoders:
    """Encoders that are kept; a worker reads them once."""
    return Encoders.from_table(load_table(path))


def forget() -> None:
    """Let go of what this worker keeps in memory."""
    index_at.cache_clear()
    encoders_at.cache_clear()

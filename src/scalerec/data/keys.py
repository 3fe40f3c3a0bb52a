"""Keys and their numbers: what users, items and vocabularies share.

A key is text; a whole number and its text are one key, in whatever kind of file it comes.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scalerec.data.keytable import KeyTable

__all__ = ["KeyIndex"]

Numbers = NDArray[np.int64]

# From so many keys on a table is smaller and faster than a dictionary; with fewer, nothing needs to
# be compiled.
MANY = 4096


class KeyIndex:
    """Numbers keys in the order in which they come.

    Args:
        keys: The first keys, text; they must differ.

    Example:
        >>> index = KeyIndex()
        >>> index.add(pa.array(["b", "a", "b"]))
        array([0, 1, 0])
        >>> index.find(pa.array(["a", "c", None]))
        array([ 1, -1, -1])
    """

    def __init__(self, keys: Iterable[str] | pa.Array = ()) -> None:
        self._numbers: dict[str, int] = {}
        self._table: KeyTable | None = None
        self.add(keys if isinstance(keys, pa.Array) else pa.array(keys, pa.large_string()))

    def __len__(self) -> int:
        return len(self._numbers) if self._table is None else len(self._table)

    @property
    def keys(self) -> list[str]:
        """All keys, in the order of their numbers."""
        known: list[str] = self.to_arrow().to_pylist()
        return known

    def to_arrow(self) -> pa.Array:
        """All keys, in the order of their numbers, large string."""
        if self._table is None:
            return pa.array(self._numbers, pa.large_string())
        return self._table.keys()

    def add(self, keys: pa.Array) -> Numbers:
        """Give the numbers of keys ``[n]``, text; new keys get the next numbers, nulls -1."""
        if self._table is None:
            distinct, codes = _distinct(keys)
            numbers = self._numbers
            if len(numbers) + len(distinct) <= MANY:
                return _spread([numbers.setdefault(key, len(numbers)) for key in distinct], codes)
            self._table = self._as_table()
        return self._table.add(keys)

    def find(self, keys: pa.Array) -> Numbers:
        """Give the numbers of keys ``[n]``, text; -1 for an unknown key and for null."""
        if self._table is not None:
            return self._table.find(keys)
        distinct, codes = _distinct(keys)
        return _spread([self._numbers.get(key, -1) for key in distinct], codes)

    def _as_table(self) -> "KeyTable":
        # Compiled code is loaded only where there are many keys.
        from scalerec.data.keytable import KeyTable

        table = KeyTable()
        table.add(self.to_arrow())
        self._numbers = {}
        return table


def _distinct(keys: pa.Array) -> tuple[list[str], Numbers]:
    """Distinct keys as text, in the order in which they come, and each key's place among them."""
    coded = keys.dictionary_encode()
    distinct: list[str] = coded.dictionary.cast(pa.string()).to_pylist()
    codes: Numbers = coded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
    return distinct, codes


def _spread(numbers: list[int], codes: Numbers) -> Numbers:
    """Each key's number; the place after the last stands for null."""
    return np.array([*numbers, -1], dtype=np.int64)[codes]

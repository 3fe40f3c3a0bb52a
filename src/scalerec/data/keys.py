"""Keys and their numbers: what users, items and vocabularies share.

A key is text; a whole number and its text are one key, in whatever kind of file it comes.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["KeyIndex"]

Numbers = NDArray[np.int64]


class KeyIndex:
    """Numbers keys in the order in which they come.

    Args:
        keys: The first keys; they must differ.

    Example:
        >>> index = KeyIndex()
        >>> index.add(pa.array(["b", "a", "b"]))
        array([0, 1, 0])
        >>> index.find(pa.array(["a", "c", None]))
        array([ 1, -1, -1])
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._numbers: dict[str, int] = {key: i for i, key in enumerate(keys)}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def keys(self) -> list[str]:
        """All keys, in the order of their numbers."""
        return list(self._numbers)

    def add(self, keys: pa.Array) -> Numbers:
        """Give the numbers of keys ``[n]``; new keys get the next numbers, nulls -1."""
        distinct, codes = _distinct(keys)
        numbers = self._numbers
        return _spread([numbers.setdefault(key, len(numbers)) for key in distinct], codes)

    def find(self, keys: pa.Array) -> Numbers:
        """Give the numbers of keys ``[n]``; -1 for an unknown key and for null."""
        distinct, codes = _distinct(keys)
        return _spread([self._numbers.get(key, -1) for key in distinct], codes)


def _distinct(keys: pa.Array) -> tuple[list[str], Numbers]:
    """Distinct keys as text, in the order in which they come, and each key's place among them."""
    coded = keys.dictionary_encode()
    distinct: list[str] = coded.dictionary.cast(pa.string()).to_pylist()
    codes: Numbers = coded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
    return distinct, codes


def _spread(numbers: list[int], codes: Numbers) -> Numbers:
    """Each key's number; the place after the last stands for null."""
    return np.array([*numbers, -1], dtype=np.int64)[codes]

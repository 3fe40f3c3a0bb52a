"""From keys to ids: a vocabulary fitted on training rows, or a hash.

Id 0 is padding and what is missing; id 1 is out-of-vocabulary; a known key's id is at least 2.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.counting import count_numbers
from scalerec.data.growth import Growth
from scalerec.data.keys import KeyIndex
from scalerec.data.ordering import order_of_keys

__all__ = ["FIRST_ID", "OOV", "PADDING", "HashVocabulary", "KeyCounter", "Vocabulary", "hash_keys"]

PADDING = 0
OOV = 1
FIRST_ID = 2

Ids = NDArray[np.int32]

# So many keys are hashed at a time; each of them is a Python string for a moment.
HASHED = 262_144


class KeyCounter:
    """Counts keys; memory follows the distinct keys.

    Args:
        index: Gives keys their numbers; keys that are in it but never counted do not exist here.
    """

    def __init__(self, index: KeyIndex | None = None) -> None:
        self.index = KeyIndex() if index is None else index
        self._counts = np.zeros(0, np.int64)

    def add(self, keys: pa.Array) -> None:
        """Count the keys of one chunk, text; missing ones do not count."""
        self.count(self.index.add(keys))

    def count(self, numbers: NDArray[Any]) -> None:
        """Count keys by their numbers in the index, ``[n]``; -1 is a missing one."""
        missing = len(self._counts) < len(self.index) + 1
        if missing:
            counts = np.zeros(len(self.index) + 1, np.int64)
            counts[1 : len(self._counts)] = self._counts[1:]
            self._counts = counts
        count_numbers(numbers, self._counts)

    def add_counts(self, keys: pa.Array, counts: NDArray[np.int64]) -> None:
        """Count distinct keys, text ``[n]``, so many times each ``[n]``."""
        met = pa.array(np.flatnonzero(counts))
        numbers = self.index.add(keys.take(met))
        self.count(numbers[:0])
        self._counts[numbers + 1] += counts[counts != 0]

    def counts(self) -> pa.Table:
        """Columns `key` and `count`, the commonest first, ties in the order of their text."""
        counts = self._counts[1:]
        met = np.flatnonzero(counts)
        keys, counts = self.index.to_arrow().take(pa.array(met)), counts[met]
        order = order_of_keys(keys, counts)
        return pa.table({"key": keys.take(pa.array(order)), "count": counts[order]})


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Known keys in the order of their ids.

    Args:
        keys: Distinct keys, large string; key number i has id i + 2. A null stands for a key that
            was retired: no key has its id ever again.
        counts: How often each id was seen in the training rows, ``[size]`` int64; those of padding
            and out-of-vocabulary come first.
        growth: What it remembers in order to grow; none if it never did.
    """

    keys: pa.Array
    counts: NDArray[np.int64]
    growth: Growth | None = None

    @classmethod
    def fit(cls, counter: KeyCounter, min_count: int = 1) -> "Vocabulary":
        """Keep the keys that were seen at least `min_count` times; count the rest as unknown."""
        table = counter.counts()
        counts = table["count"].to_numpy()
        kept = int((counts >= min_count).sum())
        head = np.array([0, counts[kept:].sum()], dtype=np.int64)
        return cls(table["key"][:kept].combine_chunks(), np.concatenate([head, counts[:kept]]))

    @property
    def size(self) -> int:
        """Number of ids, padding and out-of-vocabulary included."""
        return len(self.keys) + FIRST_ID

    def encode(self, keys: pa.Array) -> Ids:
        """Ids of keys, ``[n]`` int32: padding for null, out-of-vocabulary for an unknown one."""
        ids = self._index.find(keys) + FIRST_ID
        ids[ids < FIRST_ID] = OOV
        if self.keys.null_count:
            ids = self._ids_of_live[ids]
        ids[keys.is_null().to_numpy(zero_copy_only=False)] = PADDING
        return ids.astype(np.int32)

    def ids_of(self, index: KeyIndex) -> Ids:
        """Ids of all keys of an index in the order of their numbers, ``[n+1]`` int32.

        The last one is padding: it is the id of number -1, a missing key.
        """
        ids = np.full(len(index) + 1, OOV, np.int32)
        numbers = index.find(self.keys)
        known = np.flatnonzero(numbers >= 0)
        ids[numbers[known]] = known + FIRST_ID
        ids[-1] = PADDING
        return ids

    def key(self, id_: int) -> str:
        """The key of an id, as text."""
        names = {PADDING: "(none)", OOV: "(unknown)"}
        if id_ in names:
            return names[id_]
        key = self.keys[id_ - FIRST_ID].as_py()
        return "(retired)" if key is None else str(key)

    @cached_property
    def _index(self) -> KeyIndex:
        # A look-up in Arrow would hash all keys anew at every call.
        return KeyIndex(self.keys)

    @cached_property
    def _ids_of_live(self) -> NDArray[np.int64]:
        """From an id as if no key were retired, which the index tells, to the id."""
        live = np.flatnonzero(self.keys.is_valid().to_numpy(zero_copy_only=False))
        return np.concatenate([[PADDING, OOV], live + FIRST_ID])


@dataclass(frozen=True, slots=True)
class HashVocabulary:
    """Ids by hash: nothing is stored, and different keys may share an id.

    Args:
        buckets: Number of ids that keys are spread over.
        num_keys: Distinct keys seen in the training rows.
        num_used: Distinct ids they took.
    """

    buckets: int
    num_keys: int = 0
    num_used: int = 0

    @classmethod
    def fit(cls, counter: KeyCounter, buckets: int) -> "HashVocabulary":
        """Measure how many keys share an id."""
        table = counter.counts()
        ids = cls(buckets).encode(table["key"].combine_chunks())
        return cls(buckets, len(ids), len(np.unique(ids)))

    @property
    def size(self) -> int:
        """Number of ids, padding and out-of-vocabulary included."""
        return self.buckets + FIRST_ID

    @property
    def collision_rate(self) -> float:
        """Share of the training rows' distinct keys that did not get an id of their own."""
        return 1.0 - self.num_used / self.num_keys if self.num_keys else 0.0

    def encode(self, keys: pa.Array) -> Ids:
        """Ids of keys, ``[n]`` int32; the same on every machine and in every version."""
        coded = keys.dictionary_encode()
        distinct = hash_keys(coded.dictionary.to_pylist()) % np.uint64(self.buckets)
        ids = np.append(distinct.astype(np.int32) + np.int32(FIRST_ID), np.int32(PADDING))
        codes = coded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
        taken: Ids = ids[codes]
        return taken

    def ids_of(self, index: KeyIndex) -> Ids:
        """Ids of all keys of an index in the order of their numbers, ``[n+1]`` int32.

        The last one is padding: it is the id of number -1, a missing key.
        """
        keys = index.to_arrow()
        parts = [self.encode(keys.slice(i, HASHED)) for i in range(0, len(keys), HASHED)]
        return np.concatenate([*parts, np.array([PADDING], np.int32)])


def hash_keys(keys: Iterable[str]) -> NDArray[np.uint64]:
    """A stable 64-bit hash of each key: the first 8 bytes of its BLAKE2b digest, little-endian."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, dtype="<u8")

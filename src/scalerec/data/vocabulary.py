"""From keys to ids: a vocabulary fitted on training rows, or a hash.

Id 0 is padding and what is missing; id 1 is out-of-vocabulary; a known key's id is at least 2.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalerec.data.keys import KeyIndex

__all__ = ["FIRST_ID", "OOV", "PADDING", "HashVocabulary", "KeyCounter", "Vocabulary", "hash_keys"]

PADDING = 0
OOV = 1
FIRST_ID = 2

# Distinct keys of single chunks that may wait to be merged.
PENDING = 4_000_000

Ids = NDArray[np.int32]


class KeyCounter:
    """Counts keys chunk by chunk; memory follows the distinct keys."""

    def __init__(self) -> None:
        empty = {"key": pa.array([], pa.large_string()), "count": pa.array([], pa.int64())}
        self._parts = [pa.table(empty)]
        self._pending = 0

    def add(self, keys: pa.Array) -> None:
        """Count the keys of one chunk, text; missing ones do not count."""
        counted = pc.value_counts(keys.drop_null())
        values = counted.field("values").cast(pa.large_string())
        self._parts.append(pa.table({"key": values, "count": counted.field("counts")}))
        self._pending += len(counted)
        if self._pending > PENDING:
            self._parts = [self._merged()]
            self._pending = 0

    def counts(self) -> pa.Table:
        """Columns `key` and `count`, the commonest first, ties in the order of their text."""
        return self._merged().sort_by([("count", "descending"), ("key", "ascending")])

    def _merged(self) -> pa.Table:
        grouped = pa.concat_tables(self._parts).group_by("key").aggregate([("count", "sum")])
        return grouped.select(["key", "count_sum"]).rename_columns(["key", "count"])


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Known keys in the order of their ids.

    Args:
        keys: Distinct keys, large string; key number i has id i + 2.
        counts: How often each id was seen in the training rows, ``[size]`` int64; those of padding
            and out-of-vocabulary come first.
    """

    keys: pa.Array
    counts: NDArray[np.int64]

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
        ids[keys.is_null().to_numpy(zero_copy_only=False)] = PADDING
        return ids.astype(np.int32)

    def key(self, id_: int) -> str:
        """The key of an id, as text."""
        names = {PADDING: "(none)", OOV: "(unknown)"}
        return names.get(id_) or str(self.keys[id_ - FIRST_ID].as_py())

    @cached_property
    def _index(self) -> KeyIndex:
        # A look-up in Arrow would hash all keys anew at every call.
        return KeyIndex(self.keys.to_pylist())


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
        keys = counter.counts()["key"]
        numbers = hash_keys(keys.to_pylist()) % np.uint64(buckets)
        return cls(buckets, len(keys), len(np.unique(numbers)))

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


def hash_keys(keys: Iterable[str]) -> NDArray[np.uint64]:
    """A stable 64-bit hash of each key: the first 8 bytes of its BLAKE2b digest, little-endian."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, dtype="<u8")

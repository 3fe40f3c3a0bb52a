"""From keys to ids: a vocabulary fitted on training rows, or a hash.

Id 0 is padding and what is missing; id 1 is out-of-vocabulary; a known key's id is at least 2.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["FIRST_ID", "OOV", "PADDING", "HashVocabulary", "KeyCounter", "Vocabulary"]

PADDING = 0
OOV = 1
FIRST_ID = 2

Ids = NDArray[np.int32]


class KeyCounter:
    """Counts keys chunk by chunk; memory follows the distinct keys."""

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._pending = 0

    def add(self, keys: pa.Array) -> None:
        """Count the keys of one chunk; missing ones do not count."""
        counted = pc.value_counts(keys.drop_null())
        values = counted.field("values")
        if values.type != pa.int64():
            values = values.cast(pa.string())
        self._parts.append(pa.table({"key": values, "count": counted.field("counts")}))
        self._pending += len(counted)
        if self._pending > 4_000_000:
            self._parts = [self._merged()]
            self._pending = 0

    def _merged(self) -> pa.Table:
        if len({part.schema.field("key").type for part in self._parts}) > 1:
            text = [
                part.set_column(0, "key", part["key"].cast(pa.string())) for part in self._parts
            ]
            self._parts = text
        merged = pa.concat_tables(self._parts).group_by("key").aggregate([("count", "sum")])
        return merged.rename_columns({"key": "key", "count_sum": "count"})

    def counts(self) -> pa.Table:
        """Columns `key` and `count`, the commonest first, ties by key, so the order is one for all."""
        if not self._parts:
            return pa.table({"key": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
        return self._merged().sort_by([("count", "descending"), ("key", "ascending")])


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """Known keys in the order of their ids.

    Args:
        keys: Distinct keys, int64 or string; key number i has id i + 2.
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
        keys = table["key"].combine_chunks()
        keys = keys.chunk(0) if isinstance(keys, pa.ChunkedArray) else keys
        return cls(keys[:kept], np.concatenate([head, counts[:kept].astype(np.int64)]))

    @property
    def size(self) -> int:
        """Number of ids, padding and out-of-vocabulary included."""
        return len(self.keys) + FIRST_ID

    def encode(self, keys: pa.Array) -> Ids:
        """Ids of keys, ``[n]`` int32. Whole numbers and their text are one key."""
        missing = keys.is_null().to_numpy(zero_copy_only=False)
        found = pc.index_in(_like(keys, self.keys.type), value_set=self.keys)
        ids = found.fill_null(OOV - FIRST_ID).to_numpy(zero_copy_only=False).astype(np.int32)
        ids += FIRST_ID
        ids[missing] = PADDING
        return ids

    def key(self, id_: int) -> str:
        """The key of an id, as text."""
        names = {PADDING: "(none)", OOV: "(unknown)"}
        return names.get(id_) or str(self.keys[id_ - FIRST_ID].as_py())


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
        ids = cls(buckets).encode(pa.array(keys.to_pylist(), keys.type))
        return cls(buckets, len(keys), len(np.unique(ids)))

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
        table = hash_keys(coded.dictionary.cast(pa.string()).to_pylist()) % np.uint64(self.buckets)
        by_code = np.concatenate([table.astype(np.int32) + FIRST_ID, [PADDING]]).astype(np.int32)
        codes = coded.indices.fill_null(len(table)).to_numpy(zero_copy_only=False)
        return by_code[codes]


def hash_keys(keys: Iterable[str]) -> NDArray[np.uint64]:
    """A stable 64-bit hash of each key: the first 8 bytes of its BLAKE2b digest, little-endian."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, dtype="<u8")


def _like(keys: pa.Array, kind: pa.DataType) -> pa.Array:
    """Keys as the vocabulary's type; text that is no whole number matches no number."""
    if keys.type == kind:
        return keys
    if kind == pa.int64():
        text = keys.cast(pa.string())
        whole = pc.match_substring_regex(text, r"^-?(0|[1-9][0-9]{0,17})$")
        return pc.if_else(whole, text, None).cast(pa.int64())
    return keys.cast(pa.string())

"""The order of a vocabulary: the commonest key first, ties in the order of their text."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["order_of_keys"]

# Up to so many keys Arrow's sort is fast enough, and nothing needs to be loaded.
FEW = 4096


def order_of_keys(keys: pa.Array, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort keys by their counts, the largest first, then by their text, byte by byte.

    Args:
        keys: Distinct, large string, ``[n]``.
        counts: How often each was seen, ``[n]``, positive.

    Returns:
        The places of the keys in that order, ``[n]``.
    """
    if len(keys) <= FEW:
        return _sorted(keys, -counts)
    from scalerec.data.keytable import first_words

    _, starts, data = keys.buffers()
    offsets = np.frombuffer(starts, np.int64)[keys.offset : keys.offset + len(keys) + 1]
    text = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    words = first_words(text, offsets)
    order = np.argsort(words)
    order = order[_falling(counts[order])]
    # Keys that are told apart by neither their counts nor their first eight bytes.
    sorted_counts, words = counts[order], words[order]
    equal = (sorted_counts[1:] == sorted_counts[:-1]) & (words[1:] == words[:-1])
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    if len(tied):
        group = np.cumsum(np.append(True, ~equal))[tied]
        own = order[tied]
        order[tied] = own[_sorted(keys.take(pa.array(own)), group)]
    return order


def _falling(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """A stable order of counts, the largest first; most counts are small."""
    top = np.iinfo(np.uint16).max
    # NumPy sorts 16 bits by their digits, in one go; larger counts are few.
    order = np.argsort(top - np.minimum(counts, top).astype(np.uint16), kind="stable")
    large = int((counts >= top).sum())
    head = order[:large]
    order[:large] = head[np.argsort(-counts[head], kind="stable")]
    return order


def _sorted(keys: pa.Array, first: NDArray[np.int64]) -> NDArray[np.int64]:
    """The order by a number, then by the key."""
    table = pa.table({"first": first, "key": keys})
    by = [("first", "ascending"), ("key", "ascending")]
    order: NDArray[np.int64] = pc.sort_indices(table, by).to_numpy().astype(np.int64)
    return order

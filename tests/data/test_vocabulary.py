"""From keys to ids and back, whatever the chunks and the types."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.keys import KeyIndex
from scalerec.data.vocabulary import HashVocabulary, KeyCounter, Vocabulary, hash_keys

KEYS = st.lists(st.none() | st.sampled_from("abcdef") | st.text(min_size=1, max_size=3))


def counted(*chunks: Sequence[str | None]) -> KeyCounter:
    counter = KeyCounter()
    for chunk in chunks:
        counter.add(pa.array(chunk, pa.string()))
    return counter


def test_a_worked_case() -> None:
    vocabulary = Vocabulary.fit(counted(["b", "a", None], ["c", "b", "a", "d"]), min_count=2)
    assert vocabulary.keys.to_pylist() == ["a", "b"]  # both twice, so in the order of their text
    assert vocabulary.counts.tolist() == [0, 2, 2, 2]  # c and d are unknown
    assert vocabulary.size == 4
    assert vocabulary.encode(pa.array(["b", "d", None, "a", "z"])).tolist() == [3, 1, 0, 2, 1]
    assert [vocabulary.key(i) for i in range(4)] == ["(none)", "(unknown)", "a", "b"]


@given(KEYS, st.lists(st.integers(0, 20), max_size=4))
def test_chunks_do_not_matter(keys: list[str | None], cuts: list[int]) -> None:
    whole = Vocabulary.fit(counted(keys))
    edges = [0, *sorted(min(cut, len(keys)) for cut in cuts), len(keys)]
    parts = Vocabulary.fit(counted(*(keys[a:b] for a, b in pairwise(edges))))
    assert parts.keys == whole.keys
    assert parts.counts.tolist() == whole.counts.tolist()
    seen = [key for key in keys if key is not None]
    expected = sorted(set(seen), key=lambda key: (-seen.count(key), key.encode()))
    assert whole.keys.to_pylist() == expected


def test_nothing_seen() -> None:
    vocabulary = Vocabulary.fit(counted())
    assert vocabulary.size == 2
    assert vocabulary.encode(pa.array(["a", None])).tolist() == [1, 0]
    assert HashVocabulary.fit(counted(), 4).collision_rate == 0.0


def test_hashes_never_change() -> None:
    # Stored bundles depend on these figures.
    assert hash_keys(["", "a", "42", "ü"]).tolist() == PINNED
    ids = HashVocabulary(1000).encode(pa.array(["a", None, "42", "a"]))
    expected = [number % 1000 + 2 for number in (PINNED[1], PINNED[2])]
    assert ids.tolist() == [expected[0], 0, expected[1], expected[0]]
    assert ids.dtype == np.int32


PINNED = [13020603013274838756, 3405396810240292928, 8820412187630416983, 3976460501203677525]


def test_the_collision_rate_counts_keys_without_an_id_of_their_own() -> None:
    counter = counted([f"k{i}" for i in range(100)] * 2)
    one = HashVocabulary.fit(counter, 1)
    assert (one.size, one.num_keys, one.num_used, one.collision_rate) == (3, 100, 1, 0.99)
    many = HashVocabulary.fit(counter, 2**31 - 3)
    assert many.collision_rate == 0.0
    ids = many.encode(pa.array([f"k{i}" for i in range(100)]))
    assert ids.min() >= 2
    # 100 keys in 100 buckets: a share of (1 - 1/100)^100 = 0.366 of the buckets stays empty.
    assert HashVocabulary.fit(counter, 100).collision_rate == pytest.approx(0.366, abs=0.12)


def test_numbers_of_keys() -> None:
    index = KeyIndex(["x"])
    assert index.add(pa.array(["b", "x", None, "b", "a"])).tolist() == [1, 0, -1, 1, 2]
    assert index.find(pa.array(["a", "?", None])).tolist() == [2, -1, -1]
    assert index.find(pa.array([], pa.string())).tolist() == []
    assert (index.keys, len(index)) == (["x", "b", "a"], 3)

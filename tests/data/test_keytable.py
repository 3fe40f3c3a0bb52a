"""The compiled table of keys equals the dictionary it stands in for, whatever the keys."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data import counting, keys, ordering
from scalerec.data.counting import count_numbers
from scalerec.data.keys import KeyIndex
from scalerec.data.keytable import KeyTable, count_many
from scalerec.data.ordering import order_of_keys
from scalerec.data.vocabulary import HashVocabulary, KeyCounter, Vocabulary

CHUNKS = st.lists(
    st.lists(st.none() | st.sampled_from(["", "a", "ab", "\0"]) | st.text(max_size=20))
)
TYPES = st.sampled_from([pa.string(), pa.large_string()])


@given(CHUNKS, TYPES, st.integers(0, 3))
def test_a_table_numbers_as_a_dictionary_does(
    chunks: list[list[str | None]], kind: pa.DataType, skip: int
) -> None:
    table, index = KeyTable(slots=2), KeyIndex()
    for chunk in chunks:
        array = pa.array([None, *chunk], kind)[skip:]
        known = table.find(array)
        assert known.tolist() == index.find(array).tolist()
        assert table.add(array).tolist() == index.add(array).tolist()
        assert table.find(array).tolist() == index.find(array).tolist()
    assert table.keys().to_pylist() == index.keys
    assert len(table) == len(index)
    table.keys().validate(full=True)


def test_an_index_turns_into_a_table_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    chunks = [pa.array(draw.integers(0, 9**k, 500).astype(str)) for k in range(1, 6)]
    small = KeyIndex()
    expected = [small.add(chunk).tolist() for chunk in chunks]
    monkeypatch.setattr(keys, "MANY", 50)
    large = KeyIndex()
    assert [large.add(chunk).tolist() for chunk in chunks] == expected
    assert large.keys == small.keys
    assert large.find(pa.array(["8", "never", None])).tolist() == [
        *small.find(pa.array(["8"])).tolist(), -1, -1
    ]  # fmt: skip


def test_keys_given_out_do_not_change_as_more_come() -> None:
    table = KeyTable(slots=2)
    table.add(pa.array(["a", "b"]))
    early = table.keys()
    table.add(pa.array([f"key {i}" for i in range(1000)]))
    assert early.to_pylist() == ["a", "b"]


def test_keys_of_one_hash_are_told_apart() -> None:
    # With two slots most keys collide; each must still be found by its full text.
    table = KeyTable(slots=2)
    words = [f"{i:b}" for i in range(5000)]
    assert table.add(pa.array(words)).tolist() == list(range(5000))
    assert table.find(pa.array(words[::-1])).tolist() == list(range(5000))[::-1]


def test_counting_is_the_same_compiled_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).integers(-1, 20, 1000).astype(np.int32)
    plain, compiled, chosen = np.zeros((3, 21), np.int64)
    count_numbers(numbers, plain)
    count_many(numbers, compiled)
    monkeypatch.setattr(counting, "FEW", 5)
    count_numbers(numbers, chosen)
    assert plain.tolist() == compiled.tolist() == chosen.tolist()
    assert plain[0] == (numbers == -1).sum()


def test_keys_that_were_only_numbered_do_not_count() -> None:
    index = KeyIndex()
    numbers = index.add(pa.array(["late", "b", "a", "b", None]))
    counter = KeyCounter(index)
    counter.count(numbers[1:])
    assert counter.counts().to_pydict() == {"key": ["b", "a"], "count": [2, 1]}
    counter.add_counts(pa.array(["new", "a", "idle"]), np.array([3, 1, 0]))
    assert counter.counts().to_pydict() == {"key": ["new", "a", "b"], "count": [3, 2, 2]}


def test_ids_of_an_index() -> None:
    index = KeyIndex(["late", "b", "a"])
    counter = KeyCounter()
    counter.add(pa.array(["a", "b", "a"]))
    assert Vocabulary.fit(counter).ids_of(index).tolist() == [1, 3, 2, 0]
    hashed = HashVocabulary(100)
    expected = hashed.encode(pa.array(["late", "b", "a", None]))
    assert hashed.ids_of(index).tolist() == expected.tolist()


@given(
    st.lists(st.text(max_size=12) | st.sampled_from(["k", "k\0", "k" * 8, "k" * 9]), unique=True)
)
def test_keys_are_sorted_by_count_then_text(texts: list[str]) -> None:
    counts = np.array([1 + len(text) % 3 + 70_000 * (text < "b") for text in texts], np.int64)
    keys_ = pa.array(["skipped", *texts], pa.large_string())[1:]
    expected = sorted(range(len(texts)), key=lambda i: (-counts[i], texts[i].encode()))
    assert order_of_keys(keys_, counts).tolist() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordering, "FEW", 0)
        assert order_of_keys(keys_, counts).tolist() == expected

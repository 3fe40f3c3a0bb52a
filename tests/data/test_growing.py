"""Encoders that grow: who gets an id, who keeps it, who loses it, and that no id is given twice."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.worlds import schema

from scalerec.data.encoding import Encoders
from scalerec.data.growing import (
    DAY_S,
    GrowConfig,
    Update,
    fault_of_growth,
    grow_encoders,
    live_ids,
)
from scalerec.data.keys import KeyIndex
from scalerec.data.numeric import NumberStats
from scalerec.data.schema import Schema
from scalerec.data.vocabulary import FIRST_ID, HashVocabulary, Vocabulary
from scalerec.errors import ConfigError, DataError

PLAIN = schema({"name": "a", "kind": "categorical"}, {"name": "n", "kind": "numeric"})


def vocabulary(keys: Sequence[str], counts: Sequence[int]) -> Vocabulary:
    return Vocabulary(pa.array(keys, pa.large_string()), np.array([0, 0, *counts]))


def encoders(keys: Sequence[str], counts: Sequence[int], schema: Schema = PLAIN) -> Encoders:
    return Encoders(schema, {"a": vocabulary(keys, counts)}, {"n": NumberStats(1.0, 2.0)})


def seen(counts: Mapping[str, int]) -> dict[str, pa.Table]:
    keys = pa.array(list(counts), pa.large_string())
    return {"a": pa.table({"key": keys, "count": pa.array(list(counts.values()), pa.int64())})}


def day(number: int) -> Update:
    return Update(first=number * DAY_S, last=(number + 1) * DAY_S - 1, unit=DAY_S)


def grow(old: Encoders, counts: Mapping[str, int], number: int = 1, **config: Any) -> Encoders:
    return grow_encoders(old, seen(counts), GrowConfig.from_dict(config), day(number))


def own(grown: Encoders) -> Vocabulary:
    found = grown.vocabularies["a"]
    assert isinstance(found, Vocabulary)
    return found


def ids(grown: Encoders, *keys: str | None) -> list[int]:
    found: list[int] = own(grown).encode(pa.array(keys, pa.string())).tolist()
    return found


def waiting(grown: Encoders) -> list[tuple[str, int]]:
    growth = own(grown).growth
    assert growth is not None
    return [(row["key"], row["count"]) for row in growth.waiting.to_pylist()]


class TestAdmission:
    def test_old_ids_stay_and_new_ones_follow_by_count_then_text(self) -> None:
        old = encoders(["x", "y"], [5, 3])
        grown = grow(old, {"y": 2, "d": 1, "c": 1, "e": 4})
        assert ids(grown, "x", "y", "e", "c", "d", "z", None) == [2, 3, 4, 5, 6, 1, 0]
        assert own(grown).counts.tolist() == [0, 0, 5, 5, 4, 1, 1]
        assert ids(old, "e") == [1]
        assert own(old).counts.tolist() == [0, 0, 5, 3]

    def test_counts_add_up_over_updates(self) -> None:
        first = grow(encoders(["x"], [9]), {"c": 2, "b": 1}, 1, admit=3)
        assert ids(first, "c", "b") == [1, 1]
        assert waiting(first) == [("c", 2), ("b", 1)]
        assert own(first).counts.tolist() == [0, 3, 9]
        second = grow(first, {"x": 1, "c": 1, "b": 1}, 2, admit=3)
        assert ids(second, "c", "b") == [3, 1]
        assert waiting(second) == [("b", 2)]
        # What was admitted does not count as unknown in the update that admits it.
        assert own(second).counts.tolist() == [0, 4, 10, 3]

    def test_the_schema_says_when_if_nothing_else_does(self) -> None:
        twice = schema({"name": "a", "kind": "categorical", "min_count": 2})
        old = Encoders(twice, {"a": vocabulary([], [])}, {})
        assert ids(grow(old, {"b": 1, "c": 2}), "b", "c") == [1, 2]
        assert ids(grow(old, {"b": 1, "c": 2}, admit=1), "b", "c") == [3, 2]

    def test_few_wait(self) -> None:
        grown = grow(encoders([], []), {"b": 2, "a": 1, "c": 1, "d": 3}, admit=9, max_waiting=3)
        assert waiting(grown) == [("d", 3), ("b", 2), ("a", 1)]
        later = grow(grown, {"e": 1}, 2, admit=9, max_waiting=3)
        assert waiting(later) == [("d", 3), ("b", 2), ("e", 1)]

    def test_a_table_may_have_its_own_rule(self) -> None:
        grown = grow(encoders([], []), {"b": 1}, admit=5, tables={"a": {"admit": 1}})
        assert ids(grown, "b") == [2]


class TestEviction:
    def test_by_age(self) -> None:
        # x and y count as seen when the first update began.
        one = grow(encoders(["x", "y"], [5, 3]), {"y": 1, "b": 1}, 1, evict_after=2.5)
        assert ids(one, "x", "y", "b") == [2, 3, 4]
        two = grow(one, {"b": 1}, 2, evict_after=2.5)
        assert ids(two, "x", "y", "b") == [2, 3, 4]
        three = grow(two, {"b": 1}, 3, evict_after=2.5)
        assert ids(three, "x", "y", "b") == [1, 3, 4]
        assert own(three).counts.tolist() == [0, 0, 0, 4, 3]
        assert live_ids(own(three)).tolist() == [True, True, False, True, True]
        assert own(three).key(2) == "(retired)"

    def test_who_comes_back_is_new(self) -> None:
        gone = grow(encoders(["x"], [5]), {"b": 1}, 1, evict_after=0.5)
        assert ids(gone, "x", "b") == [1, 3]
        back = grow(gone, {"x": 1}, 2, evict_after=5)
        assert ids(back, "x", "b") == [4, 3]
        assert own(back).counts.tolist() == [0, 0, 0, 1, 1]
        assert own(back).keys.to_pylist() == [None, "b", "x"]

    def test_who_waits_is_forgotten_too(self) -> None:
        one = grow(encoders([], []), {"b": 1}, 1, evict_after=1, admit=2)
        assert waiting(grow(one, {"c": 1}, 2, evict_after=1, admit=2)) == [("c", 1), ("b", 1)]
        assert waiting(grow(one, {"c": 1}, 3, evict_after=1, admit=2)) == [("c", 1)]

    def test_by_frequency_where_there_is_no_room(self) -> None:
        old = encoders(["x", "y", "z"], [5, 3, 1])
        grown = grow(old, {"z": 1, "b": 4, "c": 1}, max_ids=3, evict_first="rare")
        assert ids(grown, "x", "b", "y", "z", "c") == [2, 5, 3, 1, 1]
        assert waiting(grown) == [("c", 1)]

    def test_by_age_where_there_is_no_room(self) -> None:
        old = encoders(["x", "y", "z"], [5, 3, 1])
        grown = grow(old, {"z": 1, "b": 4, "c": 1}, max_ids=3)
        assert ids(grown, "x", "y", "z", "b", "c") == [1, 1, 4, 5, 6]
        # Among equals the earlier one stays.
        assert ids(grow(encoders(["x", "y"], [1, 1]), {"b": 1}, max_ids=1), "x", "b") == [1, 4]
        assert ids(grow(encoders(["x", "y"], [1, 1]), {}, max_ids=1), "x", "y") == [2, 1]

    def test_updates_are_counted_where_there_is_no_time(self) -> None:
        old = encoders(["x"], [1])
        config = GrowConfig(evict_after=1.0)
        for number, expected in ((0, 2), (1, 1)):
            update = Update.of(None, old)
            assert (update.first, update.last, update.unit) == (number, number + 1, 1)
            old = grow_encoders(old, seen({"b": 1}), config, update)
            assert ids(old, "x") == [expected]

    def test_times_of_rows(self) -> None:
        found = Update.of(np.array([7, 3, 5]), encoders([], []))
        assert (found.first, found.last, found.unit) == (3, 7, DAY_S)


@pytest.mark.parametrize("size", [50, 6_000])
def test_many_keys_with_retired_ones_between(size: int) -> None:
    """Few keys are found in a dictionary, many in a compiled table."""
    old = encoders([f"k{i}" for i in range(size)], [3] * size)
    fresh = {f"k{i}": 1 for i in range(size // 2, size + size // 4)}
    grown = grow(old, fresh, 1, evict_after=0.5)
    assert own(grown).keys.null_count == size // 2
    expected = [1] * (size // 2) + [i + FIRST_ID for i in range(size // 2, size)]
    assert ids(grown, *(f"k{i}" for i in range(size))) == expected
    new = [f"k{i}" for i in range(size, size + size // 4)]
    assert ids(grown, *sorted(new)) == [*range(size + FIRST_ID, size + size // 4 + FIRST_ID)]
    index = KeyIndex(["k0", f"k{size - 1}", "other", new[0]])
    found = own(grown).ids_of(index).tolist()
    assert found == [*ids(grown, "k0", f"k{size - 1}", "other", new[0]), 0]


@given(
    days=st.lists(
        st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 4), max_size=5), max_size=6
    ),
    config=st.fixed_dictionaries(
        {
            "admit": st.integers(1, 3),
            "max_ids": st.integers(0, 3),
            "evict_after": st.sampled_from([0.0, 1.5, 3.0]),
            "evict_first": st.sampled_from(["old", "rare"]),
            "max_waiting": st.integers(0, 4),
        }
    ),
)
def test_an_id_belongs_to_one_key_for_ever(
    days: list[dict[str, int]], config: dict[str, Any]
) -> None:
    grown = encoders(["a", "b"], [2, 1])
    owner: dict[int, str] = {2: "a", 3: "b"}
    for number, counts in enumerate(days, 1):
        before, grown = grown, grow(grown, counts, number, **config)
        assert fault_of_growth(grown, before) == ""
        keys = own(grown).keys.to_pylist()
        live = [key for key in keys if key is not None]
        assert len(set(live)) == len(live)
        assert len(live) <= (config["max_ids"] or 99)
        assert not {key for key, _ in waiting(grown)} & set(live)
        assert len(waiting(grown)) <= config["max_waiting"]
        for id_, key in enumerate(keys, FIRST_ID):
            assert key is None or owner.setdefault(id_, key) == key
        assert ids(grown, *live) == [id_ for id_, key in enumerate(keys, FIRST_ID) if key]
        again = Encoders.from_table(grown.to_table())
        assert again.to_table().equals(grown.to_table(), check_metadata=True)


class TestStored:
    def test_what_never_grew_is_stored_as_before(self) -> None:
        table = encoders(["x"], [1]).to_table()
        assert table.column_names == ["vocabulary", "key", "count"]
        assert own(Encoders.from_table(table)).growth is None

    def test_one_that_grew_beside_one_that_did_not(self) -> None:
        both = schema({"name": "a", "kind": "categorical"}, {"name": "b", "kind": "categorical"})
        parts = {"a": own(grow(encoders(["x"], [1]), {"y": 1, "z": 3}, admit=2))}
        mixed = Encoders(both, {**parts, "b": vocabulary(["q"], [4])}, {})
        again = Encoders.from_table(mixed.to_table())
        assert again.to_table().equals(mixed.to_table(), check_metadata=True)
        assert waiting(again) == [("y", 1)]
        assert ids(again, "x", "z", "y") == [2, 3, 1]
        growth = own(again).growth
        assert growth is not None
        assert (growth.last.tolist(), growth.updates) == ([0, 0, DAY_S, 2 * DAY_S - 1], 1)
        other = again.vocabularies["b"]
        assert isinstance(other, Vocabulary)
        assert (other.keys.to_pylist(), other.growth) == (["q"], None)


class TestFaults:
    def test_same_and_grown_are_none(self) -> None:
        old = encoders(["x", "y"], [2, 1])
        assert fault_of_growth(old, old) == ""
        assert fault_of_growth(grow(old, {"b": 1}, 5, evict_after=1), old) == ""

    @pytest.mark.parametrize(
        ("later", "words"),
        [
            (encoders(["y", "x"], [2, 1]), "an id of 'a' belongs to another key"),
            (encoders(["x"], [2]), "an id of 'a' belongs to another key"),
            (Encoders(PLAIN, {"a": vocabulary(["x", "y"], [2, 1])}, {}), "statistics of 'n'"),
            (Encoders(PLAIN, {"a": HashVocabulary(7)}, {}), "the hashed ids of 'a' differ"),
            (Encoders(PLAIN, {}, {}), "the vocabularies differ"),
            (encoders(["x", "y"], [2, 1], schema({"name": "a", "kind": "categorical"})), "schemas"),
        ],
    )
    def test_others(self, later: Encoders, words: str) -> None:
        assert words in fault_of_growth(later, encoders(["x", "y"], [2, 1]))

    def test_a_retired_id_is_not_given_again(self) -> None:
        gone = grow(encoders(["x"], [1]), {"b": 1}, evict_after=0.5)
        assert "another key" in fault_of_growth(encoders(["x", "b"], [1, 1]), gone)

    def test_tables_that_cannot_grow(self) -> None:
        hashed = Encoders(PLAIN, {"a": HashVocabulary(7)}, {})
        config = GrowConfig(tables={"a": {"admit": 2}})
        with pytest.raises(DataError, match="table 'a' cannot grow; these can: none"):
            grow_encoders(hashed, {}, config, day(1))
        assert grow_encoders(hashed, {}, GrowConfig(), day(1)).vocabularies == hashed.vocabularies

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"admit": -1}, "admit must be at least 0; got -1"),
            ({"max_waiting": -1}, "max_waiting must be at least 0; got -1"),
            ({"tables": {"a": {"max": 1}}}, "tables.a: unknown setting 'max'"),
            ({"evict_first": "new"}, "evict_first must be one of old, rare; got 'new'"),
        ],
    )
    def test_settings(self, values: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            GrowConfig.from_dict(values)

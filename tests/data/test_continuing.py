"""A data set that continues a bundle is what all rows at once would have given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.worlds import RICH, prepared, raw, rich_tables
from tests.data.worlds import schema as schema_of
from tests.train.toys import narrow

from scalerec.bundle import write_recommender
from scalerec.bundle.growing import base_of
from scalerec.data.batches import Batch
from scalerec.data.continuing import Base
from scalerec.data.dataset import Dataset
from scalerec.data.growing import GrowConfig, fault_of_growth
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.schema import Schema
from scalerec.data.vocabulary import Vocabulary
from scalerec.errors import DataError, SchemaError
from scalerec.models.recommender import build_recommender

WHOLE = {"split": {"valid": 0.0, "test": 0.0}}
TITLED = schema_of(
    {"name": "u", "kind": "categorical", "role": "user"},
    {"name": "past", "kind": "sequence", "role": "user", "history": "all", "max_length": 2},
    {"name": "i", "kind": "categorical", "role": "item"},
    {"name": "colour", "kind": "categorical", "table": "items", "optional": True},
    user="u", item="i", timestamp="t", title="name", tables={"items": {}},
)  # fmt: skip


def base_from(dataset: Dataset, path: Path, **grow: Any) -> Base:
    """What a bundle knows whose model was not trained at all."""
    recommender = build_recommender(dataset.layout, narrow(), 1)
    bundle = write_recommender(path, recommender, dataset, ())
    return base_of(bundle, GrowConfig.from_dict(grow))


def go_on(path: Path, schema: Schema, tables: list[Any], base: Base, **config: Any) -> Dataset:
    ready = PrepareConfig.from_dict({**WHOLE, **config})
    return prepare(raw(schema, *tables), path, ready, base=base)


def read(dataset: Dataset) -> Batch:
    return dataset.split("train").read(0, dataset.num_rows("train"))


def names(dataset: Dataset, table: str, ids: Any) -> list[str]:
    vocabulary = dataset.encoders.vocabularies[table]
    assert isinstance(vocabulary, Vocabulary)
    return [vocabulary.key(int(id_)) for id_ in ids]


def decoded(dataset: Dataset, batch: Batch) -> list[dict[str, object]]:
    """Rows in words, whatever the ids are; numbers are left out."""
    layout, rows = dataset.layout, []
    for row in range(len(batch)):
        found: dict[str, object] = {}
        for field, ids in zip(layout.ids, batch.ids, strict=True):
            if field.table in dataset.encoders.vocabularies:
                found[field.name] = names(dataset, field.table, ids[row : row + 1])[0]
        for bag_field, bag in zip(layout.bags, batch.bags, strict=True):
            own = bag.values[bag.offsets[row] : bag.offsets[row + 1]]
            found[bag_field.name] = names(dataset, bag_field.table, own)
        for vector_field, vectors in zip(layout.vectors, batch.vectors, strict=True):
            found[vector_field.name] = vectors.values[row].tolist()
        rows.append(found)
    return rows


def by_key(dataset: Dataset, table: str) -> dict[str, dict[str, object]]:
    keys = (dataset.user_table if table == "users" else dataset.item_table)["key"].to_pylist()
    batch = dataset.users if table == "users" else dataset.items
    return dict(zip(keys, decoded(dataset, batch), strict=True))


def cut(events: Mapping[str, list[Any]], start: int, stop: int) -> dict[str, list[Any]]:
    return {name: values[start:stop] for name, values in events.items()}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_days_give_what_all_at_once_gives(tmp_path: Path, seed: int) -> None:
    """Histories, users, items and their features, row by row; only ids and numbers may differ."""
    events, users, items = rich_tables(90, seed)
    # Days share no second, or a history of all at once would leave out what a day's holds.
    events["t"] = [time + 40_000 * (row // 30) for row, time in enumerate(events["t"])]
    whole = prepared(tmp_path / "all", raw(RICH, events, users, items), **WHOLE)
    one = raw(RICH, cut(events, 0, 30), users, items)
    day = prepared(tmp_path / "one", one, **WHOLE)
    for number in (1, 2):
        base = base_from(day, tmp_path / f"bundle{number}")
        # The second day's users come again, the third brings the items; nothing else is said.
        own = [
            {name: values[:keep] for name, values in table.items()}
            for table, keep in ((users, 5 * (number == 1)), (items, 6 * (number == 2)))
        ]
        tables = [cut(events, 30 * number, 30 * number + 30), *own]
        day = go_on(tmp_path / f"day{number}", RICH, tables, base)
        day.verify()
        assert day.num_rows("train") == 30
    assert decoded(day, read(day)) == decoded(whole, read(whole))[60:]
    for table in ("users", "items"):
        assert by_key(day, table) == by_key(whole, table)
    counts = dict(zip(day.item_table["key"].to_pylist(), day.item_counts.tolist(), strict=True))
    expected = zip(whole.item_table["key"].to_pylist(), whole.item_counts.tolist(), strict=True)
    assert counts == dict(expected)
    assert (
        day.own_item_counts.tolist()
        == np.bincount(read(day).items, minlength=day.num_items).tolist()
    )
    assert whole.own_item_counts.tolist() == whole.item_counts.tolist()
    assert met(day) == met(whole)


def met(dataset: Dataset) -> set[tuple[str, str]]:
    """Who has met what, in this data set or before it."""
    users, items = (t["key"].to_pylist() for t in (dataset.user_table, dataset.item_table))
    before, batch = dataset.met_before, read(dataset)
    who = np.concatenate([before[0], batch.users.numpy()])
    what = np.concatenate([before[1], batch.items.numpy()])
    return {(users[u], items[i]) for u, i in zip(who, what, strict=True)}


def small(tmp_path: Path, **grow: Any) -> tuple[Dataset, Base]:
    events = {"u": ["a", "b", "a"], "i": ["x", "y", "z"], "t": [1, 2, 3], "y": [0, 1, 1]}
    items = {"i": ["x", "y", "v"], "name": ["Ex", None, "Vee"], "colour": ["red", "blue", "red"]}
    day = prepared(tmp_path, raw(TITLED, events, items=items), **WHOLE)
    return day, base_from(day, tmp_path / "bundle", **grow)


def test_numbers_stay_and_new_ones_follow(tmp_path: Path) -> None:
    _, base = small(tmp_path)
    events = {"u": ["c", "b", "b"], "i": ["w", "x", "w"], "t": [11, 12, 13], "y": [1, 0, 1]}
    items = {"i": ["w", "y"], "name": ["We", "Why"], "colour": ["green", None]}
    day = go_on(tmp_path / "next", TITLED, [events, None, items], base)
    assert day.user_table["key"].to_pylist() == ["a", "b", "c"]
    assert day.item_table.to_pydict() == {
        "key": ["x", "y", "v", "z", "w"],
        "title": ["Ex", "Why", "Vee", "z", "We"],
    }
    batch = read(day)
    assert (batch.users.tolist(), batch.items.tolist()) == ([2, 1, 1], [4, 0, 4])
    assert [row["past"] for row in decoded(day, batch)] == [[], ["y"], ["y", "x"]]
    # What is not said of an item again stays; what is said anew replaces it.
    colours = {key: row["colour"] for key, row in by_key(day, "items").items()}
    assert colours == {"x": "red", "y": "(none)", "v": "red", "z": "(none)", "w": "green"}
    past = {key: row["past"] for key, row in by_key(day, "users").items()}
    assert past == {"a": ["x", "z"], "b": ["x", "w"], "c": ["w"]}
    assert met(day) == {("a", "x"), ("a", "z"), ("b", "y"), ("b", "x"), ("b", "w"), ("c", "w")}
    config = day.manifest["config"]
    assert config["continues"] == base.digest
    assert config["grow"]["admit"] == 0


def test_a_retired_item_leaves_histories_but_not_the_catalogue(tmp_path: Path) -> None:
    first, base = small(tmp_path, tables={"i": {"evict_after": 1e-9}})
    events = {"u": ["a", "b"], "i": ["z", "y"], "t": [11, 12], "y": [1, 0]}
    day = go_on(
        tmp_path / "next", TITLED, [events, None, {"i": [], "name": [], "colour": []}], base
    )
    assert fault_of_growth(day.encoders, first.encoders) == ""
    assert {key: row["i"] for key, row in by_key(day, "items").items()} == {
        "x": "(unknown)", "y": "y", "v": "(unknown)", "z": "z",
    }  # fmt: skip
    assert [row["past"] for row in decoded(day, read(day))] == [["(unknown)", "z"], ["y"]]
    base = base_from(day, tmp_path / "later")
    events = {"u": ["a"], "i": ["x"], "t": [21], "y": [1]}
    day = go_on(
        tmp_path / "third", TITLED, [events, None, {"i": [], "name": [], "colour": []}], base
    )
    # Its key is a new one now; and the old history no longer tells which item it was.
    assert [row["past"] for row in decoded(day, read(day))] == [["z", "z"]]
    assert by_key(day, "items")["x"]["i"] == "x"


def test_side_tables_may_be_in_other_files(tmp_path: Path) -> None:
    first, base = small(tmp_path)
    moved = TITLED.replace(tables={"items": {"file": "tuesday/items.csv"}})
    events = {"u": ["a"], "i": ["z"], "t": [11], "y": [1]}
    nothing: dict[str, list[str]] = {"i": [], "name": [], "colour": []}
    day = go_on(tmp_path / "next", moved, [events, None, nothing], base)
    assert day.schema == first.schema


def test_refusals(tmp_path: Path) -> None:
    _, base = small(tmp_path)
    other = schema_of({"name": "u", "kind": "categorical"})
    with pytest.raises(SchemaError, match="'u' has role user in the bundle and context here"):
        go_on(tmp_path / "next", other, [{"u": ["a"], "y": [1]}], base)
    events = {"u": ["a"], "i": ["z"], "t": [11], "y": [1]}
    with pytest.raises(DataError, match="eval_negatives are drawn from"):
        go_on(tmp_path / "next", TITLED, [events, None, {"i": []}], base, eval_negatives=1)
    assert not (tmp_path / "next").exists()

"""A schema that goes on from another: what is known keeps its meaning, what is new is added."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.data.worlds import prepared, raw
from tests.data.worlds import schema as schema_of
from tests.train.toys import narrow

from scalerec.bundle import write_recommender
from scalerec.bundle.growing import base_of
from scalerec.data.continuing import Base
from scalerec.data.dataset import Dataset
from scalerec.data.encoding import Encoders
from scalerec.data.extending import (
    absent_names,
    extend_schema,
    fault_of_extension,
    new_names,
)
from scalerec.data.growing import GrowConfig, fault_of_growth
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.schema import Schema
from scalerec.data.sources import TableSource
from scalerec.data.vocabulary import HashVocabulary, Vocabulary
from scalerec.errors import DataError, SchemaError
from scalerec.models.recommender import build_recommender

KEYS = {"user": "u", "item": "i", "timestamp": "t"}
USER = {"name": "u", "kind": "categorical", "role": "user"}
ITEM = {"name": "i", "kind": "categorical", "role": "item"}
PAST = {"name": "past", "kind": "sequence", "role": "user", "history": "all", "max_length": 3}
BOOKS = schema_of(
    USER, PAST, ITEM,
    {"name": "genre", "kind": "categorical", "table": "items", "min_count": 2, "optional": True},
    {"name": "shop", "kind": "categorical", "buckets": 8},
    {"name": "price", "kind": "numeric"},
    {"name": "pages", "kind": "numeric", "transform": "quantile", "num_buckets": 3},
    **KEYS, tables={"items": {}},
)  # fmt: skip
FILMS = schema_of(
    {"name": "studio", "kind": "categorical", "role": "item"},
    {"name": "u", "kind": "categorical", "role": "user", "column": "who"},
    {"name": "minutes", "kind": "numeric"},
    {"name": "i", "kind": "categorical", "role": "item", "column": "film"},
    {"name": "genre", "kind": "categorical", "role": "item", "column": "kind_of_film"},
    {"name": "price", "kind": "numeric", "column": "ticket"},
    {"name": "cast", "kind": "sequence", "role": "item", "separator": ";",
     "optional": True},
    user="who", item="film", timestamp="at",
)  # fmt: skip
BOOK_ROWS: dict[str, Any] = {
    "u": ["a", "b", "a", "c", "b", "a"],
    "i": ["x", "y", "y", "x", "z", "z"],
    "t": [1, 2, 3, 4, 5, 6],
    "shop": ["s", "t", "s", "s", "t", "t"],
    "price": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "pages": [10, 20, 30, 40, 50, 60],
    "y": [1, 0, 1, 0, 1, 0],
}
BOOK_ITEMS = {"i": ["x", "y", "z"], "genre": ["crime", "crime", "rare"]}
FILM_ROWS: dict[str, Any] = {
    "who": ["a", "d", "a", "d"],
    "film": ["x", "f", "g", "g"],
    "at": [11, 12, 13, 14],
    "studio": ["p", "q", "q", "q"],
    "minutes": [90, 100, 110, 120],
    "kind_of_film": ["crime", "drama", "drama", "space"],
    "ticket": [3.5, 3.5, 10.0, 7.0],
    "cast": ["k;l", "", "l", "m;k"],
    "y": [1, 1, 0, 1],
}
WHOLE = {"split": {"by": "random", "valid": 0.0, "test": 0.0}}


def source(path: Path) -> tuple[Dataset, Base]:
    """Data of books, and what a bundle of them knows."""
    books = prepared(path / "books", raw(BOOKS, BOOK_ROWS, None, BOOK_ITEMS), **WHOLE)
    recommender = build_recommender(books.layout, narrow(), 1)
    bundle = write_recommender(path / "bundle", recommender, books, ())
    return books, base_of(bundle, GrowConfig(admit=0))


def target(path: Path, base: Base, schema: Schema = FILMS, **rows: Any) -> Dataset:
    config = PrepareConfig.from_dict(WHOLE)
    return prepare(raw(schema, {**FILM_ROWS, **rows}), path / "films", config, base=base)


def keys(encoders: Encoders, name: str) -> list[str]:
    vocabulary = encoders.vocabularies[name]
    assert isinstance(vocabulary, Vocabulary)
    return list(vocabulary.keys.to_pylist())


def test_the_schema_of_both(tmp_path: Path) -> None:
    both = extend_schema(BOOKS, FILMS)
    names = [feature.name for feature in both.features]
    assert names == [
        *("u", "past", "i", "genre", "shop", "price", "pages"), *("studio", "minutes", "cast"),
    ]  # fmt: skip
    assert new_names(both, BOOKS) == ["studio", "minutes", "cast"]
    assert absent_names(both) == ["shop", "pages"]
    own = {feature.name: feature for feature in both.features}
    assert (own["genre"].source, own["genre"].table) == ("kind_of_film", "events")
    assert own["genre"].min_count == 1  # type: ignore[union-attr]
    assert own["shop"].buckets == 8  # type: ignore[union-attr]
    assert (both.user, both.item, both.timestamp) == ("who", "film", "at")
    assert fault_of_extension(both, BOOKS) == ""
    assert fault_of_extension(BOOKS, both) == "feature 'studio' is missing"
    (tmp_path / "both.toml").write_text(both.to_toml())
    assert Schema.from_toml(tmp_path / "both.toml") == both
    assert Schema.from_dict(both.to_dict()) == both
    assert extend_schema(BOOKS, BOOKS) is BOOKS
    # The next day's rows of films go on from films.
    assert extend_schema(both, both) is both


def test_a_target_has_the_bundles_ids_and_its_own(tmp_path: Path) -> None:
    books, base = source(tmp_path)
    films = target(tmp_path, base)
    films.verify()
    before, after = books.encoders, films.encoders
    assert fault_of_growth(after, before) == ""
    for name in ("u", "i", "genre"):
        old = keys(before, name)
        assert keys(after, name)[: len(old)] == old
    assert keys(after, "u") == ["a", "b", "c", "d"]
    # A key that the bundle met once, of two that it wanted, has no id yet; films want one.
    assert keys(after, "genre") == ["crime", "drama", "space"]
    assert isinstance(after.vocabularies["shop"], HashVocabulary)
    assert after.numbers["price"] == before.numbers["price"]
    assert after.numbers["pages"] == before.numbers["pages"]
    assert keys(after, "studio") == ["q", "p"]
    assert keys(after, "cast") == ["k", "l", "m"]
    assert after.numbers["minutes"].mean == 105.0
    assert films.layout.beyond(books.layout) == ("studio", "minutes", "cast")
    batch = films.split("train").read(0, 4)
    place = {field.name: i for i, field in enumerate(films.layout.ids)}
    assert batch.ids[place["shop"]].tolist() == [0] * 4
    assert batch.ids[place["pages"]].tolist() == [0] * 4
    assert batch.ids[place["genre"]].tolist() == [2, 3, 3, 4]
    assert batch.ids[place["studio"]].tolist() == [3, 2, 2, 2]
    price = (np.array(FILM_ROWS["ticket"]) - 3.5) / np.std(BOOK_ROWS["price"])
    assert batch.dense[:, 0].tolist() == pytest.approx(price.tolist())
    past, cast = batch.bags
    item = {key: number + 2 for number, key in enumerate(keys(after, "i"))}
    # The bundle's history of user a comes first.
    assert past.values[past.offsets[0] : past.offsets[1]].tolist() == [item[k] for k in "xyz"]
    assert cast.lengths.tolist() == [2, 0, 1, 2]
    notes = films.manifest["notes"]
    assert notes[-2:] == [
        "fields that the bundle does not know are added: studio, minutes, cast",
        "fields of the bundle that are null in all rows here: shop, pages",
    ]


def test_what_the_target_does_not_say_of_known_items_stays(tmp_path: Path) -> None:
    _, base = source(tmp_path)
    without = FILMS.replace(features=tuple(f for f in FILMS.features if f.name != "genre"))
    films = target(tmp_path, base, without)
    assert films.schema.tables.keys() == {"items"}
    place = [field.name for field in films.layout.ids].index("genre")
    genre = dict(zip(films.item_table["key"].to_pylist(), films.items.ids[place], strict=True))
    assert {key: int(id_) for key, id_ in genre.items()} == {"x": 2, "y": 2, "z": 1, "f": 0, "g": 0}
    batch = films.split("train").read(0, 4)
    assert batch.ids[place].tolist() == [2, 0, 0, 0]


def test_users_and_items_may_be_left_behind(tmp_path: Path) -> None:
    _, base = source(tmp_path)
    own = Base(digest=base.digest, encoders=base.encoders, items=None, users=None, left=("items",))
    films = target(tmp_path, own)
    assert films.item_table["key"].to_pylist() == ["x", "f", "g"]
    assert films.user_table["key"].to_pylist() == ["a", "d"]
    assert films.manifest["config"]["left"] == ["items"]


def test_rows_without_times_have_no_history(tmp_path: Path) -> None:
    _, base = source(tmp_path)
    films = target(tmp_path, base, FILMS.replace(timestamp=""))
    assert films.schema.history == ()
    assert films.split("train").read(0, 4).bags[0].lengths.tolist() == [0] * 4


def test_a_bundle_of_many_tasks_learns_from_one(tmp_path: Path) -> None:
    two = BOOKS.replace(tasks=(*BOOKS.tasks, BOOKS.tasks[0].replace(name="z", kind="regression")))
    both = extend_schema(two, FILMS)
    assert [task.name for task in both.tasks] == ["y", "z"]
    rows = {**BOOK_ROWS, "z": [0.5] * 6}
    books = prepared(tmp_path / "books", raw(two, rows, None, BOOK_ITEMS), **WHOLE)
    bundle = write_recommender(
        tmp_path / "bundle", build_recommender(books.layout, narrow(), 1), books, ()
    )
    films = target(tmp_path, base_of(bundle))
    assert films.split("train").read(0, 4).label_mask.tolist() == [[True, False]] * 4


def other(**changes: Any) -> Schema:
    """The films' schema with another feature of a name that is taken."""
    own = {"name": "genre", "kind": "categorical", "role": "item", "column": "kind_of_film"}
    rest = [f.to_dict() for f in FILMS.features if f.name != changes.get("name", "genre")]
    values = {**own, **changes}
    return schema_of(*rest, values, user="who", item="film", timestamp="at")


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (other(kind="numeric"), "'genre' has kind categorical in the bundle and numeric here"),
        (other(role="user"), "'genre' has role item in the bundle and user here"),
        (other(buckets=5), "'genre' has buckets none in the bundle and 5 here"),
        (other(vocabulary="studio"), "reads the ids of genre in the bundle and of studio here"),
        (other(name="price", kind="numeric", transform="log", role="context"),
         "'price' has transform standard in the bundle and log here; say the same of it, or give"),
        (other(name="past", kind="sequence", role="user"),
         "'past' has history all in the bundle and none here"),
        (FILMS.replace(tasks=(FILMS.tasks[0].replace(name="bought"),)),
         "task 'bought' is not one of the bundle's, which are y; give it the name"),
        (FILMS.replace(tasks=(FILMS.tasks[0].replace(kind="regression"),)),
         r"the tasks are \[\('y', 'binary', 1\)\] in the bundle and \[\('y', 'regression', 1\)\]"),
    ],
)  # fmt: skip
def test_what_contradicts_the_bundle_is_refused(schema: Schema, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        extend_schema(BOOKS, schema)


def test_an_items_key_of_another_name_would_break_histories() -> None:
    renamed = [f.replace(name="film") if f.name == "i" else f for f in FILMS.features]
    with pytest.raises(SchemaError, match="'past' reads the ids of i in the bundle and of film"):
        extend_schema(BOOKS, FILMS.replace(features=tuple(renamed)))


def test_a_wrong_column_of_the_target_is_named(tmp_path: Path) -> None:
    _, base = source(tmp_path)
    rows = pa.table({name: values for name, values in FILM_ROWS.items() if name != "studio"})
    with pytest.raises(DataError, match="missing column 'studio'"):
        prepare(raw(FILMS, TableSource(rows, "films")), tmp_path / "films", base=base)
    assert not (tmp_path / "films").exists()

"""Several domains in one data set: what is common, what is kept apart, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.worlds import raw
from tests.data.worlds import schema as schema_of
from tests.train.toys import narrow

from scalerec.bundle import read_bundle, write_recommender
from scalerec.bundle.growing import base_of
from scalerec.data.dataset import Dataset
from scalerec.data.growing import GrowConfig
from scalerec.data.joining import join_domains
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema
from scalerec.data.vocabulary import Vocabulary
from scalerec.errors import ConfigError, DataError, SchemaError
from scalerec.models.recommender import build_recommender
from scalerec.train import open_start

WHOLE: dict[str, Any] = {"split": {"valid": 0.0, "test": 0.0}}
USER = {"name": "u", "kind": "categorical", "role": "user"}
ITEM = {"name": "i", "kind": "categorical", "role": "item"}
PAST = {"name": "past", "kind": "sequence", "role": "user", "history": "positive"}
BOOKS = schema_of(
    USER, PAST, ITEM,
    {"name": "tags", "kind": "sequence", "table": "items", "optional": True},
    {"name": "shop", "kind": "categorical", "buckets": 1000, "column": "store"},
    {"name": "pages", "kind": "numeric"},
    {"name": "also", "kind": "sequence", "role": "item", "vocabulary": "i", "optional": True},
    user="u", item="i", timestamp="t", title="name", tables={"items": {}},
)  # fmt: skip
FILMS = Schema.from_dict(
    {
        "user": "who", "item": "film", "timestamp": "at", "title": "called",
        "tables": {"items": {"key": "id"}},
        "features": [
            {**ITEM, "column": "film"}, {**USER, "column": "who"},
            {"name": "tags", "kind": "sequence", "table": "items", "separator": ",",
             "column": "genres", "max_length": 60, "optional": True},
            {"name": "shop", "kind": "categorical", "buckets": 1000},
            {"name": "minutes", "kind": "numeric"},
        ],
        "tasks": [{"name": "y", "column": "stars", "at_least": 4.0}, {"name": "seen"}],
    }
)  # fmt: skip
BOOK_ROWS: dict[str, Any] = {
    "u": [5, 6, 5], "i": ["x", "y", "z"], "t": [1, 2, 3], "store": ["s", "t", "s"],
    "pages": [100, 200, 300], "also": [["y", "z"], None, []], "y": [1, 0, 1],
}  # fmt: skip
BOOK_ITEMS: dict[str, Any] = {
    "i": ["x", "y"], "name": ["Ex", None], "tags": ["crime|old", "old"],
}  # fmt: skip
FILM_ROWS: dict[str, Any] = {
    "who": [5, 7, 5, 5], "film": ["x", "f", "f", "g"], "at": [101, 102, 103, 104],
    "shop": ["s", "u", "u", "s"], "minutes": [90, 90, 120, 120],
    "stars": [5, 2, None, 4], "seen": [1, 1, 0, 0],
}  # fmt: skip
FILM_ITEMS: dict[str, Any] = {
    "id": ["x", "f", "n"], "called": ["Ex too", "Eff", "En"], "genres": ["crime,new", None, "new"],
}  # fmt: skip


def books(**rows: Any) -> RawData:
    return raw(BOOKS, {**BOOK_ROWS, **rows}, None, BOOK_ITEMS)


def films(schema: Schema = FILMS, **rows: Any) -> RawData:
    items = FILM_ITEMS if "items" in schema.tables else None
    return raw(schema, {**FILM_ROWS, **rows}, None, items)


def joined(path: Path, raws: dict[str, RawData], config: Any = None, **how: Any) -> Dataset:
    return prepare(
        join_domains(raws, **how), path / "joined", PrepareConfig.from_dict(config or WHOLE)
    )


def keys(dataset: Dataset, name: str) -> list[str]:
    vocabulary = dataset.encoders.vocabularies[name]
    assert isinstance(vocabulary, Vocabulary)
    return list(vocabulary.keys.to_pylist())


def column(dataset: Dataset, name: str) -> list[Any]:
    """A field of the training rows in words, or as stored where it has none."""
    batch = dataset.split("train").read(0, 99)
    places = [field.name for field in dataset.layout.ids]
    if name in places:
        ids, table = batch.ids[places.index(name)], dataset.layout.ids[places.index(name)].table
        return [_word(dataset, table, int(id_)) for id_ in ids]
    numbers = [field.name for field in dataset.layout.numbers]
    if name in numbers:
        return batch.dense[:, numbers.index(name)].tolist()
    field = next(field for field in dataset.layout.bags if field.name == name)
    bag = batch.bags[dataset.layout.bags.index(field)]
    return [
        [_word(dataset, field.table, int(v)) for v in bag.values[start:stop]]
        for start, stop in zip(bag.offsets[:-1], bag.offsets[1:], strict=True)
    ]


def _word(dataset: Dataset, table: str, id_: int) -> object:
    vocabulary = dataset.encoders.vocabularies[table]
    return vocabulary.key(id_) if isinstance(vocabulary, Vocabulary) else id_


def test_rows_side_by_side(tmp_path: Path) -> None:
    both = joined(tmp_path, {"books": books(), "films": films()})
    both.verify()
    assert column(both, "domain") == ["books"] * 3 + ["films"] * 4
    # User 5 of books is not user 5 of films, nor is item x.
    users = ["books:5", "books:6", "books:5", "films:5", "films:7", "films:5", "films:5"]
    assert column(both, "u") == users
    items = ["books:x", "books:y", "books:z", "films:x", "films:f", "films:f", "films:g"]
    assert column(both, "i") == items
    assert column(both, "also")[:2] == [["books:y", "books:z"], []]
    assert column(both, "past")[2] == ["books:x"]
    assert column(both, "past")[5:] == [["films:x"], ["films:x"]]
    # One vocabulary of what both have, whatever they call its column.
    assert set(keys(both, "tags")) == {"crime", "old", "new"}
    assert column(both, "tags") == [
        *(["crime", "old"], ["old"], []), *(["crime", "new"], [], [], []),
    ]  # fmt: skip
    # Hashed ids land in the same rows.
    shops = column(both, "shop")
    assert shops[0] == shops[2] == shops[3]
    assert shops[4] == shops[5] != shops[3]
    assert both.layout.tables["shop"] == 1002
    # What a domain lacks is the mean of the others'.
    assert column(both, "pages")[3:] == [0.0] * 4
    assert column(both, "minutes") == [0.0] * 3 + [-1.0, -1.0, 1.0, 1.0]
    batch = both.split("train").read(0, 9)
    assert np.where(batch.label_mask, batch.labels, -1).tolist() == [
        [1, -1], [0, -1], [1, -1], [1, 1], [0, 1], [-1, 0], [1, 0],
    ]  # fmt: skip
    titles = dict(zip(*(both.item_table[c].to_pylist() for c in ("key", "title")), strict=True))
    assert titles["books:x"] == "Ex"
    assert titles["films:x"] == "Ex too"
    assert titles["films:n"] == "En"
    assert titles["films:g"] == "films:g"
    longest = next(bag for bag in both.layout.bags if bag.name == "tags").max_length
    assert longest == 60
    assert both.name == "books + films"
    assert both.manifest["notes"] == [
        "domains side by side: books, films; keys of users and of items are each domain's own"
    ]


def test_keys_that_mean_the_same(tmp_path: Path) -> None:
    both = joined(tmp_path, {"books": books(), "films": films()}, shared=("user",))
    assert set(keys(both, "u")) == {"5", "6", "7"}
    assert "books:x" in keys(both, "i")
    # A user's history goes from domain to domain.
    assert column(both, "past")[3] == ["books:x", "books:z"]
    assert both.num_users == 3
    all_ = joined(tmp_path / "all", {"b": books(), "f": films()}, shared=("user", "item"))
    assert set(keys(all_, "i")) == {"x", "y", "z", "f", "g"}
    # Both list item x; the first domain's row counts.
    titles = dict(zip(*(all_.item_table[c].to_pylist() for c in ("key", "title")), strict=True))
    assert titles == {"x": "Ex", "y": "y", "f": "Eff", "n": "En", "z": "z", "g": "g"}
    assert column(all_, "tags")[3] == ["crime", "old"]
    twice = {"i": ["k", "k"], "name": [None, None], "tags": ["a", "b"]}
    more = {"a": books(), "b": raw(BOOKS, BOOK_ROWS, None, twice)}
    with pytest.raises(DataError, match="got 'k'; allowed: a key that comes once"):
        joined(tmp_path / "twice", more, shared=("item",))


def test_each_domains_rows_are_split_among_themselves(tmp_path: Path) -> None:
    """Films are all later than books; still both have rows in all parts."""
    size = 40
    more = {name: (values * size)[:size] for name, values in BOOK_ROWS.items()}
    more["t"] = list(range(size))
    many = {name: (values * size)[:size] for name, values in FILM_ROWS.items()}
    many["at"] = list(range(1000, 1000 + size))
    raws = {"books": books(**more), "films": films(**many)}
    split = {"split": {"by": "time", "valid": 0.25, "test": 0.25}}
    both = joined(tmp_path, raws, split)
    assert [both.num_rows(name) for name in ("train", "valid", "test")] == [40, 20, 20]
    for name in ("train", "valid", "test"):
        times = np.asarray(both.split(name).column("time"))
        assert (times < 1000).sum() * 2 == len(times)
    whole = joined(tmp_path / "users", raws, {"split": {"by": "user", "valid": 0.2, "test": 0.2}})
    owners = [set(np.asarray(whole.split(n).column("user")).tolist()) for n in ("train", "test")]
    assert not owners[0] & owners[1]


def test_splits_that_are_given_stay(tmp_path: Path) -> None:
    one = RawData(
        name="b", schema=BOOKS, items=books().items,
        splits={"train": books().splits["all"], "test": books().splits["all"]},
    )  # fmt: skip
    two = RawData(
        name="f", schema=FILMS, items=films().items, splits={"train": films().splits["all"]}
    )
    both = joined(tmp_path, {"b": one, "f": two})
    assert both.num_rows("test") == 3
    with pytest.raises(DataError, match="b comes in given splits and f does not"):
        join_domains({"b": one, "f": films()})


def test_what_does_not_fit_is_named_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2, column 'stars': got 'good'; allowed: a finite"):
        joined(tmp_path, {"b": books(), "f": films(stars=["5", "good", None, "4"])})
    with pytest.raises(DataError, match=r"row 3, column 'who': got None; allowed: text or a whole"):
        joined(tmp_path, {"b": books(), "f": films(who=["5", "7", None, "5"])})
    assert not (tmp_path / "joined").exists()
    config = {**WHOLE, "on_error": "skip"}
    raws = {"b": books(), "f": films(stars=["5", "good", None, "4"])}
    both = joined(tmp_path, raws, config)
    assert both.num_rows("train") == 6
    assert both.manifest["skipped"] == 1


def changed(**changes: Any) -> Schema:
    own = {"name": "shop", "kind": "categorical", "buckets": 1000, **changes}
    rest = [f.to_dict() for f in FILMS.features if f.name != own["name"]]
    return Schema.from_dict({**FILMS.to_dict(), "features": [*rest, own]})


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (changed(kind="text"), "'shop' has kind categorical in b and text in f; say the same"),
        (changed(buckets=8), "'shop' has buckets 1000 in b and 8 in f"),
        (changed(role="item"), "'shop' has role context in b and item in f"),
        (changed(table="items"), "'shop' has role context in b and item in f"),
        (changed(name="domain"), "f has a feature 'domain', which is to tell the domain"),
        (changed(name="film", column="film", role="item").replace(
            features=tuple(f for f in changed(name="film", column="film", role="item").features
                           if f.name != "i")),
         "the key of the item is feature i in b and film in f; name it alike"),
        (FILMS.replace(timestamp=""), "schema of b names a timestamp and that of f does not"),
        (FILMS.replace(tasks=(FILMS.tasks[0].replace(kind="regression", at_least=None),)),
         "task 'y' has kind binary in b and regression in f"),
    ],
)  # fmt: skip
def test_domains_that_contradict_each_other(schema: Schema, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        join_domains({"b": books(), "f": films(schema)})


def test_names_and_words() -> None:
    for raws, how, words in (
        ({}, {}, "at least one domain"),
        ({"a:b": books()}, {}, "without ':'; got 'a:b'"),
        ({"": books()}, {}, "a domain's name must be some text"),
        ({"b": books()}, {"shared": ("users",)}, "shared may hold user and item; got 'users'"),
    ):
        with pytest.raises(ConfigError, match=words):
            join_domains(raws, **how)  # type: ignore[arg-type]


def test_a_new_domain_goes_on_from_the_bundle_of_others(tmp_path: Path) -> None:
    """Its hashed ids and words share rows, its keys are its own, and it is a domain of its own."""
    both = joined(tmp_path, {"books": books(), "films": films()})
    path = tmp_path / "bundle"
    write_recommender(path, build_recommender(both.layout, narrow(), 1), both, ())
    base = base_of(read_bundle(path), GrowConfig(admit=1), keep=())
    games = BOOKS.replace(
        features=(*BOOKS.features, FILMS.features[-1].replace(name="level", column="pages"))
    )
    rows = raw(games, BOOK_ROWS, None, BOOK_ITEMS)
    target = prepare(
        join_domains({"games": rows}), tmp_path / "games", PrepareConfig.from_dict(WHOLE), base=base
    )
    start = open_start(path, target)
    assert start.added == ("level",)
    assert column(target, "domain") == ["games"] * 3
    assert keys(target, "domain") == [*keys(both, "domain"), "games"]
    assert column(target, "u") == ["games:5", "games:6", "games:5"]
    assert column(target, "shop") == column(both, "shop")[:3]
    assert keys(target, "tags") == keys(both, "tags")
    assert target.item_table["key"].to_pylist() == ["games:x", "games:y", "games:z"]
    assert target.num_users == 2

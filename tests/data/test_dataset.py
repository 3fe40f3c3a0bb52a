"""A data set on disk gives the same batches as a slow row-by-row reading of the raw tables."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.data.worlds import RICH, prepared, raw, rich_tables, schema

from scalerec.data.batches import Batch
from scalerec.data.columns import Columns, ColumnWriter
from scalerec.data.dataset import Dataset
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.sources import TableSource
from scalerec.errors import DataError

EVENTS, USERS, ITEMS = rich_tables()
RAW = raw(RICH, EVENTS, USERS, ITEMS)
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(tmp_path_factory.mktemp("rich"), RAW)


def rows_of_splits(dataset: Dataset) -> dict[str, list[int]]:
    """The rows of the events table in each split: they are in the order of time."""
    sizes = [dataset.num_rows(split) for split in SPLITS]
    ends = np.cumsum(sizes)
    return {s: list(range(e - n, e)) for s, n, e in zip(SPLITS, sizes, ends, strict=True)}


class Reference:
    """One row at a time, from the raw tables, in plain Python."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.layout = dataset.layout
        self.fields = {field.name: field for field in self.layout.fields}
        self.train = rows_of_splits(dataset)["train"]
        self.met = {key: {EVENTS[key][row] for row in self.train} for key in ("u", "i")}

    def id_of(self, table: str, key: str | None) -> int:
        keys = self.dataset.encoders.vocabularies[table].keys.to_pylist()  # type: ignore[union-attr]
        return 0 if key is None else keys.index(key) + 2 if key in keys else 1

    def of_user(self, key: str, name: str) -> Any:
        return dict(zip(USERS["u"], USERS[name], strict=True)).get(key)

    def of_item(self, key: str, name: str) -> Any:
        return dict(zip(ITEMS["id"], ITEMS[name], strict=True)).get(key)

    def history(self, row: int, positive: bool, most: int) -> list[int]:
        user, time = EVENTS["u"][row], EVENTS["t"][row]
        earlier = [
            EVENTS["i"][other]
            for other in range(len(EVENTS["u"]))
            if EVENTS["u"][other] == user
            and EVENTS["t"][other] < time
            and (not positive or EVENTS["y"][other] == 1)
        ]
        return [self.id_of("i", key) for key in earlier[-most:]]

    def scaled(self, name: str, value: float | None, seen: list[float]) -> float:
        return 0.0 if value is None else (value - float(np.mean(seen))) / float(np.std(seen))

    def bucket(self, value: float) -> int:
        edges = np.quantile([EVENTS["depth"][row] for row in self.train], [1 / 3, 2 / 3])
        return 2 + int((value >= edges).sum())

    def price(self, item: str) -> float:
        met = [self.of_item(key, "price") for key in sorted(self.met["i"])]
        return self.scaled("price", self.of_item(item, "price"), [v for v in met if v is not None])

    def row(self, row: int) -> dict[str, Any]:
        event = {name: values[row] for name, values in EVENTS.items()}
        user, item = event["u"], event["i"]
        image = self.of_item(item, "image")
        seen = [EVENTS["speed"][r] for r in self.train if EVENTS["speed"][r] is not None]
        return {
            "u": self.id_of("u", user),
            "country": self.id_of("country", self.of_user(user, "country")),
            "mood": self.id_of("mood", event["mood"]),
            "past": self.history(row, False, 3),
            "liked": self.history(row, True, 2),
            "i": self.id_of("i", item),
            "tags": [self.id_of("tags", tag) for tag in self.of_item(item, "tags") or []],
            "seen_tags": [self.id_of("tags", tag) for tag in event["seen_tags"] or []],
            "price": self.price(item),
            "image": (image or [0.0, 0.0], image is not None),
            "shelf": [self.id_of("shelf", tag) for tag in event["shelf"]],
            "hour.hour": event["t"] // 3600 % 24 + 2,
            "depth": self.bucket(event["depth"]),
            "speed": self.scaled("speed", event["speed"], seen),
            "labels": [0.0 if event["y"] is None else float(event["y"]), event["z"]],
            "label_mask": [event["y"] is not None, True],
            "weights": event["w"],
            "times": event["t"],
        }


def plain_row(dataset: Dataset, batch: Batch, row: int) -> dict[str, Any]:
    layout = dataset.layout
    found: dict[str, Any] = {
        field.name: batch.ids[i, row].item() for i, field in enumerate(layout.ids)
    }
    for i, number in enumerate(layout.numbers):
        found[number.name] = batch.dense[row, i].item()
    for bag, bag_field in zip(batch.bags, layout.bags, strict=True):
        found[bag_field.name] = bag.values[bag.offsets[row] : bag.offsets[row + 1]].tolist()
    for vectors, vector_field in zip(batch.vectors, layout.vectors, strict=True):
        found[vector_field.name] = (vectors.values[row].tolist(), vectors.present[row].item())
    for name in ("labels", "label_mask", "weights", "times"):
        found[name] = getattr(batch, name)[row].tolist()
    return found


def close(found: Any, expected: Any) -> bool:
    """Whether two rows are equal; floats to the 7 digits of float32."""
    if isinstance(expected, float) or (isinstance(expected, list) and float in map(type, expected)):
        return bool(found == pytest.approx(expected, rel=1e-5, abs=1e-6))
    return bool(found == expected)


@pytest.mark.parametrize("split", SPLITS)
def test_events_equal_a_slow_reading(dataset: Dataset, split: str) -> None:
    reference, rows = Reference(dataset), rows_of_splits(dataset)[split]
    events = dataset.split(split)
    assert len(events) == len(rows) > 0
    parts = [events.read(start, start + 4) for start in range(0, len(rows), 4)]
    for batch in (events.read(0, len(rows)), Batch.concat(parts)):
        for place, row in enumerate(rows):
            found, expected = plain_row(dataset, batch, place), reference.row(row)
            assert found.keys() == expected.keys()
            for name in expected:
                assert close(found[name], expected[name]), (row, name, found[name], expected[name])


def test_keys_numbers_and_groups(dataset: Dataset) -> None:
    users, items = dataset.user_table["key"].to_pylist(), dataset.item_table["key"].to_pylist()
    assert users[:5] == USERS["u"]
    assert items[:6] == ITEMS["id"]
    titles = dict(zip(items, dataset.item_table["title"].to_pylist(), strict=True))
    assert titles["i3"] == "three"
    assert titles["i1"] == "i1"  # no title
    assert titles["i4"] == "i4"  # not in the table
    for split, rows in rows_of_splits(dataset).items():
        batch = dataset.split(split).read(0, 1000)
        assert [users[n] for n in batch.users.tolist()] == [EVENTS["u"][row] for row in rows]
        assert [items[n] for n in batch.items.tolist()] == [EVENTS["i"][row] for row in rows]
        assert batch.groups.equal(batch.users)
    train = rows_of_splits(dataset)["train"]
    counts = [sum(EVENTS["i"][row] == key for row in train) for key in items]
    assert dataset.item_counts.tolist() == counts


def test_the_catalogue_has_the_items_part_of_every_item(dataset: Dataset) -> None:
    reference, items = Reference(dataset), dataset.items
    keys = dataset.item_table["key"].to_pylist()
    assert len(items) == dataset.num_items == len(keys)
    splits = rows_of_splits(dataset)
    for number, key in enumerate(keys):
        found = plain_row(dataset, items, number)
        image = reference.of_item(key, "image")
        assert found["i"] == reference.id_of("i", key) != 0
        assert found["tags"] == [
            reference.id_of("tags", t) for t in reference.of_item(key, "tags") or []
        ]
        assert close(found["price"], reference.price(key))
        assert found["image"] == (image or [0.0, 0.0], image is not None)
        train = [row for row in splits["train"] if EVENTS["i"][row] == key]
        later = [row for s in SPLITS[1:] for row in splits[s] if EVENTS["i"][row] == key]
        row = train[-1] if train else later[0] if later else None
        shelf = [] if row is None else EVENTS["shelf"][row]
        assert found["shelf"] == [reference.id_of("shelf", tag) for tag in shelf]
        empty = ("u", "country", "mood", "hour.hour", "depth", "speed", "past", "seen_tags")
        assert all(found[name] in (0, 0.0, []) for name in empty)
    assert items.items.tolist() == list(range(len(keys)))
    assert items.users.eq(-1).all()
    assert found["i"] == 1 or keys[-1] in reference.met["i"]
    assert plain_row(dataset, items, keys.index("i20"))["i"] == 1  # in the table, never met


def test_users_are_as_at_the_end_of_training(dataset: Dataset) -> None:
    reference, users = Reference(dataset), dataset.users
    train = rows_of_splits(dataset)["train"]
    for number, key in enumerate(dataset.user_table["key"].to_pylist()):
        found = plain_row(dataset, users, number)
        own = [row for row in train if EVENTS["u"][row] == key]
        assert found["u"] == reference.id_of("u", key)
        assert found["past"] == [reference.id_of("i", EVENTS["i"][row]) for row in own[-3:]]
        liked = [row for row in own if EVENTS["y"][row] == 1]
        assert found["liked"] == [reference.id_of("i", EVENTS["i"][row]) for row in liked[-2:]]
        if own:
            assert found["mood"] == reference.id_of("mood", EVENTS["mood"][own[-1]])
        assert found["i"] == found["depth"] == 0
    assert users.users.tolist() == list(range(len(users)))
    assert users.groups.eq(-1).all()


def test_opening_and_names(dataset: Dataset) -> None:
    again = Dataset(str(dataset.directory))
    assert (again.name, again.digest, again.layout) == ("small", dataset.digest, dataset.layout)
    assert again.schema == RICH
    again.verify()
    with pytest.raises(DataError, match=r"no rows in split 'tset'; there is \w+ \(\d+ rows\), "):
        again.split("tset")
    with pytest.raises(DataError, match="the events have no column 'group'"):
        again.split("train").column("group")
    with pytest.raises(DataError, match="no stored negatives of split 'test'; prepare with"):
        again.negatives("test")


def test_without_users_and_items_there_are_none(tmp_path: Path) -> None:
    flat = schema({"name": "a", "kind": "categorical"})
    made = prepared(
        tmp_path, raw(flat, {"a": ["x", "y"] * 9, "y": [0, 1] * 9}), split={"by": "random"}
    )
    assert (made.num_users, made.num_items) == (0, 0)
    with pytest.raises(DataError, match="its schema names no item"):
        _ = made.items
    with pytest.raises(DataError, match="its schema names no user"):
        _ = made.users
    batch = made.split("train").read(0, 5)
    assert batch.weights.eq(1).all()
    assert batch.groups.eq(-1).all()
    assert batch.dense.shape == (5, 0)


# What must be refused.


@pytest.fixture
def copy(dataset: Dataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset.directory, tmp_path / "copy"))


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set here \(no manifest.json\); make one with"):
        Dataset(tmp_path)


@pytest.mark.parametrize("place", ["train/0003.bin", "users.arrow", "log-all/0000.bin"])
def test_a_missing_or_cut_file_is_named(copy: Path, place: str) -> None:
    file = copy / place
    whole = file.read_bytes()
    for change in (lambda: file.write_bytes(whole[:-1]), file.unlink):
        change()
        with pytest.raises(DataError, match=file.name):
            _ = Dataset(copy).user_table
        file.write_bytes(whole)
    Dataset(copy).verify()


def test_a_changed_byte_is_found(copy: Path) -> None:
    for place in ("train/0003.bin", "items.arrow"):
        file = copy / place
        whole = file.read_bytes()
        file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        with pytest.raises(DataError, match=f"{file.name}: was changed since it was written"):
            Dataset(copy).verify()
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, r"format 2; this version reads up to 1; upgrade scalerec or prepare"),
        ({"format": None}, r"not the manifest of a data set; its format is None"),
        ({"rows": {"train": 1}}, r"not whole or changed; prepare the data set again"),
        ({"digest": "0"}, r"not whole or changed; prepare the data set again"),
        (
            {"stores": None, "name": 3},
            r"not whole or changed \(name, stores\); prepare the data set",
        ),
    ],
)
def test_a_changed_manifest_is_refused(copy: Path, change: dict[str, Any], words: str) -> None:
    path = copy / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=words):
        Dataset(copy)


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[]"])
def test_a_manifest_that_is_no_manifest(copy: Path, text: bytes) -> None:
    (copy / "manifest.json").write_bytes(text)
    with pytest.raises(DataError, match=r"manifest.json: not "):
        Dataset(copy)


def test_columns_keep_to_their_directory(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path / "c")
    writer.append("a", np.arange(3))
    specs = writer.close()
    specs["a"]["file"] = "../secret"
    with pytest.raises(DataError, match=r"column 'a' has its file elsewhere: ../secret"):
        Columns(tmp_path / "c", specs)


def test_columns_of_lists(tmp_path: Path) -> None:
    writer = ColumnWriter(tmp_path / "c")
    writer.append_lists("l", np.array([1, 2, 3]), np.array([2, 0, 1]))
    writer.append_lists("l", np.array([4]), np.array([1]))
    columns = Columns(tmp_path / "c", writer.close())
    assert "l" in columns
    assert "m" not in columns
    values, offsets = columns.lists("l", slice(1, 99))
    assert (values.tolist(), offsets.tolist()) == ([3, 4], [0, 0, 1, 2])
    values, offsets = columns.lists("l", np.array([3, 0, 0], np.int32))
    assert (values.tolist(), offsets.tolist()) == ([4, 1, 2, 1, 2], [0, 1, 3, 5])


# The digest.


def test_equal_data_have_an_equal_digest(dataset: Dataset, tmp_path: Path) -> None:
    again = prepare(RAW, tmp_path / "again")
    assert again.digest == dataset.digest
    changed = {**EVENTS, "w": [0.5, *EVENTS["w"][1:]]}
    assert prepare(raw(RICH, changed, USERS, ITEMS), tmp_path / "b").digest != dataset.digest
    other = RICH.replace(title="")
    assert prepare(raw(other, EVENTS, USERS, ITEMS), tmp_path / "c").digest != dataset.digest
    config = PrepareConfig.from_dict({"split": {"test": 0.2}})
    assert prepare(RAW, tmp_path / "d", config).digest != dataset.digest


def test_the_digest_is_one_in_every_process(dataset: Dataset, tmp_path: Path) -> None:
    script = (
        "import sys; from tests.data.worlds import *\n"
        "print(prepare(raw(RICH, *rich_tables()), sys.argv[1]).digest)"
    )
    for seed in ("1", "2"):
        root = Path(__file__).parents[2]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{root / 'src'}:{root}"}
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / seed)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        assert done.stdout.strip() == dataset.digest


def test_chunks_do_not_change_a_data_set(dataset: Dataset, tmp_path: Path) -> None:
    table = TableSource(EVENTS)._table
    pieces = [table.slice(start, 7) for start in range(0, len(table), 7)]
    source = TableSource(pa.concat_tables(pieces), "all")
    assert prepare(raw(RICH, source, USERS, ITEMS), tmp_path / "d").digest == dataset.digest


def test_a_read_is_a_copy(dataset: Dataset) -> None:
    events = dataset.split("train")
    first = events.read(0, 3)
    first.weights.add_(1)
    first.ids.add_(1)
    assert not torch.equal(events.read(0, 3).weights, first.weights)
    assert not torch.equal(events.read(0, 3).ids, first.ids)

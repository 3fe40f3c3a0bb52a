"""Preparation by tasks gives, byte for byte, what one machine makes, in whatever order they end.

Here the tasks run one after the other in this process, and what they send arrives in no order, so
many schemas can be tried; `test_spark.py` runs some of them on Spark.
"""

import filecmp
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.test_prepare_golden import MANY, WORLDS, many_events
from tests.data.worlds import RICH, raw, rich_tables, schema

from scalerec.data import numeric
from scalerec.data.dataset import Dataset
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.problems import Problems
from scalerec.data.raw import RawData
from scalerec.data.sources import CsvSource, MappedSource, Source, TableSource, open_source
from scalerec.data.spark import counting, fitting, histories, numbering, writing
from scalerec.data.spark.pieces import cut_source
from scalerec.data.spark.preparing import prepare_by
from scalerec.data.spark.splitting import plan_splits
from scalerec.data.splits import SplitConfig
from scalerec.errors import DataError

TIMED = schema(
    {"name": "a", "kind": "categorical"}, {"name": "n", "kind": "numeric"}, timestamp="t"
)


class InProcess:
    """What `Cluster` does, in this process; what is sent arrives in a random order."""

    num_slots = 2

    def __init__(self) -> None:
        self.draw = random.Random(0)

    def run(self, function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        return [function(item) for item in items]

    def exchange(
        self, send: Any, items: Sequence[Any], receive: Any, num_receivers: int
    ) -> list[Any]:
        sent = [pair for item in items for pair in send(item)]
        return self._received(sent, receive, num_receivers)

    def exchange_twice(
        self, send: Any, items: Sequence[Any], relay: tuple[Any, int], receive: tuple[Any, int]
    ) -> list[Any]:
        sent = [pair for item in items for pair in send(item)]
        between = self._received(sent, lambda n, values: list(relay[0](n, values)), relay[1])
        return self._received([pair for pairs in between for pair in pairs], *receive)

    def _received(self, sent: list[tuple[int, Any]], receive: Any, count: int) -> list[Any]:
        assert all(0 <= target < count for target, _ in sent)
        self.draw.shuffle(sent)
        chosen: list[list[Any]] = [[v for t, v in sent if t == number] for number in range(count)]
        return [receive(number, iter(values)) for number, values in enumerate(chosen)]


def by_tasks(world: RawData, out: Path, config: dict[str, Any], piece_bytes: int) -> Dataset:
    cluster: Any = InProcess()
    settings = PrepareConfig.from_dict(config)
    return prepare_by(cluster, world, out, settings, piece_bytes=piece_bytes)


def files_of(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def assert_equal(world: RawData, folder: Path, piece_bytes: int, **config: Any) -> Dataset:
    """Prepare both ways, and compare every file."""
    one = prepare(world, folder / "one", PrepareConfig.from_dict(config))
    several = by_tasks(world, folder / "several", config, piece_bytes)
    names = files_of(folder / "one")
    assert files_of(folder / "several") == names
    _, differ, errors = filecmp.cmpfiles(folder / "one", folder / "several", names, shallow=False)
    assert (set(differ) <= {"manifest.json"}, errors) == (True, [])
    # Rows that were left out are listed chunk by chunk, and chunks are others; all else is equal.
    listed = [made.manifest.pop("skipped_rows") for made in (one, several)]
    assert sorted(listed[0]) == sorted(listed[1])
    assert several.manifest == one.manifest
    assert several.digest == one.digest
    several.verify()
    return several


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is joined by several tasks where there is much, by several here."""
    monkeypatch.setattr(numeric, "BLOCK", 64)
    monkeypatch.setattr(numbering, "JOINED_KEYS", 50)
    monkeypatch.setattr(fitting, "JOINED_KEYS", 50)
    monkeypatch.setattr(histories, "EVENTS", 100)


@pytest.fixture
def few_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users and items of small worlds, by several tasks too."""
    monkeypatch.setattr(counting, "ENTITIES", 4)
    monkeypatch.setattr(writing, "ENTITIES", 3)


@pytest.mark.usefixtures("small_tasks", "few_entities")
@pytest.mark.parametrize("name", ["rich by time", "rich, last out", "rich, cut from train"])
def test_users_and_items_and_histories(tmp_path: Path, name: str) -> None:
    world, config = WORLDS[name](tmp_path)
    assert_equal(world, tmp_path, 8000, **{**config, "eval_negatives": 0})


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("name", ["dirty", "given", "one chunk"])
def test_every_kind_of_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(counting, "ENTITIES", 500)
    world, config = WORLDS[name](tmp_path)
    made = assert_equal(world, tmp_path, 50_000 if name != "dirty" else 1000, **config)
    assert made.num_rows("train") > 0


@pytest.mark.usefixtures("small_tasks", "few_entities")
@pytest.mark.parametrize("piece_bytes", [300, 1 << 20])
def test_parquet_and_text_and_arrow(tmp_path: Path, piece_bytes: int) -> None:
    events, users, items = (pa.table(columns) for columns in rich_tables(150, 5))
    pq.write_table(events, tmp_path / "events.parquet", row_group_size=37)
    items = items.set_column(2, "tags", pa.array(["a", "b|c", None, "", "d|a|e", "f"]))
    items = items.set_column(4, "image", pa.array(["1|2", None, "3|4", "5|6", None, "7|8"]))
    items.to_pandas().to_csv(tmp_path / "items.csv", index=False)
    pyarrow.feather.write_feather(users, tmp_path / "users.arrow", chunksize=2)
    tables = [open_source(tmp_path / f"{n}") for n in ("users.arrow", "items.csv")]
    world = raw(RICH, open_source(tmp_path / "events.parquet"), *tables)
    assert_equal(world, tmp_path, piece_bytes)


def test_a_folder_of_files_of_several_kinds(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    rows = [f"k{n % 7},{n / 8},{1000 - n},{n % 2}" for n in range(90)]
    for number in range(3):
        text = "a,n,t,y\n" + "\n".join(rows[30 * number : 30 * number + 30])
        (folder / f"{number}.csv").write_text(text + "\n" * number)
    assert_equal(raw(TIMED, open_source(folder)), tmp_path, 64)
    config = {"split": {"by": "random", "seed": 3}}
    (tmp_path / "again").mkdir()
    assert_equal(raw(TIMED, open_source(folder)), tmp_path / "again", 64, **config)


@pytest.mark.usefixtures("small_tasks")
def test_a_sample_of_many_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numeric, "SAMPLE", 200)
    monkeypatch.setattr(fitting, "SPARE", 2.0)
    world = raw(MANY, many_events(700, 2))
    assert_equal(world, tmp_path, 30_000, split={"by": "random"})


def test_sources_made_of_others(tmp_path: Path) -> None:
    events = {"a": ["x", "y", None] * 9, "n": ["1"] * 27, "t": range(27), "y": [0] * 27}
    plain = TableSource(events, "plain")
    mapped = MappedSource(plain, plain.columns, lambda batch: batch, plain.columns)
    pieces = cut_source(mapped, 60, InProcess())  # type: ignore[arg-type]
    assert len(pieces) > 3
    assert_equal(raw(TIMED, mapped), tmp_path, 60, on_error="skip")


# What is wrong is told in the same words.

HEAD = "a,n,t,y\n"
GOOD = "x,1,1,0\nz,2,2,1\nx,3,3,0\n"


def said(prepared: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        prepared()
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + GOOD + ",1,1,0\n" + GOOD,
        HEAD + GOOD + "x,one,1,0\n" + GOOD + "x,two,1,0\n",
        HEAD + GOOD + "x,1,soon,0\n",
        HEAD + GOOD + "x,1,1,2\n",
        HEAD + GOOD + "x,1,1\n" + GOOD,
        (HEAD + GOOD).encode() + b"\xff,1,1,0\n",
        HEAD + GOOD + 'x,1,1,"0\n',
        HEAD + GOOD * 3 + "x,,0,0\n" + GOOD,
        HEAD,
        HEAD + "\n\n",
        "a,n,time,y\n" + GOOD,
    ],
)
@pytest.mark.parametrize("piece_bytes", [10, 1 << 20])
def test_dirt_is_named_as_one_machine_names_it(
    tmp_path: Path, text: str | bytes, piece_bytes: int
) -> None:
    (tmp_path / "in.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    world = raw(TIMED, open_source(tmp_path / "in.csv"))
    expected = said(lambda: prepare(world, tmp_path / "one"))
    assert said(lambda: by_tasks(world, tmp_path / "several", {}, piece_bytes)) == expected
    assert sorted(tmp_path.iterdir()) == [tmp_path / "in.csv"]


def test_rows_are_numbered_through_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "events"
    folder.mkdir()
    for number in range(3):
        bad = "x,one,1,0\n" if number == 2 else ""
        (folder / f"{number}.csv").write_text(HEAD + GOOD * 4 + bad + GOOD)
    world = raw(TIMED, open_source(folder))
    expected = said(lambda: prepare(world, tmp_path / "one"))
    assert "row 43, column 'n'" in expected
    assert said(lambda: by_tasks(world, tmp_path / "several", {}, 30)) == expected
    assert_equal(world, tmp_path, 30, on_error="skip")


def test_a_key_that_comes_again_in_a_side_table(tmp_path: Path) -> None:
    events, users, items = rich_tables(30)
    users = {name: [*values, *values[:3]] for name, values in users.items()}
    world = raw(RICH, events, users, items)
    expected = said(lambda: prepare(world, tmp_path / "one"))
    assert said(lambda: by_tasks(world, tmp_path / "several", {}, 20)) == expected
    assert "row 6, column 'u': got 'u0'; allowed: a key that comes once" in expected
    assert_equal(world, tmp_path, 20, on_error="skip")


@pytest.mark.parametrize(
    ("changed", "config"),
    [
        ({}, {"split": {"valid": 0.5, "test": 0.49}}),
        ({"timestamp": ""}, {}),
        ({}, {"split": {"by": "leave-last-out"}}),
    ],
)
def test_splits_that_cannot_be(
    tmp_path: Path, changed: dict[str, Any], config: dict[str, Any]
) -> None:
    events = {"a": ["x"] * 4, "n": [1.0] * 4, "t": [7] * 4, "y": [0, 1] * 2}
    world = raw(TIMED.replace(**changed), events)
    expected = said(lambda: prepare(world, tmp_path / "one", PrepareConfig.from_dict(config)))
    assert said(lambda: by_tasks(world, tmp_path / "several", config, 20)) == expected


# Text is cut where its reader would end a record.

CELLS = st.sampled_from(["", "x", '"q"', '"a,b"', '"a\nb"', '"a""b"', '"\n\n"', 'a"b', '"c"d', "é"])
ENDS = st.sampled_from(["\n", "\r\n", "\n\n", "\r\n\n"])


def read(source: Source) -> tuple[list[list[Any]], list[int]]:
    problems, rows, numbers = Problems("skip"), [], []
    for chunk in source.chunks(("a", "b"), problems):
        rows += [list(row.values()) for row in chunk.table.to_pylist()]
        numbers += chunk.rows.tolist()
    return rows, numbers


@given(
    records=st.lists(st.tuples(CELLS, CELLS, ENDS), max_size=12),
    size=st.integers(1, 40),
    mark=st.booleans(),
    whole=st.booleans(),
)
def test_a_cut_file_holds_the_same_records(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[tuple[str, str, str]],
    size: int,
    mark: bool,
    whole: bool,
) -> None:
    path = tmp_path_factory.mktemp("cut") / "in.csv"
    text = "a,b\n" + "".join(f"{a},{b}{end}" for a, b, end in records)
    text = ("\ufeff" if mark else "") + (text if whole else text.rstrip("\r\n") + "\n")
    path.write_bytes(text.encode())
    source = CsvSource(path)
    rows, numbers = read(source)
    pieces = cut_source(source, size, InProcess())  # type: ignore[arg-type]
    found = [read(piece) for piece in pieces]
    assert [row for own, _ in found for row in own] == rows
    assert [number for _, own in found for number in own] == numbers


def test_where_text_is_not_cut(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(("a,b\n" + "é,1\n" * 40).encode("latin-1"))
    source = CsvSource(tmp_path / "in.csv", encoding="latin-1")
    assert len(cut_source(source, 20, InProcess())) == 1  # type: ignore[arg-type]


def test_users_are_cut_into_runs_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.array([5, 0, 0, 3, 9, 1])
    assert histories.bounds_of(counts).tolist() == [0, 6]
    monkeypatch.setattr(histories, "EVENTS", 6)
    assert histories.bounds_of(counts).tolist() == [0, 4, 5, 6]


def test_draws_from_a_place() -> None:
    whole = np.random.default_rng(0).random(20)
    assert (numeric.draws_from(7, 13) == whole[7:]).all()


@pytest.mark.parametrize("by", ["user", "item"])
def test_splits_by_user_and_item_are_refused(by: Any) -> None:
    cluster: Any = None
    world = raw(TIMED, {"a": ["x"], "n": [1.0], "t": [1], "y": [1]})
    with pytest.raises(DataError, match=f"Spark does not split by {by}; prepare with --engine lo"):
        plan_splits(cluster, world, SplitConfig(by=by), [])

"""Preparation: strict about what it reads, fitted on training rows only, whole or not there."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.data.worlds import RICH, prepared, raw, rich_tables, schema

from scalerec.data import prepare as module
from scalerec.data.aside import folder_aside
from scalerec.data.dataset import Dataset
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.problems import Problems, shorten
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema
from scalerec.data.sources import open_source
from scalerec.errors import ConfigError, DataError

RANDOM = {"split": {"by": "random"}}
A = {"name": "a", "kind": "categorical"}
N = {"name": "n", "kind": "numeric"}
BY_TIME = schema(A, N, timestamp="t")


def csv(path: Path, text: str | bytes) -> Any:
    file = path / "in.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(file)


def vocabulary(dataset: Dataset, name: str) -> list[str]:
    return list(dataset.encoders.vocabularies[name].keys.to_pylist())  # type: ignore[union-attr]


# Dirty input.

HEAD = "a,n,t,y\n"
GOOD = "x,1,1,0\nz,2,2,1\nx,3,3,0\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + ",1,1,0\n", "row 4, column 'a': got None; allowed: text or a whole number; not"),
        (GOOD + "x,one,1,0\n", "row 4, column 'n': got 'one'; allowed: a finite number up to 3.4e"),
        (GOOD + "x,NaN,1,0\n", "row 4, column 'n': got 'NaN'; allowed: a finite number up to"),
        (GOOD + "x,inf,1,0\n", "row 4, column 'n': got 'inf'; allowed: a finite number up to"),
        (GOOD + "x,1,soon,0\n", "row 4, column 't': got 'soon'; allowed: Unix seconds (not milli"),
        (GOOD + "x,1,1700000000000,0\n", "row 4, column 't': got '1700000000000'; allowed: Unix"),
        (GOOD + "x,1,,0\n", "row 4, column 't': got None; allowed: Unix seconds"),
        (GOOD + "x,1,1,2\n", "row 4, column 'y': got '2'; allowed: 0 or 1 (or give the task"),
        (GOOD + "x,1,1\n", "row 4: got '3 values'; allowed: 4 values, one a column"),
        (GOOD.encode() + b"\xff,1,1,0\n", "row 4, column 'a': got b'\\xff'; allowed: UTF-8 text"),
        ("x,,0,0\n" + GOOD, "row 1, column 'n': got None; allowed: a finite number up to 3.4e+38; "
         "not missing (or declare the feature optional)"),
    ],
)  # fmt: skip
def test_a_dirty_row_is_named_or_left_out(tmp_path: Path, text: str | bytes, words: str) -> None:
    body = text if isinstance(text, bytes) else text.encode()
    source = csv(tmp_path, HEAD.encode() + body)
    with pytest.raises(DataError) as caught:
        prepared(tmp_path, raw(BY_TIME, source))
    assert str(caught.value).startswith(f"{tmp_path / 'in.csv'}, {words}")
    assert str(caught.value).endswith(" (or leave such rows out: --on-error skip)")
    assert not (tmp_path / "data").exists()
    left = prepared(tmp_path, raw(BY_TIME, source), on_error="skip")
    assert left.manifest["skipped"] == 1
    assert left.manifest["skipped_rows"][0].startswith(f"{tmp_path / 'in.csv'}, {words}"[:-10])
    assert sum(left.manifest["rows"].values()) == 3
    clean = raw(BY_TIME, csv(tmp_path, HEAD + GOOD))
    assert prepare(clean, tmp_path / "clean").digest == left.digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "in.csv: the file is empty; allowed: a header, then records"),
        (HEAD, "in.csv: no rows; at least one is needed"),
        ("a,n,time,y\n", "in.csv: missing column 't'; there are: a, n, time, y"),
        ("a,n,t,y,a\n", "in.csv: got columns of the same name: 'a'; allowed: each name once"),
    ],
)
def test_a_file_without_rows_or_columns(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        prepared(tmp_path, raw(BY_TIME, csv(tmp_path, text)))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "in.csv"]


def test_a_file_of_nothing_but_dirt(tmp_path: Path) -> None:
    source = csv(tmp_path, HEAD + "x,one,1,0\nx,two,1,0\n")
    with pytest.raises(
        DataError, match="no rows left after 2 were skipped; at least one is needed"
    ):
        prepared(tmp_path, raw(BY_TIME, source), on_error="skip")


def test_rows_are_counted_once_and_listed_up_to_a_bound(tmp_path: Path) -> None:
    events = {
        "a": [None, "x"] * 200,
        "n": [float("inf"), 1.0] * 200,
        "t": range(400),
        "y": [0] * 400,
    }
    made = prepared(tmp_path, raw(BY_TIME, events), on_error="skip")
    assert made.manifest["skipped"] == 200
    assert len(made.manifest["skipped_rows"]) == 100
    assert made.manifest["skipped_rows"][1].startswith("all, row 3, column 'a': got None")


def test_problems_cut_long_values() -> None:
    problems = Problems("skip")
    problems.report("f", 0, "", "x" * 100, "less")
    assert str(problems.listed[0]) == f"f: got '{'x' * 56}...; allowed: less"
    assert shorten(3) == "3"


@pytest.mark.parametrize(
    "keys",
    [
        [1, 2, 2**63 - 1],
        [1.0, 2.0, None],
        ["é ü", " ", "x" * 10_000],
        [True, False, None],
        ["1", "01", "1.0"],
    ],
)
def test_ids_of_any_type(tmp_path: Path, keys: list[Any]) -> None:
    spec = schema(
        {"name": "u", "kind": "categorical", "role": "user", "optional": True},
        {"name": "k", "kind": "categorical", "optional": True},
    )
    made = prepared(tmp_path, raw(spec, {"u": keys * 9, "k": keys * 9, "y": [0] * 27}), **RANDOM)
    expected = {k if isinstance(k, str) else str(k).lower().removesuffix(".0") for k in keys}
    assert set(vocabulary(made, "u")) == expected - {"none"}


def test_one_class_is_allowed_and_a_label_may_be_missing(tmp_path: Path) -> None:
    made = prepared(tmp_path, raw(schema(A), {"a": ["x"] * 9, "y": [1.0, None, 1.0] * 3}), **RANDOM)
    batch = made.split("train").read(0, 9)
    assert batch.labels[batch.label_mask].eq(1).all()
    assert batch.labels[~batch.label_mask].eq(0).all()


@pytest.mark.parametrize(
    ("task", "column", "expected"),
    [
        ({"at_least": 4}, [5, 4, 3.9, None], [1, 1, 0, None]),
        ({"positive": ["yes", "1"]}, ["yes", "no", "1", None], [1, 0, 1, None]),
        ({"positive": ["1"]}, [1, 2, 11, None], [1, 0, 0, None]),
        ({"positive": ["true"]}, [True, False, True, None], [1, 0, 1, None]),
        ({"kind": "multiclass", "num_classes": 3}, [0, 1, 2, None], [0, 1, 2, None]),
        ({"kind": "regression"}, ["-1.5", "2", "1e3", "nan"], [-1.5, 2, 1000, None]),
        ({"kind": "retrieval", "at_least": 1}, [0, 1, 2, None], [0, 1, 1, None]),
        ({"kind": "retrieval"}, None, [1, 1, 1, 1]),
    ],
)
def test_labels(tmp_path: Path, task: Any, column: Any, expected: list[float | None]) -> None:
    spec = Schema.from_dict({"features": [A], "tasks": [{"name": "y", **task}]})
    events = {"a": list("abcd")} | ({} if column is None else {"y": column})
    made = prepared(tmp_path, raw(spec, events, valid={**events}, test={**events}))
    for split in ("train", "valid", "test"):
        labels = made.split(split).column("labels")[:, 0]
        assert [None if np.isnan(v) else v for v in labels.tolist()] == expected
        known = [value is not None for value in expected]
        assert made.split(split).read(0, 4).label_mask[:, 0].tolist() == known


# Side tables.


def test_side_tables_are_checked_too(tmp_path: Path) -> None:
    events, users, items = rich_tables()
    twice = {**items, "id": ["i3", "i1", "i0", "i1", "i7", "i3"]}
    world = raw(RICH, events, users, twice)
    words = r"items, row 4, column 'id': got 'i1'; allowed: a key that comes once"
    with pytest.raises(DataError, match=words):
        prepared(tmp_path, world)
    made = prepared(tmp_path, world, on_error="skip")
    assert made.manifest["skipped_rows"][1].startswith("items, row 6, column 'id': got 'i3'")
    assert made.item_table["title"].to_pylist()[:2] == ["three", "i1"]
    missing = {**users, "u": ["u0", None, "u2", "u3", None]}
    with pytest.raises(DataError, match=r"users, row 2, column 'u': got None; allowed: text or"):
        prepare(raw(RICH, events, missing, items), tmp_path / "b")


def test_the_row_of_a_repeated_key_counts_the_rows_left_out_before(tmp_path: Path) -> None:
    users = "u,country,n\na,x,1\nb,y\nc,z,2\na,x,3\n"
    (tmp_path / "users.csv").write_text(users)
    spec = schema(
        {"name": "country", "kind": "categorical", "table": "users"}, user="u", tables={"users": {}}
    )
    world = raw(spec, {"u": ["a"] * 9, "y": [0] * 9}, open_source(tmp_path / "users.csv"))
    made = prepared(tmp_path, world, on_error="skip", **RANDOM)
    places = [text.split(":")[0] for text in made.manifest["skipped_rows"]]
    file = tmp_path / "users.csv"
    assert places == [f"{file}, row 2", f"{file}, row 4, column 'u'"]


def test_a_title_may_be_in_the_events(tmp_path: Path) -> None:
    spec = schema({"name": "i", "kind": "categorical", "role": "item"}, item="i", title="name")
    events = {"i": ["b", "a", "b", "c"], "name": ["Bee", None, "Other", "Sea"], "y": [0, 1, 0, 1]}
    made = prepared(tmp_path, raw(spec, events), split={"by": "random", "valid": 0.0, "test": 0.0})
    assert made.item_table.to_pydict() == {"key": ["b", "a", "c"], "title": ["Bee", "a", "Sea"]}


def test_an_empty_side_table(tmp_path: Path) -> None:
    spec = schema(
        {"name": "c", "kind": "categorical", "table": "users", "optional": True},
        user="u",
        tables={"users": {}},
    )
    empty = {"u": pa.array([], pa.string()), "c": pa.array([], pa.string())}
    made = prepared(tmp_path, raw(spec, {"u": ["a"] * 9, "y": [0] * 9}, empty), **RANDOM)
    assert made.split("train").read(0, 9).ids.eq(0).all()


# Fitted on training rows only.


def test_what_only_later_rows_hold_is_unknown(tmp_path: Path) -> None:
    features: list[dict[str, Any]] = [
        {"name": "u", "kind": "categorical", "role": "user"},
        {"name": "country", "kind": "categorical", "table": "users"},
        {"name": "age", "kind": "numeric", "table": "users"},
        {"name": "i", "kind": "categorical", "role": "item"},
        A,
        N,
        {"name": "q", "kind": "numeric", "transform": "quantile", "num_buckets": 2},
        {"name": "list", "kind": "sequence"},
    ]
    spec = schema(*features, user="u", item="i", timestamp="t", tables={"users": {}})
    train = {
        "u": ["a", "b", "a"], "i": ["p", "q", "p"], "a": ["x", "y", "x"], "n": [1.0, 2.0, 3.0],
        "q": [1.0, 2.0, 3.0], "list": ["r|s", "r", "s"], "t": [1, 2, 3], "y": [0, 1, 0],
    }  # fmt: skip
    later = {
        "u": ["new"], "i": ["new"], "a": ["new"], "n": [1e9], "q": [1e9], "list": ["new|r"],
        "t": [9], "y": [1],
    }  # fmt: skip
    users = {
        "u": ["a", "b", "new", "idle"],
        "country": ["c", "d", "e", "f"],
        "age": [1.0, 3.0, 99.0, 98.0],
    }
    made = prepared(tmp_path, raw(spec, train, users, valid=later, test=later))
    alone = {**users, "u": ["a", "b"], "country": ["c", "d"], "age": [1.0, 3.0]}
    empty = {"valid": 0.0}
    only = prepare(
        raw(spec, train, alone, test=train),
        tmp_path / "only",
        PrepareConfig.from_dict({"split": empty}),
    )
    assert made.encoders.to_table().equals(only.encoders.to_table(), check_metadata=True)
    for split in ("valid", "test"):
        batch = made.split(split).read(0, 1)
        ids = {field.name: batch.ids[k, 0].item() for k, field in enumerate(made.layout.ids)}
        assert ids == {"u": 1, "country": 1, "i": 1, "a": 1, "q": 3}
        assert batch.bags[0].values.tolist() == [1, 2]
    assert made.encoders.numbers["age"].mean == 2.0
    assert made.items.ids[:, 2].tolist().count(1) == 1


def test_a_key_feature_of_a_side_table_counts_events(tmp_path: Path) -> None:
    own = {"name": "movie", "column": "id", "kind": "categorical", "table": "items", "min_count": 2}
    spec = schema(own, item="i", timestamp="t", tables={"items": {"key": "id"}})
    events = {"i": ["p", "q", "p", "z", "z"], "t": range(5), "y": [0, 1] * 2 + [0]}
    items = {"id": ["q", "p", "never"]}
    shares = {"valid": 0.0, "test": 0.0}
    made = prepared(tmp_path, raw(spec, events, None, items), split=shares)
    assert vocabulary(made, "movie") == ["p", "z"]  # z is in no table, but is an item
    assert made.split("train").read(0, 5).ids[0].tolist() == [2, 1, 2, 3, 3]
    assert made.items.ids[0].tolist() == [1, 2, 1, 3]


# Splits.


def test_given_files_are_kept_and_valid_is_cut_from_train(tmp_path: Path) -> None:
    train = {"a": list("abcdefghij"), "n": [1.0] * 10, "t": range(10), "y": [0, 1] * 5}
    test = {"a": ["k"], "n": [1.0], "t": [0], "y": [1]}
    made = prepared(tmp_path, raw(BY_TIME, train, test=test), split={"valid": 0.3})
    assert made.manifest["rows"] == {"train": 7, "valid": 3, "test": 1}
    assert made.split("valid").column("time").tolist() == [7, 8, 9]
    whole = prepare(raw(BY_TIME, train, valid=test), tmp_path / "b")
    assert whole.manifest["rows"] == {"train": 10, "valid": 1, "test": 0}


def test_a_split_that_leaves_nothing_to_train(tmp_path: Path) -> None:
    events = {"a": ["x"] * 4, "n": [1.0] * 4, "t": [7] * 4, "y": [0, 1] * 2}
    words = r"small: the split leaves none of 4 rows to train on; choose smaller shares for valid"
    with pytest.raises(DataError, match=words):
        prepared(tmp_path, raw(BY_TIME, events), split={"valid": 0.5, "test": 0.4})


def test_a_group_of_its_own(tmp_path: Path) -> None:
    spec = schema(A, group="g")
    made = prepared(
        tmp_path, raw(spec, {"a": ["x"] * 8, "g": list("pqpr") * 2, "y": [0] * 8}), **RANDOM
    )
    groups = made.split("train").read(0, 8).groups
    assert set(groups.tolist()) <= {0, 1, 2}
    assert groups.equal(made.split("train").read(0, 8).groups)


# Negatives.


def test_stored_negatives_were_never_met(tmp_path: Path) -> None:
    world = raw(RICH, *rich_tables(40))
    made = prepared(tmp_path, world, eval_negatives=2, on_error="skip", seed=3)
    met: dict[int, set[int]] = {}
    for split in ("train", "valid", "test"):
        events = made.split(split)
        for user, item in zip(events.column("user"), events.column("item"), strict=True):
            met.setdefault(int(user), set()).add(int(item))
    for split in ("valid", "test"):
        drawn = made.negatives(split)
        assert drawn.shape == (made.num_rows(split), 2)
        for user, own in zip(made.split(split).column("user"), drawn, strict=True):
            assert len(set(own.tolist())) == 2
            assert not met[int(user)] & set(own.tolist())
    again = prepare(world, tmp_path / "b", PrepareConfig.from_dict(made.manifest["config"]))
    assert (again.negatives("test") == made.negatives("test")).all()


def test_negatives_need_users_and_items(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="eval_negatives need a user and an item; name them in"):
        prepared(tmp_path, raw(schema(A), {"a": ["x"], "y": [1]}), eval_negatives=1, **RANDOM)
    with pytest.raises(ConfigError, match="eval_negatives must not be negative; got -1"):
        PrepareConfig(eval_negatives=-1)


def test_hash_collisions_are_reported(tmp_path: Path) -> None:
    spec = schema({**A, "buckets": 2})
    made = prepared(tmp_path, raw(spec, {"a": list("abcdefgh") * 5, "y": [0] * 40}), **RANDOM)
    assert made.manifest["collisions"]["a"] >= 0.5
    assert made.layout.tables == {"a": 4}


# Whole or not there.

WORLD = raw(RICH, *rich_tables())


def test_an_existing_directory_is_kept_unless_asked(tmp_path: Path) -> None:
    out = tmp_path / "data"
    first = prepare(WORLD, out)
    with pytest.raises(DataError, match=r"exists already; choose another --out, or --overwrite"):
        prepare(WORLD, out)
    config = PrepareConfig.from_dict({"split": {"test": 0.3}})
    second = prepare(WORLD, out, config, overwrite=True)
    assert second.digest != first.digest
    assert sorted(tmp_path.iterdir()) == [out]
    stranger = tmp_path / "home"
    stranger.mkdir()
    with pytest.raises(DataError, match=r"home is no data set \(no manifest.json\), so it is not"):
        prepare(WORLD, stranger, overwrite=True)


@pytest.mark.parametrize("stage", ["write_entities", "write_log", "write_manifest", "_put"])
def test_an_exception_leaves_nothing_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    old = prepare(WORLD, tmp_path / "old")

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, stage, fail)
        for out in ("new", "old"):
            with pytest.raises(KeyboardInterrupt):
                prepare(WORLD, tmp_path / out, overwrite=True)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "old"]
    assert Dataset(tmp_path / "old").digest == old.digest
    assert prepare(WORLD, tmp_path / "new").digest == old.digest


def test_a_full_disk_is_told_and_the_old_data_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = prepare(WORLD, tmp_path / "old")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail)
        with pytest.raises(DataError, match="old: cannot be written: No space left on device"):
            prepare(WORLD, tmp_path / "old", overwrite=True)
    assert Dataset(tmp_path / "old").digest == old.digest
    assert sorted(tmp_path.iterdir()) == [tmp_path / "old"]


KILLED = """
import os, sys
from scalerec.data import prepare as module
from tests.data.worlds import RICH, raw, rich_tables
def kill(*_, **__):
    os.kill(os.getpid(), int(sys.argv[3]))
def kill_between(new, out, old):
    out.rename(old)
    kill()
setattr(module, sys.argv[2], kill_between if len(sys.argv) > 4 else kill)
module.prepare(raw(RICH, *rich_tables()), sys.argv[1], overwrite=True)
"""


def run_killed(out: Path, stage: str, number: int, *more: str) -> int:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(out), stage, str(number), *more],
        check=False,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}"},
    )
    return done.returncode


@pytest.mark.parametrize("stage", ["write_entities", "_put"])
def test_a_kill_leaves_nothing_that_opens_and_the_next_run_clears_up(
    tmp_path: Path, stage: str
) -> None:
    out = tmp_path / "data"
    assert run_killed(out, stage, signal.SIGKILL) == -signal.SIGKILL
    with pytest.raises(DataError, match="no data set here"):
        Dataset(out)
    assert [path.name.startswith(".data-") for path in tmp_path.iterdir()] == [True]
    prepare(WORLD, out).verify()
    assert sorted(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("stage", ["fit_events", "write_entities", "_put"])
def test_a_termination_leaves_nothing_at_all(tmp_path: Path, stage: str) -> None:
    assert run_killed(tmp_path / "data", stage, signal.SIGTERM) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_a_kill_between_the_renames_does_not_lose_the_old_data_set(tmp_path: Path) -> None:
    old = prepare(WORLD, tmp_path / "data")
    assert run_killed(tmp_path / "data", "_put", signal.SIGKILL, "between") == -signal.SIGKILL
    assert not (tmp_path / "data").exists()
    with pytest.raises(DataError, match="exists already; choose another --out, or --overwrite"):
        prepare(WORLD, tmp_path / "data")
    assert Dataset(tmp_path / "data").digest == old.digest
    assert sorted(tmp_path.iterdir()) == [tmp_path / "data"]


def test_folders_in_use_and_those_of_others_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "data"
    mine = tmp_path / ".data-personal"
    mine.mkdir()
    (mine / "letter.txt").touch()
    (tmp_path / ".data-abandond").mkdir()
    handler = signal.getsignal(signal.SIGTERM)
    with folder_aside(out) as used:
        assert signal.getsignal(signal.SIGTERM) is not handler
        prepare(WORLD, out)
        assert sorted(tmp_path.iterdir()) == sorted([mine, used, out])
    assert signal.getsignal(signal.SIGTERM) is handler
    assert sorted(tmp_path.iterdir()) == [mine, out]


def test_the_events_are_read_once(tmp_path: Path) -> None:
    class Once:
        name = "once"
        columns = ("a", "n", "t", "y")

        def __init__(self) -> None:
            self.reads = 0

        def chunks(self, columns: tuple[str, ...], problems: Problems) -> Any:
            self.reads += 1
            return csv(tmp_path, HEAD + "x,1,1,0\n" * 10).chunks(columns, problems)

    source = Once()
    world = RawData(name="g", schema=BY_TIME, splits={"train": source})
    assert prepared(tmp_path, world, split={"valid": 0.0}).num_rows("train") == 10
    assert source.reads == 1

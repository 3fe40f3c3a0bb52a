"""Preparation on Apache Spark, in local mode: one session for all of these tests."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.worlds import RICH, raw, rich_tables, schema

from scalerec.cli import main
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.sources import open_source
from scalerec.errors import ConfigError, DataError

pytest.importorskip("pyspark", reason="PySpark is not installed (extra: spark)")
if not shutil.which("java"):
    pytest.skip("Spark needs Java, and there is none", allow_module_level=True)

from scalerec.data.spark.preparing import prepare_on_spark
from scalerec.data.spark.session import Cluster, spark_session


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    # For so little data Java need not compile so well, nor collect garbage in several threads.
    java = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    words = {"PYSPARK_SUBMIT_ARGS": f"--driver-java-options '{java}' pyspark-shell"}
    with patch.dict(os.environ, words), spark_session("local[2]") as found:
        yield found


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Events in Parquet, users and items in text, and a schema that says what they mean."""
    events, users, items = (pa.table(columns) for columns in rich_tables(300, 5))
    pq.write_table(events, tmp_path / "events.parquet", row_group_size=90)
    items = items.set_column(2, "tags", pa.array(["a", "b|c", None, "", "d|a|e", "f"]))
    items = items.set_column(4, "image", pa.array(["1|2", None, "3|4", "5|6", None, "7|8"]))
    for name, table in (("users", users), ("items", items)):
        table.to_pandas().to_csv(tmp_path / f"{name}.csv", index=False)
    files = {"users": {"file": "users.csv"}, "items": {"file": "items.csv", "key": "id"}}
    spec = RICH.from_dict({**RICH.to_dict(), "tables": files})
    (tmp_path / "schema.toml").write_text(spec.to_toml())
    return tmp_path


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.usefixtures("session")
def test_spark_writes_what_one_machine_writes(tables: Path) -> None:
    sources = [open_source(tables / name) for name in ("events.parquet", "users.csv", "items.csv")]
    world = raw(RICH, *sources)
    one = prepare(world, tables / "one")
    several = prepare_on_spark(world, tables / "several", master="local[2]", piece_bytes=4000)
    assert several.digest == one.digest
    assert files_of(tables / "several") == files_of(tables / "one")
    assert not [path for path in tables.iterdir() if path.name.startswith(".")]


@pytest.mark.usefixtures("session")
def test_each_users_last_events_by_the_command_line(
    tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prepare", str(tables / "events.parquet"), "--schema", str(tables / "schema.toml")]
    words += ["--split", "leave-last-out", "--json", "--out"]
    assert main([*words, str(tables / "one")]) == 0
    assert main([*words, str(tables / "two"), "--engine", "spark", "--master", "local[2]"]) == 0
    one, two = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert one["digest"] == two["digest"]
    assert files_of(tables / "two") == files_of(tables / "one")


@pytest.mark.usefixtures("session")
def test_text_that_is_cut_and_a_row_that_does_not_fit(tmp_path: Path) -> None:
    spec = schema({"name": "a", "kind": "categorical"}, {"name": "n", "kind": "numeric"})
    lines = [f'"k{n % 7}\n{"," * (n % 3)}",{n / 8},{n % 2}' for n in range(200)]
    text = "a,n,y\n" + "\n".join(lines) + "\n"
    (tmp_path / "in.csv").write_text(text)
    world, config = raw(spec, open_source(tmp_path / "in.csv")), {"split": {"by": "random"}}
    settings = PrepareConfig.from_dict(config)
    one = prepare(world, tmp_path / "one", settings)
    assert prepare_on_spark(world, tmp_path / "two", settings, piece_bytes=999).digest == one.digest
    (tmp_path / "in.csv").write_text(text.replace(",20.5,", ",twenty,"))
    with pytest.raises(DataError, match=r"in.csv, row 165, column 'n': got 'twenty'; allowed: a "):
        prepare_on_spark(world, tmp_path / "three", settings, piece_bytes=999)
    assert not (tmp_path / "three").exists()


def test_a_task_that_fails_tells_why_in_one_line(session: Any) -> None:
    def fail(_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        DataError, match=r"^out: Spark gave up: OSError: .* No space left on device"
    ):
        Cluster(session, "out: Spark gave up").run(fail, [1])


@pytest.mark.usefixtures("session")
def test_what_spark_does_not_do(tmp_path: Path) -> None:
    world = raw(RICH, *rich_tables(20))
    words = "Spark draws no stored negatives: --eval-negatives needs --engine local; got 3"
    with pytest.raises(ConfigError, match=words):
        prepare_on_spark(world, tmp_path / "a", PrepareConfig(eval_negatives=3))
    with pytest.raises(ConfigError, match=r"--master local\[7\]: a session of local\[2\] is activ"):
        prepare_on_spark(world, tmp_path / "a", master="local[7]")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engine", "spark", "--continue", "b"], "Spark fits new encoders only: --continue"),
        (["--master", "local[2]"], "--master is Spark's: local[2] needs --engine spark"),
        (["--engine", "dask"], "'dask' is not one of 'local', 'spark'"),
    ],
)
def test_options_that_do_not_fit(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "x.csv", "--out", "x", *words]) == 2
    assert told in capsys.readouterr().err

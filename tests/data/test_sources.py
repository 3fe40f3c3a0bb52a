"""Parquet, Arrow and in-memory tables, sources made of others, and the choice by suffix."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from scalerec.data.problems import Problems
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Schema, Table, Task
from scalerec.data.sources import (
    ArrowSource,
    ConcatSource,
    CsvSource,
    MappedSource,
    ParquetSource,
    Source,
    SplitSource,
    TableSource,
    open_source,
)
from scalerec.data.sources.base import CHUNK_ROWS
from scalerec.errors import DataError

TABLE = pa.table({"n": [1, 2, 3], "s": ["a", None, "c"], "v": [[1.0], None, [2.0, 3.0]]})


def read(source: Source, problems: Problems | None = None, *columns: str) -> list[dict[str, Any]]:
    chunks = source.chunks(columns or source.columns, problems or Problems())
    return [
        {**row, "#": number}
        for chunk in chunks
        for row, number in zip(chunk.table.to_pylist(), chunk.rows.tolist(), strict=True)
    ]


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


WRITERS = {
    "t.parquet": pq.write_table,
    "t.feather": pa.feather.write_feather,
    "t.arrow": write_stream,
}


@pytest.mark.parametrize("name", WRITERS)
def test_columnar_files_keep_their_types(tmp_path: Path, name: str) -> None:
    WRITERS[name](TABLE, tmp_path / name)
    source = open_source(tmp_path / name)
    assert source.columns == ("n", "s", "v")
    assert read(source) == read(TableSource(TABLE)) == read(source)
    assert read(source, None, "v", "n")[0] == {"v": [1.0], "n": 1, "#": 1}
    with pytest.raises(DataError, match=rf"{name}: missing column 'x'; there are: n, s, v"):
        read(source, None, "x")


@pytest.mark.parametrize("name", WRITERS)
def test_chunks_are_bounded_and_numbered(tmp_path: Path, name: str) -> None:
    count = 2 * CHUNK_ROWS + 5
    WRITERS[name](pa.table({"n": range(1, count + 1)}), tmp_path / name)
    chunks = list(open_source(tmp_path / name).chunks(("n",), Problems()))
    assert max(len(chunk.rows) for chunk in chunks) <= CHUNK_ROWS
    for chunk in chunks:
        assert chunk.rows.tolist() == chunk.table.column("n").to_pylist()
    assert sum(len(chunk.rows) for chunk in chunks) == count


@pytest.mark.parametrize("kind", [ParquetSource, ArrowSource])
def test_broken_columnar_files_are_named(
    tmp_path: Path, kind: type[ParquetSource | ArrowSource]
) -> None:
    path = tmp_path / "t.bin"
    with pytest.raises(DataError, match=r"t\.bin: no such file"):
        kind(path)
    path.touch()
    with pytest.raises(DataError, match=r"t\.bin: the file is empty; allowed: (Parquet|Arrow)"):
        kind(path)
    path.write_bytes(b"neither of the two, but long enough")
    with pytest.raises(DataError, match=r"t\.bin: cannot be read as (Parquet|Arrow)"):
        kind(path)


def test_damage_inside_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"n": list(range(9999))}), path, compression="gzip")
    data = bytearray(path.read_bytes())
    data[100:400] = bytes(300)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read as Parquet"):
        read(ParquetSource(path))


def test_bytes_and_dictionaries_become_text(tmp_path: Path) -> None:
    words = pa.array(["a", "b"]).dictionary_encode()
    table = pa.table({"d": words, "b": pa.array([b"x", b"y"])})
    pq.write_table(table, tmp_path / "t.parquet")
    assert read(open_source(tmp_path / "t.parquet"))[1] == {"d": "b", "b": "y", "#": 2}


def test_broken_utf8_in_parquet_is_found(tmp_path: Path) -> None:
    # Arrow does not check what it is told to be text.
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    pq.write_table(pa.table({"s": broken, "n": [1, 2]}), tmp_path / "t.parquet")
    problems = Problems("skip")
    assert read(open_source(tmp_path / "t.parquet"), problems) == [{"s": "a", "n": 1, "#": 1}]
    assert str(problems.listed[0]).endswith("row 2, column 's': got b'\\xff'; allowed: UTF-8 text")


def test_tables_in_memory() -> None:
    assert read(TableSource({"a": [1], "b": ["x"]}, "mine")) == [{"a": 1, "b": "x", "#": 1}]
    assert TableSource({"a": []}).name == "table"
    assert read(TableSource({"a": []})) == []
    with pytest.raises(DataError, match=r"mine, column 'a': got values that are not of one type"):
        TableSource({"a": [1, "x"]}, "mine")
    with pytest.raises(DataError, match=r"mine: columns must have one length; got {'a': 1, 'b': 2"):
        TableSource({"a": [1], "b": [1, 2]}, "mine")
    with pytest.raises(DataError, match="columns of the same name: 'a'"):
        TableSource(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))


def test_parts_are_read_in_order_and_numbered_through(tmp_path: Path) -> None:
    for name, text in (("b.csv", "n\n3\n"), ("a.csv", "n\n1\n2\n"), ("_SUCCESS", "")):
        (tmp_path / name).write_text(text)
    for path in (tmp_path, tmp_path / "*.csv"):
        source = open_source(path)
        assert [(row["n"], row["#"]) for row in read(source)] == [("1", 1), ("2", 2), ("3", 3)]
        assert source.name == f"{path} (2 files)"
    (tmp_path / "c.csv").write_text("m\n1\n")
    with pytest.raises(
        DataError, match=r"a.csv and .*c.csv differ in columns m, n; allowed: parts"
    ):
        open_source(tmp_path)


def test_parts_may_order_their_columns_differently() -> None:
    parts = [TableSource({"a": [1], "b": [2]}), TableSource({"b": [4], "a": [3]})]
    rows = read(ConcatSource(parts, "both"))
    assert rows == [{"a": 1, "b": 2, "#": 1}, {"a": 3, "b": 4, "#": 2}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "a,b\n1,2\n"),
        ("t.tsv", "a\tb\n1\t2\n"),
        ("t.txt", "a\tb\n1\t2\n"),
        ("t.TXT", "a,b\n1,2\n"),
    ],
)
def test_the_suffix_chooses_the_delimiter(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read(open_source(tmp_path / name)) == [{"a": "1", "b": "2", "#": 1}]


def test_options_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("1;'é'\n".encode("latin-1"))
    source = open_source(path, ";", column_names=("a", "b"), encoding="latin-1", quote="'")
    assert read(source) == [{"a": "1", "b": "é", "#": 1}]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").touch()
    words = r"got a file of kind '\.xlsx'; allowed: \.csv, .*, \.parquet, \.arrow, \.feather"
    with pytest.raises(DataError, match=words):
        open_source(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match=r"t\.csv: no such file"):
        open_source(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"no file has such a name"):
        open_source(tmp_path / "*.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: the folder holds no files"):
        open_source(tmp_path / "empty")
    (tmp_path / "t.txt.gz").write_bytes(b"plain")
    with pytest.raises(DataError, match=r"t\.txt\.gz: cannot be read"):
        open_source(tmp_path / "t.txt.gz")


def test_a_mapped_source_converts_and_keeps_the_numbers() -> None:
    def double(table: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"twice": pc.multiply(table.column("a"), 2)})

    base = TableSource({"a": [1, 2], "b": [0, 0]}, "mine")
    source = MappedSource(base, ("twice",), double, ("a",))
    assert (source.name, source.columns) == ("mine", ("twice",))
    assert read(source) == [{"twice": 2, "#": 1}, {"twice": 4, "#": 2}]
    with pytest.raises(DataError, match="mine: missing column 'c'"):
        MappedSource(base, ("twice",), double, ("c",))


def test_lines_are_split_at_long_separators(tmp_path: Path) -> None:
    (tmp_path / "t.dat").write_text("1::A: B::x\n2::C\n\n3::::y\n")
    lines = CsvSource(tmp_path / "t.dat", "\x01", column_names=("line",), quote="")
    source = SplitSource(lines, "::", ("id", "title", "tag"))
    problems = Problems("skip")
    assert read(source, problems, "title", "id") == [
        {"title": "A: B", "id": "1", "#": 1},
        {"title": None, "id": "3", "#": 3},
    ]
    with pytest.raises(DataError, match=r"t.dat, row 2: got '2 values'; allowed: 3 values"):
        read(source)


def test_raw_data_checks_its_parts() -> None:
    table = TableSource({"a": [1], "y": [0]})
    features, tasks = (Categorical(name="a"),), (Task(name="y"),)
    schema = Schema(features=features, tasks=tasks, tables={})
    raw = RawData(name="mine", schema=schema, splits={"train": table, "test": table})
    assert raw.notes == ()
    for names in ((), ("all", "train"), ("test",), ("train", "dev")):
        with pytest.raises(DataError, match="mine: splits must be 'all' alone, or 'train' with"):
            RawData(name="mine", schema=schema, splits=dict.fromkeys(names, table))
    with pytest.raises(DataError, match="'items' has a source, but the schema lacks it"):
        RawData(name="mine", schema=schema, splits={"all": table}, items=table)
    joined = Schema(features=features, tasks=tasks, item="a", tables={"items": Table()})
    with pytest.raises(DataError, match="'items' has no source, but the schema declares it"):
        RawData(name="mine", schema=joined, splits={"all": table})

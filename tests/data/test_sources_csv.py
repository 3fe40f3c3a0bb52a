"""Text tables, clean and dirty: what is handed over, and which record a message names."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.problems import Problems
from scalerec.data.sources import CsvSource, Source
from scalerec.errors import DataError


def write(folder: Path, data: bytes | str, name: str = "t.csv") -> Path:
    path = folder / name
    raw = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def read(
    source: Source, problems: Problems | None = None, columns: tuple[str, ...] | None = None
) -> tuple[list[dict[str, Any]], list[int]]:
    """Read all rows as dicts, and their numbers."""
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for chunk in source.chunks(columns or source.columns, problems or Problems()):
        rows += chunk.table.to_pylist()
        numbers += chunk.rows.tolist()
    return rows, numbers


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_every_value_is_text_as_written(tmp_path: Path, name: str) -> None:
    source = CsvSource(write(tmp_path, "id,n\n007,1.50\n1e3,NaN\n", name))
    assert source.columns == ("id", "n")
    assert read(source) == ([{"id": "007", "n": "1.50"}, {"id": "1e3", "n": "NaN"}], [1, 2])
    assert read(source) == read(source)


def test_only_an_empty_unquoted_cell_is_null(tmp_path: Path) -> None:
    source = CsvSource(write(tmp_path, 'a,b\n,""\nnull,NA\n?,\n'))
    rows, _ = read(source)
    assert rows == [{"a": None, "b": ""}, {"a": "null", "b": "NA"}, {"a": "?", "b": None}]


def test_columns_come_in_the_order_asked_for(tmp_path: Path) -> None:
    rows, _ = read(CsvSource(write(tmp_path, "a,b,c\n1,2,3\n")), columns=("c", "a"))
    assert [list(row.items()) for row in rows] == [[("c", "3"), ("a", "1")]]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfa,b\r\n1,2\r\n",  # byte order mark and Windows line ends
        b"a,b\n\n1,2\n\n",  # blank lines
        b"a,b\n1,2",  # no end of line
    ],
)
def test_other_ways_to_write_the_same(tmp_path: Path, data: bytes) -> None:
    source = CsvSource(write(tmp_path, data))
    assert source.columns == ("a", "b")
    assert read(source) == ([{"a": "1", "b": "2"}], [1])


def test_quotes_delimiters_and_encodings(tmp_path: Path) -> None:
    source = CsvSource(write(tmp_path, 'a,b\n"x, ""y""\nz",2\n'))
    assert read(source)[0] == [{"a": 'x, "y"\nz', "b": "2"}]
    plain = CsvSource(write(tmp_path, '1|"x\n2|y"\n'), "|", column_names=("a", "b"), quote="")
    assert read(plain) == ([{"a": "1", "b": '"x'}, {"a": "2", "b": 'y"'}], [1, 2])
    latin = CsvSource(write(tmp_path, "é\nü\n".encode("latin-1")), encoding="latin-1")
    assert read(latin) == ([{"é": "ü"}], [1])


@pytest.mark.parametrize("data", ["a,b\n", "a,b"])
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_header_alone_is_a_table_without_rows(tmp_path: Path, data: str, name: str) -> None:
    source = CsvSource(write(tmp_path, data, name))
    assert source.columns == ("a", "b")
    assert read(source) == ([], [])


def test_ragged_rows_are_named_and_the_rest_keep_their_numbers(tmp_path: Path) -> None:
    data = 'a,b\n1,2\n3\n"4\n4",5\n6,7,8\n\n9,10\n'
    strict = CsvSource(write(tmp_path, data))
    with pytest.raises(DataError, match=r"t.csv, row 2: got '1 values'; allowed: 2 values, one a"):
        read(strict)
    problems = Problems("skip")
    rows, numbers = read(strict, problems)
    assert [row["b"] for row in rows] == ["2", "5", "10"]
    assert numbers == [1, 3, 5]
    assert problems.num_skipped == 2
    assert [(p.row, p.value) for p in problems.listed] == [(2, "'1 values'"), (4, "'3 values'")]


@pytest.mark.parametrize("header", [True, False])
def test_numbers_stay_right_over_blocks(tmp_path: Path, header: bool) -> None:
    # Every third record is ragged; each good one holds its own number.
    lines = [f"{i},x" if i % 3 else f"{i}" for i in range(1, 2001)]
    data = "\n".join(["n,x", *lines] if header else lines) + "\n"
    names = None if header else ("n", "x")
    source = CsvSource(write(tmp_path, data), column_names=names, block_bytes=64)
    problems = Problems("skip")
    rows, numbers = read(source, problems)
    assert [int(row["n"]) for row in rows] == numbers == [i for i in range(1, 2001) if i % 3]
    assert problems.num_skipped == 666
    assert [p.row for p in problems.listed] == [3 * i for i in range(1, 101)]


def test_broken_utf8_is_found_at_its_row_and_column(tmp_path: Path) -> None:
    source = CsvSource(write(tmp_path, b"a,b\n1,x\n2\n3,\xffy\n4,z\n"))
    problems = Problems("skip")
    rows, numbers = read(source, problems)
    assert ([row["a"] for row in rows], numbers) == (["1", "4"], [1, 4])
    assert str(problems.listed[1]).endswith(
        "t.csv, row 3, column 'b': got b'\\xffy'; allowed: UTF-8 text"
    )
    assert [row["a"] for row in read(source, Problems("skip"), ("a",))[0]] == ["1", "3", "4"]


def test_one_row_with_two_broken_values_is_one_problem(tmp_path: Path) -> None:
    problems = Problems("skip")
    read(CsvSource(write(tmp_path, b"a,b\n\xff,\xff\n")), problems)
    assert problems.num_skipped == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "t.csv: the file is empty; allowed: a header, then records"),
        (b"\n\n", "t.csv: the file is empty"),
        (b"a,b,a,b\n1,2,3,4\n", "got columns of the same name: 'a', 'b'; allowed: each name once"),
        (b"a\xff,b\n1,2\n", "t.csv: not utf8: .* can't decode byte 0xff"),
    ],
)
def test_what_cannot_be_opened(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        CsvSource(write(tmp_path, data))


def test_missing_files_columns_and_encodings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        CsvSource(tmp_path / "none.csv")
    source = CsvSource(write(tmp_path, "user,rating\n1,2\n"))
    words = r"t\.csv: missing columns 'ratng' \(did you mean 'rating'\?\), 'q'; there are: user, "
    with pytest.raises(DataError, match=words):
        read(source, columns=("ratng", "q"))
    with pytest.raises(DataError, match="unknown encoding 'utf9'"):
        CsvSource(source.path, encoding="utf9")


def test_broken_gzip_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b\n" + "".join(f"{i},{i * i}\n" for i in range(9000)), "t.csv.gz")
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000])
    with pytest.raises(DataError, match=r"t\.csv\.gz: cannot be read .*[Tt]runcated"):
        read(CsvSource(path))
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(DataError, match=r"t\.csv\.gz: cannot be read"):
        read(CsvSource(path))
    path.write_bytes(b"a,b\n1,2\n")
    with pytest.raises(DataError, match=r"t\.csv\.gz: cannot be read"):
        CsvSource(path)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_an_open_quote_is_not_swallowed(tmp_path: Path, name: str) -> None:
    source = CsvSource(write(tmp_path, 'a,b\n1,"x\n2,y\n3,z\n', name))
    with pytest.raises(DataError, match=r"row 1, column 'b': .*allowed: a quoted value that is cl"):
        read(source, columns=("a",))
    closed = CsvSource(write(tmp_path, 'a,b\n1,"x\n2"\n', name))
    assert read(closed)[0] == [{"a": "1", "b": "x\n2"}]
    long = write(tmp_path, 'a,b\n1,"x\n' + "2,y\n" * 100, name)
    with pytest.raises(DataError, match=r"longer than 64 bytes; is a quote left open\?"):
        read(CsvSource(long, block_bytes=64))


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=20))
def test_whatever_is_quoted_comes_back(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    lines = ['"' + '","'.join(v.replace('"', '""') for v in pair) + '"' for pair in cells]
    path = write(tmp_path_factory.mktemp("csv"), "a,b\n" + "".join(f"{line}\n" for line in lines))
    rows, numbers = read(CsvSource(path))
    assert [(row["a"], row["b"]) for row in rows] == cells
    assert numbers == list(range(1, len(cells) + 1))

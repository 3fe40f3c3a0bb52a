"""Text that a file keeps as a dictionary is read as it would be without one."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.worlds import raw, schema

from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.problems import Problems
from scalerec.data.sources import CodedSource, ParquetSource, open_source
from scalerec.errors import DataError

SIZE = 2000
SPEC = schema(
    {"name": "u", "kind": "categorical", "role": "user"},
    {"name": "i", "kind": "categorical", "role": "item"},
    {"name": "c", "kind": "categorical", "optional": True},
    {"name": "blank", "kind": "categorical", "optional": True},
    {"name": "same", "column": "c", "kind": "categorical", "buckets": 9, "optional": True},
    {"name": "words", "kind": "text", "optional": True},
    {"name": "n", "kind": "numeric", "optional": True},
    user="u",
    item="i",
    title="title",
    group="c2",
)


def columns(seed: int = 0) -> dict[str, Any]:
    draw = np.random.default_rng(seed)

    def some(values: list[str | None]) -> list[str | None]:
        return [values[k] for k in draw.integers(0, len(values), SIZE)]

    return {
        "u": some(["z", "a", "é", "m"]),
        "i": some([f"item {k}" for k in range(40)]),
        "c": some([None, "x", "y", "x" * 9]),
        "c2": some(["p", "q"]),
        "blank": some(["", None, "b"]),
        "words": some(["One two", "two THREE", "", None]),
        "n": some(["1", "2.5", None]),
        "title": some(["t", None]),
        "y": some(["0", "1", None]),
    }


def written(path: Path, table: dict[str, Any], coded: bool) -> ParquetSource:
    pq.write_table(pa.table(table), path, use_dictionary=coded, row_group_size=700)
    return ParquetSource(path)


RANDOM = PrepareConfig.from_dict({"split": {"by": "random"}, "on_error": "skip"})


def test_a_coded_file_gives_the_same_data_set(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.parquet", columns(), coded=False)
    coded = written(tmp_path / "coded.parquet", columns(), coded=True)
    chunk = next(coded.coded_chunks(("u", "n"), Problems()))
    assert all(pa.types.is_dictionary(column.type) for column in chunk.table.columns)
    chunk = next(plain.coded_chunks(("u", "n"), Problems()))
    assert not any(pa.types.is_dictionary(column.type) for column in chunk.table.columns)
    digests = {
        prepare(raw(SPEC, source), tmp_path / source.path.stem, RANDOM).digest
        for source in (plain, coded)
    }
    digests.add(prepare(raw(SPEC, columns()), tmp_path / "table", RANDOM).digest)
    assert len(digests) == 1


def test_parts_may_be_coded_or_not(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for seed in range(2):
        written(folder / f"{seed}.parquet", columns(seed), coded=seed == 1)
    source = open_source(folder)
    assert isinstance(source, CodedSource)
    rows = [row for chunk in source.coded_chunks(("u",), Problems()) for row in chunk.rows.tolist()]
    assert rows == list(range(1, 2 * SIZE + 1))
    both = {name: first + columns(1)[name] for name, first in columns(0).items()}
    expected = prepare(raw(SPEC, both), tmp_path / "table", RANDOM).digest
    assert prepare(raw(SPEC, source), tmp_path / "data", RANDOM).digest == expected


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("u", None, "row 1501, column 'u': got None; allowed: text or a whole number; not missing"),
        ("u", "", "row 1501, column 'u': got ''; allowed: text or a whole number; not missing"),
        ("n", "one", "row 1501, column 'n': got 'one'; allowed: a finite number up to 3.4e+38, or"),
        ("c", b"\xff", r"row 1501, column 'c': got b'\\xff'; allowed: UTF-8 text"),
    ],
)
def test_a_bad_member_is_named_by_its_row(
    tmp_path: Path, name: str, value: str | bytes | None, words: str
) -> None:
    table = columns()
    table[name][1500] = value
    if isinstance(value, bytes):
        text = [item.encode() if isinstance(item, str) else item for item in table[name]]
        # Arrow trusts a column that says it is text.
        table[name] = pa.Array.from_buffers(pa.string(), SIZE, pa.array(text).buffers())
    source = written(tmp_path / "in.parquet", table, coded=True)
    assert pa.types.is_dictionary(next(source.coded_chunks((name,), Problems())).table[0].type)
    with pytest.raises(DataError, match=words.replace("+", r"\+")):
        prepare(raw(SPEC, source), tmp_path / "data", RANDOM.replace(on_error="fail"))
    assert prepare(raw(SPEC, source), tmp_path / "data", RANDOM).manifest["skipped"] == 1

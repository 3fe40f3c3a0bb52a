"""MovieLens 100K: 100,000 ratings of 1,682 films by 943 people, 1997 to 1998.

Two forms are read and give equal rows: the publisher's `u.data`, `u.item` (Latin-1) and `u.user`,
and the three Parquet files that a Python package carries. The 19 flags of genres become one column
`genres`; `release_year` is the year of the release date, which one film lacks.
"""

from pathlib import Path

import pyarrow as pa

from scalerec.data.public.movielens import (
    EVENTS,
    NOTES,
    movielens_schema,
    users_with_area,
    years_of,
)
from scalerec.data.public.sets import need_files
from scalerec.data.raw import RawData
from scalerec.data.schema import Numeric, Role
from scalerec.data.sources import CsvSource, MappedSource, ParquetSource, Source

__all__ = ["PARQUET_FILES", "read_ml_100k"]

USERS = ("user_id", "age", "gender", "occupation", "zip_code")
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
ITEMS = ("item_id", "title", "release_date", "video_date", "url", *GENRES)
AGE = Numeric(name="age", role=Role.USER, table="users", transform="quantile", num_buckets=10)
PARQUET_FILES = tuple(f"MovieLens100k_{part}.parquet.brotli" for part in ("data", "users", "items"))
PARQUET_NAMES = {"movie_id": "item_id", "movie_title": "title"}


def read_ml_100k(folder: Path) -> RawData:
    """Read MovieLens 100K from a folder, in either of its forms.

    Raises:
        DataError: If the folder holds neither form whole.
    """
    events: Source
    if all((folder / name).is_file() for name in PARQUET_FILES):
        events, users, items = (_as_published(folder / name) for name in PARQUET_FILES)
    else:
        need_files(folder, ("u.data", "u.user", "u.item"))
        events = CsvSource(folder / "u.data", "\t", column_names=EVENTS, quote="")
        users = CsvSource(folder / "u.user", "|", column_names=USERS, quote="")
        items = CsvSource(folder / "u.item", "|", column_names=ITEMS, encoding="latin-1", quote="")
    return RawData(
        name="ml-100k",
        schema=movielens_schema(AGE),
        splits={"all": events},
        users=users_with_area(users),
        items=_films(items),
        notes=NOTES,
    )


def _as_published(path: Path) -> Source:
    """Give a Parquet file the names and the text values of the publisher's form."""
    source = ParquetSource(path)
    names = [PARQUET_NAMES.get(name, name) for name in source.columns]

    def convert(table: pa.RecordBatch) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([c.cast(pa.string()) for c in table.columns], names=names)

    return MappedSource(source, names, convert)


def _films(source: Source) -> Source:
    columns = ("item_id", "title", "genres", "release_year")

    def convert(table: pa.RecordBatch) -> pa.RecordBatch:
        flags = zip(*(table.column(genre).to_pylist() for genre in GENRES), strict=True)
        genres = [
            "|".join(g for g, flag in zip(GENRES, row, strict=True) if flag == "1") for row in flags
        ]
        year = years_of(table.column("release_date"), "-(?P<year>[0-9]{4})$")
        return pa.RecordBatch.from_arrays(
            [table.column("item_id"), table.column("title"), pa.array(genres, pa.string()), year],
            names=list(columns),
        )

    return MappedSource(source, columns, convert, ("item_id", "title", "release_date", *GENRES))

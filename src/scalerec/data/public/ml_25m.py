"""MovieLens 25M: 25,000,095 ratings of 62,423 films by 162,541 people, 1995 to 2019.

It tells nothing about the people, so there is no users table.
"""

from pathlib import Path

import pyarrow as pa

from scalerec.data.public.movielens import EVENTS, NOTES, movielens_schema, with_title_year
from scalerec.data.public.sets import need_files
from scalerec.data.raw import RawData
from scalerec.data.sources import CsvSource, MappedSource, Source

__all__ = ["read_ml_25m"]


def read_ml_25m(folder: Path) -> RawData:
    """Read MovieLens 25M from a folder with `ratings.csv` and `movies.csv`.

    Raises:
        DataError: If one of the files is missing.
    """
    need_files(folder, ("ratings.csv", "movies.csv"))
    ratings = _renamed(folder / "ratings.csv", ("userId", "movieId", "rating", "timestamp"), EVENTS)
    films = _renamed(
        folder / "movies.csv", ("movieId", "title", "genres"), ("item_id", "title", "genres")
    )
    return RawData(
        name="ml-25m",
        schema=movielens_schema(None),
        splits={"all": ratings},
        items=with_title_year(films),
        notes=NOTES,
    )


def _renamed(path: Path, old: tuple[str, ...], new: tuple[str, ...]) -> Source:
    def convert(table: pa.RecordBatch) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays(table.columns, names=list(new))

    return MappedSource(CsvSource(path), new, convert, old)

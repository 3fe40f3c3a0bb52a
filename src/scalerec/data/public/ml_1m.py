"""MovieLens 1M: 1,000,209 ratings of about 3,900 films by 6,040 people, 2000 to 2003.

Its files part values with ``::`` and are in Latin-1. The age is the lowest of its group (1, 18, 25
...), so it is a category.
"""

from pathlib import Path

from scalerec.data.public.movielens import (
    EVENTS,
    NOTES,
    movielens_schema,
    users_with_area,
    with_title_year,
)
from scalerec.data.public.sets import need_files
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Role
from scalerec.data.sources import CsvSource, Source, SplitSource

__all__ = ["read_ml_1m"]

AGE = Categorical(name="age", role=Role.USER, table="users")


def read_ml_1m(folder: Path) -> RawData:
    """Read MovieLens 1M from a folder with `ratings.dat`, `users.dat` and `movies.dat`.

    Raises:
        DataError: If one of the files is missing.
    """
    need_files(folder, ("ratings.dat", "users.dat", "movies.dat"))
    users = _split(folder / "users.dat", ("user_id", "gender", "age", "occupation", "zip_code"))
    films = _split(folder / "movies.dat", ("item_id", "title", "genres"))
    return RawData(
        name="ml-1m",
        schema=movielens_schema(AGE),
        splits={"all": _split(folder / "ratings.dat", EVENTS)},
        users=users_with_area(users),
        items=with_title_year(films),
        notes=NOTES,
    )


def _split(path: Path, columns: tuple[str, ...]) -> Source:
    # No line holds the byte 1, so each line is one value.
    lines = CsvSource(path, "\x01", column_names=("line",), encoding="latin-1", quote="")
    return SplitSource(lines, "::", columns)

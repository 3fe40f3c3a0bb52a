"""What the MovieLens sets share: the schema, the columns, and their conversion.

F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", 2015,
https://doi.org/10.1145/2827872. An event is a rating; the task `liked` is a rating of at least 4,
and the rating itself is no feature.
"""

import pyarrow as pa
import pyarrow.compute as pc

from scalerec.data.schema import (
    Categorical,
    Feature,
    Numeric,
    Role,
    Schema,
    Sequence,
    Table,
    Task,
)
from scalerec.data.sources import MappedSource, Source

__all__ = ["EVENTS", "NOTES", "movielens_schema", "users_with_area", "with_title_year", "years_of"]

EVENTS = ("user_id", "item_id", "rating", "timestamp")
USER_FEATURES = ("gender", "occupation", "zip_area")
NOTES = (
    "cite: Harper and Konstan, The MovieLens Datasets: History and Context, 2015",
    "terms: research use with acknowledgement; no redistribution, no commercial use",
)


def movielens_schema(age: Feature | None) -> Schema:
    """The schema of a MovieLens set.

    Args:
        age: The feature of the users' age; None for a set without a users table.
    """
    tables = {"items": Table()} if age is None else {"users": Table(), "items": Table()}
    people = [Categorical(name=name, role=Role.USER, table="users") for name in USER_FEATURES]
    year = Numeric(
        name="release_year",
        role=Role.ITEM,
        table="items",
        optional=True,
        transform="quantile",
        num_buckets=16,
    )
    return Schema(
        user="user_id",
        item="item_id",
        timestamp="timestamp",
        title="title",
        features=(
            Categorical(name="user_id", role=Role.USER),
            *([] if age is None else [age, *people]),
            Sequence(name="history", role=Role.USER, history="positive", max_length=50),
            Categorical(name="item_id", role=Role.ITEM),
            Sequence(name="genres", role=Role.ITEM, table="items", optional=True, max_length=20),
            year,
        ),
        tasks=(Task(name="liked", column="rating", at_least=4.0),),
        tables=tables,
    )


def users_with_area(source: Source) -> Source:
    """Give the users table with `zip_area`, the first character of the postal code."""
    wanted = ("user_id", "age", "gender", "occupation", "zip_area")

    def convert(table: pa.RecordBatch) -> pa.RecordBatch:
        area = pc.utf8_slice_codeunits(table.column("zip_code"), 0, 1)
        return pa.RecordBatch.from_arrays(
            [*(table.column(name) for name in wanted[:-1]), area], names=list(wanted)
        )

    return MappedSource(source, wanted, convert, (*wanted[:-1], "zip_code"))


def with_title_year(source: Source) -> Source:
    """Give the items table with `release_year` from titles such as ``Heat (1995)``.

    "(no genres listed)" becomes null.
    """
    columns = ("item_id", "title", "genres", "release_year")

    def convert(table: pa.RecordBatch) -> pa.RecordBatch:
        title, genres = table.column("title"), table.column("genres")
        none = pc.equal(genres, "(no genres listed)")
        return pa.RecordBatch.from_arrays(
            [
                table.column("item_id"),
                title,
                pc.if_else(none, None, genres),
                years_of(title, r"\((?P<year>[0-9]{4})\)\s*$"),
            ],
            names=list(columns),
        )

    return MappedSource(source, columns, convert, columns[:-1])


def years_of(text: pa.Array, pattern: str) -> pa.Array:
    """Find the group `year` in each text; null where there is none."""
    return pc.struct_field(pc.extract_regex(text, pattern), "year")

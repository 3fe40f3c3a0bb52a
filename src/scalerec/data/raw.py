"""A data set before its preparation: a schema, and where the rows come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from scalerec.data.schema import Schema
from scalerec.data.sources import Source
from scalerec.errors import DataError

__all__ = ["RawData"]

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class RawData:
    """Tables and what they mean.

    Args:
        name: The data set's name.
        schema: What the columns mean.
        splits: The events: `{"all": source}` when one table is still to be split, else `train` and
            any of `valid` and `test` as given by the publisher.
        users: The users table, one row a user, if the schema has one.
        items: The items table, one row an item, if the schema has one.
        notes: What must be said where figures are quoted: the citation, the terms, where it was
            read from, and where it differs from the official set.
        apart: A column of the events: rows of one value are split among themselves, as those of a
            domain are; empty to split all together.

    Raises:
        DataError: If the splits are neither `all` alone nor `train` with others.
    """

    name: str
    schema: Schema
    splits: Mapping[str, Source] = field(default_factory=dict)
    users: Source | None = None
    items: Source | None = None
    notes: tuple[str, ...] = ()
    apart: str = ""

    def __post_init__(self) -> None:
        names = set(self.splits)
        if names != {"all"} and not ("train" in names and names <= set(SPLITS)):
            raise DataError(
                f"{self.name}: splits must be 'all' alone, or 'train' with 'valid' and 'test'; "
                f"got {', '.join(sorted(names)) or 'none'}"
            )
        for table, source in (("users", self.users), ("items", self.items)):
            if (source is None) != (table not in self.schema.tables):
                have, has = (
                    ("no source", "declares it") if source is None else ("a source", "lacks it")
                )
                raise DataError(f"{self.name}: table {table!r} has {have}, but the schema {has}")

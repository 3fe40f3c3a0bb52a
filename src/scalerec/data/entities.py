"""Users and items: their numbers, and what the side tables say of them."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.keys import KeyIndex
from scalerec.data.parsing import (
    Parsed,
    parse_chunks,
    parser_of,
    parser_of_key,
    parser_of_title,
)
from scalerec.data.problems import Problems
from scalerec.data.raw import RawData
from scalerec.data.schema import TableName

__all__ = ["ONCE", "Entities", "read_entities", "read_listed"]

# No column of a table can bear such a name.
KEY, TITLE = "\0key", "\0title"
ONCE = "a key that comes once"


@dataclass(slots=True)
class Entities:
    """All users, or all items; the events may bring more than the side table lists.

    Args:
        index: Key to number.
        num_listed: How many the side table lists; they have the first numbers.
        columns: Parsed columns of the side table, by feature, ``[num_listed]``.
        titles: What a person calls them, by number, where there is a title.
    """

    index: KeyIndex = field(default_factory=KeyIndex)
    num_listed: int = 0
    columns: dict[str, pa.Array] = field(default_factory=dict)
    titles: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    def column(self, name: str) -> pa.Array:
        """A side table's column for all entities; null for those that it does not list."""
        column = self.columns[name]
        return pa.concat_arrays([column, pa.nulls(len(self) - len(column), column.type)])

    def names(self) -> list[str]:
        """A name for a person, by number: the title, else the key."""
        return [self.titles.get(i, key) for i, key in enumerate(self.index.keys)]

    def add_titles(self, first: int, titles: pa.Array) -> None:
        """Take the titles of entities from number `first` on, ``[n]``."""
        named = enumerate(titles.to_pylist(), first)
        self.titles.update((number, title) for number, title in named if title is not None)


def read_entities(raw: RawData, table: TableName, problems: Problems) -> Entities:
    """Read a side table, if there is one.

    Raises:
        DataError: If a value does not fit or a key comes twice, and `problems` is strict.
    """
    return read_listed(raw, table, problems)[0]


def read_listed(
    raw: RawData, table: TableName, problems: Problems
) -> tuple[Entities, NDArray[np.int64]]:
    """As `read_entities`, with the number of each one's record in its file, from 1, ``[n]``."""
    source = raw.users if table == "users" else raw.items
    entities, rows = Entities(), [np.zeros(0, np.int64)]
    if source is None:
        return entities, rows[0]
    schema = raw.schema
    parsers = {feature.name: parser_of(feature) for feature in schema.of_table(table)}
    parsers[KEY] = parser_of_key(schema.key_of(table))
    if table == "items" and schema.title:
        parsers[TITLE] = parser_of_title(schema.title)
    # An empty part first, so that a table without rows has columns of the right types.
    empty = pa.array([], pa.string())
    parts = {name: [parser.parse(empty)[0]] for name, parser in parsers.items()}
    for parsed in parse_chunks(source, parsers, problems):
        part = _once(parsed, entities.index, problems, (source.name, schema.key_of(table)))
        rows.append(part.rows)
        for name, column in part.columns.items():
            parts[name].append(column)
    entities.num_listed = len(entities.index)
    columns = {name: pa.concat_arrays(chunks) for name, chunks in parts.items()}
    del columns[KEY]
    entities.add_titles(0, columns.pop(TITLE, empty))
    entities.columns = columns
    return entities, np.concatenate(rows)


def _once(part: Parsed, index: KeyIndex, problems: Problems, place: tuple[str, str]) -> Parsed:
    """Number the keys of a chunk, and leave out the rows whose key came before."""
    before = len(index)
    numbers = index.add(part.columns[KEY])
    fresh = np.zeros(len(part), dtype=bool)
    fresh[np.unique(numbers, return_index=True)[1]] = True
    fresh &= numbers >= before
    file, column = place
    for i in np.flatnonzero(~fresh).tolist():
        key = part.columns[KEY][i].as_py()
        problems.report(file, int(part.rows[i]), column, key, ONCE)
    return part.filter(fresh)

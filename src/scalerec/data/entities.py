"""Users and items: their numbers, and what the side tables say of them."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.parsing import Parsed, parse_chunks, parser_of, parser_of_key
from scalerec.data.problems import Problems
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema, TableName

__all__ = ["Entities", "KeyIndex", "read_entities"]

KEY, TITLE = "\0key", "\0title"


class KeyIndex:
    """Numbers keys in the order in which they come.

    Example:
        >>> index = KeyIndex()
        >>> index.add(pa.array(["b", "a", "b"]))
        array([0, 1, 0])
        >>> index.find(pa.array(["a", "c"]))
        array([ 1, -1])
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._numbers: dict[str, int] = {key: i for i, key in enumerate(keys)}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def keys(self) -> list[str]:
        """All keys, in the order of their numbers."""
        return list(self._numbers)

    def add(self, keys: pa.Array) -> NDArray[np.int64]:
        """The numbers of keys ``[n]``; new keys get the next numbers."""
        return self._each(keys, lambda key: self._numbers.setdefault(key, len(self._numbers)))

    def find(self, keys: pa.Array) -> NDArray[np.int64]:
        """The numbers of keys ``[n]``; -1 for an unknown one."""
        return self._each(keys, lambda key: self._numbers.get(key, -1))

    @staticmethod
    def _each(keys: pa.Array, number: object) -> NDArray[np.int64]:
        coded = keys.dictionary_encode()
        distinct = coded.dictionary.cast(pa.string()).to_pylist()
        numbers = np.array([*map(number, distinct), -1], dtype=np.int64)  # type: ignore[call-overload]
        codes = coded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
        return numbers[codes]  # type: ignore[no-any-return]


class Entities:
    """All users, or all items.

    Args:
        index: Key to number.
        columns: Parsed columns of the side table, by feature; row i is entity number i.
        titles: What a person calls them, by number; keys where there is no title.
    """

    def __init__(
        self, index: KeyIndex, columns: dict[str, pa.Array], titles: dict[int, str]
    ) -> None:
        self.index = index
        self.columns = columns
        self.titles = titles

    def column(self, name: str) -> pa.Array:
        """A side table's column for all entities; null for those that the table does not hold."""
        column = self.columns[name]
        missing = len(self.index) - len(column)
        return pa.concat_arrays([column, pa.nulls(missing, column.type)]) if missing else column

    def names(self) -> list[str]:
        """A name for a person, by number."""
        return [self.titles.get(i) or key for i, key in enumerate(self.index.keys)]


def read_entities(raw: RawData, table: TableName, problems: Problems) -> Entities:
    """Read a side table, if there is one.

    Raises:
        DataError: If a value does not fit or a key comes twice, and `problems` is strict.
    """
    source = raw.users if table == "users" else raw.items
    index = KeyIndex()
    if source is None:
        return Entities(index, {}, {})
    schema = raw.schema
    parsers = {feature.name: parser_of(feature) for feature in schema.of_table(table)}
    parsers[KEY] = parser_of_key(schema.key_of(table))
    if _title_in_items(schema) and table == "items":
        parsers[TITLE] = parser_of_key(schema.title)
    parts = [
        _drop_repeated(part, index, problems, source.name, schema.key_of(table))
        for part in parse_chunks(source, parsers, problems)
    ]
    columns = {
        name: pa.concat_arrays([part[name] for part in parts]) if parts else pa.nulls(0)
        for name in parsers
    }
    columns.pop(KEY)
    titles = columns.pop(TITLE, pa.nulls(0)).cast(pa.string()).to_pylist()
    return Entities(index, columns, dict(enumerate(titles)))


def _title_in_items(schema: Schema) -> bool:
    return bool(schema.title) and "items" in schema.tables


def _drop_repeated(
    part: Parsed, index: KeyIndex, problems: Problems, file: str, column: str
) -> dict[str, pa.Array]:
    before = len(index)
    numbers = index.add(part.columns[KEY])
    fresh = np.zeros(part.size, dtype=bool)
    first = np.unique(numbers, return_index=True)[1]
    fresh[first] = numbers[first] >= before
    for i in np.flatnonzero(~fresh):
        key = part.columns[KEY][int(i)].as_py()
        problems.report(file, part.first + int(i) + 1, column, key, "a key that comes once")
    keep = pa.array(fresh)
    return {name: values.filter(keep) for name, values in part.columns.items()}

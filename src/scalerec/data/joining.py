"""Several domains in one data set: rows side by side, with what they have in common in common.

A column tells where a row is from. Features of one name share one vocabulary, or one table of
hashed ids; what a domain lacks is null in its rows. Keys of users and of items are a domain's own
unless they are told to be shared: user 5 of books is `books:5`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalerec.data.joint_schema import join_schemas, label_column
from scalerec.data.keys import KeyIndex
from scalerec.data.parsing import (
    Parser,
    parser_of,
    parser_of_key,
    parser_of_task,
    parser_of_time,
    parser_of_title,
    parser_of_weight,
)
from scalerec.data.problems import Problems
from scalerec.data.raw import RawData
from scalerec.data.schema import Feature, Role, Schema, Text
from scalerec.data.sources import Chunk, ConcatSource, Derived, DerivedSource, Source
from scalerec.data.values import is_null
from scalerec.errors import ConfigError, DataError

__all__ = ["join_domains"]

MARK = ":"


def join_domains(
    raws: Mapping[str, RawData], *, shared: Collection[str] = (), feature: str = "domain"
) -> RawData:
    """Put raw data of several domains side by side; no row is read yet.

    Where rows are still to be split, each domain's are split among themselves, but for a split by
    user or by item. A feature on the key of a user or an item, and a history, is of all domains as
    soon as one has it. Of what several domains list under one shared key the first row counts.

    Args:
        raws: By domain; one alone gets a feature that tells its name, and keys of its own.
        shared: Whose keys mean the same in all domains: `user`, `item`.
        feature: Name of the categorical feature that tells the domain.

    Raises:
        ConfigError: If there is no domain, a name is empty or holds a colon, or `shared` holds
            another word.
        DataError: If some are split already and others are not.
        SchemaError: If two domains mean different things by one name; it names both.
    """
    _check(raws, shared)
    schemas = {name: raw.schema for name, raw in raws.items()}
    schema = join_schemas(schemas, feature)
    domains = {n: _Domain(n, raw, schema, tuple(shared), feature) for n, raw in raws.items()}
    title = " + ".join(raws)
    parts = dict.fromkeys(split for raw in raws.values() for split in raw.splits)
    splits = {
        split: _concat(
            [own.events(split) for own in domains.values() if split in own.raw.splits], title
        )
        for split in parts
    }
    listed = {
        name: _once(
            [own.listed(name) for own in domains.values() if own.has(name)],
            title,
            schema.tables[name].key if name[:-1] in shared else "",
        )
        for name in schema.tables
    }
    notes = [f"{name}: {note}" for name, raw in raws.items() for note in raw.notes]
    keys = " and of ".join(f"{word}s" for word in ("user", "item") if word not in shared)
    own = f"; keys of {keys} are each domain's own" if keys else ""
    return RawData(
        name=title,
        schema=schema,
        splits=splits,
        users=listed.get("users"),
        items=listed.get("items"),
        notes=(*notes, f"domains side by side: {', '.join(raws)}{own}"),
        apart=feature,
    )


def _check(raws: Mapping[str, RawData], shared: Collection[str]) -> None:
    if not raws:
        raise ConfigError("at least one domain must be given")
    for name in raws:
        if not name or MARK in name:
            raise ConfigError(f"a domain's name must be some text without {MARK!r}; got {name!r}")
    for word in shared:
        if word not in ("user", "item"):
            raise ConfigError(f"shared may hold user and item; got {word!r}")
    kinds = {name: "all" in raw.splits for name, raw in raws.items()}
    if len(set(kinds.values())) > 1:
        whole = next(name for name, one in kinds.items() if one)
        given = next(name for name, one in kinds.items() if not one)
        raise DataError(
            f"{given} comes in given splits and {whole} does not; give all domains as one table, "
            "or all with train, valid and test"
        )


def _concat(parts: list[Source], name: str) -> Source:
    return parts[0] if len(parts) == 1 else ConcatSource(parts, name)


def _once(parts: list[Source], name: str, key: str) -> Source:
    """Side tables as one; with a key, rows that an earlier part has are left out."""
    return _FirstSource(parts, name, key) if key and len(parts) > 1 else _concat(parts, name)


class _FirstSource:
    """As `ConcatSource`, without the rows of a part whose key an earlier part has.

    Args:
        parts: With the same columns.
        name: What messages call them together.
        key: The column of keys.
    """

    def __init__(self, parts: Sequence[Source], name: str, key: str) -> None:
        self._parts, self._name, self._key = tuple(parts), name, key

    @property
    def name(self) -> str:
        """What messages call the parts together."""
        return self._name

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of every part."""
        return self._parts[0].columns

    def chunks(self, columns: tuple[str, ...], problems: Problems) -> Iterator[Chunk]:
        """Read the parts in order."""
        index, offset = KeyIndex(), 0
        asked = tuple(dict.fromkeys((*columns, self._key)))
        for part in self._parts:
            before, last = len(index), 0
            for chunk in part.chunks(asked, problems):
                numbers = index.add(chunk.table.column(self._key))
                new = (numbers >= before) | (numbers < 0)
                last = int(chunk.rows[-1]) if len(chunk.rows) else last
                table = chunk.table.filter(pa.array(new)).select(list(columns))
                yield Chunk(table, chunk.rows[new] + offset)
            offset += last


class _Domain:
    """One domain's sources with the columns that all domains have.

    What does not fit is reported here, with the domain's own file, row and column.
    """

    def __init__(
        self, name: str, raw: RawData, joint: Schema, shared: tuple[str, ...], feature: str
    ) -> None:
        self.name, self.raw, self.joint, self.feature = name, raw, joint, feature
        self.schema = raw.schema
        words = {Role.USER: "user", Role.ITEM: "item"}
        self.apart = {word for word in words.values() if word not in shared}
        # Tables of keys that are the domain's own.
        self.own = {
            table
            for f in self.schema.features
            if self.schema.is_key(f) and words[f.role] in self.apart
            for table in self.schema.tables_of(f)
        }

    def has(self, table: str) -> bool:
        """Whether the domain has such a side table."""
        return table in self.schema.tables

    def events(self, split: str) -> Source:
        """The events of a split."""
        joint, schema = self.joint, self.schema
        columns = self._features("events")
        columns[self.feature] = Derived(value=self.name)
        for word in ("user", "item"):
            if column := getattr(joint, word):
                columns[column] = self._key(getattr(schema, word), word in self.apart)
        if joint.timestamp:
            columns[joint.timestamp] = _derived(parser_of_time(schema.timestamp))
        if joint.weight:
            own = schema.weight
            columns[joint.weight] = _derived(parser_of_weight(own)) if own else Derived(value="1")
        if joint.group:
            columns[joint.group] = self._group()
        if joint.title and "items" not in joint.tables:
            columns[joint.title] = self._title()
        tasks = {task.name: task for task in schema.tasks}
        for task in joint.tasks:
            own_task = tasks.get(task.name)
            label = Derived()
            if own_task is not None and own_task.has_column:
                label = _derived(parser_of_task(own_task))
            elif own_task is not None:
                label = Derived(value="1")
            columns[label_column(task.name)] = label
        return DerivedSource(self.raw.splits[split], columns)

    def listed(self, table: str) -> Source:
        """The side table `users` or `items`."""
        source = self.raw.users if table == "users" else self.raw.items
        assert source is not None, "the domain has the table"
        columns = self._features(table)
        key = self.schema.tables[table].key or getattr(self.schema, table[:-1])
        columns[self.joint.tables[table].key] = self._key(key, table[:-1] in self.apart)
        if table == "items" and self.joint.title:
            columns[self.joint.title] = self._title()
        return DerivedSource(source, columns)

    def _features(self, table: str) -> dict[str, Derived]:
        """The columns of the features that all domains' table holds."""
        own = {feature.name: feature for feature in self.schema.features}
        columns = {}
        for feature in self.joint.features:
            keyless = feature.table == table and feature not in self.joint.history
            if keyless and not self.joint.is_key(feature):
                mine = own.get(feature.name)
                columns[feature.source] = Derived() if mine is None else self._feature(mine)
        return columns

    def _feature(self, feature: Feature) -> Derived:
        if isinstance(feature, Text):
            # Words are read where all domains' are.
            return Derived(column=feature.source)
        apart = bool(self.own & {*self.schema.tables_of(feature)})
        return _derived(parser_of(feature), self.name if apart else "")

    def _key(self, column: str, apart: bool) -> Derived:
        return _derived(parser_of_key(column), self.name if apart else "")

    def _group(self) -> Derived:
        schema = self.schema
        if schema.group and schema.group != schema.user:
            return _derived(parser_of_key(schema.group), self.name)
        if not schema.user:
            raise DataError(f"{self.name}: its rows need a group, as another domain's have one")
        return self._key(schema.user, "user" in self.apart)

    def _title(self) -> Derived:
        title = self.schema.title
        return _derived(parser_of_title(title)) if title else Derived()


def _derived(parser: Parser, domain: str = "") -> Derived:
    """A column as a parser reads it, with the domain before each key if one is given."""
    return Derived(
        column=parser.column,
        convert=partial(_read, parser=parser, domain=domain),
        allowed=parser.allowed,
    )


def _read(column: pa.Array, *, parser: Parser, domain: str) -> tuple[pa.Array, NDArray[np.bool_]]:
    clean, bad = parser.parse(column)
    return _marked(clean, domain) if domain else clean, bad


def _marked(keys: pa.Array, domain: str) -> pa.Array:
    """Keys, or lists of keys, with the domain before each."""
    if not pa.types.is_list(keys.type):
        return pc.binary_join_element_wise(f"{domain}{MARK}", keys, "")
    lengths = pc.list_value_length(keys).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    values = pc.binary_join_element_wise(f"{domain}{MARK}", keys.flatten(), "")
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(is_null(keys)))

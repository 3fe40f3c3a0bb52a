"""The schema: which columns there are, what they mean, and what is to be predicted.

A schema is written in TOML or Python. It names the key columns (user, item, timestamp), the
features with their kind and role, and the tasks. Features come from the main table (one row an
event) or from a side table joined on the user's or the item's key.

```toml
user = "user_id"
item = "item_id"
timestamp = "time"
title = "title"                  # a column of the items table, shown to people

[tables.items]
file = "items.csv"

[[features]]
name = "user_id"
kind = "categorical"
role = "user"

[[features]]
name = "genres"
kind = "sequence"
role = "item"
table = "items"

[[tasks]]
name = "liked"
kind = "binary"
column = "rating"
at_least = 4.0

[embeddings.user_id]             # may be left out; so many rows for all ids
sharing = "hash"
rows = 100000
```
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from scalerec.config import Config
from scalerec.data.features import (
    TIME_PARTS,
    Categorical,
    Feature,
    Numeric,
    Role,
    Sequence,
    TableName,
    Text,
    Timestamp,
    Vector,
    feature_from_dict,
)
from scalerec.data.tasks import Task, TaskKind
from scalerec.data.toml import short_dict, to_toml
from scalerec.errors import ConfigError, SchemaError

__all__ = [
    "TIME_PARTS",
    "Categorical",
    "Embedding",
    "Feature",
    "Numeric",
    "Role",
    "Schema",
    "Sequence",
    "Table",
    "TableName",
    "Task",
    "TaskKind",
    "Text",
    "Timestamp",
    "Vector",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table(Config):
    """A side table, one row a user or an item.

    Args:
        file: Its path, relative to the schema's file.
        key: The column that holds the key, if it is not named as in the events table.
    """

    file: str = ""
    key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding(Config):
    """How the rows of one embedding table are kept, where ids should not each have a whole one.

    Args:
        rows: Number of rows that all ids share, those of padding and out-of-vocabulary included; 0
            for one an id.
        sharing: How they share: the sum of two rows by two hashes, or the product of two by
            quotient and remainder.
        dim: At most so many columns are stored, which a learned basis maps to the model's; 0 for
            all.

    Raises:
        SchemaError: If a setting is out of its range, or two contradict each other.
    """

    rows: int = 0
    sharing: Literal["own", "hash", "quotient"] = "own"
    dim: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "dim"):
            value = getattr(self, name)
            if value < 0:
                raise SchemaError(f"{name} of an embedding must be at least 0; got {value}")
        if (self.rows > 0) != (self.sharing != "own"):
            raise SchemaError(
                "an embedding whose ids share needs both rows and sharing; "
                f"got rows={self.rows} and sharing={self.sharing!r}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema(Config):
    """What the columns of a data set mean.

    Args:
        features: In the order in which models see them.
        tasks: At least one.
        user: The column of the user's key in the events table; empty if there are no users.
        item: The column of the item's key; empty if there are no items.
        timestamp: The column of the event's time: Unix seconds or an ISO 8601 date.
        title: A column that names an item to a person: of the items table, or of the events if
            there is no items table.
        weight: The column of sample weights; empty for equal weights.
        group: The column that groups rows for GAUC; the user's key if empty.
        tables: Side tables by name, `users` and `items`.
        embeddings: Embedding tables by name, a feature's vocabulary or else its own name, whose
            rows are kept otherwise than one an id.

    Raises:
        SchemaError: If names repeat, or a feature needs a key or a table that is not declared.
    """

    features: tuple[Feature, ...]
    tasks: tuple[Task, ...]
    user: str = ""
    item: str = ""
    timestamp: str = ""
    title: str = ""
    weight: str = ""
    group: str = ""
    tables: dict[str, Table]
    embeddings: dict[str, Embedding] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _unique("feature", [feature.name for feature in self.features])
        _unique("task", [task.name for task in self.tasks])
        for name in self.tables:
            if name not in ("users", "items"):
                raise SchemaError(f"tables may be 'users' and 'items'; got {name!r}")
            if not (self.user if name == "users" else self.item):
                raise SchemaError(f"table {name!r} needs the key {name[:-1]!r} to be named")
        if self.title and not self.item:
            raise SchemaError(f"title {self.title!r} needs the key 'item' to be named")
        for feature in self.features:
            if feature.table != "events" and feature.table not in self.tables:
                raise SchemaError(
                    f"feature {feature.name!r} is of table {feature.table!r}, which is not "
                    f"declared; declared: {', '.join(self.tables) or 'none'}"
                )
        for feature in self.history:
            self._check_history(feature)
        self._check_vocabularies()
        known = {name for feature in self.features for name in self.tables_of(feature)}
        for name in self.embeddings:
            if name not in known:
                raise SchemaError(
                    f"embeddings must name vocabularies: {', '.join(sorted(known)) or 'none'}; "
                    f"got {name!r}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The schema as JSON-ready values; embeddings are left out where there are none."""
        whole = Config.to_dict(self)
        if not self.embeddings:
            del whole["embeddings"]
        return whole

    def _check_history(self, feature: Sequence) -> None:
        for key in ("user", "item", "timestamp"):
            if not getattr(self, key):
                raise SchemaError(f"history {feature.name!r} needs the column {key!r} to be named")
        if feature.role is not Role.USER:
            raise SchemaError(
                f"history {feature.name!r} must have role 'user'; got {feature.role.value!r}"
            )
        if self.item_key is None:
            raise SchemaError(
                f"history {feature.name!r} needs a categorical feature with role 'item' on the "
                f"item's key {self.item!r}"
            )

    def _check_vocabularies(self) -> None:
        """Refuse tables of one name that cannot be one."""
        owners: dict[str, Feature] = {}
        for feature in self.features:
            if feature in self.history:
                continue
            for name in self.tables_of(feature):
                other = owners.setdefault(name, feature)
                if other is not feature and _vocabulary(other) != _vocabulary(feature):
                    raise SchemaError(
                        f"features {other.name!r} and {feature.name!r} cannot share vocabulary "
                        f"{name!r}: min_count and buckets must be equal, and the kind one that has "
                        "a vocabulary"
                    )

    @classmethod
    def from_dict(cls, values: Mapping[str, object], place: str = "") -> Self:
        """Build a schema from plain values; each feature's class follows from its `kind`.

        Raises:
            SchemaError: If it contradicts itself, or a setting is unknown or out of its range.
        """
        head = f"{place}: " if place else ""
        ready: dict[str, object] = {"tables": {}, **values}
        features = ready.get("features", [])
        if not isinstance(features, list | tuple):
            raise SchemaError(f"{head}features must be a list; got {features!r}")
        try:
            # Config.from_dict would try each kind in turn; so the features are built first.
            ready["features"] = [
                feature_from_dict(item, f"features[{i}]") for i, item in enumerate(features)
            ]
            # A class with slots is made twice, which breaks `super()` without arguments.
            return super(Schema, cls).from_dict(ready)
        except (ConfigError, SchemaError) as error:
            raise SchemaError(f"{head}{error}") from None

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a schema from a TOML file.

        Raises:
            SchemaError: If the file is missing, is not TOML, or contradicts itself.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise SchemaError(f"schema {path}: cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SchemaError(f"schema {path}: not TOML: {error}") from None
        return cls.from_dict(values, str(path))

    def to_toml(self) -> str:
        """Write the schema as TOML that `from_toml` reads back as an equal schema."""
        values = short_dict(self)
        if not self.embeddings:
            del values["embeddings"]
        return to_toml(values)

    @property
    def history(self) -> tuple[Sequence, ...]:
        """The features that are built from the user's earlier events."""
        return tuple(f for f in self.features if isinstance(f, Sequence) and f.is_history)

    @property
    def item_key(self) -> Categorical | None:
        """The categorical feature on the item's key whose ids a history shares."""
        return self._first_key(Role.ITEM)

    @property
    def user_key(self) -> Categorical | None:
        """The categorical feature on the user's key."""
        return self._first_key(Role.USER)

    def is_key(self, feature: Feature) -> bool:
        """Whether a feature is a user's or an item's key, in the events or in its side table."""
        if not isinstance(feature, Categorical) or feature.role is Role.CONTEXT:
            return False
        own = self.item if feature.role is Role.ITEM else self.user
        key = own if feature.table == "events" else self.key_of(feature.table)
        return bool(own) and feature.source == key

    def of_table(self, table: TableName) -> tuple[Feature, ...]:
        """The features read from a column of that table, in order; histories have no column."""
        return tuple(f for f in self.features if f.table == table and f not in self.history)

    def key_of(self, table: TableName) -> str:
        """The key's column in a side table; its column in the events if there is no such table."""
        name = self.user if table == "users" else self.item
        return (self.tables[table].key if table in self.tables else "") or name

    def tables_of(self, feature: Feature) -> tuple[str, ...]:
        """The names of the embedding tables a feature reads: one a part of a timestamp, else one.

        A history reads the item key's; numbers and vectors read none.
        """
        if isinstance(feature, Timestamp):
            return tuple(f"{feature.name}.{part}" for part in feature.parts)
        if isinstance(feature, Numeric):
            return (feature.name,) if feature.transform == "quantile" else ()
        if isinstance(feature, Vector):
            return ()
        if isinstance(feature, Sequence) and feature.is_history:
            key = self.item_key
            assert key is not None, "checked on creation"
            return self.tables_of(key)
        return (feature.vocabulary or feature.name,)

    def _first_key(self, role: Role) -> Categorical | None:
        for feature in self.features:
            if feature.role is role and self.is_key(feature):
                assert isinstance(feature, Categorical)
                return feature
        return None


def _vocabulary(feature: Feature) -> object:
    """What features of one vocabulary must agree on; what has none agrees with nobody."""
    if isinstance(feature, Categorical | Sequence | Text):
        return feature.min_count if feature.buckets is None else 0, feature.buckets
    return feature


def _unique(what: str, names: list[str]) -> None:
    if not names:
        raise SchemaError(f"a schema needs at least one {what}")
    for name in names:
        if names.count(name) > 1:
            raise SchemaError(f"{what} {name!r} is declared {names.count(name)} times")
        if not name:
            raise SchemaError(f"a {what} has no name")

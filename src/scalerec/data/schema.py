"""The schema: which columns there are, what they mean, and what is to be predicted.

A schema is written in TOML or Python. It names the key columns (user, item, timestamp), the features
with their kind and role, and the tasks. Features come from the main table (one row an event) or from a
side table joined on the user's or the item's key.

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
```
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from scalerec.config import Config, require
from scalerec.data.toml import short_dict, to_toml
from scalerec.errors import ConfigError, SchemaError

__all__ = [
    "Categorical",
    "Feature",
    "Numeric",
    "Role",
    "Schema",
    "Sequence",
    "Table",
    "Task",
    "TaskKind",
    "Text",
    "Timestamp",
    "Vector",
]

TableName = Literal["events", "users", "items"]
TIME_PARTS: dict[str, int] = {"hour": 24, "weekday": 7, "day": 31, "month": 12}


class Role(StrEnum):
    """Whose feature it is: serving computes the user's part once per request, the item's once."""

    USER = "user"
    ITEM = "item"
    CONTEXT = "context"


class TaskKind(StrEnum):
    """What a task predicts, and so its loss and its metrics."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    RETRIEVAL = "retrieval"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column(Config):
    """What all features share.

    Args:
        name: The feature's name; also its column's, unless `column` says otherwise.
        role: Whose feature it is.
        column: The column's name in its table, if it is not `name`.
        table: The table that holds the column: `events` (the main table), `users` or `items`.
        optional: Whether a value may be missing. A missing value contributes nothing to a score:
            a categorical becomes padding (id 0), a number its mean, a list empty, a vector absent.
    """

    name: str
    role: Role = Role.CONTEXT
    column: str = ""
    table: TableName = "events"
    optional: bool = False

    @property
    def source(self) -> str:
        """The column's name in its table."""
        return self.column or self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Categorical(_Column):
    """One value of a set: an id, a country, a device.

    Args:
        min_count: A value seen less often in the training rows becomes out-of-vocabulary.
        buckets: If given, values are hashed into so many ids and no vocabulary is kept.
        vocabulary: Features with the same vocabulary name share ids and embeddings.
    """

    kind: Literal["categorical"] = "categorical"
    min_count: int = 1
    buckets: int | None = None
    vocabulary: str = ""

    def __post_init__(self) -> None:
        require(self.min_count >= 1, f"min_count must be at least 1; got {self.min_count}")
        _check_buckets(self.buckets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Numeric(_Column):
    """A number.

    Args:
        transform: `standard` (zero mean, unit deviation), `log` (sign(x) log(1+|x|), then standard),
            `quantile` (the bucket's id, embedded like a categorical), or `none`.
        num_buckets: Number of buckets of `quantile`, of about equal size on the training rows.
    """

    kind: Literal["numeric"] = "numeric"
    transform: Literal["standard", "log", "quantile", "none"] = "standard"
    num_buckets: int = 32

    def __post_init__(self) -> None:
        require(self.num_buckets >= 2, f"num_buckets must be at least 2; got {self.num_buckets}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequence(_Column):
    """A list of categorical values: genres of an item, or the user's history.

    Args:
        max_length: Longer lists keep their last values, the most recent ones of a history.
        separator: What parts the values when the column holds text.
        min_count: As for `Categorical`.
        buckets: As for `Categorical`.
        vocabulary: As for `Categorical`; a history shares the item key's ids by itself.
        history: `none`: the list is read from a column. `all`: it is the items of the same user's
            earlier events, built from the events table, no column needed. `positive`: only of those
            earlier events whose first task's label is positive.
    """

    kind: Literal["sequence"] = "sequence"
    max_length: int = 50
    separator: str = "|"
    min_count: int = 1
    buckets: int | None = None
    vocabulary: str = ""
    history: Literal["none", "all", "positive"] = "none"

    def __post_init__(self) -> None:
        require(self.max_length >= 1, f"max_length must be at least 1; got {self.max_length}")
        require(len(self.separator) > 0, "separator must not be empty")
        _check_buckets(self.buckets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vector(_Column):
    """A list of `dim` floats, such as the embedding of an image or a text; may be absent per row."""

    kind: Literal["vector"] = "vector"
    dim: int = 0
    separator: str = "|"

    def __post_init__(self) -> None:
        require(self.dim >= 1, f"vector {self.name!r}: dim must be at least 1; got {self.dim}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Text(_Column):
    """Free text, as the list of its lower-case words."""

    kind: Literal["text"] = "text"
    max_length: int = 32
    min_count: int = 2
    buckets: int | None = None
    vocabulary: str = ""

    def __post_init__(self) -> None:
        require(self.max_length >= 1, f"max_length must be at least 1; got {self.max_length}")
        _check_buckets(self.buckets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timestamp(_Column):
    """Parts of a moment, each a small categorical: `NAME.hour`, `NAME.weekday`, `NAME.month` ..."""

    kind: Literal["timestamp"] = "timestamp"
    parts: tuple[str, ...] = ("hour", "weekday")

    def __post_init__(self) -> None:
        for part in self.parts:
            allowed = ", ".join(TIME_PARTS)
            require(part in TIME_PARTS, f"parts must be among {allowed}; got {part!r}")


Feature = Categorical | Numeric | Sequence | Vector | Text | Timestamp
_KINDS: dict[str, type[Feature]] = {
    "categorical": Categorical,
    "numeric": Numeric,
    "sequence": Sequence,
    "vector": Vector,
    "text": Text,
    "timestamp": Timestamp,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Task(Config):
    """Something to predict.

    Args:
        name: The task's name; it heads the task's metrics where there are several tasks.
        kind: Binary, multiclass, regression or retrieval.
        column: The label's column in the events table; `name` if empty.
        at_least: For binary and retrieval: the label is positive when the column is at least this.
            Without it a binary column holds 0/1 and every row of a retrieval task is positive.
        positive: For binary: the label is positive when the column, as text, is one of these.
        num_classes: Of a multiclass task; its column holds 0 .. num_classes-1.
        weight: The task's weight in the sum of losses.
    """

    name: str
    kind: TaskKind = TaskKind.BINARY
    column: str = ""
    at_least: float | None = None
    positive: tuple[str, ...] = ()
    num_classes: int = 2
    weight: float = 1.0

    def __post_init__(self) -> None:
        require(self.weight > 0, f"task {self.name!r}: weight must be positive; got {self.weight}")
        both = self.at_least is not None and len(self.positive) > 0
        require(not both, f"task {self.name!r}: give at_least or positive, not both")
        require(self.num_classes >= 2, f"num_classes must be at least 2; got {self.num_classes}")

    @property
    def source(self) -> str:
        """The label's column in the events table."""
        return self.column or self.name

    @property
    def num_outputs(self) -> int:
        """How many columns of the model's output belong to this task."""
        return self.num_classes if self.kind is TaskKind.MULTICLASS else 1


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
class Schema(Config):
    """What the columns of a data set mean.

    Args:
        features: In the order in which models see them.
        tasks: At least one.
        user: The column of the user's key in the events table; empty if there are no users.
        item: The column of the item's key; empty if there are no items.
        timestamp: The column of the event's time: Unix seconds or an ISO 8601 date.
        title: A column of the items table (or of the events) that names an item to a person.
        weight: The column of sample weights; empty for equal weights.
        group: The column that groups rows for GAUC; the user's key if empty.
        tables: Side tables by name, `users` and `items`.

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

    def __post_init__(self) -> None:
        _unique("feature", [feature.name for feature in self.features])
        _unique("task", [task.name for task in self.tasks])
        if not self.features:
            raise SchemaError("a schema needs at least one feature")
        if not self.tasks:
            raise SchemaError("a schema needs at least one task")
        for name in self.tables:
            if name not in ("users", "items"):
                raise SchemaError(f"tables may be 'users' and 'items'; got {name!r}")
            if not (self.user if name == "users" else self.item):
                raise SchemaError(f"table {name!r} needs the key {name[:-1]!r} to be named")
        for feature in self.features:
            self._check_feature(feature)

    def _check_feature(self, feature: Feature) -> None:
        if feature.table != "events" and feature.table not in self.tables:
            raise SchemaError(
                f"feature {feature.name!r} is of table {feature.table!r}, which is not declared; "
                f"declared: {', '.join(self.tables) or 'none'}"
            )
        if isinstance(feature, Sequence) and feature.history != "none":
            for key in ("user", "item", "timestamp"):
                if not getattr(self, key):
                    raise SchemaError(
                        f"history {feature.name!r} needs the column {key!r} to be named"
                    )
            if feature.role is not Role.USER:
                raise SchemaError(
                    f"history {feature.name!r} must have role 'user'; got {feature.role}"
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, object], place: str = "") -> Self:
        """Build a schema from plain values; each feature's class follows from its `kind`."""
        head = f"{place}: " if place else ""
        ready: dict[str, object] = {"tables": {}, **values}
        features = ready.get("features", [])
        if not isinstance(features, list | tuple):
            raise SchemaError(f"{head}features must be a list; got {features!r}")
        ready["features"] = [
            item if isinstance(item, _Column) else _feature(item, f"{head}features[{i}]")
            for i, item in enumerate(features)
        ]
        try:
            # Config.from_dict would try each kind in turn; the features are built already.
            return super(Schema, cls).from_dict(ready, place)
        except ConfigError as error:
            raise SchemaError(str(error)) from None

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a schema from a TOML file.

        Raises:
            SchemaError: If the file is missing, is not TOML, or contradicts itself.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise SchemaError(f"schema {path}: no such file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SchemaError(f"schema {path}: not TOML: {error}") from None
        return cls.from_dict(values, str(path))

    def to_toml(self) -> str:
        """Write the schema as TOML that `from_toml` reads back as an equal schema."""
        return to_toml(short_dict(self))

    @property
    def history(self) -> tuple[Sequence, ...]:
        """The features that are built from the user's earlier events."""
        return tuple(f for f in self.features if isinstance(f, Sequence) and f.history != "none")

    def of_table(self, table: TableName) -> tuple[Feature, ...]:
        """The features read from a column of that table, in order; histories have no column."""
        return tuple(f for f in self.features if f.table == table and f not in self.history)

    def key_of(self, table: TableName) -> str:
        """The key's column in a side table."""
        name = self.user if table == "users" else self.item
        return self.tables[table].key or name


def _feature(values: object, place: str) -> Feature:
    if not isinstance(values, Mapping):
        raise SchemaError(f"{place} must be a table; got {values!r}")
    kind = values.get("kind")
    if kind not in _KINDS:
        raise SchemaError(f"{place}.kind must be one of {', '.join(_KINDS)}; got {kind!r}")
    name = values.get("name")
    return _KINDS[kind].from_dict(values, f"{place} ({name})" if name else place)


def _check_buckets(buckets: int | None) -> None:
    require(buckets is None or buckets >= 1, f"buckets must be at least 1; got {buckets}")


def _unique(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise SchemaError(f"{what} {name!r} is declared {names.count(name)} times")
        if not name:
            raise SchemaError(f"a {what} has no name")

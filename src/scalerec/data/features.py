"""The kinds of features: what one column means, whose it is, and how it becomes ids or numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from scalerec.config import Config, require
from scalerec.errors import SchemaError

__all__ = [
    "ABSENT",
    "TIME_PARTS",
    "Categorical",
    "Feature",
    "Numeric",
    "Role",
    "Sequence",
    "TableName",
    "Text",
    "Timestamp",
    "Vector",
    "feature_from_dict",
]

TableName = Literal["events", "users", "items"]
MOST_BUCKETS = 2**31 - 2
# What the column's name of a feature begins with that the data at hand do not have.
ABSENT = "absent:"
# Part of a moment to the number of its values.
TIME_PARTS: dict[str, int] = {"hour": 24, "weekday": 7, "day": 31, "month": 12}


class Role(StrEnum):
    """Whose feature it is: serving computes the user's part once per request, the item's once."""

    USER = "user"
    ITEM = "item"
    CONTEXT = "context"


_ROLE_OF_TABLE = {"users": Role.USER, "items": Role.ITEM}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column(Config):
    """What all features share.

    Args:
        name: The feature's name; also its column's, unless `column` says otherwise.
        role: Whose feature it is; a column of the users or items table has that role by itself.
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

    def __post_init__(self) -> None:
        require(bool(self.name), "a feature's name must not be empty")
        natural = _ROLE_OF_TABLE.get(self.table, self.role)
        if self.role is Role.CONTEXT:
            object.__setattr__(self, "role", natural)
        require(
            self.role is natural,
            f"feature {self.name!r} of table {self.table!r} must have role {natural.value!r}; "
            f"got {self.role.value!r}",
        )

    @property
    def source(self) -> str:
        """The column's name in its table."""
        return self.column or self.name

    @property
    def is_absent(self) -> bool:
        """Whether the data at hand have no such column, so that it is null in every row."""
        return self.column.startswith(ABSENT)


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
        _Column.__post_init__(self)
        _check_vocabulary(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Numeric(_Column):
    """A number.

    Args:
        transform: `standard` (zero mean, unit deviation), `log` (sign(x) log(1+|x|), then
            standard), `quantile` (the bucket's id, embedded like a categorical), or `none`.
        num_buckets: Number of buckets of `quantile`, of about equal size on the training rows.
    """

    kind: Literal["numeric"] = "numeric"
    transform: Literal["standard", "log", "quantile", "none"] = "standard"
    num_buckets: int = 32

    def __post_init__(self) -> None:
        _Column.__post_init__(self)
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
        _Column.__post_init__(self)
        _check_length(self.max_length)
        _check_separator(self.separator)
        _check_vocabulary(self)

    @property
    def is_history(self) -> bool:
        """Whether the list is built from the user's earlier events."""
        return self.history != "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Vector(_Column):
    """A list of floats, such as the embedding of an image or a text; may be absent per row.

    Args:
        dim: Number of floats of each list.
        separator: What parts the floats when the column holds text.
    """

    kind: Literal["vector"] = "vector"
    dim: int = 0
    separator: str = "|"

    def __post_init__(self) -> None:
        _Column.__post_init__(self)
        require(self.dim >= 1, f"vector {self.name!r}: dim must be at least 1; got {self.dim}")
        _check_separator(self.separator)


@dataclass(frozen=True, kw_only=True, slots=True)
class Text(_Column):
    """Free text, as the list of its lower-case words.

    Args:
        max_length: Longer texts keep their last words.
        min_count: As for `Categorical`.
        buckets: As for `Categorical`.
        vocabulary: As for `Categorical`.
    """

    kind: Literal["text"] = "text"
    max_length: int = 32
    min_count: int = 2
    buckets: int | None = None
    vocabulary: str = ""

    def __post_init__(self) -> None:
        _Column.__post_init__(self)
        _check_length(self.max_length)
        _check_vocabulary(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timestamp(_Column):
    """Parts of a moment in UTC, each a small categorical: `NAME.hour`, `NAME.weekday` ...

    Args:
        parts: Which: `hour`, `weekday` (Monday first), `day` of the month, `month`.
    """

    kind: Literal["timestamp"] = "timestamp"
    parts: tuple[str, ...] = ("hour", "weekday")

    def __post_init__(self) -> None:
        _Column.__post_init__(self)
        require(len(self.parts) > 0, "parts must not be empty")
        for part in self.parts:
            allowed = ", ".join(TIME_PARTS)
            require(part in TIME_PARTS, f"parts must be among {allowed}; got {part!r}")
            require(self.parts.count(part) == 1, f"parts must differ; got {part!r} twice")


Feature = Categorical | Numeric | Sequence | Vector | Text | Timestamp
_KINDS: dict[str, type[Feature]] = {
    "categorical": Categorical,
    "numeric": Numeric,
    "sequence": Sequence,
    "vector": Vector,
    "text": Text,
    "timestamp": Timestamp,
}


def feature_from_dict(values: object, place: str) -> Feature:
    """Build a feature from plain values; its class follows from its `kind`.

    Raises:
        SchemaError: If the values are no table, or the kind is not known.
        ConfigError: If a setting is unknown or out of its range.
    """
    if isinstance(values, Feature):
        return values
    if not isinstance(values, Mapping):
        raise SchemaError(f"{place} must be a table; got {values!r}")
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SchemaError(f"{place}.kind must be one of {', '.join(_KINDS)}; got {kind!r}")
    name = values.get("name")
    return _KINDS[kind].from_dict(values, f"{place} ({name})" if name else place)


def _check_vocabulary(feature: Categorical | Sequence | Text) -> None:
    buckets = feature.buckets
    require(feature.min_count >= 1, f"min_count must be at least 1; got {feature.min_count}")
    # Ids are stored as int32.
    fits = buckets is None or 1 <= buckets < MOST_BUCKETS
    require(fits, f"buckets must be from 1 to {MOST_BUCKETS - 1}; got {buckets}")


def _check_length(max_length: int) -> None:
    require(max_length >= 1, f"max_length must be at least 1; got {max_length}")


def _check_separator(separator: str) -> None:
    require(len(separator) > 0, "separator must not be empty")

"""A first guess at a schema, from the names and the first rows of a table."""

from collections.abc import Sequence as Several

import numpy as np
import pyarrow as pa

from scalerec.data.problems import Problems
from scalerec.data.schema import (
    Categorical,
    Feature,
    Numeric,
    Role,
    Schema,
    Sequence,
    Task,
    TaskKind,
    Text,
    Vector,
)
from scalerec.data.sources import Source, open_source
from scalerec.data.values import is_null, read_keys, read_numbers, read_times
from scalerec.errors import DataError

__all__ = ["suggest_schema"]

# Rows that are looked at.
ROWS = 10_000
# Names are compared without case, spaces and underscores.
USERS = ("userid", "user", "uid", "customerid", "customer", "memberid", "visitorid", "sessionid")
ITEMS = ("itemid", "item", "iid", "movieid", "productid", "product", "articleid", "adid", "bookid")
TIMES = ("timestamp", "time", "datetime", "date", "ts", "unixtime", "createdat")
RATINGS = ("rating", "ratings", "stars", "score")
LABELS = (*RATINGS, "label", "click", "clicked", "target", "liked", "y", "purchase", "conversion")
# So many distinct numbers are rather names of groups.
FEW = 20


def suggest_schema(source: str | Source) -> str:
    """Guess a schema from a table's columns.

    Args:
        source: The table, or its path.

    Returns:
        TOML that `Schema.from_toml` reads, with comments on what to check.

    Raises:
        DataError: If the table cannot be read, or has no rows or too few columns.
    """
    table = open_source(source) if isinstance(source, str) else source
    columns = _first_rows(table)
    user, item, time = (_find(columns, names) for names in (USERS, ITEMS, TIMES))
    if time and not _all_good(read_times(columns[time])):
        time = ""
    label = _find(columns, LABELS)
    used = {time, label}
    features: list[Feature] = []
    for name, role in ((user, Role.USER), (item, Role.ITEM)):
        if name:
            features.append(Categorical(name=name, role=role))
            used.add(name)
    if user and item and time:
        own = "history" if "history" not in columns else "earlier_items"
        kind = "positive" if label else "all"
        features.append(Sequence.from_dict({"name": own, "role": "user", "history": kind}))
    features += [_feature(name, values) for name, values in columns.items() if name not in used]
    if not features:
        raise DataError(
            f"{table.name}: no column is left for a feature; there are: {', '.join(columns)}"
        )
    schema = Schema(
        user=user,
        item=item,
        timestamp=time,
        features=tuple(features),
        tasks=(_task(label, columns, bool(user and item)),),
        tables={},
    )
    return f"{_advice(label)}\n{schema.to_toml()}"


def _first_rows(table: Source) -> dict[str, pa.Array]:
    problems = Problems("skip", keep=0)
    for chunk in table.chunks(table.columns, problems):
        if len(chunk.rows):
            rows = chunk.table.slice(0, ROWS)
            return dict(zip(table.columns, rows.columns, strict=True))
    raise DataError(f"{table.name}: no rows to guess a schema from")


def _find(columns: dict[str, pa.Array], names: Several[str]) -> str:
    plain = {"".join(filter(str.isalnum, column.lower())): column for column in columns}
    return next((plain[name] for name in names if name in plain), "")


def _all_good(clean: tuple[pa.Array, np.ndarray]) -> bool:
    values, bad = clean
    return not bad.any() and values.null_count < len(values)


def _feature(name: str, values: pa.Array) -> Feature:
    optional = bool(is_null(values).any())
    settings = {"name": name, "optional": optional}
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    listed = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(check(values.type) for check in listed):
        return _listed(settings, values)
    if _all_good(read_numbers(values)):
        distinct = len(values.unique())
        kind: type[Feature] = Categorical if distinct <= FEW else Numeric
        return kind.from_dict(settings)
    texts = [text for text in values.to_pylist() if isinstance(text, str)]
    if texts and sum("|" in text for text in texts) > len(texts) / 4:
        return Sequence.from_dict(settings)
    if texts and sum(text.count(" ") >= 3 for text in texts) > len(texts) / 2:
        return Text.from_dict(settings)
    return Categorical.from_dict(settings)


def _listed(settings: dict[str, object], values: pa.Array) -> Feature:
    lengths = {len(row) for row in values.to_pylist() if row is not None}
    if pa.types.is_floating(values.type.value_type) and len(lengths) == 1 and lengths != {0}:
        return Vector.from_dict({**settings, "dim": lengths.pop()})
    return Sequence.from_dict(settings)


def _task(label: str, columns: dict[str, pa.Array], can_retrieve: bool) -> Task:
    if not label:
        kind = TaskKind.RETRIEVAL if can_retrieve else TaskKind.BINARY
        return Task(name="chosen" if can_retrieve else "label", kind=kind)
    numbers, bad = read_numbers(columns[label])
    if bad.any():
        keys = read_keys(columns[label])[0].drop_null().to_pylist()
        return Task(name="positive", column=label, positive=(max(keys, default="yes"),))
    distinct = set(numbers.drop_null().to_pylist())
    if distinct <= {0.0, 1.0}:
        return Task(name=label)
    if len(distinct) <= FEW:
        # The upper end of a scale of ratings: 4 of 1 to 5.
        low, high = min(distinct), max(distinct)
        return Task(name="liked", column=label, at_least=low + 0.75 * (high - low))
    return Task(name=label, kind=TaskKind.REGRESSION)


def _advice(label: str) -> str:
    lines = [
        "# A guess. Check: user, item, timestamp; role (user, item, context) and kind of every",
        "# feature (categorical, numeric, sequence, vector, text, timestamp); and the task.",
    ]
    if not label:
        lines.append(
            "# No column looked like a label: name it in the task, with at_least or positive."
        )
    return "\n".join(lines)

"""A schema that goes on from another: what is known keeps its meaning, what is new is added.

A target's schema may have features that a bundle's lacks, and lack some that it has. The schema of
both has all of the bundle's features first, in their order, and the target's new ones behind them.
A feature that both have means what it means in the bundle, and is read where the target says. One
that the target lacks is null in all of its rows.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeGuard

import pyarrow as pa

from scalerec.data.encoding import Encoders
from scalerec.data.features import ABSENT, Categorical, Feature, Numeric, Role, Sequence, Text
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema, Table, TableName
from scalerec.data.sources import Source, TableSource, with_nulls
from scalerec.data.tasks import Task, TaskKind
from scalerec.errors import SchemaError

__all__ = [
    "absent_names",
    "add_encoders",
    "extend_raw",
    "extend_schema",
    "fault_of_extension",
    "fill_absent",
    "new_names",
]

# What features of one name must agree on.
MEANING = ("kind", "role", "buckets", "parts", "dim", "transform")


def extend_schema(known: Schema, wanted: Schema) -> Schema:
    """The schema of a target's rows for a bundle.

    Args:
        known: The bundle's.
        wanted: The target's.

    Returns:
        The bundle's features and then the target's others; the bundle's schema itself where the
        target's says the same, wherever side tables are read from.

    Raises:
        SchemaError: If a feature or a task of one name is another one here and there, the target
            has a task that the bundle lacks, or none that it has, or both cannot be one schema.
    """
    if _meaning(known) == _meaning(wanted):
        return known
    tables = dict(wanted.tables)
    mine = {feature.name: feature for feature in wanted.features}
    features: list[Feature] = []
    for feature in known.features:
        own = mine.pop(feature.name, None)
        if own is None:
            features.append(_absent(feature, known, wanted, tables))
        else:
            features.append(_merged(feature, own, known.tables_of(feature)))
    of_tables = {name for feature in known.features for name in known.tables_of(feature)}
    embeddings = {n: own for n, own in wanted.embeddings.items() if n not in of_tables}
    extended = wanted.replace(
        features=tuple(_counted([*features, *mine.values()], wanted)),
        tasks=_tasks(known, wanted),
        tables=tables,
        embeddings={**known.embeddings, **embeddings},
    )
    if fault := fault_of_extension(extended, known):
        raise SchemaError(f"the target's schema does not go with the bundle's: {fault}")
    return extended


def fault_of_extension(later: Schema, earlier: Schema) -> str:
    """Tell why a schema does not go on from an earlier one, in words; empty where it does.

    If it does, a value of a feature of the earlier one means the same to both.
    """
    kept = later.features[: len(earlier.features)]
    for before, after in zip(earlier.features, kept, strict=False):
        if before.name != after.name:
            return f"feature {before.name!r} is not where it was"
        if fault := _fault(before, after):
            return fault
        tables = earlier.tables_of(before), later.tables_of(after)
        if tables[0] != tables[1]:
            return (
                f"feature {before.name!r} reads the ids of {', '.join(tables[0])} in the bundle "
                f"and of {', '.join(tables[1])} here; what has the same ids must have one name"
            )
    if len(kept) < len(earlier.features):
        return f"feature {earlier.features[len(kept)].name!r} is missing"
    return _fault_of_tasks(later.tasks, earlier.tasks)


def new_names(later: Schema, earlier: Schema) -> list[str]:
    """Names of the features that an earlier schema lacks."""
    return [feature.name for feature in later.features[len(earlier.features) :]]


def absent_names(schema: Schema) -> list[str]:
    """Names of the features that are null in every row of the data at hand."""
    return [feature.name for feature in schema.features if feature.is_absent]


def extend_raw(raw: RawData, known: Schema) -> RawData:
    """Raw data of a target, as rows for a bundle.

    Args:
        raw: The target's.
        known: The bundle's schema.

    Raises:
        SchemaError: As `extend_schema`.
    """
    schema = extend_schema(known, raw.schema)
    if schema is known:
        return replace(raw, schema=known)
    parts: dict[str, Source | None] = {"users": raw.users, "items": raw.items}
    for name in schema.tables:
        if parts[name] is None:
            key = schema.key_of("users" if name == "users" else "items")
            parts[name] = TableSource({key: pa.array([], pa.string())}, f"no {name}")
    notes = [
        f"{words}: {', '.join(names)}"
        for words, names in (
            ("fields that the bundle does not know are added", new_names(schema, known)),
            ("fields of the bundle that are null in all rows here", absent_names(schema)),
        )
        if names
    ]
    return replace(
        raw,
        schema=schema,
        users=parts["users"],
        items=parts["items"],
        notes=(*raw.notes, *notes),
    )


def fill_absent(raw: RawData) -> RawData:
    """Raw data in which the columns that the data at hand do not have are there, with nulls."""
    schema = raw.schema

    def filled(source: Source | None, table: TableName) -> Source | None:
        names = [feature.source for feature in schema.of_table(table) if feature.is_absent]
        if table == "events":
            names += [task.source for task in schema.tasks if task.source.startswith(ABSENT)]
        return source if source is None or not names else with_nulls(source, names)

    splits = {name: filled(source, "events") or source for name, source in raw.splits.items()}
    users, items = filled(raw.users, "users"), filled(raw.items, "items")
    return replace(raw, splits=splits, users=users, items=items)


def add_encoders(grown: Encoders, fitted: Encoders) -> Encoders:
    """Encoders that have grown, with those of features that they lack.

    Args:
        grown: What is known keeps its ids and statistics.
        fitted: All features', fitted on the target's training rows.
    """
    return Encoders(
        fitted.schema,
        {**grown.vocabularies, **_others(fitted.vocabularies, grown.vocabularies)},
        {**grown.numbers, **_others(fitted.numbers, grown.numbers)},
    )


def _others(fitted: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: own for name, own in fitted.items() if name not in known}


def _meaning(schema: Schema) -> Schema:
    """The schema, wherever side tables are read from."""
    tables = {name: table.replace(file="") for name, table in schema.tables.items()}
    return schema.replace(tables=tables)


def _merged(known: Feature, own: Feature, tables: tuple[str, ...]) -> Feature:
    """A feature that both have: what it means in the bundle, read where the target says."""
    fault, shared = _fault(known, own), getattr(own, "vocabulary", "")
    if not fault and shared and (shared,) != tables:
        fault = (
            f"feature {known.name!r} reads the ids of {', '.join(tables)} in the bundle and of "
            f"{shared} here; what has the same ids must have one name"
        )
    if fault:
        raise SchemaError(f"the target's schema does not go with the bundle's: {fault}")
    place = {name: getattr(own, name) for name in ("column", "table", "optional", "role")}
    for name in ("separator", "min_count"):
        if hasattr(known, name):
            place[name] = getattr(own, name)
    if not own.column:
        place["column"] = own.name
    return known.replace(**place)


def _absent(feature: Feature, known: Schema, wanted: Schema, tables: dict[str, Table]) -> Feature:
    """A feature that the target lacks; `tables` may get an empty side table for it."""
    if isinstance(feature, Sequence) and feature.is_history:
        if wanted.user and wanted.item and wanted.timestamp:
            return feature
        # Without these no history can be built.
        key = known.item_key
        assert key is not None, "a schema with a history has the item's key"
        vocabulary = known.tables_of(key)[0]
        feature = feature.replace(history="none", vocabulary=vocabulary)
    table: TableName = feature.table
    if table != "events" and table not in tables:
        named = wanted.user if table == "users" else wanted.item
        titled = table == "items" and bool(wanted.title)
        if named and not titled and not known.is_key(feature):
            tables[table] = Table()
        else:
            table = "events"
    if known.is_key(feature):
        table = "events"
    return feature.replace(
        column=f"{ABSENT}{feature.name}", table=table, role=feature.role, optional=True
    )


def _counted(features: list[Feature], wanted: Schema) -> list[Feature]:
    """The features with one `min_count` a vocabulary: the target's, where it says one."""
    said = {f.name: f.min_count for f in wanted.features if _has_keys(f)}
    least: dict[str, int] = {}
    for feature in features:
        if _has_keys(feature) and feature.name in said:
            least.setdefault(feature.vocabulary or feature.name, said[feature.name])
    return [
        feature.replace(min_count=least.get(feature.vocabulary or feature.name, feature.min_count))
        if _has_keys(feature)
        else feature
        for feature in features
    ]


def _has_keys(feature: Feature) -> TypeGuard[Categorical | Sequence | Text]:
    history = isinstance(feature, Sequence) and feature.is_history
    return isinstance(feature, Categorical | Sequence | Text) and not history


def _fault(known: Feature, own: Feature) -> str:
    """Why two features of one name are not the same; empty where they are."""
    for name in MEANING:
        one, two = getattr(known, name, None), getattr(own, name, None)
        if one != two:
            words = [
                "none" if value is None else str(value.value if isinstance(value, Role) else value)
                for value in (one, two)
            ]
            return (
                f"feature {known.name!r} has {name} {words[0]} in the bundle and {words[1]} here; "
                "say the same of it, or give it another name"
            )
    quantile = isinstance(known, Numeric) and known.transform == "quantile"
    if quantile and getattr(own, "num_buckets", 0) != getattr(known, "num_buckets", 0):
        return f"feature {known.name!r} has another number of buckets than in the bundle"
    lists = isinstance(known, Sequence) and isinstance(own, Sequence) and not own.is_absent
    one, two = (getattr(feature, "history", None) for feature in (known, own))
    if lists and one != two:
        return (
            f"feature {known.name!r} has history {one} in the bundle and {two} here; "
            "say the same of it, or give it another name"
        )
    return ""


def _tasks(known: Schema, wanted: Schema) -> tuple[Task, ...]:
    """The bundle's tasks as the target has them; without labels where it lacks them."""
    mine = {task.name: task for task in wanted.tasks}
    there = ", ".join(task.name for task in known.tasks)
    for name in mine:
        if name not in {task.name for task in known.tasks}:
            raise SchemaError(
                f"task {name!r} is not one of the bundle's, which are {there}; give it the name "
                "of the one that it is like, or leave it out"
            )
    tasks = []
    for task in known.tasks:
        own = mine.get(task.name)
        if own is None:
            cut = 0.5 if task.kind is TaskKind.RETRIEVAL else None
            own = task.replace(column=f"{ABSENT}{task.name}", at_least=cut, positive=())
        tasks.append(own)
    return tuple(tasks)


def _fault_of_tasks(later: tuple[Task, ...], earlier: tuple[Task, ...]) -> str:
    one, two = (
        [(task.name, task.kind.value, task.num_outputs) for task in tasks]
        for tasks in (earlier, later)
    )
    return "" if one == two else f"the tasks are {one} in the bundle and {two} here"

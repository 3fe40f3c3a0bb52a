"""One schema for several domains: features of one name are one feature, with one vocabulary.

Columns are renamed on the way: a feature's column is named after it, so that domains may call it
differently. What a domain lacks is null in its rows.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from scalerec.data.features import Categorical, Feature, Numeric, Role, Sequence, Text
from scalerec.data.schema import Embedding, Schema, Table
from scalerec.data.tasks import Task, TaskKind
from scalerec.errors import SchemaError

__all__ = ["join_schemas", "label_column"]

Schemas = Mapping[str, Schema]
# What features of one name must agree on.
MEANING = ("kind", "role", "table", "buckets", "vocabulary", "history", "parts", "dim", "transform")
OF_TASKS = ("kind", "num_classes", "weight")
KEYS = {Role.USER: "user", Role.ITEM: "item"}
LISTS = {"users": Role.USER, "items": Role.ITEM}


def label_column(task: str) -> str:
    """The column of a task's labels in joined events, which are ready to be learned from."""
    return f"label of {task}"


def join_schemas(schemas: Schemas, domain: str) -> Schema:
    """The schema of several domains side by side.

    Args:
        schemas: By domain, at least one.
        domain: Name of the feature that tells the domain; it comes last.

    Raises:
        SchemaError: If a feature, a task or a table of one name is another one in two domains, or
            one domain names a user, an item or a timestamp that another lacks.
    """
    for word in ("user", "item", "timestamp"):
        _check_named(schemas, word)
    found: dict[str, list[tuple[str, Feature]]] = {}
    for name, schema in schemas.items():
        for feature in schema.features:
            found.setdefault(feature.name, []).append((name, feature))
    if domain in found:
        raise SchemaError(
            f"{found[domain][0][0]} has a feature {domain!r}, which is to tell the domain; give "
            "one of them another name"
        )
    keys = {role: _key_names(schemas, role) for role in KEYS}
    columns = _columns(schemas, keys, [*found, domain])
    least = _least(schemas)
    features = [
        _joined(own, len(own) == len(schemas), schemas, columns, least) for own in found.values()
    ]
    tables = {
        name: Table(key=columns[name])
        for name in LISTS
        if any(name in schema.tables for schema in schemas.values())
    }
    return Schema(
        features=(*features, Categorical(name=domain)),
        tasks=_tasks(schemas),
        user=columns["user"],
        item=columns["item"],
        timestamp=columns["timestamp"],
        title=columns["title"],
        weight=columns["weight"],
        group=columns["group"],
        tables=tables,
        embeddings=_embeddings(schemas),
    )


def _check_named(schemas: Schemas, word: str) -> None:
    lacking = [name for name, schema in schemas.items() if not getattr(schema, word)]
    having = [name for name in schemas if name not in lacking]
    if lacking and having:
        raise SchemaError(
            f"the schema of {having[0]} names a {word} and that of {lacking[0]} does not; name "
            "one in both, or in none"
        )


def _key_names(schemas: Schemas, role: Role) -> list[str]:
    """Names of the features on the key of users or items; the same in all domains with any."""
    first = ""
    names: list[str] = []
    for domain, schema in schemas.items():
        own = [f.name for f in schema.features if f.role is role and schema.is_key(f)]
        if own and names and own != names:
            raise SchemaError(
                f"the key of the {KEYS[role]} is feature {', '.join(names)} in {first} and "
                f"{', '.join(own)} in {domain}; name it alike (its column may differ)"
            )
        if own and not names:
            first, names = domain, own
    return names


def _columns(
    schemas: Schemas, keys: Mapping[Role, list[str]], taken: Iterable[str]
) -> dict[str, str]:
    """Names of the columns that are no feature's own, empty for those that are not there."""
    used = set(taken)

    def free(name: str) -> str:
        while name in used:
            name += " key"
        used.add(name)
        return name

    def any_has(word: str) -> bool:
        return any(getattr(schema, word) for schema in schemas.values())

    of_events, of_lists = {}, {}
    for role, word in KEYS.items():
        tables = {
            feature.name: feature.table
            for schema in schemas.values()
            for feature in schema.features
            if feature.name in keys[role]
        }
        events = [name for name in keys[role] if tables[name] == "events"]
        lists = [name for name in keys[role] if tables[name] != "events"]
        of_events[word] = (events[0] if events else free(word)) if any_has(word) else ""
        of_lists[f"{word}s"] = lists[0] if lists else of_events[word]
    rest = {word: free(word) if any_has(word) else "" for word in ("timestamp", "weight", "group")}
    listed = [schema for schema in schemas.values() if "items" in schema.tables]
    titled = any(schema.title for schema in (listed or schemas.values()))
    return {**of_events, **of_lists, **rest, "title": free("title") if titled else ""}


def _least(schemas: Schemas) -> dict[str, int]:
    """By vocabulary, the smallest `min_count` that a domain asks for."""
    least: dict[str, int] = {}
    for schema in schemas.values():
        for feature in schema.features:
            if isinstance(feature, Categorical | Sequence | Text):
                for table in schema.tables_of(feature):
                    least[table] = min(least.get(table, feature.min_count), feature.min_count)
    return least


def _joined(
    own: list[tuple[str, Feature]],
    everywhere: bool,
    schemas: Schemas,
    columns: Mapping[str, str],
    least: Mapping[str, int],
) -> Feature:
    """The feature that several domains have under one name."""
    domain, first = own[0]
    for other, feature in own[1:]:
        _check_same(f"feature {first.name!r}", MEANING, (domain, first), (other, feature))
    schema = schemas[domain]
    changes: dict[str, Any] = {
        "column": "",
        "optional": not everywhere or any(feature.optional for _, feature in own),
    }
    if schema.is_key(first):
        key = KEYS[first.role] if first.table == "events" else first.table
        changes |= {"column": columns[key], "optional": False}
    if isinstance(first, Sequence | Text):
        changes["max_length"] = max(f.max_length for _, f in own if isinstance(f, type(first)))
    if isinstance(first, Categorical | Sequence | Text):
        changes["min_count"] = least[schema.tables_of(first)[0]]
    if isinstance(first, Numeric) and first.transform == "quantile":
        for other, feature in own[1:]:
            pair = (domain, first), (other, feature)
            _check_same(f"feature {first.name!r}", ("num_buckets",), *pair)
    return first.replace(**changes)


def _check_same(
    what: str, names: Iterable[str], one: tuple[str, object], two: tuple[str, object]
) -> None:
    for name in names:
        values = [getattr(own, name, None) for _, own in (one, two)]
        if values[0] != values[1]:
            words = ["none" if value in (None, "") else str(value) for value in values]
            raise SchemaError(
                f"{what} has {name} {words[0]} in {one[0]} and {words[1]} in {two[0]}; say the "
                "same of it, or name them differently"
            )


def _tasks(schemas: Schemas) -> tuple[Task, ...]:
    """All tasks, each with labels that every domain has made in its own way."""
    found: dict[str, tuple[str, Task]] = {}
    lacking = set()
    for domain, schema in schemas.items():
        for task in schema.tasks:
            first = found.setdefault(task.name, (domain, task))
            _check_same(f"task {task.name!r}", OF_TASKS, first, (domain, task))
            if not task.has_column:
                lacking.add(task.name)
    tasks = []
    for name, (_, task) in found.items():
        everywhere = all(any(t.name == name for t in s.tasks) for s in schemas.values())
        plain = task.kind is TaskKind.RETRIEVAL and name in lacking and everywhere
        cut = 0.5 if task.kind is TaskKind.RETRIEVAL and not plain else None
        column = label_column(name)
        tasks.append(task.replace(column=column, at_least=cut, positive=()))
    return tuple(tasks)


def _embeddings(schemas: Schemas) -> dict[str, Embedding]:
    found: dict[str, tuple[str, Embedding]] = {}
    for domain, schema in schemas.items():
        for name, own in schema.embeddings.items():
            first = found.setdefault(name, (domain, own))
            _check_same(f"embedding {name!r}", ("rows", "sharing", "dim"), first, (domain, own))
    return {name: own for name, (_, own) in found.items()}

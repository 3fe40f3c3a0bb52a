"""What the bundle is and where it comes from, as its manifest says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalerec.bundle import Bundle, FileEntry, Step
from scalerec.models.zoo import ZOO
from scalerec.report.words import duration, moment, share, short, size, whole

__all__ = [
    "FieldView",
    "FileView",
    "Headline",
    "ModelView",
    "Part",
    "StepView",
    "find_notes",
    "headline",
    "show_field",
    "show_files",
    "show_model",
    "show_step",
]

Pairs = tuple[tuple[str, str], ...]
MAX_PARTS = 8
MAX_SETTINGS = 60
MAX_TEXT = 120
# Whole numbers in a bundle are counters and maps from ids to rows, not parameters.
NOT_PARAMETERS = {"int64", "int32", "bool"}
KINDS = {"ids": "categorical", "numbers": "numeric", "bags": "sequence", "vectors": "vector"}


@dataclass(frozen=True, slots=True)
class Headline:
    """The top of the page: model, data set, what it predicts, and a few facts."""

    model: str
    dataset: str
    predicts: str
    facts: Pairs


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a model: its name, its share in words and in percent, its parameters."""

    name: str
    count: str
    share: str
    percent: float


@dataclass(frozen=True, slots=True)
class FieldView:
    """One field of the batch: what it is, whose, and which table embeds it."""

    name: str
    kind: str
    role: str
    table: str
    rows: str


@dataclass(frozen=True, slots=True)
class ModelView:
    """The model: where it was published, its settings, its parts, its fields."""

    paper: str
    settings: Pairs
    total: str
    parts: tuple[Part, ...]
    fields: tuple[FieldView, ...]


@dataclass(frozen=True, slots=True)
class StepView:
    """One verb of the lineage."""

    verb: str
    when: str
    took: str
    version: str
    sources: Pairs
    settings: Pairs
    ledger: Pairs


@dataclass(frozen=True, slots=True)
class FileView:
    """One file: name, size, SHA-256."""

    name: str
    size: str
    sha256: str


def headline(bundle: Bundle) -> Headline:
    """Say in one line what the bundle is."""
    last = bundle.lineage[-1] if bundle.lineage else None
    facts = [("Bundle", short(bundle.digest))]
    if last is not None:
        facts += [("Made", moment(last.time)), ("With", f"scalerec {last.version}")]
    facts.append(("Size", size(bundle.num_bytes)))
    return Headline(_model_name(bundle), _dataset_name(bundle), _predicts(bundle), tuple(facts))


def _model_name(bundle: Bundle) -> str:
    spec = bundle.spec
    name = str(spec.get("model") or spec.get("name") or spec.get("kind"))
    return ZOO[name].paper.partition(",")[0] if name in ZOO else name


def _dataset_name(bundle: Bundle) -> str:
    """Find the data set's name: what `prepare` called it, or what a later verb says it read."""
    for step in reversed(bundle.lineage):
        found = step.settings.get("name") if step.verb == "prepare" else None
        found = found or step.settings.get("dataset")
        if isinstance(found, Mapping):
            found = found.get("name")
        if isinstance(found, str) and found:
            return found
    return ""


def _predicts(bundle: Bundle) -> str:
    tasks = bundle.schema.get("tasks")
    if not isinstance(tasks, list):
        return ""
    names = [str(task["name"]) for task in tasks if isinstance(task, dict) and "name" in task]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def find_notes(bundle: Bundle) -> Pairs:
    """Collect the notes of the data sets: citations, terms, where a set was read from."""
    found: dict[str, None] = {}
    for step in bundle.lineage:
        inner = step.settings.get("dataset")
        for place in (step.settings, inner if isinstance(inner, Mapping) else {}):
            notes = place.get("notes")
            if isinstance(notes, list):
                found.update(dict.fromkeys(note for note in notes if isinstance(note, str)))
    pairs = []
    for note in found:
        head, colon, rest = note.partition(": ")
        labelled = bool(colon) and head.isalpha() and len(head) <= 12
        pairs.append((head.capitalize(), rest) if labelled else ("", note))
    return tuple(pairs)


def show_model(bundle: Bundle) -> ModelView:
    """Describe the model: spec, parameters by part, fields."""
    counts: dict[str, int] = {}
    for name, info in bundle.tensor_infos().items():
        if info.dtype not in NOT_PARAMETERS:
            part = _part(name)
            counts[part] = counts.get(part, 0) + math.prod(info.shape)
    total = sum(counts.values())
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    if len(ordered) > MAX_PARTS:
        rest = ordered[MAX_PARTS - 1 :]
        ordered = ordered[: MAX_PARTS - 1]
        ordered.append((f"{len(rest)} other parts", sum(count for _, count in rest)))
    parts = tuple(
        Part(name, whole(count), share(count, total), 100 * count / total if total else 0.0)
        for name, count in ordered
    )
    spec = {key: value for key, value in bundle.spec.items() if key not in ("kind", "settings")}
    own = bundle.spec.get("settings")
    inner = own if isinstance(own, Mapping) else {}
    model = spec.get("model")
    paper = ZOO[model].paper if isinstance(model, str) and model in ZOO else ""
    return ModelView(
        paper, (*_settings(spec), *_settings(inner)), whole(total), parts, _fields(bundle)
    )


def _part(name: str) -> str:
    """Name the part that a tensor belongs to: a table, or the first two levels of the net."""
    levels = name.split(".")
    if levels[0] == "tables" and len(levels) > 2:
        return f"table {'.'.join(levels[1:-1])}"
    return ".".join(levels[: 2 if levels[0] == "net" and len(levels) > 2 else 1])


def _fields(bundle: Bundle) -> tuple[FieldView, ...]:
    features = bundle.schema.get("features")
    listed = features if isinstance(features, list) else []
    kinds = {f["name"]: f.get("kind") for f in listed if isinstance(f, dict) and "name" in f}
    sizes = bundle.layout.get("tables")
    tables = sizes if isinstance(sizes, Mapping) else {}
    views = []
    for group, kind in KINDS.items():
        fields = bundle.layout.get(group)
        for field in fields if isinstance(fields, list) else []:
            if isinstance(field, Mapping):
                views.append(show_field(field, kind, kinds, tables))
    return tuple(views)


def show_field(
    field: Mapping[str, Any], kind: str, kinds: Mapping[str, Any], tables: Mapping[str, Any]
) -> FieldView:
    """Describe one field of a layout.

    Args:
        field: Its entry in the layout.
        kind: What it is where the schema does not say.
        kinds: Feature to its kind in the schema; a part of a moment is named ``FEATURE.part``.
        tables: Table to its rows.
    """
    name = str(field.get("name", ""))
    known = kinds.get(name) or kinds.get(name.rpartition(".")[0]) or kind
    if field.get("history"):
        known = "history"
    if "dim" in field:
        known = f"{known} of {field['dim']}"
    if "max_length" in field:
        known = f"{known}, at most {field['max_length']}"
    table = str(field.get("table", ""))
    rows = tables.get(table)
    count = whole(rows) if isinstance(rows, int) else ""
    return FieldView(name, str(known), str(field.get("role", "")), table, count)


def show_step(step: Step) -> StepView:
    """Describe one step of the lineage; the notes of the data have a place of their own."""
    sources = [("from bundle", short(parent)) for parent in step.parents]
    if step.data is not None:
        sources.append(("data", short(step.data)))
    return StepView(
        verb=step.verb,
        when=moment(step.time),
        took="" if step.seconds is None else duration(step.seconds),
        version=step.version,
        sources=tuple(sources),
        settings=_settings(step.settings),
        ledger=_settings(step.ledger or {}),
    )


def _settings(table: Mapping[str, Any]) -> Pairs:
    pairs = _flatten(table, "")
    if len(pairs) > MAX_SETTINGS:
        pairs = [*pairs[:MAX_SETTINGS], ("…", f"{len(pairs) - MAX_SETTINGS} more")]
    return tuple(pairs)


def _flatten(table: Mapping[str, Any], head: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{head}{key}.")
        elif not (key == "notes" and isinstance(value, list)):
            pairs.append((f"{head}{key}", _word(value)))
    return pairs


def _word(value: object) -> str:
    if value is None or value in ("", []):
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        text = ", ".join(_word(item) for item in value)
    else:
        text = f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"


def show_files(entries: Mapping[str, FileEntry]) -> list[FileView]:
    """Describe files with their sizes and digests."""
    return [FileView(name, size(entry.size), entry.sha256) for name, entry in entries.items()]

"""What a bundle's attachments say, checked and as plain data; unknown entries are passed over.

Every reader gives None or an empty list where the attachment is not there.

```text
evaluation-*.json     split, rows, metrics {name: number | null}, counts {name: number}
baselines.json        rows [{name, metrics}]
curves.json           steps [{step, epoch?, seconds?, "train/loss"?, "valid/auc"?, ...}]
calibration.json      bins [{low, high, mean_score, share_positive, count}], split?, task?
recommendations.json  users [{user, history [title], items [{rank, item, title, score}]}]
study.json            rows [{trial, state, value, epochs, seconds, model, values, reason}], metric,
                      higher_is_better, best, importance {setting: share}
```
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalerec.bundle import Bundle
from scalerec.errors import BundleError

__all__ = [
    "Baseline",
    "Bin",
    "Calibration",
    "Evaluation",
    "Example",
    "Row",
    "Study",
    "Suggestion",
    "Trial",
    "read_baselines",
    "read_calibration",
    "read_curves",
    "read_evaluations",
    "read_examples",
    "read_study",
]

Metrics = dict[str, float | None]
Row = dict[str, float]
Plain = Mapping[str, Any]

SPLITS = ("test", "valid", "train")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One ``evaluation-*.json``; `name` is what stands for the star."""

    name: str
    split: str
    rows: int
    metrics: Metrics
    counts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Baseline:
    """One row of ``baselines.json``."""

    name: str
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows whose score is from `low` to `high`; an empty bin has no means."""

    low: float
    high: float
    mean_score: float | None
    share_positive: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """``calibration.json``; `of` says which split and task, if it says so."""

    bins: tuple[Bin, ...]
    of: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One item of a list, as a person sees it."""

    rank: int
    title: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Example:
    """One user of ``recommendations.json``; the history's last title is the latest."""

    user: str
    history: tuple[str, ...]
    items: tuple[Suggestion, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One row of ``study.json``; `state` is `complete`, `pruned` or `failed`."""

    number: int
    state: str
    value: float | None
    epochs: float
    seconds: float
    model: str
    values: Plain
    reason: str


@dataclass(frozen=True, slots=True)
class Study:
    """``study.json``: the trials of a search, and which of them the bundle is."""

    metric: str
    higher_is_better: bool
    best: int
    importance: dict[str, float]
    trials: tuple[Trial, ...]


def read_evaluations(bundle: Bundle) -> list[Evaluation]:
    """Read every evaluation, the test part first.

    Raises:
        BundleError: If one was changed, or is not of the form above.
    """
    found = []
    for file in bundle.attachments():
        if file.startswith("evaluation-") and file.endswith(".json"):
            plain = bundle.attachment_json(file)
            name = file.removeprefix("evaluation-").removesuffix(".json")
            counts = _numbers(plain, "counts", file)
            found.append(
                Evaluation(
                    name=name,
                    split=_text(plain, "split", file, name),
                    rows=_count(plain, "rows", file),
                    metrics=_numbers(plain, "metrics", file),
                    counts={key: value for key, value in counts.items() if value is not None},
                )
            )
    order = {split: i for i, split in enumerate(SPLITS)}
    return sorted(found, key=lambda e: (order.get(e.split, len(order)), e.name))


def read_baselines(bundle: Bundle) -> list[Baseline]:
    """Read ``baselines.json``.

    Raises:
        BundleError: If it was changed, or is not of the form above.
    """
    file = "baselines.json"
    return [
        Baseline(_text(row, "name", place, ""), _numbers(row, "metrics", place))
        for place, row in _rows(_load(bundle, file), "rows", file)
    ]


def read_curves(bundle: Bundle) -> list[Row]:
    """Read ``curves.json``: one row a step, in order; of a value given twice the last counts.

    Raises:
        BundleError: If it was changed, or is not of the form above.
    """
    file = "curves.json"
    merged: dict[float, Row] = {}
    for place, row in _rows(_load(bundle, file), "steps", file):
        values = {name: _number(value, f"{place}.{name}") for name, value in row.items()}
        step = values.get("step")
        if step is None:
            raise BundleError(f"{place}.step must be a number; got {row.get('step')!r}")
        finite = {name: value for name, value in values.items() if value is not None}
        merged.setdefault(step, {}).update(finite)
    return [merged[step] for step in sorted(merged)]


def read_calibration(bundle: Bundle) -> Calibration | None:
    """Read ``calibration.json``.

    Raises:
        BundleError: If it was changed, or is not of the form above.
    """
    file = "calibration.json"
    plain = _load(bundle, file)
    bins = tuple(
        Bin(
            low=_number(row.get("low"), f"{place}.low") or 0.0,
            high=_number(row.get("high"), f"{place}.high") or 0.0,
            mean_score=_number(row.get("mean_score"), f"{place}.mean_score"),
            share_positive=_number(row.get("share_positive"), f"{place}.share_positive"),
            count=_count(row, "count", place),
        )
        for place, row in _rows(plain, "bins", file)
    )
    if not any(one.count for one in bins):
        return None
    words = [_text(plain, key, file, "") for key in ("task", "split")]
    return Calibration(bins, ", ".join(word for word in words if word))


def read_examples(bundle: Bundle) -> list[Example]:
    """Read ``recommendations.json``.

    Raises:
        BundleError: If it was changed, or is not of the form above.
    """
    file = "recommendations.json"
    found = []
    for place, row in _rows(_load(bundle, file), "users", file):
        history = row.get("history", [])
        if not isinstance(history, list):
            raise BundleError(f"{place}.history must be a list; got {history!r}")
        items = tuple(
            Suggestion(
                rank=_count(item, "rank", where, default=i),
                title=_text(item, "title", where, "") or _text(item, "item", where, "?"),
                score=_number(item.get("score"), f"{where}.score"),
            )
            for i, (where, item) in enumerate(_rows(row, "items", place), 1)
        )
        user = _text(row, "user", place, "")
        found.append(Example(user, tuple(str(title) for title in history), items))
    return found


def read_study(bundle: Bundle) -> Study | None:
    """Read ``study.json``.

    Raises:
        BundleError: If it was changed, or is not of the form above.
    """
    file = "study.json"
    plain = _load(bundle, file)
    trials = tuple(
        Trial(
            number=_count(row, "trial", place),
            state=_text(row, "state", place, ""),
            value=_number(row.get("value"), f"{place}.value"),
            epochs=_number(row.get("epochs"), f"{place}.epochs") or 0.0,
            seconds=_number(row.get("seconds"), f"{place}.seconds") or 0.0,
            model=_text(row, "model", place, ""),
            values=_table(row, "values", place),
            reason=_text(row, "reason", place, ""),
        )
        for place, row in _rows(plain, "rows", file)
    )
    if not trials:
        return None
    shares = _numbers(plain, "importance", file)
    return Study(
        metric=_text(plain, "metric", file, ""),
        higher_is_better=plain.get("higher_is_better") is not False,
        best=_count(plain, "best", file),
        importance={name: share for name, share in shares.items() if share is not None},
        trials=trials,
    )


def _load(bundle: Bundle, file: str) -> Plain:
    return bundle.attachment_json(file) if file in bundle.attachments() else {}


def _rows(plain: Plain, key: str, place: str) -> list[tuple[str, Plain]]:
    rows = plain.get(key, [])
    if not isinstance(rows, list):
        raise BundleError(f"{place}: {key} must be a list; got {rows!r}")
    named = [(f"{place}: {key}[{i}]", row) for i, row in enumerate(rows)]
    for where, row in named:
        if not isinstance(row, Mapping):
            raise BundleError(f"{where} must be a table; got {row!r}")
    return named


def _table(plain: Plain, key: str, place: str) -> Plain:
    table = plain.get(key, {})
    if not isinstance(table, Mapping):
        raise BundleError(f"{place}: {key} must be a table; got {table!r}")
    return table


def _numbers(plain: Plain, key: str, place: str) -> Metrics:
    table = _table(plain, key, place)
    return {name: _number(value, f"{place}: {key}.{name}") for name, value in table.items()}


def _number(value: object, place: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BundleError(f"{place} must be a number or null; got {value!r}")
    return float(value) if math.isfinite(value) else None


def _count(plain: Plain, key: str, place: str, default: int = 0) -> int:
    number = _number(plain.get(key), f"{place}: {key}")
    return default if number is None else int(number)


def _text(plain: Plain, key: str, place: str, default: str) -> str:
    value = plain.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BundleError(f"{place}: {key} must be text; got {value!r}")
    return str(value)

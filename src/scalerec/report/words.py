"""Numbers and metrics as a person reads them."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = [
    "MetricName",
    "duration",
    "explain",
    "figure",
    "is_lower_better",
    "metric_title",
    "moment",
    "read_metric",
    "share",
    "short",
    "size",
    "whole",
]

UNDEFINED = "undefined"

# Metric: its title, and what it says. A lower value is better for the names in LOWER.
_WORDS: dict[str, tuple[str, str]] = {
    "auc": (
        "AUC",
        "How often a positive row is scored above one that is not. Chance gives 0.5.",
    ),
    "gauc": ("GAUC", "AUC within each group, such as one person's rows, averaged over the groups."),
    "log_loss": ("Log loss", "How wrong the predicted chances are, on average. Lower is better."),
    "ne": (
        "Normalised entropy",
        "Log loss, divided by that of always guessing the mean. Below 1 beats the guess.",
    ),
    "ece": (
        "Calibration error",
        "How far predicted chances are from what happened, on average. Lower is better.",
    ),
    "accuracy": ("Accuracy", "The share of rows whose class is predicted right."),
    "rmse": ("RMSE", "The typical error, in the units of the label. Lower is better."),
    "mae": ("MAE", "The mean error, in the units of the label. Lower is better."),
    "ndcg": (
        "NDCG",
        "How near the top the items stand that a person then chose. 1 is a perfect order.",
    ),
    "hit_rate": ("Hit rate", "The share of people whose list holds something they then chose."),
    "recall": ("Recall", "Of what a person then chose, the share that the list holds."),
    "precision": ("Precision", "The share of the list that the person then chose."),
    "mrr": ("MRR", "One divided by the place of the first item that the person then chose."),
    "map": ("MAP", "Precision at each item that the person then chose, averaged."),
    "coverage": ("Coverage", "The share of the catalogue that is in somebody's list."),
    "novelty": ("Novelty", "How rarely the items of a list are met, in bits. Higher is rarer."),
    "diversity": ("Diversity", "How unlike each other the items of one list are."),
    "loss": ("Loss", "What training makes small. Lower is better."),
}
LOWER = frozenset({"log_loss", "ne", "ece", "rmse", "mae", "loss"})


@dataclass(frozen=True, slots=True)
class MetricName:
    """The parts of a metric's name: ``liked.ndcg@10`` is task `liked`, base `ndcg`, k `10`."""

    task: str
    base: str
    k: str


def read_metric(name: str) -> MetricName:
    """Take a metric's name apart; parts that are not there are empty.

    Example:
        >>> read_metric("income.auc")
        MetricName(task='income', base='auc', k='')
    """
    front, _, k = name.partition("@")
    task, _, base = front.rpartition(".")
    return MetricName(task, base, k)


def metric_title(name: str, *, with_task: bool = True) -> str:
    """Give a metric's title: ``liked.ndcg@10`` is ``NDCG@10, liked``."""
    parts = read_metric(name)
    title = _WORDS[parts.base][0] if parts.base in _WORDS else parts.base
    at = f"@{parts.k}" if parts.k else ""
    task = f", {parts.task}" if parts.task and with_task else ""
    return f"{title}{at}{task}"


def explain(name: str) -> str:
    """Say in plain words what a metric measures; nothing for an unknown one."""
    return _WORDS.get(read_metric(name).base, ("", ""))[1]


def is_lower_better(name: str) -> bool:
    """Tell whether a smaller value of the metric is the better one."""
    return read_metric(name).base in LOWER


def figure(value: float | None) -> str:
    """Write a number with the digits that matter.

    Example:
        >>> [figure(x) for x in (0.98406, 12.3456, 1234567.0, 0.0001234, 3.0, None)]
        ['0.9841', '12.35', '1,234,567', '0.00012', '3', 'undefined']
    """
    if value is None or not math.isfinite(value):
        return UNDEFINED
    size = abs(value)
    if value == int(value) and size >= 1:
        return f"{value:,.0f}"
    if 0 < size < 0.0005:
        return f"{value:.2g}"
    decimals = 4 if size < 1 else 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return f"{value:,.{decimals}f}"


def whole(count: float) -> str:
    """Write a count.

    Example:
        >>> whole(1234567)
        '1,234,567'
    """
    return f"{count:,.0f}"


def share(part: float, total: float) -> str:
    """Write a part of a total as a percentage.

    Example:
        >>> share(1, 3), share(1, 100_000), share(0, 0)
        ('33.3%', '<0.1%', '0%')
    """
    percent = 100 * part / total if total else 0.0
    if percent in (0, 100):
        return f"{percent:.0f}%"
    return "<0.1%" if percent < 0.1 else f"{percent:.1f}%"


def size(num_bytes: int) -> str:
    """Write a size on disk.

    Example:
        >>> size(12), size(1536), size(2_500_000)
        ('12 bytes', '1.5 kB', '2.5 MB')
    """
    if num_bytes < 1000:
        return f"{num_bytes} bytes"
    value = float(num_bytes)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


def duration(seconds: float) -> str:
    """Write how long something took.

    Example:
        >>> duration(0.25), duration(59.4), duration(200), duration(7300)
        ('0.25 s', '59 s', '3 min 20 s', '2 h 2 min')
    """
    if seconds < 10:
        return f"{seconds:.2g} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        minutes, rest = divmod(total, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(total / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def moment(text: str) -> str:
    """Write an ISO 8601 time for a person, in UTC; what is no such time stays as it is.

    Example:
        >>> moment("2026-11-02T09:05:00+00:00")
        '2 November 2026, 09:05 UTC'
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    if when.tzinfo is not None:
        when = when.astimezone(UTC)
    return f"{when.day} {_MONTHS[when.month - 1]} {when:%Y, %H:%M} UTC"


_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def short(digest: str) -> str:
    """Give the start of a digest, long enough to tell bundles apart."""
    return digest[:12]

"""How good the bundle is: large figures, tables of metrics, and the comparison with baselines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scalerec.report.attached import Baseline, Evaluation, Metrics
from scalerec.report.plots import Plot, bar_plot
from scalerec.report.words import (
    explain,
    figure,
    is_lower_better,
    metric_title,
    read_metric,
    whole,
)

__all__ = [
    "Cell",
    "Comparison",
    "EvaluationView",
    "Figure",
    "Grid",
    "GridRow",
    "compare",
    "main_figures",
    "show_evaluation",
]

NUM_FIGURES = 4
NUM_BARS = 2
# What a reader wants first; the first of these that an evaluation has become the large figures.
FIRST = ("auc", "ndcg", "hit_rate", "log_loss")
NEXT = ("accuracy", "rmse", "recall", "gauc", "mae", "mrr", "coverage", "ece")
USUAL_K = "10"


@dataclass(frozen=True, slots=True)
class Figure:
    """One large number: a title, the number, what it means, and what it is to be held against."""

    title: str
    value: str
    words: str
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table; the best of a column is marked."""

    text: str
    best: bool = False


@dataclass(frozen=True, slots=True)
class GridRow:
    """A row: its name, a small note under it, its cells, and whether it is the bundle's own."""

    name: str
    note: str
    cells: tuple[Cell, ...]
    own: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: the head of the first column, those of the others, and the rows."""

    head: str
    columns: tuple[str, ...]
    rows: tuple[GridRow, ...]


@dataclass(frozen=True, slots=True)
class EvaluationView:
    """One evaluation: a title, its tables, and what it was counted over."""

    title: str
    grids: tuple[Grid, ...]
    counts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The bundle's model beside the baselines: charts and one table."""

    plots: tuple[Plot, ...]
    grid: Grid


def main_figures(evaluation: Evaluation, baselines: Sequence[Baseline]) -> list[Figure]:
    """Choose the metrics that say most, at most four, each with the best baseline's value."""
    names = main_metrics(evaluation.metrics)[:NUM_FIGURES]
    return [
        Figure(
            title=metric_title(name),
            value=figure(evaluation.metrics[name]),
            words=explain(name),
            beside=_best_of(name, baselines),
        )
        for name in names
    ]


def main_metrics(metrics: Metrics) -> list[str]:
    """Order the known, defined metrics by how much they say; of lists only one length is taken."""
    usual = _usual_k(metrics)
    parts = {name: read_metric(name) for name, value in metrics.items() if value is not None}
    ordered = [
        name
        for base in (*FIRST, *NEXT)
        for name, own in parts.items()
        if own.base == base and own.k in ("", usual)
    ]
    return ordered or list(parts)


def _usual_k(names: Iterable[str]) -> str:
    lengths = {read_metric(name).k for name in names} - {""}
    if USUAL_K in lengths or not lengths:
        return USUAL_K
    return min(lengths, key=lambda k: (len(k), k))


def _best_of(name: str, baselines: Sequence[Baseline]) -> str:
    known = [(row.name, value) for row in baselines if (value := row.metrics.get(name)) is not None]
    if not known:
        return ""
    best = min if is_lower_better(name) else max
    winner, value = best(known, key=lambda pair: pair[1])
    return f"{winner}: {figure(value)}"


def show_evaluation(evaluation: Evaluation, *, with_words: bool) -> EvaluationView:
    """Lay an evaluation out: plain metrics in one table, those of lists in another.

    Args:
        evaluation: What was attached.
        with_words: Whether each metric is explained under its name.
    """
    single: dict[str, list[str]] = {}
    listed: dict[str, list[str]] = {}
    for name in evaluation.metrics:
        parts = read_metric(name)
        if parts.k:
            head = f"{parts.task}.{parts.base}" if parts.task else parts.base
            listed.setdefault(head, []).append(parts.k)
        else:
            single.setdefault(parts.base, []).append(parts.task)
    tasks = tuple(dict.fromkeys(task for own in single.values() for task in own))
    ks = tuple(dict.fromkeys(k for own in listed.values() for k in own))
    grids = []
    if single:
        columns = tasks if any(tasks) else ("Value",)
        rows = [(base, [f"{t}.{base}" if t else base for t in tasks]) for base in single]
        grids.append(_grid("Metric", columns, rows, evaluation.metrics, with_words))
    if listed:
        rows = [(head, [f"{head}@{k}" for k in ks]) for head in listed]
        columns = tuple(f"first {k}" for k in ks)
        grids.append(_grid("Lists", columns, rows, evaluation.metrics, with_words))
    where = {"test": "Test part", "valid": "Validation part", "train": "Training part"}
    title = where.get(evaluation.split, evaluation.split)
    if evaluation.name != evaluation.split:
        title = f"{title} ({evaluation.name})"
    counts = {"rows": float(evaluation.rows), **evaluation.counts}
    plain = tuple((name.replace("_", " "), whole(count)) for name, count in counts.items())
    return EvaluationView(title, tuple(grids), plain)


def _grid(
    head: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[str, Sequence[str]]],
    metrics: Metrics,
    with_words: bool,
) -> Grid:
    return Grid(
        head,
        columns,
        tuple(
            GridRow(
                metric_title(base),
                explain(base) if with_words else "",
                tuple(Cell(figure(metrics[n]) if n in metrics else "") for n in names),
            )
            for base, names in rows
        ),
    )


def compare(
    model: str, evaluation: Evaluation | None, baselines: Sequence[Baseline]
) -> Comparison | None:
    """Put the model beside the baselines, the best on top; None if there are no baselines.

    Args:
        model: What the bundle's own row is called.
        evaluation: Its metrics; those that no baseline has are left out.
        baselines: The other rows.
    """
    if not baselines:
        return None
    own = Baseline(model, evaluation.metrics if evaluation else {})
    shared = {name: own.metrics.get(name) for row in baselines for name in row.metrics}
    usual = _usual_k(shared)
    columns = [name for name in shared if read_metric(name).k in ("", usual)]
    rows = [(own, True)] if any(name in own.metrics for name in columns) else []
    rows += [(row, False) for row in baselines]
    leading = main_metrics(dict.fromkeys(columns, 0.0))
    # What most models have is compared best; the order of the rest stays.
    leading.sort(key=lambda name: -_num_known(name, rows))
    if leading:
        rows.sort(key=lambda row: _rank(leading[0], row[0].metrics.get(leading[0])))
    columns = [*leading, *(name for name in columns if name not in leading)]
    plots = [_bars(name, rows) for name in leading[:NUM_BARS] if _num_known(name, rows) >= 2]
    return Comparison(tuple(plots), _comparison_grid(columns, rows))


def _bars(name: str, rows: Sequence[tuple[Baseline, bool]]) -> Plot:
    known = [
        (row.name, value, own) for row, own in rows if (value := row.metrics.get(name)) is not None
    ]
    return bar_plot(name, sorted(known, key=lambda entry: _rank(name, entry[1])))


def _num_known(name: str, rows: Sequence[tuple[Baseline, bool]]) -> int:
    return sum(row.metrics.get(name) is not None for row, _ in rows)


def _rank(name: str, value: float | None) -> tuple[bool, float]:
    """Order values with the best first and the undefined last."""
    known = value if value is not None else 0.0
    return value is None, known if is_lower_better(name) else -known


def _comparison_grid(columns: Sequence[str], rows: Sequence[tuple[Baseline, bool]]) -> Grid:
    best = {name: _best_value(name, [row for row, _ in rows]) for name in columns}
    lines = []
    for row, own in rows:
        cells = []
        for name in columns:
            value = row.metrics.get(name)
            text = figure(value) if name in row.metrics else ""
            cells.append(Cell(text, best=value is not None and value == best[name]))
        lines.append(GridRow(row.name, "", tuple(cells), own=own))
    return Grid("Model", tuple(metric_title(name) for name in columns), tuple(lines))


def _best_value(name: str, rows: Sequence[Baseline]) -> float | None:
    known = [value for row in rows if (value := row.metrics.get(name)) is not None]
    return min(known, key=lambda value: _rank(name, value), default=None)

"""The charts of the page."""

from collections.abc import Sequence
from dataclasses import dataclass

from scalerec.report.attached import Bin, Row
from scalerec.report.svg import (
    ACCENT,
    FONT_SIZE,
    INK,
    LINE,
    MUTE,
    PAPER,
    SOFT,
    new_chart,
    plain_text,
    to_svg,
)
from scalerec.report.words import figure, is_lower_better, metric_title, whole

__all__ = ["Plot", "bar_plot", "calibration_plot", "curve_plot", "histogram_plot"]

# More points than this cannot be told apart on a screen, and would only make the page heavy.
MAX_POINTS = 300


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart with what stands above and below it.

    Args:
        title: Its heading.
        svg: The chart, as one safe SVG element.
        note: A sentence under it; may be empty.
    """

    title: str
    svg: str
    note: str = ""


def curve_plot(rows: Sequence[Row], name: str) -> Plot:
    """Draw one value over the run, with its best point if it is a validation metric.

    Args:
        rows: Of ``curves.json``; at least one holds the value.
        name: The value: ``train/loss``, ``valid/auc``.
    """
    own = [row for row in rows if name in row]
    along = "epoch" if all("epoch" in row for row in own) else "step"
    points = _thin([(row[along], row[name]) for row in own])
    group, _, metric = name.partition("/")
    is_metric = group == "valid" and bool(metric)
    title = metric_title(metric) if metric else name
    chart, axes = new_chart()
    few = len(points) <= 30
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=ACCENT if is_metric else SOFT,
        linewidth=1.8,
        marker="o" if few else None,
        markersize=3.2,
    )
    axes.set_xlabel(along)
    if along == "step":
        axes.xaxis.set_major_formatter(lambda value, _: whole(value))
    axes.margins(x=0.04, y=0.14)
    axes.ticklabel_format(axis="y", useOffset=False)
    note = ""
    if is_metric:
        best = min if is_lower_better(metric) else max
        x, y = best(((row[along], row[name]) for row in own), key=lambda point: point[1])
        axes.plot(
            [x],
            [y],
            marker="o",
            markersize=7.5,
            color=ACCENT,
            markeredgecolor=PAPER,
            markeredgewidth=1.5,
        )
        note = f"Best: {figure(y)} at {along} {figure(x)}."
    where = {"train": "training rows", "valid": "validation rows"}.get(group, "")
    heading = f"{title}, {where}" if where else title
    label = f"{heading}, over the run, from {figure(own[0][name])} to {figure(own[-1][name])}"
    return Plot(heading, to_svg(chart, _id("curve", name), label), note)


def bar_plot(metric: str, values: Sequence[tuple[str, float, bool]]) -> Plot:
    """Draw one metric of several models as horizontal bars, the best on top.

    Args:
        metric: Its name.
        values: Name, value and whether it is the bundle's own model; best first.
    """
    chart, axes = new_chart(height=0.75 + 0.33 * len(values))
    ys = list(range(len(values)))[::-1]
    colours = [ACCENT if own else MUTE for _, _, own in values]
    axes.barh(ys, [value for _, value, _ in values], color=colours, height=0.62)
    names = [plain_text(name) for name, _, _ in values]
    axes.set_yticks(ys, names, parse_math=False)
    for label, (_, _, own) in zip(axes.get_yticklabels(), values, strict=True):
        label.set(color=INK if own else SOFT, fontweight="bold" if own else "normal")
    for y, (_, value, own) in zip(ys, values, strict=True):
        axes.annotate(
            figure(value),
            (max(value, 0.0), y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK if own else SOFT,
            fontsize=FONT_SIZE,
            fontweight="bold" if own else "normal",
        )
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.margins(x=0.16)
    axes.axvline(0, color=LINE, linewidth=1)
    title = metric_title(metric)
    told = "; ".join(f"{plain_text(name)} {figure(value)}" for name, value, _ in values)
    note = "Lower is better." if is_lower_better(metric) else ""
    return Plot(title, to_svg(chart, _id("bars", metric), f"{title}: {told}"), note)


def calibration_plot(bins: Sequence[Bin]) -> Plot:
    """Draw what happened against what was predicted; a calibrated model follows the diagonal."""
    known = [
        (one.mean_score, one.share_positive, one.count)
        for one in bins
        if one.count and one.mean_score is not None and one.share_positive is not None
    ]
    chart, axes = new_chart(height=3.3)
    top = min(1.0, 1.06 * max((max(x, y) for x, y, _ in known), default=1.0)) or 1.0
    axes.plot([0, top], [0, top], color=MUTE, linewidth=1.1, dashes=(4, 3))
    axes.plot([x for x, _, _ in known], [y for _, y, _ in known], color=ACCENT, linewidth=1.4)
    largest = max((count for _, _, count in known), default=1)
    axes.scatter(
        [x for x, _, _ in known],
        [y for _, y, _ in known],
        s=[14 + 66 * count / largest for _, _, count in known],
        color=ACCENT,
        edgecolors=PAPER,
        linewidths=1.2,
        zorder=3,
    )
    axes.set_xlabel("predicted chance")
    axes.set_ylabel("share that was positive")
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    label = "Share of positives against the predicted chance, by bin of the score"
    note = "On the dashed line, predictions are what happens. A larger dot stands for more rows."
    return Plot("Calibration", to_svg(chart, "calibration", label), note)


def histogram_plot(bins: Sequence[Bin]) -> Plot:
    """Draw how many rows have which score."""
    chart, axes = new_chart(height=3.3)
    axes.bar(
        [one.low for one in bins],
        [one.count for one in bins],
        width=[max(one.high - one.low, 0.0) for one in bins],
        align="edge",
        color=ACCENT,
        edgecolor=PAPER,
        linewidth=1.2,
    )
    axes.set_xlabel("predicted chance")
    axes.set_ylabel("rows")
    axes.yaxis.set_major_formatter(lambda value, _: whole(value))
    total = sum(one.count for one in bins)
    label = f"How often each predicted chance occurs among {whole(total)} rows"
    return Plot("Scores", to_svg(chart, "scores", label), f"{whole(total)} rows by their score.")


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average neighbours until few enough points are left."""
    block = -(-len(points) // MAX_POINTS)
    if block == 1:
        return points
    blocks = [points[i : i + block] for i in range(0, len(points), block)]
    return [
        (sum(x for x, _ in own) / len(own), sum(y for _, y in own) / len(own)) for own in blocks
    ]


def _id(kind: str, name: str) -> str:
    """Give a name for an element; what differs in other signs than letters stays apart."""
    return kind + "".join(c if c.isascii() and c.isalnum() else f"-{ord(c):x}" for c in name)

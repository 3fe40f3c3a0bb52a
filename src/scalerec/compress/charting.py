"""A picture of what a search found: quality by bytes, and by time, with the front."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scalerec.compress.chain import Stage
from scalerec.compress.effects import Metric, metrics_of
from scalerec.compress.searching import Found

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_found"]

GIVEN, OTHER, FRONT, BEST = "#1a1a1a", "#999999", "#2563a8", "#c2410c"
THOUSAND = 1_000.0


def draw_found(found: Found) -> str:
    """Two panels as SVG: quality by kilobytes of weights, and by milliseconds.

    Quality is the first metric that the given model has on the validation part, such as AUC;
    milliseconds are the median of requests with 1,000 candidates on one thread.

    Args:
        found: What a search gave.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    known = metrics_of(found.given.effect)
    if known:
        left.set_ylabel(f"{known[0].title}, validation")
    _panel(left, found, known[:1], "kilobytes of weights", in_bytes=True)
    _panel(right, found, known[:1], "ms for 1,000 candidates, one thread", in_bytes=False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "scalerec", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _panel(
    ax: "Axes", found: Found, metrics: Sequence[Metric], words: str, *, in_bytes: bool
) -> None:
    def place(stage: Stage) -> tuple[float, float]:
        own = stage.effect
        quality = [own.metric(metric.name) for metric in metrics]
        across = own.weight_bytes / THOUSAND if in_bytes else own.p50_ms[-1]
        return across, next((value for value in quality if value is not None), float("nan"))

    best_of = set(found.front)
    groups = {
        ("as given", GIVEN, "s"): [found.given],
        ("others", OTHER, "o"): [s for i, s in enumerate(found.stages) if i not in best_of],
        ("no other beats it", FRONT, "o"): [found.stages[i] for i in found.front],
        ("taken", BEST, "*"): [found.stages[found.best]],
    }
    for (label, colour, marker), stages in groups.items():
        if stages:
            across, up = zip(*map(place, stages), strict=True)
            size = 110 if marker == "*" else 28
            ax.scatter(across, up, size, c=colour, marker=marker, label=label)
    ax.set_xscale("log")
    ax.set_xlabel(words)
    ax.grid(visible=True, alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)

"""A picture of a division among parties: how large they are, and how far their labels differ.

It is SVG written out: two panels of dots need no drawing library. Colours are variables of the page
of reports, with colours of their own where there is no such page.
"""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerec.data.dataset import Dataset
from scalerec.data.schema import TaskKind
from scalerec.federated.splitting import Parties
from scalerec.federated.splitting_report import rates_of

__all__ = ["draw_split"]

Floats = NDArray[np.float64]
INK, SOFT, LINE, ACCENT = (
    "var(--ink, #1a1a1a)",
    "var(--soft, #666)",
    "var(--line, #ddd)",
    "var(--accent, #2563a8)",
)
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 330, 240, 52, 30, 40
# Dots of a panel; of more parties, some at even steps are drawn.
DOTS = 1000


def draw_split(dataset: Dataset, parties: Parties) -> str:
    """Draw who holds how much, and what labels.

    The left panel shows the rows of each party, the largest first; the right one the mean label of
    the first task by the rows of a party, with a line at the mean of all. Where the first task has
    no mean (classes), only the left panel is drawn.

    Args:
        dataset: Whose training rows were divided.
        parties: Who holds which.

    Returns:
        One SVG element.
    """
    sizes, task = parties.sizes.astype(np.float64), dataset.schema.tasks[0]
    places = np.arange(1, len(sizes) + 1, dtype=np.float64)
    panels = [_panel(0, "rows of each party, largest first", places, -np.sort(-sizes))]
    if task.kind is not TaskKind.MULTICLASS:
        labels = np.asarray(dataset.split("train").column("labels")[:, 0], np.float64)
        rates = rates_of(parties, labels)
        known = ~np.isnan(rates)
        if known.any():
            mean = float(np.nanmean(labels[parties.order]))
            title = f"mean {task.name} by rows of a party"
            panels.append(_panel(1, title, sizes[known], rates[known], mean))
    words = html.escape(f"{len(parties):,} parties by {parties.by}: rows and labels", quote=True)
    width = WIDTH * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" role="img" '
        f'aria-label="{words}" font-family="sans-serif" font-size="11">{"".join(panels)}</svg>'
    )


def _panel(number: int, title: str, across: Floats, up: Floats, mean: float | None = None) -> str:
    """One panel; the right one has a line at `mean` and plain, not logarithmic, heights."""
    low, high = LEFT, WIDTH - 12
    floor, ceiling = HEIGHT - BOTTOM, TOP
    x_ticks = _powers(across)
    y_ticks = _powers(up) if mean is None else _even(up)

    def x_of(value: float) -> float:
        return low + (high - low) * _log_place(value, x_ticks)

    def y_of(value: float) -> float:
        span = y_ticks[-1] - y_ticks[0]
        place = _log_place(value, y_ticks) if mean is None else (value - y_ticks[0]) / span
        return floor - (floor - ceiling) * place

    parts = [_text(low - 40, 14, title[:48], INK, "start")]
    for tick in y_ticks:
        y = y_of(tick)
        parts.append(_line(low, y, high, y, LINE))
        parts.append(_text(low - 6, y + 4, _short(tick), SOFT, "end"))
    parts += [_text(x_of(tick), floor + 16, _short(tick), SOFT, "middle") for tick in x_ticks]
    parts.append(
        _text(high, floor + 32, "party" if mean is None else "rows of a party", SOFT, "end")
    )
    if mean is not None:
        parts.append(_line(low, y_of(mean), high, y_of(mean), INK, ' stroke-dasharray="4 3"'))
    some = np.unique(np.linspace(0, len(across) - 1, min(DOTS, len(across))).round().astype(int))
    parts += [
        f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2" fill="{ACCENT}" fill-opacity="0.5"/>'
        for x, y in zip(across[some].tolist(), up[some].tolist(), strict=True)
    ]
    return f'<g transform="translate({number * WIDTH} 0)">{"".join(parts)}</g>'


def _powers(values: Floats) -> list[float]:
    """Powers of ten around values of at least 1."""
    low = math.floor(math.log10(max(1.0, float(values.min()))))
    high = math.ceil(math.log10(max(10.0, float(values.max()))))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _even(values: Floats) -> list[float]:
    """Five ticks at even steps around values; from 0 to 1 for shares."""
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif high - low <= 0:
        low, high = low - 0.5, high + 0.5
    return [low + (high - low) * step / 4 for step in range(5)]


def _log_place(value: float, ticks: Sequence[float]) -> float:
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    return (math.log10(max(1.0, value)) - low) / (high - low)


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.3g}"


def _text(x: float, y: float, words: Any, colour: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}>{html.escape(str(words))}</text>"


def _line(x: float, y: float, to_x: float, to_y: float, colour: str, more: str = "") -> str:
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="{colour}"{more}/>'

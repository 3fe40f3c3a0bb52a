"""From a matplotlib figure to SVG that belongs to the page: its colours, its font, its own names.

A chart is drawn in placeholder colours, one for each role. Afterwards each becomes a CSS variable
of the page, so one picture serves light and dark.
"""

import io
import re
import threading
import warnings
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "FONT_SIZE",
    "INK",
    "LINE",
    "MUTE",
    "PAPER",
    "SOFT",
    "new_chart",
    "plain_text",
    "to_svg",
]

# Placeholders: colours that nobody would choose.
INK, SOFT, LINE, ACCENT, MUTE, PAPER = (f"#01020{i}" for i in range(6))
_VARIABLES = {
    INK: "var(--ink)",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    MUTE: "var(--mute)",
    PAPER: "var(--paper)",
}
FONT_SIZE = 10.0
_DROPPED = {"metadata", "style"}
# rc_context changes settings of the whole process for a moment.
_LOCK = threading.Lock()


def new_chart(width: float = 4.7, height: float = 2.9) -> "tuple[Figure, Axes]":
    """Give an empty chart with one pair of calm axes; no global state of matplotlib is touched.

    Args:
        width: In inches; the page scales it, so it only sets the size of the text beside the chart.
        height: In inches.
    """
    from matplotlib.figure import Figure

    chart = Figure(figsize=(width, height), layout="constrained")
    axes = chart.add_subplot()
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)
    axes.tick_params(length=0, labelsize=FONT_SIZE, labelcolor=SOFT, pad=4)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.xaxis.label.set(color=SOFT, fontsize=FONT_SIZE)
    axes.yaxis.label.set(color=SOFT, fontsize=FONT_SIZE)
    return chart, axes


def plain_text(text: str, limit: int = 22) -> str:
    """Make a text from data fit for a chart: printable, short."""
    clean = "".join(letter for letter in text if letter.isprintable())
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def to_svg(chart: "Figure", name: str, label: str) -> str:
    """Write a chart as one SVG element for an HTML page.

    Args:
        chart: The chart.
        name: Heads the names inside it, so that two charts of a page do not share any.
        label: What a screen reader says.

    Returns:
        The element; text from data in it is escaped.
    """
    import matplotlib as mpl

    text = io.StringIO()
    with (
        _LOCK,
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}),
        warnings.catch_warnings(),
    ):
        # The browser's font draws the text; that matplotlib's own lacks a letter does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        chart.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    root = ET.fromstring(text.getvalue())
    for element in root.iter():
        _settle(element, name)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _DROPPED]:
            parent.remove(child)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "aria-label": label})
    return ET.tostring(root, encoding="unicode")


def _settle(element: ET.Element, name: str) -> None:
    """Drop namespaces, which HTML does not need, and put the page's colours and names in."""
    element.tag = element.tag.rpartition("}")[2]
    for key, value in list(element.attrib.items()):
        plain = key.rpartition("}")[2]
        del element.attrib[key]
        element.attrib[plain] = _attribute(plain, value, name)


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value.removeprefix('#')}"
    if key == "clip-path":
        return value.replace("url(#", f"url(#{name}-")
    if key == "style":
        value = re.sub(r"font-family:[^;]*;? ?", "", value)
        for colour, variable in _VARIABLES.items():
            value = value.replace(colour, variable)
    return value

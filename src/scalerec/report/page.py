"""The page itself: gathers what a bundle says and fills the template."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from scalerec.bundle import Bundle, read_bundle
from scalerec.report.attached import (
    Row,
    read_baselines,
    read_calibration,
    read_curves,
    read_evaluations,
    read_examples,
    read_study,
)
from scalerec.report.origin import find_notes, headline, show_files, show_model, show_step
from scalerec.report.plots import Plot, calibration_plot, curve_plot, histogram_plot
from scalerec.report.quality import compare, main_figures, show_evaluation
from scalerec.report.search import show_search

__all__ = ["NAME", "render_page", "write_report"]

NAME = "report.html"
MAX_CURVES = 6
SHOWN_HISTORY = 8


def write_report(path: str | Path) -> Path:
    """Read a bundle and attach ``report.html``: one file that needs nothing else.

    A section whose attachment is missing is left out. An older report is replaced.

    Args:
        path: The bundle's directory.

    Returns:
        Where the page was written.

    Raises:
        BundleError: If the bundle or an attachment is not whole or not of its form, or the page
            cannot be written.
    """
    bundle = read_bundle(path)
    return bundle.attach(NAME, render_page(bundle), overwrite=True)


def render_page(bundle: Bundle) -> bytes:
    """Give the page of a bundle, as UTF-8; the same bundle and attachments give the same page.

    Args:
        bundle: An opened bundle.

    Raises:
        BundleError: If an attachment is not of its form.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("scalerec.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    style = resources.files("scalerec.report").joinpath("page.css").read_text("utf-8")
    # The two safe parts: our own style, and charts in which `to_svg` escaped every text.
    environment.filters["chart"] = lambda plot: Markup(plot.svg)
    template = environment.get_template("page.html.j2")
    # Half of a surrogate pair, which JSON can hold, has no bytes in UTF-8.
    return template.render(style=Markup(style), **_view(bundle)).encode("utf-8", "replace")


def _view(bundle: Bundle) -> dict[str, Any]:
    evaluations = read_evaluations(bundle)
    baselines = read_baselines(bundle)
    calibration = read_calibration(bundle)
    first = evaluations[0] if evaluations else None
    head = headline(bundle)
    bins = calibration.bins if calibration else ()
    files = {name: entry for name, entry in bundle.attachments().items() if name != NAME}
    return {
        "digest": bundle.digest,
        "head": head,
        "figures": main_figures(first, baselines) if first else [],
        "measured": show_evaluation(first, with_words=False) if first else None,
        "evaluations": [
            show_evaluation(one, with_words=i == 0) for i, one in enumerate(evaluations)
        ],
        "comparison": compare(head.model, first, baselines),
        "curves": _curves(read_curves(bundle)),
        "search": show_search(read_study(bundle)),
        "calibration": [calibration_plot(bins), histogram_plot(bins)] if bins else [],
        "calibration_of": calibration.of if calibration else "",
        "examples": read_examples(bundle),
        "shown_history": SHOWN_HISTORY,
        "model": show_model(bundle),
        "steps": [show_step(step) for step in bundle.lineage],
        "notes": find_notes(bundle),
        "files": show_files(bundle.files),
        "attachments": show_files(files),
    }


def _curves(rows: Sequence[Row]) -> list[Plot]:
    """Draw the training loss and the metrics of the validation part, in the order they appear."""
    names = dict.fromkeys(name for row in rows for name in row)
    losses = [name for name in names if name == "train/loss"]
    metrics = [name for name in names if name.startswith("valid/")]
    return [curve_plot(rows, name) for name in [*losses, *metrics][:MAX_CURVES]]

"""`scalerec report`: a page on a bundle."""

from pathlib import Path
from typing import Annotated

import typer

from scalerec.cli.options import AsJson, examples
from scalerec.cli.output import print_json, print_pairs

HELP = examples("scalerec report runs/deepfm")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report", short_help="Write a page on a bundle.", epilog=HELP)(run)


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    as_json: AsJson = False,
) -> None:
    """Write one self-contained page: metrics, curves, examples, lineage."""
    from scalerec.report import write_report

    page = write_report(bundle)
    if as_json:
        print_json({"page": str(page)})
    else:
        print_pairs({"page": page})

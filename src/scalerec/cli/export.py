"""`scalerec export`: a bundle as a file that other runtimes score with."""

from pathlib import Path
from typing import Annotated

import typer

from scalerec.cli.options import AsJson, Overwrite, examples
from scalerec.cli.output import note, print_json, print_table
from scalerec.errors import ConfigError

HELP = examples(
    "scalerec export runs/deepfm --format onnx --out deepfm.onnx",
    "scalerec export runs/deepfm --out deepfm.onnx --json",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "export", short_help="Write a bundle as an ONNX file that needs no scalerec.", epilog=HELP
    )(run)


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle made by `train`.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write, NAME.onnx.")],
    file_format: Annotated[str, typer.Option("--format", help="Only onnx.")] = "onnx",
    overwrite: Overwrite = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Check every digest of the bundle first.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Write a graph and, beside it, NAME.onnx.json: how values are encoded for it.

    The graph is compared with the bundle before it appears. See docs/export.md.
    """
    from scalerec.bundle.recommenders import open_recommender
    from scalerec.scoring.onnx_export import FORMATS, export_onnx

    if file_format not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}; got {file_format!r}")
    done = export_onnx(open_recommender(bundle, verify=verify), out, overwrite=overwrite)
    if as_json:
        print_json({**done.to_dict(), "folder": str(out.parent)})
        return
    rows = [[str(out.parent / name), size] for name, size in done.files.items()]
    print_table(["file", "bytes"], rows)
    agreement = done.agreement
    note(
        f"logits differ from the bundle's by at most {agreement.largest:.1e} on "
        f"{agreement.rows} rows; allowed: {agreement.tolerance:.1e}"
    )

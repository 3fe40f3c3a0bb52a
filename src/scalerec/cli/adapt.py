"""`scalerec adapt`: a bundle and a few rows become the bundle of a user, a segment or a domain."""

from pathlib import Path
from typing import Annotated

import typer

from scalerec.cli.options import AsJson, Out, Overwrite, Threads, examples, free, use_threads
from scalerec.cli.output import note, print_json, print_pairs

HELP = examples(
    "scalerec adapt runs/meta few.csv --out runs/adapted",
    "scalerec adapt runs/deepfm few.csv --adapt head --steps 10 --rate 0.05 --out runs/tuned",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "adapt", short_help="Adapt a bundle to a few rows; gives a delta bundle.", epilog=HELP
    )(run)


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle with a recommender.")],
    rows: Annotated[
        Path,
        typer.Argument(metavar="ROWS", help="A table of examples, with their labels' columns."),
    ],
    out: Out,
    adapt: Annotated[
        str | None,
        typer.Option(
            "--adapt",
            help="What adapts: head, decision, own, all, or patterns of names; what the bundle "
            "learned unless said, and head where it learned nothing.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps of adapting.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Rate of adapting.")] = None,
    by: Annotated[
        str, typer.Option("--by", help="What the rows are of, where the bundle does not say.")
    ] = "user",
    threads: Threads = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Move the adaptable parameters to a few examples of one user, segment or domain."""
    from scalerec.bundle.recommenders import open_recommender
    from scalerec.data.sources import open_source
    from scalerec.meta.adapt import Adapter, adaptation_from, write_adapted
    from scalerec.meta.few import read_few

    free(out, overwrite)
    use_threads(threads)
    opened = open_recommender(bundle)
    adapter = Adapter(opened, *adaptation_from(opened, adapt, steps, rate, by))
    batch = read_few(opened, open_source(rows))
    made = write_adapted(out, adapter, batch, overwrite=overwrite)
    told = {
        "bundle": made.digest,
        "base": opened.bundle.digest,
        "path": str(out),
        "examples": len(batch),
        "steps": adapter.adaptation.steps,
        "seconds": made.lineage[-1].seconds,
    }
    if as_json:
        print_json(told)
        return
    note(f"wrote {out}")
    print_pairs(told)

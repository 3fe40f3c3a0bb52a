"""`scalerec adapt`: few rows make a bundle that of a user, a data set that of another domain."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scalerec.cli.options import (
    AsJson,
    Out,
    Overwrite,
    Threads,
    examples,
    free,
    given,
    read_settings,
    use_threads,
)
from scalerec.cli.output import note, print_json, print_pairs
from scalerec.cli.training_options import Epochs, Resume, Seed, Settings, Track
from scalerec.cli.warming import adopt_listed

HELP = examples(
    "scalerec adapt runs/meta few.csv --out runs/adapted",
    "scalerec adapt runs/deepfm few.csv --adapt head --steps 10 --rate 0.05 --out runs/tuned",
    "scalerec adapt runs/warm events.csv --adapt warm --by item --out runs/adopted",
    "scalerec prepare games.csv --schema games.toml --continue runs/films --out work/games",
    "scalerec adapt runs/films work/games --method low-rank --rank 4 --out runs/games",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "adapt",
        short_help="Adapt a bundle to a few rows, or to the data set of another domain.",
        epilog=HELP,
    )(run)


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle with a recommender.")],
    rows: Annotated[
        Path,
        typer.Argument(
            metavar="ROWS",
            help="A table of examples, with their labels' columns, which gives a delta bundle; or "
            "a data set made by `prepare --continue BUNDLE`, which gives a whole one.",
        ),
    ],
    out: Out,
    adapt: Annotated[
        str | None,
        typer.Option(
            "--adapt",
            help="What adapts: head, decision, own, all, or patterns of names; what the bundle "
            "learned unless said, and head where it learned nothing. Or warm: all users or items "
            "(--by) that it lists without an id get one, and a row refined by their examples.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps of adapting.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Rate of adapting.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by", help="What the rows are of, where the bundle does not say; user unless said."
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="Of a data set: scratch, all, head, low-rank or meta; unless said meta where the "
            "bundle was taught to adapt, else all.",
        ),
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Of low-rank adapters.")] = None,
    epochs: Epochs = None,
    seed: Seed = None,
    settings: Settings = None,
    track: Track = None,
    resume: Resume = False,
    threads: Threads = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Move a bundle to a few examples of a user, a segment or a domain, or to a domain's data."""
    from scalerec.cli.transferring import is_dataset, transfer_bundle
    from scalerec.errors import ConfigError

    free(out, overwrite)
    use_threads(threads)
    few: dict[str, Any] = given(adapt=adapt, by=by)
    many: dict[str, Any] = given(method=method, rank=rank, epochs=epochs, seed=seed)
    many |= given(set=settings, track=track, resume=resume or None)
    whole = is_dataset(rows)
    if odd := sorted(few if whole else many):
        kind, other = ("data set", "table of rows") if whole else ("table of rows", "data set")
        raise ConfigError(f"{rows} is a {kind}; --{odd[0]} is for a {other}")
    if whole:
        wanted = given(method=method, rank=rank, steps=steps)
        train = given(epochs=epochs, seed=seed)
        if rate is not None:
            train |= {"dense": {"lr": rate}, "tables": {"lr": rate}}
        values = read_settings(settings or [])
        told = transfer_bundle(
            bundle, rows, out, wanted, train, values, tuple(track or ()), resume, overwrite
        )
    elif adapt == "warm":
        if odd := [name for name, value in (("steps", steps), ("rate", rate)) if value is not None]:
            raise ConfigError(f"--{odd[0]} is learned where rows for new ids are; leave it out")
        told = adopt_listed(bundle, rows, out, by or "user", overwrite)
    else:
        told = _adapt(bundle, rows, out, adapt, steps, rate, by or "user", overwrite)
    if as_json:
        print_json(told)
        return
    note(f"wrote {out}")
    print_pairs(told)


def _adapt(
    bundle: Path,
    rows: Path,
    out: Path,
    adapt: str | None,
    steps: int | None,
    rate: float | None,
    by: str,
    overwrite: bool,
) -> dict[str, Any]:
    """Adapt to a table of rows."""
    from scalerec.bundle.recommenders import open_recommender
    from scalerec.data.sources import open_source
    from scalerec.meta.adapt import Adapter, adaptation_from, write_adapted
    from scalerec.meta.few import read_few

    opened = open_recommender(bundle)
    adapter = Adapter(opened, *adaptation_from(opened, adapt, steps, rate, by))
    batch = read_few(opened, open_source(rows))
    made = write_adapted(out, adapter, batch, overwrite=overwrite)
    return {
        "bundle": made.digest,
        "base": opened.bundle.digest,
        "path": str(out),
        "examples": len(batch),
        "steps": adapter.adaptation.steps,
        "seconds": made.lineage[-1].seconds,
    }

"""`scalerec prepare`: raw tables become a data set."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scalerec.cli.domains import open_domains
from scalerec.cli.options import (
    AsJson,
    Continue,
    Grow,
    Out,
    Overwrite,
    examples,
    read_settings,
)
from scalerec.cli.output import note, print_json, print_pairs

Engine = Literal["local", "spark"]
HELP = examples(
    "scalerec prepare ml-100k --out work/ml",
    "scalerec prepare ratings.csv --schema ratings.toml --out work/mine",
    "scalerec prepare events.parquet --schema s.toml --split leave-last-out --out work/lo",
    "scalerec prepare tuesday.csv --continue runs/monday --grow admit=3 --out work/tuesday",
    "scalerec prepare --domain books=books.csv,books.toml --domain films=ml-100k --out work/both",
    "scalerec prepare target.csv --schema target.toml --continue runs/source --out work/target",
    "scalerec prepare events --schema s.toml --engine spark --master spark://host:7077 --out w",
)


RawSource = Annotated[
    str | None,
    typer.Argument(
        metavar="SOURCE",
        help="A public set (ml-100k, ml-1m, ml-25m, frappe, census-income, criteo, avazu), "
        "a file (CSV, Parquet, Arrow), or a directory with train.*, valid.* and test.*.",
    ),
]
Domain = Annotated[
    list[str] | None,
    typer.Option(
        "--domain",
        metavar="NAME=SOURCE[,SCHEMA]",
        help="In place of SOURCE, a domain of several; --schema is of those that name none. "
        "With --continue, the bundle's users and items are left behind unless shared.",
    ),
]
Shared = Annotated[
    list[str] | None,
    typer.Option("--shared", help="user, item: whose keys mean the same in all domains."),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("prepare", short_help="Turn raw tables into a data set.", epilog=HELP)(run)


def run(
    out: Out,
    source: RawSource = None,
    domain: Domain = None,
    shared: Shared = None,
    schema: Annotated[
        Path | None, typer.Option("--schema", help="The schema, a TOML file; not for public sets.")
    ] = None,
    path: Annotated[
        Path | None, typer.Option("--path", help="Where a public set's files are.")
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="auto, time, leave-last-out, random, user or item.")
    ] = "auto",
    valid: Annotated[float, typer.Option("--valid", help="Share of the validation part.")] = 0.1,
    test: Annotated[float, typer.Option("--test", help="Share of the test part.")] = 0.1,
    on_error: Annotated[
        str, typer.Option("--on-error", help="fail at the first bad row, or skip and count.")
    ] = "fail",
    eval_negatives: Annotated[
        int, typer.Option("--eval-negatives", help="Items drawn and stored for each test row.")
    ] = 0,
    seed: Annotated[
        int, typer.Option("--seed", help="Of splits by chance and stored negatives.")
    ] = 0,
    continued: Continue = None,
    grow: Grow = None,
    engine: Annotated[
        Engine, typer.Option("--engine", help="local: this machine; spark: Apache Spark.")
    ] = "local",
    master: Annotated[
        str | None,
        typer.Option("--master", help="Spark's master, as spark://host:7077 or local[2]."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Check, split and encode raw tables; encoders are fitted on the training rows only."""
    from scalerec.data.prepare import PrepareConfig

    many = domain or []
    check_engine(engine, master, continued, many)
    config = PrepareConfig.from_dict(
        {
            "split": {"by": split, "valid": valid, "test": test, "seed": seed},
            "on_error": on_error,
            "eval_negatives": eval_negatives,
            "seed": seed,
        }
    )
    check_source(source, many, shared or [], path)
    if source is not None:
        raw, base = open_source(source, schema, path, continued, grow or [])
    else:
        raw = open_domains(many, shared or [], schema)
        base = open_base(continued, grow or [], [f"{word}s" for word in shared or []])
    dataset = make(raw, out, config, base, (engine, master), overwrite=overwrite)
    found = summary(dataset)
    for problem in dataset.manifest["skipped_rows"][:5]:
        note(f"left out: {problem}")
    if as_json:
        print_json(found)
    else:
        _show(found, out, dataset.manifest["notes"])


def _show(found: dict[str, Any], out: Path, notes: list[str]) -> None:
    """Tell a person of a new data set."""
    rows = found["rows"]
    print_pairs(
        {
            "data set": f"{out} ({found['name']}, {found['digest'][:12]})",
            "rows": ", ".join(f"{name} {count:,}" for name, count in rows.items()),
            "left out": found["skipped"],
            "users, items": f"{found['users']:,}, {found['items']:,}",
            "fields": ", ".join(found["fields"]),
            "table rows": found["table_rows"],
            "tasks": ", ".join(found["tasks"]),
        }
    )
    for name, rate in found["collisions"].items():
        print_pairs({f"hash collisions of {name}": f"{rate:.2%} of the keys"})
    for text in notes:
        note(f"note: {text}")


def check_engine(
    engine: str, master: str | None, continued: Path | None, domains: list[str]
) -> None:
    """Refuse what an engine cannot do, before anything is read."""
    from scalerec.errors import ConfigError

    if engine == "spark" and continued is not None:
        raise ConfigError("Spark fits new encoders only: --continue needs --engine local")
    if engine == "spark" and domains:
        raise ConfigError("Spark puts no domains side by side: --domain needs --engine local")
    if engine == "local" and master is not None:
        raise ConfigError(f"--master is Spark's: {master} needs --engine spark")


def check_source(
    source: str | None, domains: list[str], shared: list[str], path: Path | None
) -> None:
    """Refuse other rows than those of one source or of some domains."""
    from scalerec.errors import ConfigError

    if (source is None) == (not domains):
        got = "both" if domains else "neither"
        raise ConfigError(f"prepare needs SOURCE or --domain NAME=SOURCE; got {got}")
    if shared and not domains:
        raise ConfigError("--shared is of domains; it needs --domain NAME=SOURCE")
    if path is not None and domains:
        raise ConfigError("--path is for SOURCE; a domain's public set is looked for as ever")


def make(
    raw: Any, out: Path, config: Any, base: Any, where: tuple[str, str | None], *, overwrite: bool
) -> Any:
    """Prepare by an engine, and its master where it has one."""
    engine, master = where
    if engine == "spark":
        from scalerec.data.spark.preparing import prepare_on_spark

        return prepare_on_spark(raw, out, config, overwrite=overwrite, master=master)
    from scalerec.data.prepare import prepare

    return prepare(raw, out, config, overwrite=overwrite, base=base)


def open_source(
    source: str, schema: Path | None, path: Path | None, bundle: Path | None, grow: list[str]
) -> tuple[Any, Any]:
    """The raw tables, and what is known of the bundle that they continue, if they do.

    Their schema may be another one than the bundle's.
    """
    from scalerec.data.opening import open_raw

    base = open_base(bundle, grow, ["users", "items"])
    known = schema or (None if base is None else base.encoders.schema)
    return open_raw(source, schema=known, path=path), base


def open_base(bundle: Path | None, grow: list[str], keep: list[str]) -> Any:
    """What is known of the bundle that rows continue, if they do.

    Args:
        bundle: The bundle.
        grow: Settings of how its tables grow.
        keep: What of it is taken over: `users`, `items`.

    Raises:
        ConfigError: If there are settings and no bundle.
    """
    from scalerec.errors import ConfigError

    if bundle is None:
        if grow:
            raise ConfigError("--grow says how a bundle's tables grow; it needs --continue BUNDLE")
        return None
    from scalerec.bundle import read_bundle
    from scalerec.bundle.growing import base_of
    from scalerec.data.growing import GrowConfig

    config = GrowConfig.from_dict(read_settings(grow), "--grow")
    return base_of(read_bundle(bundle), config, keep=keep)


def summary(dataset: Any) -> dict[str, Any]:
    """What a person or a program wants to know of a new data set."""
    return {
        "data": str(dataset.directory),
        "name": dataset.name,
        "digest": dataset.digest,
        "rows": dataset.manifest["rows"],
        "skipped": dataset.manifest["skipped"],
        "users": dataset.num_users,
        "items": dataset.num_items,
        "fields": [field.name for field in dataset.layout.fields],
        "table_rows": sum(dataset.layout.tables.values()),
        "tasks": [task.name for task in dataset.schema.tasks],
        "collisions": dataset.manifest["collisions"],
    }

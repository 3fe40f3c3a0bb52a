"""`scalerec simulate`: tables with a known truth."""

from pathlib import Path
from typing import Annotated

import typer

from scalerec.cli.options import (
    AsJson,
    Out,
    Overwrite,
    examples,
    free,
    merge,
    read_config,
    read_settings,
)
from scalerec.cli.output import print_json, print_pairs

HELP = examples(
    "scalerec simulate --out work/sim",
    "scalerec simulate --set num_events=1000000 --set drift=0.5 --out work/sim",
    "scalerec prepare work/sim/events.parquet --schema work/sim/schema.toml --out work/sim-data",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("simulate", short_help="Write simulated tables with a known truth.", epilog=HELP)(
        run
    )


def run(
    out: Out,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same world.")] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, NAME=VALUE; repeatable.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings, a TOML file.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Write simulated events, users and items, their schema, and the true chance of every event."""
    from scalerec.data.simulate import SimulatorConfig, simulate

    free(out, overwrite)
    values = merge({"seed": seed}, read_config(config), read_settings(settings or []))
    simulated = simulate(SimulatorConfig.from_dict(values))
    events = simulated.write(out)
    found = {
        "out": str(out),
        "events": str(events),
        "schema": str(out / "schema.toml"),
        "num_events": len(simulated.events),
        "num_users": len(simulated.users),
        "num_items": len(simulated.items),
    }
    if as_json:
        print_json(found)
    else:
        print_pairs(found)

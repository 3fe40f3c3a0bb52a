"""`scalerec train`: a data set becomes a bundle."""

from pathlib import Path
from typing import Any

import typer

from scalerec.cli.options import (
    AsJson,
    Call,
    Continue,
    Grow,
    Out,
    Overwrite,
    Threads,
    examples,
    free,
    given,
    merge,
    read_config,
    read_settings,
    use_threads,
)
from scalerec.cli.output import note, print_json, print_pairs, print_table
from scalerec.cli.several import as_member, launch, traffic_table
from scalerec.cli.training import Way, train_bundle
from scalerec.cli.training_options import (
    Aggregate,
    BatchSize,
    Codec,
    ConfigFile,
    Data,
    Device,
    Epochs,
    Fresh,
    KeepState,
    Launcher,
    LocalSteps,
    Lookups,
    Model,
    Negatives,
    Nproc,
    Partition,
    Rate,
    Resume,
    Seed,
    Settings,
    Sharding,
    Timeout,
    Track,
    named_model,
)

HELP = examples(
    "scalerec train work/ml --model deepfm --seed 1 --out runs/deepfm",
    "scalerec train work/ml --model dcn-v2 --epochs 5 --set model.dim=32 --set tables.l2=1e-4 "
    "--out runs/dcn",
    "scalerec train work/ml --config settings.toml --track tensorboard --out runs/tuned",
    "scalerec train work/ml --model deepfm --out runs/deepfm --resume     # after a kill",
    "scalerec train work/ml --nproc 2 --out runs/deepfm             # two processes",
    "torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=HOST:29400 "
    "-m scalerec.distributed work/ml --out runs/deepfm",
    "scalerec train tuesday.csv --continue runs/monday --keep-state --out runs/tuesday",
    "scalerec train tuesday.csv --continue runs/warm --fresh warm --out runs/tuesday",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("train", short_help="Train a model of the zoo; gives a bundle.", epilog=HELP)(run)


def run(
    ctx: typer.Context,
    data: Data,
    out: Out,
    model: Model = None,
    seed: Seed = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    negatives: Negatives = None,
    settings: Settings = None,
    config: ConfigFile = None,
    track: Track = None,
    device: Device = "cpu",
    threads: Threads = 0,
    resume: Resume = False,
    continued: Continue = None,
    grow: Grow = None,
    fresh: Fresh = "unknown",
    keep_state: KeepState = False,
    nproc: Nproc = 1,
    launcher: Launcher = "torchrun",
    sharding: Sharding = None,
    aggregate: Aggregate = None,
    local_steps: LocalSteps = None,
    codec: Codec = None,
    lookups: Lookups = None,
    partition: Partition = None,
    timeout: Timeout = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a model of the zoo; the best weights by the validation part become a bundle."""
    call: Call = ctx.obj or Call(())
    free(out, overwrite)
    _check_fresh(fresh, continued, several=nproc > 1 or launcher == "spark" or call.is_member)
    together = given(
        sharding=sharding, aggregate=aggregate, local_steps=local_steps, codec=codec,
        lookups=lookups, partition=partition, timeout_s=timeout,
    )  # fmt: skip
    options = given(seed=seed, epochs=epochs, batch_size=batch_size, negatives=negatives)
    options["distributed"] = together
    if lr is not None:
        options |= {"dense": {"lr": lr}, "tables": {"lr": lr}}
    values = merge(read_config(config), options, read_settings(settings or []))
    several = values.pop("distributed")
    wanted = named_model(model, values)
    if nproc > 1 or launcher == "spark":
        launch(call, nproc, launcher, wanted, several, continued)
        return
    way = Way(
        track=tuple(track or ()),
        device=device,
        resume=resume,
        overwrite=overwrite,
        keep_state=keep_state,
        fresh=fresh,
        parent=continued,
    )
    use_threads(threads)
    if call.is_member:
        way = as_member(way, several, threads)
    elif several:
        note("settings of several processes do nothing in one; see --nproc")
    if found := _train(data, out, wanted, way, grow or []):
        _show(found, as_json=as_json)


def _check_fresh(fresh: str, continued: Path | None, *, several: bool) -> None:
    from scalerec.errors import ConfigError

    if fresh == "unknown":
        return
    if continued is None:
        raise ConfigError("--fresh says how a bundle's new ids start; it needs --continue BUNDLE")
    if several:
        raise ConfigError(
            f"--fresh {fresh} needs one process; in several, new ids start as unknown ones"
        )


def _train(
    data: Path,
    out: Path,
    wanted: tuple[str | None, dict[str, Any], dict[str, Any]],
    way: Way,
    grow: list[str],
) -> dict[str, Any] | None:
    """Train anew, or go on from a bundle."""
    from scalerec.errors import ConfigError

    if way.parent is None:
        if grow:
            raise ConfigError("--grow says how a bundle's tables grow; it needs --continue BUNDLE")
        model, net, values = wanted
        return train_bundle(data, out, model or "deepfm", net, values, way)
    from scalerec.cli.continuing import new_rows, settings_from

    if way.several and not (data / "manifest.json").is_file():
        raise ConfigError(
            f"{data} is no data set; several processes need one, made by: scalerec prepare "
            f"{data} --continue {way.parent}"
        )
    model, net, values = settings_from(way.parent, *wanted)
    with new_rows(way.parent, data, out, grow) as rows:
        return train_bundle(rows, out, model, net, values, way)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    """Print what came out."""
    if as_json:
        print_json(found)
        return
    traffic, shards = (found.pop(name, None) for name in ("traffic", "shards"))
    print_pairs(found)
    if traffic:
        from scalerec.distributed.skew import ShardReport

        print_table(*ShardReport.from_dict(shards).table())
        print_table(*traffic_table(traffic))

"""`scalerec train`: a data set becomes a bundle."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scalerec.cli.options import (
    AsJson,
    Continue,
    Grow,
    Out,
    Overwrite,
    Threads,
    examples,
    merge,
    read_config,
    read_settings,
    use_threads,
)
from scalerec.cli.output import Progress, note, print_json, print_pairs

HELP = examples(
    "scalerec train work/ml --model deepfm --seed 1 --out runs/deepfm",
    "scalerec train work/ml --model dcn-v2 --epochs 5 --set model.dim=32 --set tables.l2=1e-4 "
    "--out runs/dcn",
    "scalerec train work/ml --config settings.toml --track tensorboard --out runs/tuned",
    "scalerec train work/ml --model deepfm --out runs/deepfm --resume     # after a kill",
    "scalerec train tuesday.csv --continue runs/monday --keep-state --out runs/tuesday",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("train", short_help="Train a model of the zoo; gives a bundle.", epilog=HELP)(run)


def run(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A data set made by `prepare`; with --continue also a file or directory of new "
            "rows, prepared on the way.",
        ),
    ],
    out: Out,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="lr, fm, wide-deep, deepfm, dcn-v2, finalmlp, autoint, din, shared-bottom, mmoe, "
            "ple, esmm or two-tower; deepfm unless said.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of weights, order, dropout.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes, at most.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Rows of a step.")] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate of the dense part and the tables.")
    ] = None,
    negatives: Annotated[
        int | None, typer.Option("--negatives", help="Items drawn for each positive row.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any setting, NAME=VALUE: model.dim=32, dense.lr=3e-3, ema=.99."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings, a TOML file.")] = None,
    track: Annotated[
        list[str] | None, typer.Option("--track", help="jsonl, tensorboard or wandb[:PROJECT].")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    threads: Threads = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")
    ] = False,
    continued: Continue = None,
    grow: Grow = None,
    keep_state: Annotated[
        bool,
        typer.Option("--keep-state", help="Keep what optimisers remember, for --continue later."),
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a model of the zoo; the best weights by the validation part become a bundle."""
    from scalerec.errors import ConfigError

    if out.exists() and not overwrite:
        raise ConfigError(f"--out {out} exists already; choose another, or --overwrite")
    options = {"seed": seed, "epochs": epochs, "batch_size": batch_size, "negatives": negatives}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if lr is not None:
        given |= {"dense": {"lr": lr}, "tables": {"lr": lr}}
    values = merge(read_config(config), given, read_settings(settings or []))
    model = model or values.pop("name", None)
    net = values.pop("model", {})
    if isinstance(net, str):
        raise ConfigError("settings: [model] holds the model's settings; its name goes in --model")
    use_threads(threads)
    how = (track or [], device, resume, overwrite)
    wanted = (model, net, values)
    found = _train(data, out, wanted, how, (continued, grow or []), keep_state=keep_state)
    if as_json:
        print_json(found)
    else:
        print_pairs(found)


def _train(
    data: Path,
    out: Path,
    wanted: tuple[str | None, dict[str, Any], dict[str, Any]],
    how: tuple[list[str], str, bool, bool],
    parent: tuple[Path | None, list[str]],
    *,
    keep_state: bool,
) -> dict[str, Any]:
    """Train anew, or go on from a bundle."""
    from scalerec.errors import ConfigError

    bundle, grow = parent
    if bundle is None:
        if grow:
            raise ConfigError("--grow says how a bundle's tables grow; it needs --continue BUNDLE")
        model, net, values = wanted
        return train_bundle(data, out, model or "deepfm", net, values, how, keep_state=keep_state)
    from scalerec.cli.continuing import new_rows, settings_from

    run = settings_from(bundle, *wanted)
    with new_rows(bundle, data, out, grow) as rows:
        return train_bundle(rows, out, *run, how, parent=bundle, keep_state=keep_state)


def train_bundle(
    data: Path,
    out: Path,
    model: str,
    net: dict[str, Any],
    values: dict[str, Any],
    how: tuple[list[str], str, bool, bool] = ([], "cpu", False, False),
    *,
    parent: Path | None = None,
    keep_state: bool = False,
) -> dict[str, Any]:
    """Train, write the bundle with its curve, and tell what came out."""
    import torch

    from scalerec.bundle import read_bundle
    from scalerec.bundle.recommenders import write_recommender
    from scalerec.data.dataset import Dataset
    from scalerec.errors import ConfigError
    from scalerec.track import open_sinks
    from scalerec.train import OneProcess, open_start, train
    from scalerec.train.lineage import prepare_step, read_run, train_step
    from scalerec.train.start import STATE_FILE, state_bytes

    track, device, resume, overwrite = how
    spec, config = read_run(model, net, values)
    try:
        runtime = OneProcess(torch.device(device))
        torch.empty(0, device=runtime.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from None
    dataset = Dataset(data)
    start = open_start(parent, dataset) if parent else None
    aside = out.with_name(f"{out.name}.checkpoint")
    sinks = open_sinks(track, out.with_name(f"{out.name}.track"), resume=resume)
    try:
        trained = train(
            dataset,
            spec,
            config,
            runtime=runtime,
            sinks=[sinks],
            checkpoints=aside,
            resume=resume,
            on_progress=Progress(),
            start=start,
            keep_state=keep_state,
        )
    finally:
        sinks.close()
    before = read_bundle(parent, verify=False).lineage if parent else ()
    parents = (start.digest,) if start else ()
    last = train_step(dataset, spec, config, trained.seconds, parents)
    steps = (*before, prepare_step(dataset), last)
    trained.recommender.to("cpu")
    bundle = write_recommender(out, trained.recommender, dataset, steps, overwrite=overwrite)
    bundle.attach("curves.json", {"metric": trained.metric, "steps": trained.curve})
    if keep_state:
        bundle.attach(STATE_FILE, state_bytes(trained.state, config))
    note(f"wrote {out}")
    return {
        "bundle": bundle.digest,
        "path": str(out),
        "model": model,
        "steps": trained.num_steps,
        "seconds": round(trained.seconds, 3),
        "metric": trained.metric,
        "valid": trained.best,
        **({"new_ids": start.grown.num_fresh} if start else {}),
        "parameters": sum(tensor.numel() for tensor in trained.recommender.to_tensors().values()),
    }

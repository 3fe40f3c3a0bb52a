"""`scalerec train`: a data set becomes a bundle."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scalerec.cli.options import (
    AsJson,
    DataPath,
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
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("train", short_help="Train a model of the zoo; gives a bundle.", epilog=HELP)(run)


def run(
    data: DataPath,
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
    name = model or values.pop("name", None) or "deepfm"
    net = values.pop("model", {})
    if isinstance(net, str):
        raise ConfigError("settings: [model] holds the model's settings; its name goes in --model")
    use_threads(threads)
    found = train_bundle(data, out, name, net, values, (track or [], device, resume, overwrite))
    if as_json:
        print_json(found)
    else:
        print_pairs(found)


def train_bundle(
    data: Path,
    out: Path,
    model: str,
    net: dict[str, Any],
    values: dict[str, Any],
    how: tuple[list[str], str, bool, bool] = ([], "cpu", False, False),
) -> dict[str, Any]:
    """Train, write the bundle with its curve, and tell what came out."""
    import torch

    from scalerec.bundle.recommenders import write_recommender
    from scalerec.data.dataset import Dataset
    from scalerec.errors import ConfigError
    from scalerec.track import open_sinks
    from scalerec.train import OneProcess, train
    from scalerec.train.lineage import prepare_step, read_run, train_step

    track, device, resume, overwrite = how
    spec, config = read_run(model, net, values)
    try:
        runtime = OneProcess(torch.device(device))
        torch.empty(0, device=runtime.device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from None
    dataset = Dataset(data)
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
        )
    finally:
        sinks.close()
    steps = (prepare_step(dataset), train_step(dataset, spec, config, trained.seconds))
    trained.recommender.to("cpu")
    bundle = write_recommender(out, trained.recommender, dataset, steps, overwrite=overwrite)
    bundle.attach("curves.json", {"metric": trained.metric, "steps": trained.curve})
    note(f"wrote {out}")
    return {
        "bundle": bundle.digest,
        "path": str(out),
        "model": model,
        "steps": trained.num_steps,
        "seconds": round(trained.seconds, 3),
        "metric": trained.metric,
        "valid": trained.best,
        "parameters": sum(tensor.numel() for tensor in trained.recommender.to_tensors().values()),
    }

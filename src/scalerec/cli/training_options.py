"""The options of `scalerec train` that no other verb has."""

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "Aggregate",
    "BatchSize",
    "Codec",
    "ConfigFile",
    "Data",
    "Device",
    "Epochs",
    "KeepState",
    "Launcher",
    "LocalSteps",
    "Lookups",
    "Model",
    "Negatives",
    "Nproc",
    "Partition",
    "Rate",
    "Resume",
    "Seed",
    "Settings",
    "Sharding",
    "Timeout",
    "Track",
]

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A data set made by `prepare`; with --continue also a file or directory of new rows, "
        "prepared on the way.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="lr, fm, wide-deep, deepfm, dcn-v2, finalmlp, autoint, din, shared-bottom, mmoe, ple, "
        "esmm or two-tower; deepfm unless said.",
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of weights, order, dropout.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes, at most.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Rows of a step.")]
Rate = Annotated[
    float | None, typer.Option("--lr", help="Learning rate of the dense part and the tables.")
]
Negatives = Annotated[
    int | None, typer.Option("--negatives", help="Items drawn for each positive row.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any setting, NAME=VALUE: model.dim=32, dense.lr=3e-3, ema=.99."),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings, a TOML file.")]
Track = Annotated[
    list[str] | None, typer.Option("--track", help="jsonl, tensorboard or wandb[:PROJECT].")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from the last checkpoint, if there is one.")
]
KeepState = Annotated[
    bool,
    typer.Option("--keep-state", help="Keep what optimisers remember, for --continue later."),
]
Nproc = Annotated[
    int, typer.Option("--nproc", min=1, help="Processes of this machine that train together.")
]
Launcher = Annotated[
    Literal["torchrun", "spark"],
    typer.Option("--launcher", help="What starts processes: torchrun's agent, or Spark."),
]
Sharding = Annotated[
    str | None,
    typer.Option(
        "--sharding", help="Where tables are kept: auto, row, table, column or replicated."
    ),
]
Aggregate = Annotated[
    str | None,
    typer.Option("--aggregate", help="sync: every step is one of all; local: steps of one's own."),
]
LocalSteps = Annotated[
    int | None, typer.Option("--local-steps", help="Steps between averages; --aggregate local.")
]
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec", help="How the dense part travels: none, bf16, powersgd:RANK or topk:SHARE."
    ),
]
Lookups = Annotated[
    str | None, typer.Option("--lookups", help="How rows travel: fp32, bf16 or int8.")
]
Partition = Annotated[
    str | None,
    typer.Option(
        "--partition",
        help="Which rows a process learns from: batch, contiguous, user, hashed or balanced.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", help="Seconds until a process that is silent is given up."),
]

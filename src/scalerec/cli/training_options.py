"""The options of the verbs that train, and the model that they name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from scalerec.errors import ConfigError

if TYPE_CHECKING:
    from scalerec.models.recommender import ModelSpec

__all__ = [
    "Aggregate",
    "BatchSize",
    "Codec",
    "ConfigFile",
    "Data",
    "Device",
    "Epochs",
    "Fresh",
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
    "named_model",
    "wanted_spec",
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
Fresh = Annotated[
    Literal["unknown", "warm"],
    typer.Option(
        "--fresh",
        help="What rows of a bundle's new ids start from: unknown, the row that they were read as; "
        "warm, rows from their features, where the bundle learned to give them.",
    ),
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


def named_model(
    model: str | None, values: dict[str, Any]
) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """The model that is asked for, if one is, its settings, and all other settings.

    Args:
        model: What --model says; a file of settings may have it as `name`.
        values: All settings; those of the model are a table of their own, `model`.

    Raises:
        ConfigError: If `model` is no table.
    """
    rest = dict(values)
    name = rest.pop("name", None)
    net = rest.pop("model", {})
    if not isinstance(net, dict):
        raise ConfigError("settings: [model] holds the model's settings; its name goes in --model")
    return model or name, net, rest


def wanted_spec(
    continued: Path | None, model: str | None, values: dict[str, Any]
) -> tuple["ModelSpec", dict[str, Any]]:
    """The model that is asked for, or that of the bundle to go on from, and all other settings.

    Args:
        continued: The bundle, or None to start anew; a DeepFM unless said.
        model: What --model says.
        values: All settings.

    Raises:
        ConfigError: If a setting is wrong, or another model is asked for than the bundle's.
    """
    from scalerec.cli.continuing import spec_from
    from scalerec.models.recommender import ModelSpec

    name, net, rest = named_model(model, values)
    if continued is not None:
        return ModelSpec.from_dict(spec_from(continued, name, net, rest)), rest
    init = {"init_std": rest.pop("init_std")} if "init_std" in rest else {}
    return ModelSpec.from_dict({"model": name or "deepfm", "settings": net, **init}), rest

"""`scalerec tune`: a data set and a budget become the best bundle that was found."""

import sys
from collections.abc import Sequence
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
from scalerec.cli.output import Progress, note, print_json, print_pairs, print_table

HELP = examples(
    "scalerec tune work/ml --model deepfm --trials 30 --out runs/best",
    "scalerec tune work/ml --model deepfm,fm,dcn-v2 --timeout 3600 --set metric=ndcg@10 "
    "--out runs/best",
    "scalerec tune work/ml --search 'dense.lr=1e-4..1e-2:log' "
    "--search 'model.hidden=[64,64]|[128,128]' --out runs/best",
    "scalerec tune work/ml --model deepfm --trials 60 --out runs/best --resume   # go on",
)
SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("tune", short_help="Search settings; gives the best bundle.", epilog=HELP)(run)


def run(
    data: DataPath,
    out: Out,
    model: Annotated[
        str | None,
        typer.Option("--model", help="A model of the zoo, or several: deepfm,fm,dcn-v2."),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="Trials in all, those before a --resume included.")
    ] = 30,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds after which no trial starts; 0: no limit.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the search and of every training.")] = 1,
    space: Annotated[
        Path | None, typer.Option("--space", help="What is searched, a TOML file.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            help="Search this setting, and only what is named so: dense.lr=1e-4..1e-2:log, "
            "epochs=2..8, model.dim=8|16|32.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of every trial, NAME=VALUE: epochs=5, metric=auc."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings of every trial, a TOML file.")
    ] = None,
    sampler: Annotated[str, typer.Option("--sampler", help="tpe or random.")] = "tpe",
    pruner: Annotated[
        str, typer.Option("--pruner", help="What ends bad trials early: median, hyperband, none.")
    ] = "median",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = "cpu",
    threads: Threads = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study beside --out, if there is one.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Search settings on the validation part; the best trial's model becomes a bundle."""
    from scalerec.data.dataset import Dataset
    from scalerec.train.runtime import OneProcess
    from scalerec.tune import TuneConfig, make_plan, tune

    values = merge({"seed": seed}, read_config(config), read_settings(settings or []))
    names = model or values.pop("name", None) or "deepfm"
    how = {"trials": trials, "timeout": timeout, "seed": seed, "sampler": sampler}
    budget = TuneConfig.from_dict({**how, "pruner": pruner})
    use_threads(threads)
    runtime = OneProcess(_device(device))
    dataset = Dataset(data)
    models = [name.strip() for name in names.split(",")]
    plan = make_plan(dataset, models, values, _space(space, search or []))
    for name, domain in plan.domains().items():
        note(f"searching {name}: {domain.text}")
    found = tune(
        dataset,
        plan,
        out,
        budget,
        runtime=runtime,
        resume=resume,
        overwrite=overwrite,
        on_trial=_Lines(trials),
        on_progress=Progress() if sys.stderr.isatty() else None,
    )
    note(f"wrote {out}; its study is in {out}.study, for --resume")
    if as_json:
        print_json(_summary(found, out))
    else:
        _show(found, out)


class _Lines:
    """One line a trial, on standard error."""

    def __init__(self, trials: int) -> None:
        self._trials = trials

    def __call__(self, trial: Any, best: Any) -> None:
        """Tell how a trial ended, and which is the best so far."""
        ended = trial.reason or trial.state
        if trial.state == "pruned":
            ended = f"{trial.value:.5f}, stopped after epoch {trial.curve[-1][0]:g}"
        elif trial.state == "complete":
            ended = f"{trial.value:.5f}"
        if trial.repeats:
            ended = f"{ended} (as trial {trial.repeats}, not trained again)"
        best_text = f"; best {best.value:.5f} (trial {best.number})" if best else ""
        drawn = " ".join(f"{k}={_short(v)}" for k, v in trial.values.items()) or "the defaults"
        note(f"trial {trial.number}/{self._trials}: {ended}{best_text}; {trial.model}, {drawn}")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace(" ", "")


def _device(name: str) -> Any:
    """Torch's device of a name.

    Raises:
        ConfigError: If there is none.
    """
    import torch

    from scalerec.errors import ConfigError

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def _space(path: Path | None, words: Sequence[str]) -> dict[str, Any] | None:
    """The space that was given, if one was; words win over the file."""
    from scalerec.errors import ConfigError
    from scalerec.tune import read_space

    if path is None and not words:
        return None
    try:
        space = read_space(read_config(path))
    except ConfigError as error:
        text = str(error).removeprefix(f"--config {path}: ")
        raise ConfigError(f"--space {path}: {text}") from None
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--search needs NAME=DOMAIN, such as epochs=2..8; got {word!r}")
        space |= read_space({name: text})
    return space


def _summary(found: Any, out: Path) -> dict[str, Any]:
    settings = found.bundle.attachment_json("study.json")
    return {
        "bundle": found.bundle.digest,
        "path": str(out),
        "metric": found.metric,
        "valid": found.best.value,
        "best": found.best.number,
        "model": found.best.model,
        "values": found.best.values,
        **{name: settings[name] for name in ("trials", "complete", "pruned", "failed")},
        "seconds": round(sum(trial.seconds for trial in found.trials), 3),
    }


def _show(found: Any, out: Path) -> None:
    plain = _summary(found, out)
    drawn = plain.pop("values")
    print_pairs(plain)
    if drawn:
        print_table(["setting", "best"], [[k, _short(v)] for k, v in drawn.items()])
    importance = list(found.bundle.attachment_json("study.json")["importance"].items())[:SHOWN]
    if importance:
        print_table(["setting", "importance"], [[name, share] for name, share in importance])

"""`scalerec meta-train`: learn a start from which a few examples are enough."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalerec.cli.options import (
    AsJson,
    Call,
    Continue,
    DataPath,
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
from scalerec.cli.output import Progress, note, print_json, print_pairs
from scalerec.cli.several import joined, meet, start_processes
from scalerec.cli.training_options import (
    ConfigFile,
    Model,
    Nproc,
    Resume,
    Seed,
    Settings,
    Track,
    wanted_spec,
)
from scalerec.cli.warming import WARM_UPS, learn_rows

if TYPE_CHECKING:
    from scalerec.distributed import Processes
    from scalerec.train.runtime import OneProcess

HELP = examples(
    "scalerec meta-train work/ml --by user --algorithm maml --model deepfm --out runs/meta",
    "scalerec meta-train work/ml --continue runs/deepfm --adapt decision --out runs/meta",
    "scalerec meta-train work/ml --algorithm meta-sgd --steps 3 --rate 0.05 --out runs/meta",
    "scalerec meta-train work/ml --by user --out runs/meta --resume       # after a kill",
    "scalerec meta-train work/ml --nproc 2 --out runs/meta        # two processes share the tasks",
    "torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=HOST:29400 "
    "-m scalerec.distributed --verb=meta-train work/ml --out runs/meta",
    "scalerec meta-train work/ml --continue runs/deepfm --algorithm meta-embedding --by item "
    "--out runs/warm",
)
By = Annotated[
    str, typer.Option("--by", help="What a task is: user, item, or the name of an id field.")
]
Algorithm = Annotated[
    str | None,
    typer.Option(
        "--algorithm",
        help="maml, fomaml, anil, reptile or meta-sgd, maml unless said; or, on a trained bundle, "
        "meta-embedding or mwuf: rows for new users or items (--by), from their features and first "
        "events.",
    ),
]
Adapt = Annotated[
    str | None,
    typer.Option(
        "--adapt",
        help="What adapts: head, decision, own, all, or patterns of names, such as "
        "head,own; what the algorithm's paper has unless said.",
    ),
]
Updates = Annotated[int | None, typer.Option("--updates", help="Updates of the start, at most.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of adapting.")]
InnerRate = Annotated[float | None, typer.Option("--rate", help="Rate of adapting.")]
OuterRate = Annotated[
    float | None, typer.Option("--lr", help="Rate of the start, its rows of tables included.")
]
Examples = Annotated[
    int | None, typer.Option("--examples", help="Most examples that a task adapts on.")
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "meta-train",
        short_help="Learn a start that a few examples adapt; gives a bundle.",
        epilog=HELP,
    )(run)


def run(
    ctx: typer.Context,
    data: DataPath,
    out: Out,
    model: Model = None,
    by: By = "user",
    algorithm: Algorithm = None,
    adapt: Adapt = None,
    updates: Updates = None,
    steps: Steps = None,
    rate: InnerRate = None,
    lr: OuterRate = None,
    num_support: Examples = None,
    seed: Seed = None,
    settings: Settings = None,
    config: ConfigFile = None,
    continued: Continue = None,
    track: Track = None,
    threads: Threads = 0,
    resume: Resume = False,
    nproc: Nproc = 1,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Learn a start from which tasks adapt well, and how they adapt."""
    call: Call = ctx.obj or Call(())
    free(out, overwrite)
    use_threads(threads)
    options = given(
        algorithm=algorithm, adapt=adapt, updates=updates, steps=steps, rate=rate, lr=lr,
        rows_lr=lr, num_support=num_support, seed=seed,
    )  # fmt: skip
    held, asked = read_config(config), read_settings(settings or [])
    name = merge(held, given(algorithm=algorithm), asked).get("algorithm")
    sinks = tuple(track or ())
    if name in WARM_UPS:
        several = nproc if nproc > 1 or call.is_member else None
        odd = {"--adapt": adapt, "--updates": updates, "--resume": resume or None}
        _refuse(name, {**odd, "--nproc": several})
        options = given(steps=steps, inner_lr=rate, lr=lr, rows_per_id=num_support, seed=seed)
        values = {**merge(held, options, asked), "method": name}
        values.pop("algorithm", None)
        told = learn_rows(data, out, by, model, values, continued, sinks, overwrite)
    else:
        values = merge(held, options, asked)
        if nproc > 1:
            _check(continued, model, values)
            start_processes(call, "meta-train", nproc)
            return
        with joined(call, threads) as runtime:
            told = _work(data, out, by, model, values, continued, sinks, resume, overwrite, runtime)
        if runtime.rank:
            return
    if as_json:
        print_json(told)
    else:
        print_pairs(told)


def _refuse(algorithm: str, options: dict[str, Any]) -> None:
    """Refuse what means nothing where rows for new ids are learned."""
    from scalerec.errors import ConfigError

    if odd := [name for name, value in options.items() if value is not None]:
        raise ConfigError(
            f"{odd[0]} means nothing to {algorithm}, which learns rows for new ids in a few passes "
            "over known ones; see --set epochs=, --steps, --rate and --examples"
        )


def _check(continued: Path | None, model: str | None, values: dict[str, Any]) -> None:
    """Tell what is wrong with settings once, and not by every process."""
    from scalerec.meta.config import MetaConfig

    MetaConfig.from_dict(wanted_spec(continued, model, values)[1], "settings")


def _work(
    data: Path,
    out: Path,
    by: str,
    model: str | None,
    values: dict[str, Any],
    continued: Path | None,
    track: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    runtime: "OneProcess | Processes",
) -> dict[str, Any]:
    """Learn and write; what a person is told, nothing on a process other than the first."""
    from scalerec.bundle.lineage import Step
    from scalerec.data.dataset import Dataset
    from scalerec.meta.config import MetaConfig
    from scalerec.meta.learning import meta_train
    from scalerec.meta.tasks import TaskSet
    from scalerec.meta.writing import write_meta
    from scalerec.track import open_sinks
    from scalerec.train.lineage import prepare_step

    dataset = Dataset(data)
    spec, values = wanted_spec(continued, model, values)
    recommender, parents, before = _start(dataset, spec, continued, int(values.get("seed", 0)))
    config = MetaConfig.from_dict(values, "settings")
    # One row to adapt on at least, beside what judges.
    tasks = TaskSet(dataset.split("train"), by, least_rows=2)
    aside, first = out.with_name(f"{out.name}.checkpoint"), runtime.rank == 0
    chosen = {"model": recommender.spec.to_dict(), "by": by, **config.to_dict()}
    parent = parents[0] if parents else None
    resume = meet(runtime, aside, dataset.digest, chosen, parent, resume=resume)
    sinks = open_sinks(track if first else (), out.with_name(f"{out.name}.track"), resume=resume)
    try:
        found = meta_train(
            recommender,
            tasks,
            config,
            sinks=[sinks],
            on_progress=Progress("update") if first else None,
            checkpoints=aside,
            resume=resume,
            runtime=runtime,
        )
    finally:
        sinks.close()
    if not first:
        return {}
    step = Step(
        verb="meta-train",
        settings=chosen,
        parents=parents,
        data=dataset.digest,
        seconds=found.seconds,
    )
    lineage = (*before, prepare_step(dataset), step)
    bundle = write_meta(out, found, dataset, by, config, lineage, overwrite=overwrite)
    note(f"wrote {out}")
    last = next(seen for seen in found.curve if seen["step"] == found.updates)
    return {
        "bundle": bundle.digest,
        "path": str(out),
        "model": recommender.spec.model,
        "algorithm": config.algorithm,
        "tasks": len(tasks),
        "updates": found.updates,
        "seconds": round(found.seconds, 3),
        "metric": found.metric,
        "before_adapting": last[f"valid/start_{found.metric}"],
        "after_adapting": last[f"valid/{found.metric}"],
        "gap": last["gap"],
    }


def _start(
    dataset: Any, spec: Any, continued: Path | None, seed: int
) -> tuple[Any, tuple[str, ...], tuple[Any, ...]]:
    """The recommender that is begun with, the bundle it is of, and that bundle's lineage."""
    from scalerec.bundle import read_bundle
    from scalerec.models.recommender import build_recommender
    from scalerec.train.start import open_start

    if continued is not None:
        start = open_start(continued, dataset)
        lineage = read_bundle(continued, verify=False).lineage
        return start.recommender, (start.digest,), lineage
    return build_recommender(dataset.layout, spec, seed), (), ()

"""`scalerec meta-train`: learn a start from which a few examples are enough."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scalerec.cli.options import (
    AsJson,
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
from scalerec.cli.training_options import (
    ConfigFile,
    Model,
    Resume,
    Seed,
    Settings,
    Track,
    wanted_spec,
)
from scalerec.cli.warming import WARM_UPS, learn_rows

HELP = examples(
    "scalerec meta-train work/ml --by user --algorithm maml --model deepfm --out runs/meta",
    "scalerec meta-train work/ml --continue runs/deepfm --adapt decision --out runs/meta",
    "scalerec meta-train work/ml --algorithm meta-sgd --steps 3 --rate 0.05 --out runs/meta",
    "scalerec meta-train work/ml --by user --out runs/meta --resume       # after a kill",
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
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Learn a start from which tasks adapt well, and how they adapt."""
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
        _refuse(name, {"--adapt": adapt, "--updates": updates, "--resume": resume or None})
        options = given(steps=steps, inner_lr=rate, lr=lr, rows_per_id=num_support, seed=seed)
        values = {**merge(held, options, asked), "method": name}
        values.pop("algorithm", None)
        told = learn_rows(data, out, by, model, values, continued, sinks, overwrite)
    else:
        values = merge(held, options, asked)
        told = _work(data, out, by, model, values, continued, sinks, resume, overwrite)
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
) -> dict[str, Any]:
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
    sinks = open_sinks(track, out.with_name(f"{out.name}.track"), resume=resume)
    try:
        found = meta_train(
            recommender,
            tasks,
            config,
            sinks=[sinks],
            on_progress=Progress("update"),
            checkpoints=out.with_name(f"{out.name}.checkpoint"),
            resume=resume,
        )
    finally:
        sinks.close()
    step = Step(
        verb="meta-train",
        settings={"model": recommender.spec.to_dict(), "by": by, **config.to_dict()},
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

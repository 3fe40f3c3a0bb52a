"""`scalerec compress`: a bundle that costs a server less, within a gate of quality."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalerec.cli.options import (
    AsJson,
    DataPath,
    Out,
    Overwrite,
    Threads,
    examples,
    free,
    merge,
    read_config,
    read_settings,
    use_threads,
)
from scalerec.cli.output import Progress, note, print_json, print_table

if TYPE_CHECKING:
    from scalerec.bundle import Bundle
    from scalerec.compress.chain import Stage
    from scalerec.compress.gate import Gate
    from scalerec.compress.searching import Found

HELP = examples(
    "scalerec compress runs/teacher work/data --out runs/small      # searches within the gate",
    "scalerec compress runs/teacher work/data --steps prune=0.8,distil=64-32,quantize=int8 "
    "--out runs/small",
    "scalerec compress runs/teacher work/data --steps quantize=int8:tables=int4 --out runs/small",
    "scalerec compress runs/a work/data --teacher runs/b --steps distil=64-32 --out runs/small",
)
Steps = Annotated[
    str | None,
    typer.Option(
        "--steps",
        help="Steps in order, such as prune=0.8,distil=64-32,quantize=int8: prune=RATIO, "
        "shrink=HOW, distil=STUDENT, quantize=KIND, tune=EPOCHS, recalibrate; more settings after "
        "colons. Without it chains of steps are searched.",
    ),
]
Tried = Annotated[
    list[str] | None,
    typer.Option("--try", help="A chain of steps for the search; repeatable, in place of its own."),
]
Teachers = Annotated[
    list[Path] | None,
    typer.Option("--teacher", help="Another bundle that students learn from as well; repeatable."),
]
AucDrop = Annotated[
    float | None,
    typer.Option(
        "--max-auc-drop",
        help="How far AUC may fall on the validation part; 0.001 for a search unless said.",
    ),
]
AccuracyDrop = Annotated[
    float | None,
    typer.Option("--max-accuracy-drop", help="The same of multiclass tasks: how far accuracy."),
]
NdcgDrop = Annotated[
    float | None,
    typer.Option("--max-ndcg-drop", help="The same of a retrieval task: how far NDCG@10."),
]
RmseRise = Annotated[
    float | None,
    typer.Option(
        "--max-rmse-rise",
        help="By which share RMSE of regression tasks may rise; 0.001, a thousandth, likewise.",
    ),
]
LossRise = Annotated[
    float | None, typer.Option("--max-log-loss-rise", help="How far log loss may rise there.")
]
Bytes = Annotated[int | None, typer.Option("--max-bytes", help="Bytes of weights at most.")]
Late = Annotated[
    float | None,
    typer.Option("--max-p99-ms", help="Milliseconds of 1,000 candidates at most, on one thread."),
]
Freeze = Annotated[
    bool,
    typer.Option("--freeze", help="Nothing may be adapted later; all may lose its float numbers."),
]
Training = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of training, NAME=VALUE; the bundle's own unless said."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Settings of training in a TOML file.")
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "compress", short_help="Make a bundle smaller and faster, within a gate.", epilog=HELP
    )(run)


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle made by `train`.")],
    data: DataPath,
    out: Out,
    steps: Steps = None,
    tried: Tried = None,
    teacher: Teachers = None,
    max_auc_drop: AucDrop = None,
    max_accuracy_drop: AccuracyDrop = None,
    max_ndcg_drop: NdcgDrop = None,
    max_rmse_rise: RmseRise = None,
    max_log_loss_rise: LossRise = None,
    max_bytes: Bytes = None,
    max_p99_ms: Late = None,
    freeze: Freeze = False,
    settings: Training = None,
    config: ConfigFile = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of all training.")] = None,
    threads: Threads = 0,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compress a bundle by steps, or search for them; times are of one thread.

    Quality is judged on the validation part, by what the tasks have: AUC, accuracy, NDCG@10 or
    RMSE. A search gives the cheapest model that passes the gate: by bytes of weights and by the
    time of 1,000 candidates alike. A run that was stopped leaves nothing, and starts from the
    beginning.
    """
    from scalerec.compress.gate import Gate
    from scalerec.compress.steps import read_steps
    from scalerec.data.aside import clear_left_over, folder_aside
    from scalerec.errors import ConfigError

    free(out, overwrite)
    if steps is not None and tried:
        raise ConfigError("--try is for a search; with --steps there is none")
    for text in (steps, *(tried or ())):
        if text is not None:
            read_steps(text)
    given = {
        "max_auc_drop": max_auc_drop,
        "max_accuracy_drop": max_accuracy_drop,
        "max_ndcg_drop": max_ndcg_drop,
        "max_rmse_rise": max_rmse_rise,
        "max_log_loss_rise": max_log_loss_rise,
        "max_bytes": max_bytes,
        "max_p99_ms": max_p99_ms,
    }
    gate = Gate.from_dict(given, "the gate")
    use_threads(threads)
    asked = {"seed": seed} if seed is not None else {}
    values = merge(read_config(config), asked, read_settings(settings or []))
    clear_left_over(out)
    with folder_aside(out) as folder:
        job = _Job(bundle, data, tuple(teacher or ()), values, folder, freeze=freeze)
        found = job.search(gate, tried) if steps is None else job.follow(steps, gate)
        told = job.write(out, *found, overwrite=overwrite)
    if as_json:
        print_json({name: value for name, value in told.items() if name != "table"})
        return
    print_table(*told["table"])


class _Job:
    """A compression: what is compressed, by what data, with which settings."""

    def __init__(
        self,
        bundle: Path,
        data: Path,
        teachers: tuple[Path, ...],
        values: dict[str, Any],
        folder: Path,
        *,
        freeze: bool,
    ) -> None:
        from scalerec.bundle import read_bundle
        from scalerec.compress.chain import Chains
        from scalerec.compress.measuring import Meter
        from scalerec.compress.teacher import open_teacher
        from scalerec.compress.work import Work
        from scalerec.compress.writing import training_of
        from scalerec.data.dataset import Dataset
        from scalerec.errors import DataError
        from scalerec.train import TrainConfig

        self.freeze, self.dataset = freeze, Dataset(data)
        if not self.dataset.num_rows("valid"):
            raise DataError(f"{data}: quality is judged on the validation part, which has no rows")
        paths = [bundle, *teachers]
        teacher = open_teacher(paths, self.dataset)
        self.parents: list[Bundle] = [read_bundle(path, verify=False) for path in paths]
        own = self.parents[0]
        work = Work(
            recommender=teacher.recommenders[0],
            teacher=teacher,
            dataset=self.dataset,
            training=TrainConfig.from_dict(merge(training_of(own), values), "settings"),
            adaptable=() if freeze else own.adaptable,
            folder=folder,
            on_progress=Progress(),
        )
        self.chains = Chains(work, Meter(own, self.dataset, folder=folder), _tell)

    def follow(self, steps: str, gate: "Gate") -> "tuple[list[Stage], Found | None]":
        """Take the steps that were asked for; what was asked of quality and cost must hold."""
        from scalerec.compress.searching import check_gate
        from scalerec.compress.steps import read_steps

        gate.check(self.chains.given.effect)
        stages = self.chains.run(read_steps(steps))
        check_gate(stages, gate)
        return stages, None

    def search(self, gate: "Gate", tried: list[str] | None) -> "tuple[list[Stage], Found | None]":
        """Search for steps."""
        from scalerec.compress.searching import RECIPES, search

        gate = gate.for_search(self.chains.given.effect)
        note(f"gate: {gate.words()}")
        found = search(self.chains, gate, tried or RECIPES)
        for recipe, reason in found.left_out.items():
            note(f"left out {recipe}: {reason}")
        return found.way, found

    def write(
        self, out: Path, stages: "list[Stage]", found: "Found | None", *, overwrite: bool
    ) -> dict[str, Any]:
        """Write the bundle, and tell what became of it."""
        from scalerec.compress.charting import draw_found
        from scalerec.compress.searching import stage_table
        from scalerec.compress.writing import write_compressed

        bundle = write_compressed(
            out,
            self.parents,
            stages,
            data=self.dataset.digest,
            freeze=self.freeze,
            overwrite=overwrite,
        )
        given, last = stages[0], stages[-1]
        told: dict[str, Any] = {
            "bundle": bundle.digest,
            "path": str(out),
            "steps": list(last.steps),
            "given": given.effect.to_dict(),
            "effects": [stage.effect.to_dict() for stage in stages[1:]],
            "notes": [list(stage.notes) for stage in stages[1:]],
        }
        if found is None:
            told["table"] = stage_table(given, stages[1:])
        else:
            table = found.table()
            told |= {"table": table, "tried": found.to_dict()}
            bundle.attach("compress.json", found.to_dict())
            bundle.attach("compress.svg", draw_found(found).encode("utf-8"))
        note(f"wrote {out}")
        return told


def _tell(stage: "Stage") -> None:
    from scalerec.compress.effects import metrics_of

    own = stage.effect
    judged = [metric for metric in metrics_of(own) if metric.own]
    quality = [f"{metric.title} {own.metric(metric.name):.5f}  " for metric in judged]
    note(
        f"{stage.name}: {''.join(quality)}{own.weight_bytes:,} bytes  {own.p50_ms[-1]:.3f} ms  "
        f"{stage.seconds:.1f} s"
    )
    for told in stage.notes:
        note(f"note: {stage.name}: {told}")

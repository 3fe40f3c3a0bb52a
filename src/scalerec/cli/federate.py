"""`scalerec federate`: parties train one model, and their data stay where they are; simulated."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalerec.cli.options import (
    AsJson,
    Continue,
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
from scalerec.cli.output import Progress, note, print_json, print_pairs, print_table
from scalerec.cli.training_options import (
    ConfigFile,
    Data,
    Model,
    Negatives,
    Resume,
    Seed,
    Settings,
    Track,
    wanted_spec,
)

if TYPE_CHECKING:
    from scalerec.federated import Federated, Parties
    from scalerec.federated.splitting_report import SplitReport
    from scalerec.models.recommender import ModelSpec

HELP = examples(
    "scalerec federate work/ml --model deepfm --by user --strategy fedadam --rounds 200 "
    "--cohort 100 --out runs/fed",
    "scalerec federate work/ml --by dirichlet:20:0.1 --strategy scaffold --out runs/fed",
    "scalerec federate work/ml --set local.lr=0.3 --set method.mu=0.1 --strategy fedprox "
    "--out runs/fed",
    "scalerec federate work/ml --by user --epsilon 8 --out runs/fed      # differentially private",
    "scalerec federate work/ml --by user --out runs/fed --resume       # after a kill",
    "scalerec federate work/ml --by user --continue runs/central --out runs/fed",
)
By = Annotated[
    str,
    typer.Option(
        "--by",
        help="Who the parties are: user, column:NAME, uniform:N, dirichlet:N:ALPHA[:COLUMN], "
        "uneven:N[:SIGMA], power:N[:EXPONENT], time:N, domain:COLUMN[:N] or modality:N.",
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        help="fedavg, fedprox, fedadam, fedyogi, fedadagrad, scaffold, fednova, fedbuff, fedper, "
        "ditto, perfedavg or heterofl; fedavg unless said.",
    ),
]
Rounds = Annotated[int | None, typer.Option("--rounds", help="Number of rounds.")]
Choice = Annotated[
    str | None,
    typer.Option(
        "--choice",
        help="How cohorts are chosen: uniform, poisson, size, available, curriculum or power; "
        "poisson under a budget and uniform else, unless said.",
    ),
]
DropOut = Annotated[
    float | None, typer.Option("--drop-out", help="Share of a cohort that never answers.")
]
Cohort = Annotated[int | None, typer.Option("--cohort", help="Parties in a round.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes of a party in a round.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", help="Rows of a party's step.")]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate of parties' dense part.")]
RowsRate = Annotated[
    float | None, typer.Option("--rows-lr", help="Learning rate of parties' rows of tables.")
]
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec",
        help="What happens to updates on their way up, such as clip:1,topk:0.01,bits:4; none "
        "unless said.",
    ),
]
Combine = Annotated[
    str | None,
    typer.Option(
        "--combine",
        help="How updates become one: mean, median, trimmed:SHARE, krum:BAD, multikrum:BAD[:KEPT], "
        "geomedian or normbound:NORM[+RULE]; mean unless said.",
    ),
]
Epsilon = Annotated[
    float | None,
    typer.Option(
        "--epsilon",
        help="Budget of differential privacy by user, or with --set privacy.by=example by row; "
        "none unless said.",
    ),
]
Delta = Annotated[
    float | None, typer.Option("--delta", help="Its delta; parties to the power -1.1 unless said.")
]
Clip = Annotated[
    float | None, typer.Option("--clip", help="Largest norm of a party's update under a budget.")
]
MinExamples = Annotated[
    int, typer.Option("--min-examples", help="A party with fewer rows is left out.")
]
WithPrivate = Annotated[
    Path | None,
    typer.Option(
        "--with-private",
        help="Also write a bundle with every party's private rows, to study what they see; no "
        "server would have it.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "federate",
        short_help="Train over parties that keep their data; gives a bundle.",
        epilog=HELP,
    )(run)


def run(
    data: Data,
    out: Out,
    model: Model = None,
    by: By = "user",
    strategy: Strategy = None,
    rounds: Rounds = None,
    cohort: Cohort = None,
    choice: Choice = None,
    drop_out: DropOut = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    rows_lr: RowsRate = None,
    negatives: Negatives = None,
    codec: Codec = None,
    combine: Combine = None,
    epsilon: Epsilon = None,
    delta: Delta = None,
    clip: Clip = None,
    min_examples: MinExamples = 1,
    seed: Seed = None,
    settings: Settings = None,
    config: ConfigFile = None,
    continued: Continue = None,
    track: Track = None,
    threads: Threads = 0,
    resume: Resume = False,
    with_private: WithPrivate = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train one model over parties whose rows never leave them; a simulation in one process."""
    for option, path in (("--out", out), ("--with-private", with_private)):
        if path is not None:
            free(path, overwrite, option)
    options = given(
        strategy=strategy, rounds=rounds, cohort=cohort, negatives=negatives, seed=seed,
        codec=codec, combine=combine, choice=choice,
        local=given(epochs=epochs, batch_size=batch_size, lr=lr, rows_lr=rows_lr),
        privacy=given(epsilon=epsilon, delta=delta, clip=clip),
        devices=given(drop_out=drop_out),
    )  # fmt: skip
    values = merge(read_config(config), options, read_settings(settings or []))
    use_threads(threads)
    spec, values = wanted_spec(continued, model, values)
    job = _Job(data, spec, values, by, min_examples, continued)
    if not as_json:
        print_table(*job.report.table())
    found = job.train(out, tuple(track or ()), resume=resume)
    told = job.write(out, found, overwrite=overwrite)
    if with_private is not None:
        job.write(with_private, found, overwrite=overwrite, private=True)
    if as_json:
        print_json(told)
    else:
        print_pairs(told)


class _Job:
    """A run: its data, its parties, its settings, and what it goes on from."""

    def __init__(
        self,
        data: Path,
        spec: "ModelSpec",
        values: dict[str, Any],
        by: str,
        min_examples: int,
        continued: Path | None,
    ) -> None:
        from scalerec.bundle import read_bundle
        from scalerec.data.dataset import Dataset
        from scalerec.federated import FederatedConfig, split_parties
        from scalerec.federated.splitting_report import report_split
        from scalerec.train.start import open_start

        self.spec, self.continued = spec, continued
        self.config: FederatedConfig = FederatedConfig.from_dict(values, "settings")
        self.dataset: Dataset = Dataset(data)
        self.parties: Parties = split_parties(
            self.dataset, by, self.config.seed, min_examples=min_examples
        )
        self.report: SplitReport = report_split(self.dataset, self.parties)
        self.start = open_start(continued, self.dataset) if continued else None
        self.before = read_bundle(continued, verify=False).lineage if continued else ()

    def train(self, out: Path, track: tuple[str, ...], *, resume: bool) -> "Federated":
        """Run the rounds; checkpoints and tracked numbers lie beside the bundle to be."""
        from scalerec.federated import federate, paid_before
        from scalerec.track import open_sinks

        paid = paid_before(self.before, self.config.privacy)
        sinks = open_sinks(track, out.with_name(f"{out.name}.track"), resume=resume)
        try:
            return federate(
                self.dataset,
                self.spec,
                self.parties,
                self.config,
                sinks=[sinks],
                checkpoints=out.with_name(f"{out.name}.checkpoint"),
                resume=resume,
                on_progress=Progress("round"),
                start=self.start,
                before=paid,
            )
        finally:
            sinks.close()

    def write(
        self, out: Path, found: "Federated", *, overwrite: bool, private: bool = False
    ) -> dict[str, Any]:
        """Write the bundle, and tell what is in it."""
        from scalerec.bundle.recommenders import write_recommender
        from scalerec.federated import without_private
        from scalerec.federated.charting import federated_page
        from scalerec.federated.splitting_chart import draw_split
        from scalerec.train.lineage import prepare_step

        recommender = found.recommender if private else without_private(found)
        steps = (*self.before, prepare_step(self.dataset), self._step(found, private=private))
        bundle = write_recommender(out, recommender, self.dataset, steps, overwrite=overwrite)
        bundle.attach("curves.json", {"metric": found.metric, "steps": found.curve})
        bundle.attach("parties.json", self.report.to_dict())
        page = federated_page(found, draw_split(self.dataset, self.parties))
        bundle.attach("federated.html", page.encode("utf-8"))
        note(f"wrote {out}")
        return {
            "bundle": bundle.digest,
            "path": str(out),
            "model": self.spec.model,
            "parties": len(self.parties),
            "rounds": found.rounds,
            "seconds": round(found.seconds, 3),
            "metric": found.metric,
            "valid": found.best,
            **{name: int(value) for name, value in found.totals.items()},
            **({"epsilon": round(found.privacy["epsilon"], 4)} if found.privacy else {}),
            **({"delta": found.privacy["delta"]} if found.privacy else {}),
        }

    def _step(self, found: "Federated", *, private: bool) -> Any:
        from scalerec.bundle.lineage import Step

        settings = {
            "model": self.spec.to_dict(),
            "by": self.parties.by,
            "parties": len(self.parties),
            "private_rows": "every party's" if private else "as they were drawn",
            **self.config.to_dict(),
        }
        return Step(
            verb="federate",
            settings=settings,
            parents=(self.start.digest,) if self.start else (),
            data=self.dataset.digest,
            ledger=found.privacy,
            seconds=found.seconds,
        )

"""`scalerec evaluate`: a bundle and a data set give metrics."""

from pathlib import Path
from typing import Annotated, Any

import typer

from scalerec.cli.options import AsJson, DataPath, Threads, examples, use_threads
from scalerec.cli.output import print_json, print_table

HELP = examples(
    "scalerec evaluate runs/deepfm work/ml --json",
    "scalerec evaluate runs/deepfm work/ml --split valid --ranking no",
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("evaluate", short_help="Measure a bundle on a data set.", epilog=HELP)(run)


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle made by `train`.")],
    data: DataPath,
    split: Annotated[str, typer.Option("--split", help="train, valid or test.")] = "test",
    ranking: Annotated[
        str, typer.Option("--ranking", help="Rank the full catalogue: auto, yes or no.")
    ] = "auto",
    ks: Annotated[
        list[int] | None, typer.Option("--k", help="Lengths of lists; repeatable.")
    ] = None,
    attach: Annotated[
        bool, typer.Option("--attach/--no-attach", help="Keep the metrics with the bundle.")
    ] = True,
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Measure a bundle over a whole split; what is undefined is null, never NaN."""
    use_threads(threads)
    config = {"split": split, "ranking": ranking, **({"ks": ks} if ks else {})}
    found = evaluate_bundle(bundle, data, config, attach)
    if as_json:
        print_json({name: found[name] for name in ("bundle", "rows", "metrics")})
        return
    print_table(["metric", split], list(found["metrics"].items()))


def evaluate_bundle(
    bundle: Path, data: Path, config: dict[str, Any], attach: bool
) -> dict[str, Any]:
    """Evaluate, keep the result with the bundle if asked, and give it."""
    from scalerec.bundle.growing import recommender_for
    from scalerec.bundle.recommenders import open_recommender
    from scalerec.data.dataset import Dataset
    from scalerec.scoring import EvaluateConfig, evaluate

    opened, dataset = open_recommender(bundle), Dataset(data)
    recommender = recommender_for(opened, dataset)
    checked = EvaluateConfig.from_dict(config)
    found = evaluate(recommender, dataset, checked)
    result = {
        "bundle": opened.bundle.digest,
        "data": dataset.digest,
        "split": checked.split,
        "rows": found.rows,
        "metrics": found.metrics,
        "counts": found.counts,
    }
    if attach:
        opened.bundle.attach(f"evaluation-{checked.split}.json", result, overwrite=True)
        for task, bins in list(found.calibration.items())[:1]:
            calibration = {"split": checked.split, "task": task, "bins": bins}
            opened.bundle.attach("calibration.json", calibration, overwrite=True)
    return result

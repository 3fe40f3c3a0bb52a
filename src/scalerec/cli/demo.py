"""`scalerec demo`: the main job from start to end, on real data where it can be had."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from scalerec.cli.evaluate import evaluate_bundle
from scalerec.cli.options import AsJson, examples
from scalerec.cli.output import note, print_json, print_pairs, print_table, showing_steps
from scalerec.cli.training import train_bundle

HELP = examples("scalerec demo --out runs/demo", "scalerec demo --data simulated --out runs/demo")

# Chosen on the validation part of ML-100K. Items never met stand beside those met and not liked, so
# that the model learns what to show and not only what is liked once it is seen.
SETTINGS: dict[str, Any] = {
    "epochs": 8,
    "batch_size": 1024,
    "seed": 1,
    "ema": 0.98,
    "negatives": 4,
    "metric": "ndcg@10",
    "tables": {"l2": 1e-5},
}
# In the simulated world items are shown by chance and not by taste, so the question is what is
# clicked once it is seen, and nothing is ranked.
SIMULATED: dict[str, Any] = {"epochs": 8, "batch_size": 1024, "seed": 1, "ema": 0.98}
NET: dict[str, Any] = {"dim": 16, "hidden": [128, 64], "dropout": 0.2}


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("demo", short_help="Run the main job from start to end.", epilog=HELP)(run)


def run(
    out: Annotated[Path, typer.Option("--out", help="The directory to make; replaced.")] = Path(
        "runs/demo"
    ),
    data: Annotated[
        str, typer.Option("--data", help="auto, ml-100k or simulated; auto takes what it can get.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Prepare, train, evaluate, recommend and report, on MovieLens 100K or on simulated data."""
    _clear(out)
    with showing_steps("prepare"):
        used = _prepare(data, out)
    real = not used.startswith("simulated")
    note(f"data: {used}")
    settings = dict(SETTINGS if real else SIMULATED)
    with showing_steps("train deepfm"):
        trained = train_bundle(out / "data", out / "bundle", "deepfm", NET, settings) or {}
    with showing_steps("evaluate"):
        ranking = {"ranking": "yes" if real else "no"}
        found = evaluate_bundle(out / "bundle", out / "data", ranking, attach=True)
        popularity = _attach_baseline(out) if real else {}
    with showing_steps("recommend"):
        lists = _attach_lists(out / "bundle")
    with showing_steps("report"):
        from scalerec.report import write_report

        page = write_report(out / "bundle")
        shutil.copyfile(page, out / "report.html")
    result = {
        "data": used,
        "bundle": trained["bundle"],
        "path": str(out / "bundle"),
        "report": str(out / "report.html"),
        "metrics": found["metrics"],
    }
    if as_json:
        print_json(result)
        return
    shown = ("auc", "ndcg@10", "hit_rate@10", "recall@10", "coverage@10")
    metrics = found["metrics"]
    names = [n for n in metrics if n.rpartition(".")[2] in shown]
    columns = ["on the test part", "deepfm", *(["popularity"] if real else [])]
    rows = [[n, metrics[n], *([popularity.get(n, "")] if real else [])] for n in names]
    print_table(columns, rows)
    for one in lists:
        print_table(
            [f"for user {one['user']}", "score"],
            [[item["title"], item["score"]] for item in one["items"][:5]],
        )
    print_pairs({"bundle": out / "bundle", "report": out / "report.html"})


def _clear(out: Path) -> None:
    """Remove an earlier demo, and nothing else."""
    from scalerec.errors import ConfigError

    if not out.exists():
        return
    ours = all((out / name).exists() for name in ("data", "bundle"))
    if any(out.iterdir()) and not ours:
        raise ConfigError(f"--out {out} holds something else than a demo; choose another directory")
    shutil.rmtree(out)


def _prepare(wanted: str, out: Path) -> str:
    """Prepare the wanted data, or what can be had; tell which it was."""
    from scalerec.data.opening import open_raw
    from scalerec.data.prepare import prepare
    from scalerec.data.simulate import SimulatorConfig, simulate
    from scalerec.errors import ConfigError, DataError

    if wanted not in ("auto", "ml-100k", "simulated"):
        raise ConfigError(f"--data must be auto, ml-100k or simulated; got {wanted!r}")
    if wanted != "simulated":
        try:
            raw = open_raw("ml-100k")
            prepare(raw, out / "data")
        except DataError as error:
            if wanted == "ml-100k":
                raise
            note(f"MovieLens 100K cannot be had, so the data are simulated: {error}")
        else:
            return f"MovieLens 100K; {raw.notes[-1]}" if raw.notes else "MovieLens 100K"
    with tempfile.TemporaryDirectory() as folder:
        events = simulate(SimulatorConfig(seed=1)).write(Path(folder) / "simulated")
        raw = open_raw(str(events), schema=events.parent / "schema.toml")
        prepare(raw, out / "data")
    return "simulated (scalerec simulate --seed 1)"


def _attach_baseline(out: Path) -> dict[str, float | None]:
    """Rank by popularity for the same users, and keep that with the bundle."""
    import torch

    from scalerec.bundle import read_bundle
    from scalerec.data.dataset import Dataset
    from scalerec.scoring import queries_of, rank_metrics

    dataset = Dataset(out / "data")
    queries = queries_of(dataset, "test")
    counts = torch.from_numpy(dataset.item_counts.astype("float32"))
    metrics, _ = rank_metrics(counts.expand(len(queries.users), -1), queries, dataset)
    rows = {"rows": [{"name": "popularity", "metrics": metrics}]}
    read_bundle(out / "bundle").attach("baselines.json", rows, overwrite=True)
    return metrics


def _attach_lists(bundle: Path) -> list[dict[str, Any]]:
    """Lists for the three users with the longest records, and keep them with the bundle."""
    from dataclasses import asdict

    import numpy as np

    from scalerec.bundle.recommenders import open_recommender
    from scalerec.scoring import recommend

    opened = open_recommender(bundle)
    lengths = np.diff(opened.met.offsets.to_numpy())
    lists = []
    for number in np.argsort(-lengths, kind="stable")[:3].tolist():
        user = opened.user_keys[number]
        items = [asdict(item) for item in recommend(opened, user=user, k=10)]
        lists.append({"user": user, "history": _titles_before(opened, number), "items": items})
    opened.bundle.attach("recommendations.json", {"users": lists}, overwrite=True)
    return lists


def _titles_before(opened: Any, number: int) -> list[str]:
    """Titles of the last items of a user's history, the latest last."""
    place = next(i for i, field in enumerate(opened.layout.bags) if field.history)
    target = opened.layout.targets_of(opened.layout.bags[place])[0]
    titles = dict(zip(opened.items.ids[target].tolist(), opened.titles, strict=True))
    bag = opened.users.bags[place]
    start, stop = bag.offsets[number].item(), bag.offsets[number + 1].item()
    return [titles[one] for one in bag.values[start:stop].tolist() if one > 1][-8:]

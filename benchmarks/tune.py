"""What a search finds: the defaults, a search at random and one by TPE, as many trials each.

For each seed, DeepFM is trained with its defaults, and searched twice over its default space with
the same number of trials and the same pruner. A trial has few epochs, so that the budget is
modest; the run of the defaults has the ten that it has by default. Everything is chosen on the
validation part; the test part of each seed's three models is read once, at the end.

Usage: python benchmarks/tune.py [--data frappe] [--trials 12] [--epochs 2] [--seeds 1] [--quick]
       [--folder FOLDER]   (keeps data and studies there, and goes on with them)
"""

import argparse
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from common import Claim, summarise, write_result
from scalerec.bundle import open_recommender
from scalerec.data.dataset import Dataset
from scalerec.data.opening import open_raw
from scalerec.data.prepare import prepare
from scalerec.errors import DataError
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.tune import TuneConfig, make_plan, tune

WAYS = ("tpe", "random")


def auc(bundle: Path, dataset: Dataset, split: str) -> float:
    """The AUC of a bundle on a part of the data."""
    config = EvaluateConfig(split=split, ranking="no")
    value = evaluate(open_recommender(bundle).recommender, dataset, config).metrics["auc"]
    assert value is not None
    return value


def run(
    dataset: Dataset, model: str, fixed: dict[str, Any], sampler: str, trials: int, folder: Path
) -> dict[str, float]:
    """Search once, and measure what was found; one trial is a run of the defaults."""
    seed = fixed["seed"]
    name = f"{sampler}-{seed}" if trials > 1 else f"defaults-{seed}"
    plan = make_plan(dataset, [model], fixed, None)
    how = {"trials": trials, "seed": seed, "sampler": sampler, "startup": min(5, trials)}
    config = TuneConfig.from_dict(how)
    found = tune(dataset, plan, folder / name, config, resume=True)
    states = [trial.state for trial in found.trials]
    result = {
        "valid auc": auc(found.bundle.path, dataset, "valid"),
        "test auc": auc(found.bundle.path, dataset, "test"),
        "seconds": sum(trial.seconds for trial in found.trials),
        "pruned": float(states.count("pruned")),
        "failed": float(states.count("failed")),
        "best trial": float(found.best.number),
    }
    shown = {name: round(value, 5) for name, value in result.items()}
    print(sampler if trials > 1 else "defaults", seed, shown, found.best.values, flush=True)
    return result


def claims(figures: dict[str, Any], trials: int) -> list[Claim]:
    """What the figures must show."""
    tests = {way: figures[f"{way} test auc"]["mean"] for way in ("defaults", *WAYS)}
    gain, beside = tests["tpe"] - tests["defaults"], tests["tpe"] - tests["random"]
    return [
        Claim(f"{trials} trials, mean test AUC above the defaults", gain, 0.002, at_least=True),
        Claim("TPE, mean test AUC above a search at random", beside, 0.0, at_least=True),
    ]


def main() -> int:
    """Run all seeds, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="frappe")
    parser.add_argument("--model", default="deepfm")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="3 trials, one seed; no result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trials = 3 if options.quick else options.trials
    seeds = [1] if options.quick else list(range(1, options.seeds + 1))
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        try:
            raw = open_raw(options.data)
        except DataError as error:
            print(f"{options.data} cannot be had: {error}", file=sys.stderr)
            return 1
        data = folder / "data"
        dataset = Dataset(data) if data.exists() else prepare(raw, data)
        runs: dict[str, list[dict[str, float]]] = {"defaults": [], "tpe": [], "random": []}
        for seed, way in itertools.product(seeds, runs):
            count, sampler = (1, "tpe") if way == "defaults" else (trials, way)
            fixed = {"seed": seed, **({"epochs": options.epochs} if count > 1 else {})}
            runs[way].append(run(dataset, options.model, fixed, sampler, count, folder))
        figures = {
            f"{way} {figure}": summarise([found[figure] for found in own])
            for way, own in runs.items()
            for figure in own[0]
            if way != "defaults" or "auc" in figure or figure == "seconds"
        }
    if not options.quick:
        what = f"{options.model} on {options.data}, {options.threads} thread"
        note = f"{what}; each search has {trials} trials of at most {options.epochs} epochs"
        write_result(
            "tune",
            figures,
            claims(figures, trials),
            seeds=seeds,
            notes=[note, *raw.notes],
            packages=["optuna"],
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

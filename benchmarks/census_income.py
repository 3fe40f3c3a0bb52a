"""Two tasks on Census-Income: MMoE and PLE beside shared-bottom and single-task nets.

Data: Census-Income (KDD), UCI Machine Learning Repository, 2000, https://doi.org/10.24432/C5N30T.
Set-ups differ between papers; this one is:

- Tasks: `income` (above 50,000 dollars) and `marital` (never married), both binary, equal weights.
- Split: the publisher's 99,762 test rows test. A tenth of its 199,523 training rows, drawn at
  random, validates; the rest trains and alone fits the encoders. Rows that repeat are kept.
- Columns: 39 of the 42. Left out are the two labels and `instance_weight`; no row is weighted. The
  two household columns stay, though they tell much about marriage.
- Each of the 7 numbers is seen twice: scaled (four of them after a logarithm), and as an id of its
  exact value, since single sums of money tell much about income; values in fewer than 10 training
  rows share one id. `--plain` leaves these ids out, as the library's own schema of the set does.

The nets have equally many units in the first layer (512) and towers of equal size, and all learn by
one recipe. A single-task net is shared-bottom with one task; there are two of them, which together
have twice the weights. Settings were chosen on the validation part alone; each net's test part is
read once, at the end of its run.

Usage: python benchmarks/census_income.py [--seeds 3] [--models mmoe,ple] [--plain] [--quick]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from common import Claim, summarise, write_result
from scalerec.data.dataset import Dataset
from scalerec.data.opening import open_raw
from scalerec.data.prepare import prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Numeric, Schema
from scalerec.errors import DataError
from scalerec.models.recommender import ModelSpec
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.train import TrainConfig, train

BATCH = 2048
EPOCHS = 8
TASKS = ("income", "marital")
# One reproduction of MMoE in public: means over its runs.
PUBLISHED = {"income": 0.9447, "marital": 0.9932}

SHARED: dict[str, Any] = {
    "dim": 8,
    "tower_hidden": [32],
    "dropout": 0.2,
    "embedding_dropout": 0.2,
}
NETS: dict[str, dict[str, Any]] = {
    "mmoe": {"num_experts": 8, "expert_hidden": [64]},
    "ple": {
        "num_levels": 1,
        "num_task_experts": 3,
        "num_shared_experts": 2,
        "expert_hidden": [64],
    },
    "shared-bottom": {"hidden": [512]},
    "single-task": {"hidden": [512]},
}


def exact_values(schema: Schema) -> Schema:
    """The schema with each number also as an id of its value."""
    ids = tuple(
        Categorical(name=f"{feature.name}_value", column=feature.name, min_count=10)
        for feature in schema.features
        if isinstance(feature, Numeric)
    )
    return schema.replace(features=schema.features + ids)


def make_datasets(raw: RawData, folder: Path) -> dict[str, Dataset]:
    """The data set with both tasks, and with each alone, by the tasks' names; the same split."""
    datasets = {}
    for chosen in (TASKS, *((task,) for task in TASKS)):
        name = "+".join(chosen)
        tasks = tuple(task for task in raw.schema.tasks if task.name in chosen)
        own = replace(raw, schema=raw.schema.replace(tasks=tasks))
        datasets[name] = prepare(own, folder / name)
    return datasets


def settings(num_rows: int, seed: int, *, quick: bool) -> TrainConfig:
    """The recipe; warm-up is 5% of all steps, and the best epoch on the validation part is kept."""
    epochs = 1 if quick else EPOCHS
    steps = epochs * -(-num_rows // BATCH)
    return TrainConfig.from_dict(
        {
            "epochs": epochs,
            "batch_size": BATCH,
            "seed": seed,
            "patience": 2,
            "ema": 0.98,
            "dense": {"lr": 3e-3, "weight_decay": 1e-5},
            "tables": {"lr": 2e-2, "l2": 5e-5},
            "schedule": {"name": "linear", "warmup_steps": steps // 20},
        }
    )


def fit(dataset: Dataset, model: str, seed: int, *, quick: bool) -> dict[str, float]:
    """Train once; AUC of each task on the validation part and, unless quick, on the test part."""
    zoo_model = "shared-bottom" if model == "single-task" else model
    spec = ModelSpec(model=zoo_model, settings={**SHARED, **NETS[model]})
    start = time.perf_counter()
    trained = train(dataset, spec, settings(dataset.num_rows("train"), seed, quick=quick))
    found = {"seconds": time.perf_counter() - start}
    tasks = [task.name for task in dataset.schema.tasks]
    for split in ("valid",) if quick else ("valid", "test"):
        config = EvaluateConfig(split=split, ranking="no")
        metrics = evaluate(trained.recommender, dataset, config).metrics
        for task in tasks:
            value = metrics[f"{task}.auc" if len(tasks) > 1 else "auc"]
            assert value is not None, "both classes are in every part"
            found[f"{task} {split} auc"] = value
    return found


def run(datasets: Mapping[str, Dataset], model: str, seed: int, *, quick: bool) -> dict[str, float]:
    """One seed of a model: one net for both tasks, or one net a task."""
    found: dict[str, float] = {"seconds": 0.0}
    for tasks in TASKS if model == "single-task" else ("+".join(TASKS),):
        own = fit(datasets[tasks], model, seed, quick=quick)
        own["seconds"] += found["seconds"]
        found |= own
    print(model, seed, {name: round(value, 5) for name, value in found.items()}, flush=True)
    return found


def claims(figures: Mapping[str, Any]) -> list[Claim]:
    """What the figures must show; of MMoE and PLE, the better on the validation part counts."""

    def mean(model: str, task: str, split: str) -> float:
        return float(figures[f"{model} {task} {split} auc"]["mean"])

    have = [model for model in NETS if f"{model} seconds" in figures]
    experts = [model for model in ("mmoe", "ple") if model in have]
    if not experts:
        return []
    best = max(experts, key=lambda model: sum(mean(model, task, "valid") for task in TASKS))
    return [
        Claim(f"{best}, mean test AUC, {task}", mean(best, task, "test"), bar, at_least=True)
        for task, bar in PUBLISHED.items()
    ]


def differences(figures: Mapping[str, Any]) -> dict[str, float]:
    """How far each multi-task net is above the nets without experts, in mean test AUC."""
    return {
        f"{model} minus {other}, {task} test auc": figures[f"{model} {task} test auc"]["mean"]
        - figures[f"{other} {task} test auc"]["mean"]
        for model in ("mmoe", "ple")
        for other in ("shared-bottom", "single-task")
        for task in TASKS
        if f"{model} seconds" in figures and f"{other} seconds" in figures
    }


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", default=",".join(NETS), help=f"of {', '.join(NETS)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="without ids of numbers")
    parser.add_argument(
        "--quick", action="store_true", help="MMoE, one seed and epoch, validation only; no result"
    )
    return parser.parse_args()


def main() -> int:
    """Run all models and seeds, and write the result."""
    options = arguments()
    torch.set_num_threads(options.threads)
    models = ["mmoe"] if options.quick else options.models.split(",")
    seeds = [1] if options.quick else list(range(1, options.seeds + 1))
    try:
        raw = open_raw("census-income")
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    if not options.plain:
        note = "each of the 7 numbers also as an id of its exact value"
        raw = replace(raw, schema=exact_values(raw.schema), notes=(*raw.notes, note))
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        datasets = make_datasets(raw, Path(folder))
        for model in models:
            runs = [run(datasets, model, seed, quick=options.quick) for seed in seeds]
            for name in runs[0]:
                figures[f"{model} {name}"] = summarise([found[name] for found in runs])
    if not options.quick:
        name = "census_income_plain" if options.plain else "census_income"
        figures |= differences(figures)
        write_result(name, figures, claims(figures), seeds=seeds, notes=raw.notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())

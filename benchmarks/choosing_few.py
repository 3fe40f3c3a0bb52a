"""Which few examples to ask for: whether k-centre greedy, herding, k-means and balance matter.

Two settings, each choice of `scalerec.meta.choosing` beside chance, under the same budget:

- `users`: MovieLens 100K (Harper and Konstan, 2015, https://doi.org/10.1145/2827872), with users
  held out as in the world `users` of `cold_start_worlds.py`. A held-out user is asked for 3, 5 or
  10 of the rows that are not its query; the model adapts on them as `fine-tuning` of
  `cold_start_methods.py` does, from one start, and is judged by 20 query rows: NDCG@10, a mean over
  users, and AUC of all query rows together. Its settings are chosen on the validation users with 5
  examples by chance. A row lies where the trained model's embedded fields put it; its domain is the
  film's first genre.
- `census`: census income, https://archive.ics.uci.edu/dataset/117. Of 8,000 training rows 500 or
  2,000 are labelled, all of one choice, and a small DeepFM learns from these alone; AUC of 20,000
  test rows. No model is trained yet when rows are chosen, so a row lies where a drawn one's
  embedded fields put it; its domain is the education.

Class-balanced choices look at labels that one does not know before asking: they are a bound, or
stand for a choice among rows whose labels are known. What is drawn by chance is drawn several times
and averaged. Differences to chance are paired by seed, and come with their standard errors over
seeds; with five seeds a difference of 2.78 of them would be met by chance in one of twenty.

Usage: python benchmarks/choosing_few.py [--seeds 5] [--settings 'users;census'] [--workers 1]
       [--quick]
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cold_start_methods import METHODS, Bench, score
from cold_start_worlds import WORLDS
from common import Claim, summarise, write_result
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset, Events
from scalerec.data.opening import open_raw
from scalerec.data.prepare import prepare
from scalerec.meta.choosing import CHOICES, Candidates, choose
from scalerec.meta.measuring import measure
from scalerec.meta.tasks import Episode, Ragged
from scalerec.metrics import auc
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.scoring.scores import evaluating
from scalerec.train import Learner, OneProcess, TrainConfig

# How often a choice is made; of the others, chance decides nothing.
DRAWS = {"users": 3, "census": 2}
CERTAIN = ("herding", "k-centre")
# The t of Student's with four degrees of freedom that is passed by chance once in twenty.
BAR = 2.78
BUDGETS = {"users": (3, 5, 10), "census": (500, 2_000)}
CLAIMED = {"users": 5, "census": 500}
METRICS = {"users": ("ndcg@10", "auc"), "census": ("auc",)}
# Settings of fine-tuning, of which each seed takes the best on its validation users.
GRID = {"adapt": ("own", "decision"), "rate": (0.003, 0.01, 0.03, 0.1, 0.3), "prior": (0.0, 10.0)}
POOL, TESTED, DOMAIN = 8_000, 20_000, "education"
SMALL = ModelSpec(model="deepfm", settings={"dim": 4, "hidden": [32]})
DRAWN = replace(SMALL, init_std=1.0)
TRAINING: dict[str, Any] = {
    "batch_size": 64, "precision": "fp32", "dense": {"lr": 2e-3},
    "tables": {"lr": 5e-3, "l2": 1e-3},
}  # fmt: skip
EPOCHS = 8
# Choice, budget and metric to a value.
Values = dict[tuple[str, int, str], float]


@torch.no_grad()
def candidates_of(
    recommender: Recommender, batch: Batch, domains: Callable[[Batch], Tensor]
) -> Candidates:
    """Where rows lie, what they say, and their domains."""
    with evaluating(recommender):
        fields_bfd = recommender.read(batch).fields.float()
    return Candidates(fields_bfd.flatten(1), batch.labels[:, 0].long(), domains(batch))


def first_genre(dataset: Dataset) -> Callable[[Batch], Tensor]:
    """Gives the id of the first genre of each row's film; 0 for none."""
    place = [field.name for field in dataset.layout.bags].index("genres")

    def read(batch: Batch) -> Tensor:
        bag = batch.bags[place]
        values = torch.cat([bag.values, bag.values.new_zeros(1)])
        return torch.where(bag.lengths > 0, values[bag.offsets[:-1]], 0)

    return read


class Pools:
    """The rows of held-out users that may be asked for.

    Args:
        bench: The division.
        split: Whose users.
    """

    def __init__(self, bench: Bench, split: str) -> None:
        self.episode, events = bench.episodes[split], bench.dataset.split(split)
        domains = first_genre(bench.dataset)
        self.candidates = [
            candidates_of(bench.base, events.take(self.episode.support.of(task).numpy()), domains)
            for task in range(len(self.episode))
        ]

    def choose(self, words: str, budget: int, seed: int) -> Episode:
        """The same queries with a chosen support."""
        generator = torch.Generator().manual_seed(seed)
        own = self.episode.support
        parts = [
            own.of(task)[choose(words, there, budget, generator)]
            for task, there in enumerate(self.candidates)
        ]
        lengths = torch.tensor([0, *(len(part) for part in parts)])
        return Episode(self.episode.keys, Ragged(torch.cat(parts), lengths.cumsum(0)),
                       self.episode.query)  # fmt: skip


def judged(bench: Bench, split: str, made: Any, episode: Episode) -> dict[str, float]:
    """NDCG and AUC after adapting."""
    scores = made.score(split, episode).detach()
    found = measure(scores, bench.relevant(split), episode.query, k=10)
    return {"ndcg@10": found.ndcg, "auc": found.auc}


def draws_of(setting: str, words: str) -> int:
    """How often a choice is made."""
    return 1 if words in CERTAIN else DRAWS[setting]


def users(seed: int, folder: Path, *, quick: bool) -> Values:
    """One division of MovieLens 100K."""
    bench = Bench(WORLDS["users"], seed, folder / f"users-{seed}")
    pools = {split: Pools(bench, split) for split in ("valid", "test")}
    make = METHODS["fine-tuning"].make
    tried: list[tuple[float, dict[str, Any]]] = []
    few = pools["valid"].choose("random", 5, seed)
    for values in list(product(*GRID.values()))[: 2 if quick else None]:
        settings = {**dict(zip(GRID, values, strict=True)), "steps": 5}
        own = judged(bench, "valid", make(bench, settings), few)
        value = own["ndcg@10"] + own["auc"]
        tried.append((value if math.isfinite(value) else -math.inf, settings))
    _, settings = max(tried, key=lambda pair: pair[0])
    made = make(bench, settings)
    none = judged(bench, "test", made, pools["test"].choose("random", 0, seed))
    found = {("none", 0, metric): value for metric, value in none.items()}
    for words, budget in product(sorted(CHOICES), BUDGETS["users"]):
        runs = [
            judged(bench, "test", made, pools["test"].choose(words, budget, 100 * seed + draw))
            for draw in range(draws_of("users", words))
        ]
        for metric in METRICS["users"]:
            found[words, budget, metric] = statistics.fmean(run[metric] for run in runs)
    print(f"users {seed}: {settings}", flush=True)
    return found


def learn(dataset: Dataset, batch: Batch, seed: int) -> Recommender:
    """A small model that learns from these rows alone."""
    config = TrainConfig.from_dict({**TRAINING, "seed": seed})
    recommender = build_recommender(dataset.layout, SMALL, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner = Learner(recommender, dataset, config, OneProcess())
        recommender.train()
        for _ in range(EPOCHS):
            order = torch.randperm(len(batch), generator=generator)
            for rows in order.split(config.batch_size):
                learner.step(batch.take(rows), 1.0)
    return recommender.eval()


def sample(events: Events, num: int, seed: int) -> Batch:
    """So many rows by chance."""
    rows = np.random.default_rng(seed).choice(len(events), num, replace=False)
    return events.take(np.sort(rows))


def census(seed: int, folder: Path, *, quick: bool) -> Values:
    """One pool of census income."""
    dataset = Dataset(folder / "census")
    pool = sample(dataset.split("train"), POOL // 8 if quick else POOL, seed)
    test = sample(dataset.split("test"), TESTED, seed)
    place = [field.name for field in dataset.layout.ids].index(DOMAIN)
    drawn = build_recommender(dataset.layout, DRAWN, seed)
    there = candidates_of(drawn, pool, lambda batch: batch.ids[place])
    found: Values = {}
    for words, budget in product(sorted(CHOICES), BUDGETS["census"]):
        values = []
        for draw in range(draws_of("census", words)):
            generator = torch.Generator().manual_seed(100 * seed + draw)
            chosen = choose(words, there, budget, generator)
            scores = score(learn(dataset, pool.take(chosen), seed), test).numpy()
            value = auc(test.labels[:, 0].numpy() > 0, scores)
            assert value is not None, "both classes are in the test rows"
            values.append(value)
        found[words, budget, "auc"] = statistics.fmean(values)
    return found


def prepare_census(folder: Path) -> None:
    """Census income with one task, for all seeds."""
    raw = open_raw("census-income")
    tasks = [task for task in raw.schema.tasks if task.name == "income"]
    prepare(replace(raw, schema=raw.schema.replace(tasks=tasks)), folder / "census")


def run(setting: str, seed: int, folder: Path, quick: bool) -> Values:
    """One seed of a setting."""
    torch.set_num_threads(1)
    return (users if setting == "users" else census)(seed, folder, quick=quick)


def error(values: Sequence[float]) -> float:
    """The standard error of a mean."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def report(setting: str, runs: Sequence[Values]) -> tuple[dict[str, Any], list[Claim]]:
    """Figures of a setting over seeds, and what they show."""
    figures: dict[str, Any] = {}
    claims = []
    if ("none", 0, METRICS[setting][0]) in runs[0]:
        for metric in METRICS[setting]:
            name = f"{setting}, no examples, {metric}"
            figures[name] = summarise([run["none", 0, metric] for run in runs])
    for words, budget, metric in product(sorted(CHOICES), BUDGETS[setting], METRICS[setting]):
        name = f"{setting}, {words}, {metric}, {budget} examples"
        figures[name] = summarise([run[words, budget, metric] for run in runs])
        if words == "random":
            continue
        gains = [run[words, budget, metric] - run["random", budget, metric] for run in runs]
        figures[f"{name}, less random"] = summarise(gains)
        spread = error(gains)
        figures[f"{name}, less random, standard error"] = spread
        mean = statistics.fmean(gains)
        print(f"{name}: {mean:+.4f} ± {spread:.4f} to random", flush=True)
        if budget == CLAIMED[setting]:
            head = f"{setting}, {words}: gain in {metric} over random, {budget} examples, in "
            claims.append(Claim(f"{head}standard errors", mean / max(spread, 1e-12), BAR, True))
    return figures, claims


def main() -> int:
    """Run all settings and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--settings", default="users;census")
    parser.add_argument("--workers", type=int, default=1, help="seeds side by side")
    parser.add_argument("--quick", action="store_true", help="a small pool; writes no result")
    args = parser.parse_args()
    seeds, settings = range(args.seeds), args.settings.split(";")
    figures: dict[str, Any] = {}
    claims: list[Claim] = []
    with (
        tempfile.TemporaryDirectory() as name,
        ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool,
    ):
        if "census" in settings:
            prepare_census(Path(name))
        jobs = {
            setting: [pool.submit(run, setting, seed, Path(name), args.quick) for seed in seeds]
            for setting in settings
        }
        for setting, own_jobs in jobs.items():
            own, shown = report(setting, [job.result() for job in own_jobs])
            figures |= own
            claims += shown
    if args.quick:
        return 0
    holding = [claim.name.partition(":")[0] for claim in claims if claim.holds]
    notes = [
        "a choice matters where its gain passes 2.78 standard errors over five seeds: "
        + (", ".join(dict.fromkeys(holding)) or "none does"),
        "class-balanced choices look at labels before they ask for them",
    ]
    write_result("choosing_few", figures, claims, seeds=list(seeds), notes=notes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

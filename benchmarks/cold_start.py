"""Cold start: how well new users, items and domains are served after 0 to 20 examples.

Worlds (`cold_start_worlds.py`), each divided anew for every seed:

- `users`: MovieLens 100K, users held out; `items`: the same, items held out. Harper and Konstan,
  2015, https://doi.org/10.1145/2827872; a rating of at least 4 is liked.
- `simulated users`: users held out; `simulated domains`: whole domains held out, whose items are
  shown about twice each, so that what is shared by a domain is all there is to learn. Tastes have
  few dimensions, and nothing but ids tells of them: in a world of eight, the best possible learner
  recovers a third of the distance from 5 examples (importance sampling, the true world known).
- `meta-rec rating` and `meta-rec click`: RecBole-MetaRec's protocol,
  https://github.com/nuster1128/RecBole-MetaRec. Users with 13 to 100 ratings, divided 8:1:1 by
  chance; of each user 10 ratings, drawn by chance, are the query, and all others the support. The
  figure is nDCG@5 of the 10. By rating: the 5 highest ratings are relevant (of equal ones the
  first). By click: ratings of at least 4 are, and a user all of whose 10 are, or none, counts 0.

Protocol of the first four: `scalerec.meta.protocols`. Of the keys with at least 40 rows a tenth is
held out for choosing settings and a fifth for the figures; 20 rows of each, drawn by chance, are
its query: NDCG@10 and AUC in a task (means over tasks), and AUC of all query rows together. Methods
adapt on the first 0, 1, 3, 5, 10 or 20 of the other rows, in an order of chance. A twentieth of
training rows is kept aside: there the price is measured that known keys pay. The ceiling of a task
knows all its rows but the query, and those of a quarter of the other held-out tasks.

Methods: `cold_start_methods.py`. All start from one model. The unadapted model and the ceiling are
stopped by validation tasks; the settings of the others are chosen there too (`--choose`), from
grids, by the mean of what is recovered at 5 examples.

Usage: python benchmarks/cold_start.py [--seeds 5] [--worlds 'a;b'] [--methods 'a;b'] [--choose]
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cold_start_methods import METHODS, Bench, Made
from cold_start_worlds import WORLDS, World
from common import Claim, summarise, write_result
from scalerec.errors import DataError
from scalerec.meta.measuring import Measured, measure, recovered, standard_error

AT = 5
LEARNED = ("maml", "fomaml", "anil", "reptile", "meta-sgd")
TITLES = {"ndcg": "ndcg@{k}", "auc": "auc", "task_auc": "auc in a task"}
PRICE = 0.001
# World and method to the settings that `--choose` found.
CHOSEN: dict[str, dict[str, dict[str, Any]]] = {}
Curve = dict[int | None, Measured]


def curve_of(bench: Bench, made: Made, split: str, *, adapts: bool) -> Curve:
    """What a method gives for each number of examples."""
    episode = bench.episodes[split]
    found: Curve = {}
    relevant = bench.relevant(split)
    for num in bench.world.numbers:
        if found and not adapts:
            found[num] = next(iter(found.values()))
            continue
        few = episode if num is None else episode.first(num)
        scores = made.score(split, few).detach()
        found[num] = measure(scores, relevant, few.query, k=bench.world.k, num_examples=num or 0)
    return found


def value_of(world: World, found: Measured, metric: str) -> float:
    """A metric; by RecBole-MetaRec's rules a task without a relevant row counts 0."""
    if world.beaten and metric == "ndcg":
        return float(np.nan_to_num(found.by_task["ndcg"]).mean())
    return found.value(metric)


def settings_of(world: str, method: str) -> dict[str, Any]:
    """What was chosen, or the first of the grid."""
    return CHOSEN.get(world, {}).get(method) or METHODS[method].choices[0]


def choose(name: str, methods: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """Print what each choice of settings recovers on validation tasks, the best one last."""
    world = WORLDS[name]
    benches = [Bench(world, seed, folder / f"{name}-{seed}") for seed in seeds]
    edges = [
        [
            curve_of(b, METHODS[m].make(b, {}), "valid", adapts=False)
            for m in ("unadapted", "ceiling")
        ]
        for b in benches
    ]
    metrics = [metric for metric in world.metrics if metric != "task_auc"]
    num = AT if AT in world.numbers and not world.beaten else world.numbers[-1]
    for method in methods:
        if not METHODS[method].fits(world):
            continue
        best: tuple[float, dict[str, Any]] = (-math.inf, {})
        for settings in METHODS[method].choices:
            start, values = time.perf_counter(), []
            for bench, (low, high) in zip(benches, edges, strict=True):
                made = METHODS[method].make(bench, settings)
                own = curve_of(bench, made, "valid", adapts=True)
                values += [
                    recovered(*(value_of(world, c[num], metric) for c in (own, low, high)))
                    for metric in metrics
                ]
            mean, seconds = float(np.mean(values)), time.perf_counter() - start
            print(f"{name}, {method}: {settings} {mean:.3f} {seconds:.0f} s", flush=True)
            best = max(best, (mean, settings), key=lambda pair: pair[0])
        print(f"CHOSEN {json.dumps({name: {method: best[1]}})} {best[0]:.3f}", flush=True)


class Report:
    """Figures of one world over seeds."""

    def __init__(self, name: str) -> None:
        self.name, self.world = name, WORLDS[name]
        self.curves: dict[str, list[Curve]] = {}
        self.prices: dict[str, list[float]] = {}

    def add(self, bench: Bench, methods: Sequence[str]) -> None:
        """Run all methods on the test tasks of one seed."""
        for method in methods:
            start = time.perf_counter()
            entry = METHODS[method]
            if not entry.fits(self.world):
                continue
            made = entry.make(bench, settings_of(self.name, method))
            found = curve_of(bench, made, "test", adapts=entry.adapts)
            self.curves.setdefault(method, []).append(found)
            if made.start is not None and bench.warm is not None:
                price = bench.price(bench.base) - bench.price(made.start)
                self.prices.setdefault(method, []).append(price)
            words = " ".join(f"{num}: {m.ndcg:.4f}/{m.auc:.4f}" for num, m in found.items())
            seconds = time.perf_counter() - start
            print(f"{self.name} {bench.seed} {method}: {words} ({seconds:.0f} s)", flush=True)

    def values(self, method: str, num: int | None, metric: str) -> list[float]:
        """A metric by seed."""
        return [value_of(self.world, curve[num], metric) for curve in self.curves[method]]

    def share(self, method: str, num: int | None, metric: str) -> list[float]:
        """What is recovered of the distance, by seed: means of distances, not of shares."""
        own, low, high = (
            np.array(self.values(name, num, metric)) for name in (method, "unadapted", "ceiling")
        )
        distance = float((high - low).mean())
        return [float(value) for value in (own - low) / distance]

    def figures(self) -> dict[str, Any]:
        """All figures."""
        found: dict[str, Any] = {}
        for method in self.curves:
            for metric in self.world.metrics:
                title = TITLES[metric].format(k=self.world.k)
                for num in self.world.numbers if METHODS[method].adapts else (0,):
                    name = f"{self.name}, {method}, {title}, {_examples(num, method)}"
                    found[name] = summarise(self.values(method, num, metric))
                if METHODS[method].adapts and not self.world.beaten and self._has_edges:
                    found[f"{self.name}, {method}, {title}, share recovered at {AT}"] = summarise(
                        self.share(method, AT, metric)
                    )
        for method, prices in self.prices.items():
            found[f"{self.name}, {method}, price for known keys, auc"] = summarise(prices)
        return found

    @property
    def _has_edges(self) -> bool:
        return {"unadapted", "ceiling"} <= self.curves.keys()

    def claims(self) -> list[Claim]:
        """What the figures must show of the best algorithm."""
        learned = [method for method in LEARNED if method in self.curves]
        if not learned:
            return []
        if self.world.beaten:
            last = self.world.numbers[-1]
            top = max(float(np.mean(self.values(method, last, "ndcg"))) for method in learned)
            return [
                Claim(f"{self.name}: nDCG@5 of the best algorithm, beside {peer}", top, bar, True)
                for peer, bar in self.world.beaten.items()
            ]
        if not self._has_edges:
            return []
        best = max(learned, key=self._mean_share)
        found = [
            Claim(
                f"{self.name}: share of the distance in {TITLES[metric].format(k=self.world.k)} "
                f"recovered at {AT} examples by {best}",
                float(np.mean(self.share(best, AT, metric))), self.world.bar, True,
            )
            for metric in ("ndcg", "auc")
        ]  # fmt: skip
        found.append(
            Claim(
                f"{self.name}: worst point of {best} below unadapted, in standard errors",
                self._worst(best), 1.0, False,
            )
        )  # fmt: skip
        price = float(np.mean(self.prices[best]))
        found.append(
            Claim(f"{self.name}: price of {best} for known keys, auc", price, PRICE, False)
        )
        return found

    def _mean_share(self, method: str) -> float:
        return float(np.mean([np.mean(self.share(method, AT, m)) for m in ("ndcg", "auc")]))

    def _worst(self, method: str) -> float:
        """The largest loss in NDCG or AUC in a task, over its error over all seeds' tasks."""
        worst = -math.inf
        for num in self.world.numbers:
            for metric in ("ndcg", "task_auc"):
                own, low = (
                    np.concatenate([curve[num].by_task[metric] for curve in self.curves[name]])
                    for name in (method, "unadapted")
                )
                loss = float(np.nanmean(low - own))
                worst = max(worst, loss / max(standard_error(own, low), 1e-12))
        return worst


def _examples(num: int | None, method: str) -> str:
    if not METHODS[method].adapts:
        return "any examples"
    return "all examples" if num is None else f"{num} examples"


def main() -> int:
    """Run the worlds, and write the result if they all ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--worlds", default=";".join(WORLDS), help="separated by semicolons")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--choose", action="store_true", help="choose settings; no result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    worlds, methods = options.worlds.split(";"), options.methods.split(";")
    seeds = list(range(1, options.seeds + 1))
    figures: dict[str, Any] = {}
    claims: list[Claim] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in worlds:
            try:
                if options.choose:
                    choose(name, methods, seeds, Path(folder))
                    continue
                report = Report(name)
                for seed in seeds:
                    report.add(Bench(WORLDS[name], seed, Path(folder) / f"{name}-{seed}"), methods)
            except DataError as error:
                print(f"{name}: cannot be run: {error}", file=sys.stderr)
                return 1
            figures |= report.figures()
            claims += report.claims()
    for claim in claims:
        print(f"{claim.name}: {claim.value:.4f}, bar {claim.bar}", flush=True)
    if not options.choose and set(worlds) == set(WORLDS) and set(methods) == set(METHODS):
        write_result("cold_start", figures, claims, seeds=seeds, notes=_notes())
    return 0


def _notes() -> list[str]:
    return [
        "cite: Harper and Konstan, The MovieLens Datasets: History and Context, 2015",
        f"settings: {json.dumps(CHOSEN)}",
    ]


if __name__ == "__main__":
    sys.exit(main())

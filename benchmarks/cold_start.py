"""Cold start: how well new users, items and domains are served after 0 to 20 examples.

Worlds (`cold_start_worlds.py`), each divided anew for every seed:

- `users`: MovieLens 100K, users held out; `items`: the same, items held out. Harper and Konstan,
  2015, https://doi.org/10.1145/2827872; a rating of at least 4 is liked, and the rating itself is a
  second task of all models, so that an example tells how much.
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

Methods: `cold_start_methods.py`. All start from one model, stopped where known keys are served
best; the ceiling is trained as it was and as long, and the unadapted model is stopped by validation
tasks. The settings of the others are chosen there too (`--choose`): by the mean of all metrics over
all numbers of examples, among those that cost known keys no more than half of what they may (a
price differs by seed) and are nowhere below the start of all by more than a standard error.

Usage: python benchmarks/cold_start.py [--seeds 5] [--worlds 'a;b'] [--methods 'a;b'] [--choose]
           [--processes 2] [--work DIR]
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cold_start_methods import METHODS, Bench, Made, score
from cold_start_report import (
    PRICE,
    Report,
    Run,
    curve_of,
    draw,
    from_json,
    is_of,
    page,
    to_json,
    value_of,
    worst_loss,
)
from cold_start_worlds import WORLDS
from common import Claim, write_result
from scalerec.errors import DataError, ScalerecError

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
# World and method to the settings that `--choose` found.
CHOSEN: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (HERE / "cold_start_settings.json").read_text("utf-8")
)


def settings_of(world: str, method: str) -> dict[str, Any]:
    """What was chosen, or the first that may be."""
    return CHOSEN.get(world, {}).get(method) or dict(METHODS[method].choices[0])


def choose(name: str, methods: Sequence[str], seeds: Sequence[int], folder: Path) -> None:
    """Print what each choice of settings gives on validation tasks, the best one last.

    That is the mean of all metrics over all numbers of examples. What costs known keys more than
    half of what they may pay, or is below the base anywhere by more than a standard error, is
    chosen only where all are so.
    """
    benches = [Bench(WORLDS[name], seed, folder / f"{name}-{seed}") for seed in seeds]
    for method in methods:
        entry = METHODS[method]
        if len(entry.choices) == 1 or not entry.fits(WORLDS[name]):
            continue
        best: tuple[bool, float, dict[str, Any]] = (False, -math.inf, {})
        for settings in entry.choices:
            start, words = time.perf_counter(), json.dumps(settings)
            try:
                value, worst, price = _tried(name, method, settings, benches)
            except ScalerecError as error:
                print(f"{name}, {method}: {words} {error}", flush=True)
                continue
            seconds = time.perf_counter() - start
            figures = f"{value:.4f}, worst {worst:.2f}, price {price:.5f}"
            print(f"{name}, {method}: {words} {figures} ({seconds:.0f} s)", flush=True)
            obeys = worst <= 1 and price <= PRICE / 2
            best = max(best, (obeys, value, dict(settings)), key=lambda found: found[:2])
        print(f"CHOSEN {json.dumps({name: {method: best[2]}})} {best[1]:.4f}", flush=True)


def _tried(
    name: str, method: str, settings: dict[str, Any], benches: Sequence[Bench]
) -> tuple[float, float, float]:
    """Of settings on validation tasks: the mean of metrics, the worst point, and the price."""
    world, values, prices, own, low = WORLDS[name], [], [0.0], [], []
    for bench in benches:
        made = METHODS[method].make(bench, settings)
        own.append(curve_of(bench, made, "valid", adapts=True))
        values += [
            value_of(world, found, metric) for found in own[-1].values() for metric in world.metrics
        ]
        if bench.warm is not None:
            # Not the unadapted model: validation tasks stopped it, so here it is too good.
            plain = Made(lambda split, _, bench=bench: score(bench.base, bench.queries[split]))
            low.append(curve_of(bench, plain, "valid", adapts=False))
            prices.append(0.0 if made.start is None else bench.paid(made.start))
    worst = worst_loss(own, low, world.numbers) if low else -math.inf
    return float(np.mean(values)), worst, float(np.sum(prices)) / len(benches)


def run(name: str, seed: int, methods: Sequence[str], work: Path | None) -> Run:
    """Run methods on the test tasks of one seed, or read what is kept of it."""
    torch.set_num_threads(1)
    world, found = WORLDS[name], Run({}, {}, {})
    methods = [method for method in methods if METHODS[method].fits(world)]
    settings = {method: settings_of(name, method) for method in methods}
    file = None if work is None else work / f"{name}, {seed}.json"
    if file is not None and file.exists() and is_of(text := file.read_text("utf-8"), settings):
        return from_json(text)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(world, seed, Path(folder) / "data")
        for method in methods:
            start, entry = time.perf_counter(), METHODS[method]
            made = entry.make(bench, settings[method])
            curve = found.curves[method] = curve_of(bench, made, "test", adapts=entry.adapts)
            if made.start is not None and bench.warm is not None:
                found.prices[method] = bench.paid(made.start)
            if made.gap is not None:
                found.gaps[method] = made.gap
            words = " ".join(f"{num}: {m.ndcg:.4f}/{m.auc:.4f}" for num, m in curve.items())
            seconds = time.perf_counter() - start
            print(f"{name} {seed} {method}: {words} ({seconds:.0f} s)", flush=True)
    if file is not None:
        aside = file.with_suffix(".part")
        aside.write_text(to_json(found, settings), "utf-8")
        aside.replace(file)
    return found


def run_all(
    worlds: Iterable[str],
    seeds: Sequence[int],
    methods: Sequence[str],
    processes: int,
    work: Path | None,
) -> list[Report]:
    """Run all worlds and seeds, some at a time."""
    pairs = list(product(worlds, seeds))
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        num = len(pairs)
        runs = list(pool.map(run, *zip(*pairs, strict=True), [methods] * num, [work] * num))
    by_world: dict[str, list[Run]] = {}
    for (name, _), found in zip(pairs, runs, strict=True):
        by_world.setdefault(name, []).append(found)
    return [Report(name, found) for name, found in by_world.items()]


def kept(worlds: Iterable[str], work: Path) -> list[Report]:
    """What is kept of the runs, of whichever seeds."""
    found = {name: sorted(work.glob(f"{name}, *.json")) for name in worlds}
    return [
        Report(name, [from_json(file.read_text("utf-8")) for file in files])
        for name, files in found.items()
        if files
    ]


def main() -> int:
    """Run the worlds, and write the result if they all ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--worlds", default=";".join(WORLDS), help="separated by semicolons")
    parser.add_argument("--methods", default=";".join(METHODS), help="separated by semicolons")
    parser.add_argument("--processes", type=int, default=2, help="worlds and seeds at a time")
    parser.add_argument("--work", type=Path, help="a folder in which runs are kept")
    parser.add_argument(
        "--kept", action="store_true", help="report on what --work has, run nothing"
    )
    parser.add_argument("--choose", action="store_true", help="choose settings; no result")
    options = parser.parse_args()
    if options.kept and options.work is None:
        parser.error("--kept needs --work")
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
    worlds, methods = options.worlds.split(";"), options.methods.split(";")
    seeds = list(range(1, options.seeds + 1))
    try:
        if options.choose:
            torch.set_num_threads(1)
            for name in worlds:
                with tempfile.TemporaryDirectory() as folder:
                    choose(name, methods, seeds, Path(folder))
            return 0
        if options.kept:
            reports = kept(worlds, options.work)
        else:
            reports = run_all(worlds, seeds, methods, options.processes, options.work)
    except DataError as error:
        print(f"cold_start: cannot be run: {error}", file=sys.stderr)
        return 1
    claims: list[Claim] = [claim for report in reports for claim in report.claims()]
    for claim in claims:
        print(f"{claim.name}: {claim.value:.4f}, bar {claim.bar}", flush=True)
    if set(worlds) == set(WORLDS) and set(methods) == set(METHODS):
        figures = {name: one for report in reports for name, one in report.figures().items()}
        nums = ", ".join(f"{report.name} {len(report.runs)}" for report in reports)
        notes = (*NOTES, f"seeds: {nums}")
        write_result("cold_start", figures, claims, seeds=seeds, notes=notes)
        (DOCS / "cold_start.md").write_text(page(reports), "utf-8")
        draw(reports, DOCS / "cold_start.svg")
    return 0


NOTES = (
    "cite: Harper and Konstan, The MovieLens Datasets: History and Context, 2015",
    "docs/cold_start.md has all curves; benchmarks/cold_start_settings.json what was chosen on "
    "validation tasks of two of the seeds, for RecBole-MetaRec's protocol of one",
    "shares are of the distance from the unadapted model to one trained with all of a task's rows "
    "but the query, both means over seeds",
)

if __name__ == "__main__":
    sys.exit(main())

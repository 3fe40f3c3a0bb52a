"""A week of new users and items: the first day's bundle, continued daily, or trained anew on all.

Every day a part of the users and items is new and as many leave. After each day every way's bundle
is judged on the whole next day, whose rows none has seen. Both ways of training hold back the last
tenth of their rows by time for early stopping. Seconds are those of `prepare`, `train` and writing
the bundle.

Usage: python benchmarks/continue_training.py [--seeds 1 2 3] [--threads 2] [--quick]
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from common import Claim, summarise, write_result
from scalerec.bundle import Bundle, read_bundle
from scalerec.bundle.growing import base_of, recommender_for
from scalerec.bundle.recommenders import open_recommender, write_recommender
from scalerec.data.growing import GrowConfig
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.metrics import auc
from scalerec.models.recommender import ModelSpec
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.train import Start, TrainConfig, open_start, train
from scalerec.train.start import STATE_FILE, state_bytes
from stream import StreamConfig, days_of, raw_of

SPEC = ModelSpec(model="deepfm", settings={"dim": 8, "hidden": [64, 32]})
SETTINGS: dict[str, Any] = {
    "batch_size": 512, "precision": "fp32", "dense": {"lr": 3e-3}, "tables": {"lr": 1e-2},
}  # fmt: skip
ANEW = TrainConfig.from_dict({**SETTINGS, "epochs": 10, "patience": 1})
MORE = TrainConfig.from_dict({**SETTINGS, "epochs": 2})
HELD_BACK = PrepareConfig.from_dict({"split": {"valid": 0.1, "test": 0.0}})
WHOLE = PrepareConfig.from_dict({"split": {"valid": 0.0, "test": 0.0}})
# Ways of going on: how tables grow, and whether optimisers keep their state.
WAYS: dict[str, tuple[GrowConfig, bool]] = {
    "continued": (GrowConfig(), True),
    "continued, state lost": (GrowConfig(), False),
    "continued, evicting": (GrowConfig(evict_after=1.5), True),
}
FROZEN, ALL = "first day's bundle", "trained anew on all"


@dataclass
class Week:
    """One stream, and what was measured on it.

    Args:
        days: Events of each day.
        folder: Where data sets and bundles are written.
        found: Way to the AUC of each next day.
        seconds: Way to the seconds of each day.
        rows: Way to the rows of all tables after each day.
    """

    days: list[pa.Table]
    folder: Path
    found: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)
    count: int = 0

    def place(self) -> Path:
        """A new name in the folder."""
        self.count += 1
        return self.folder / str(self.count)

    def anew(self, last: int) -> Bundle:
        """Train on all days until `last`."""
        dataset = prepare(raw_of(*self.days[: last + 1]), self.place(), HELD_BACK)
        trained = train(dataset, SPEC, ANEW, keep_state=True)
        bundle = write_recommender(self.place(), trained.recommender, dataset, ())
        bundle.attach(STATE_FILE, state_bytes(trained.state, ANEW))
        return bundle

    def go_on(self, bundle: Bundle, day: int, way: str) -> Bundle:
        """Train a bundle further on one day."""
        grow, keeps = WAYS[way]
        base = base_of(bundle, grow)
        dataset = prepare(raw_of(self.days[day]), self.place(), HELD_BACK, base=base)
        start: Start = open_start(bundle.path, dataset)
        if not keeps:
            start = replace(start, state={}, optimisers={})
        trained = train(dataset, SPEC, MORE, start=start, keep_state=True)
        after = write_recommender(self.place(), trained.recommender, dataset, ())
        after.attach(STATE_FILE, state_bytes(trained.state, MORE))
        return after

    def judge(self, way: str, bundle: Bundle, day: int) -> None:
        """AUC on a day that the bundle has not seen."""
        opened = open_recommender(bundle.path, verify=False)
        base = base_of(bundle)
        dataset = prepare(raw_of(self.days[day]), self.place(), WHOLE, base=base)
        config = EvaluateConfig(split="train", ranking="no")
        metrics = evaluate(recommender_for(opened, dataset), dataset, config).metrics
        self.found.setdefault(way, []).append(float(metrics["auc"] or 0.0))
        tables = opened.recommender.tables
        self.rows.setdefault(way, []).append(sum(tables.num_rows.values()))


def live_through(config: StreamConfig, folder: Path) -> Week:
    """Live through a stream in every way."""
    simulated = days_of(config)
    week = Week([events for events, _ in simulated], folder)
    first = week.anew(0)
    bundles = dict.fromkeys(WAYS, first)
    for day in range(1, config.days - 1):
        for way in WAYS:
            start = time.perf_counter()
            bundles[way] = week.go_on(read_bundle(bundles[way].path), day, way)
            week.seconds.setdefault(way, []).append(time.perf_counter() - start)
        start = time.perf_counter()
        anew = week.anew(day)
        week.seconds.setdefault(ALL, []).append(time.perf_counter() - start)
        for way, bundle in {FROZEN: first, **bundles, ALL: anew}.items():
            week.judge(way, bundle, day + 1)
        events, chance = simulated[day + 1]
        truth = auc(events["click"].to_numpy().astype(float), chance)
        week.found.setdefault("true model", []).append(float(truth or 0.0))
        line = ", ".join(f"{way} {values[-1]:.4f}" for way, values in week.found.items())
        print(f"seed {config.seed}, day {day + 1}: {line}", flush=True)
    return week


def main() -> int:
    """Live through some weeks and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="three small days; writes no result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size: dict[str, int] = {"rows": 40_000, "days": 8, "users": 1_000, "items": 500, "stay": 6}
    if options.quick:
        size |= {"rows": 5_000, "days": 3, "users": 200, "items": 100}
    weeks = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            weeks.append(live_through(StreamConfig(seed=seed, **size), Path(folder)))
    figures: dict[str, Any] = {}
    for way in weeks[0].found:
        figures[f"AUC of the next day, {way}"] = summarise([v for w in weeks for v in w.found[way]])
    for way in weeks[0].seconds:
        figures[f"seconds a day, {way}"] = summarise([v for w in weeks for v in w.seconds[way]])
        figures[f"seconds of the last day, {way}"] = summarise([w.seconds[way][-1] for w in weeks])
    for way in (ALL, *WAYS):
        figures[f"table rows after the week, {way}"] = summarise([w.rows[way][-1] for w in weeks])
    figures["table rows after the first day"] = summarise([w.rows[FROZEN][-1] for w in weeks])
    for name, value in figures.items():
        print(name, value["mean"] if isinstance(value, dict) else value)
    if not options.quick:
        write_result("continue_training", figures, claims_of(weeks), seeds=options.seeds, notes=[
            f"the stream: {size['rows']:,} events a day, {size['users']:,} users and "
            f"{size['items']:,} items at a time, a sixth of both new each day, for "
            f"{size['days']} days",
            "continued: two passes over the day, Adam's state kept; trained anew: up to ten passes "
            "with early stopping; evicting: a key that was not seen for 1.5 days is retired",
        ])  # fmt: skip
    return 0


def claims_of(weeks: list[Week]) -> list[Claim]:
    """What is claimed of the weeks."""

    def mean(way: str) -> float:
        return statistics.fmean(value for week in weeks for value in week.found[way])

    def last(way: str) -> float:
        return statistics.fmean(week.seconds[way][-1] for week in weeks)

    rows = [max(w.rows["continued, evicting"]) / w.rows[FROZEN][-1] for w in weeks]
    gain = mean("continued") - mean(FROZEN)
    lag = mean(ALL) - mean("continued")
    return [
        Claim("AUC lost by going on, against training anew on all", lag, 0.002, at_least=False),
        Claim("AUC won by going on, against the first day's bundle", gain, 0.02, at_least=True),
        Claim("AUC lost by evicting", mean("continued") - mean("continued, evicting"), 0.002,
              at_least=False),
        Claim("time of the last day, going on / anew", last("continued") / last(ALL), 0.25,
              at_least=False),
        Claim("most table rows while evicting / first day's", max(rows), 1.5, at_least=False),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""What `cold_start.py` tells of its runs: figures, claims, a page of tables and a picture."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cold_start_methods import METHODS, Bench, Made
from cold_start_worlds import WORLDS, World
from common import Claim, summarise
from scalerec.meta.measuring import Measured, measure, standard_error

__all__ = [
    "PRICE", "Curve", "Report", "Run", "curve_of", "draw", "from_json", "is_of", "page", "to_json",
    "value_of", "worst_loss",
]  # fmt: skip

AT, PRICE = 5, 0.001
LEARNED = ("maml", "fomaml", "anil", "reptile", "meta-sgd")
TITLES = {"ndcg": "NDCG@{k}", "auc": "AUC", "task_auc": "AUC in a task"}
Curve = dict[int | None, Measured]


@dataclass(frozen=True, slots=True)
class Run:
    """All methods of a world of one seed.

    Args:
        curves: By method.
        prices: What known keys lose of AUC, by method.
        gaps: What tasks that were learned from have before held-out ones, by method.
    """

    curves: dict[str, Curve]
    prices: dict[str, float]
    gaps: dict[str, float]


def to_json(run: Run, settings: Mapping[str, Any]) -> str:
    """A run and the settings of its methods as text, to be kept."""
    curves = {
        method: [
            [
                num,
                m.num_examples,
                m.ndcg,
                m.auc,
                m.task_auc,
                {k: [*v] for k, v in m.by_task.items()},
            ]
            for num, m in curve.items()
        ]
        for method, curve in run.curves.items()
    }
    return json.dumps(
        {"settings": settings, "curves": curves, "prices": run.prices, "gaps": run.gaps}
    )


def is_of(text: str, settings: Mapping[str, Any]) -> bool:
    """Whether a kept run is of these methods and settings."""
    return bool(json.loads(text).get("settings") == json.loads(json.dumps(settings)))


def from_json(text: str) -> Run:
    """A run that was kept."""
    held = json.loads(text)
    curves = {}
    for method, points in held["curves"].items():
        curves[method] = {
            num: Measured(
                num_examples=count, ndcg=ndcg, auc=auc, task_auc=own,
                by_task={name: np.array(values) for name, values in by_task.items()},
            )
            for num, count, ndcg, auc, own, by_task in points
        }  # fmt: skip
    return Run(curves, held["prices"], held["gaps"])


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


def worst_loss(own: Sequence[Curve], low: Sequence[Curve], numbers: Sequence[int | None]) -> float:
    """The largest loss in NDCG or AUC in a task, over its error over all seeds' tasks.

    Args:
        own: A method's curves, by seed.
        low: What it is not to be below.
        numbers: Points of the curves.
    """
    worst = -math.inf
    for num in numbers:
        for metric in ("ndcg", "task_auc"):
            mine, other = (
                np.concatenate([curve[num].by_task[metric] for curve in curves])
                for curves in (own, low)
            )
            loss = float(np.nanmean(other - mine))
            worst = max(worst, loss / max(standard_error(mine, other), 1e-12))
    return worst


class Report:
    """One world over seeds.

    Args:
        name: Of the world.
        runs: Of each seed.
    """

    def __init__(self, name: str, runs: Sequence[Run]) -> None:
        self.name, self.world, self.runs = name, WORLDS[name], runs
        self.methods = [m for m in runs[0].curves if METHODS[m].fits(self.world)]

    def title(self, metric: str) -> str:
        """A metric's name."""
        return TITLES[metric].format(k=self.world.k)

    def values(self, method: str, num: int | None, metric: str) -> list[float]:
        """A metric by seed."""
        return [value_of(self.world, run.curves[method][num], metric) for run in self.runs]

    def share(self, method: str, num: int | None, metric: str) -> list[float]:
        """What is recovered of the distance, by seed: of the mean distance of all seeds."""
        own, low, high = (
            np.array(self.values(name, num, metric)) for name in (method, "unadapted", "ceiling")
        )
        distance = float((high - low).mean())
        return [float(value) for value in (own - low) / distance]

    @property
    def best(self) -> str:
        """The algorithm that recovers most at 5 examples."""
        return max(self.learned, key=lambda m: np.mean([self.share(m, AT, k) for k in TWO]))

    @property
    def learned(self) -> list[str]:
        """The algorithms that ran."""
        return [method for method in LEARNED if method in self.methods]

    def figures(self) -> dict[str, Any]:
        """What is recovered at 5 examples, prices, and gaps; for a published protocol its own."""
        found: dict[str, Any] = {}
        for method in self.methods:
            head = f"{self.name}, {method}"
            if self.world.beaten:
                for num in self.world.numbers if METHODS[method].adapts else (0,):
                    name = f"{head}, {self.title('ndcg')}, {_examples(num, method)}"
                    found[name] = summarise(self.values(method, num, "ndcg"))
            elif METHODS[method].adapts and {"unadapted", "ceiling"} <= {*self.methods}:
                for metric in self.world.metrics:
                    name = f"{head}, share of {self.title(metric)} recovered at {AT}"
                    found[name] = summarise(self.share(method, AT, metric))
            for title, values in (
                ("price for known keys, AUC", [run.prices.get(method) for run in self.runs]),
                ("gap to held-out tasks", [run.gaps.get(method) for run in self.runs]),
            ):
                known = [value for value in values if value is not None]
                if known:
                    found[f"{head}, {title}"] = summarise(known)
        return found

    def claims(self) -> list[Claim]:
        """What the figures must show of the best algorithm."""
        if not self.learned:
            return []
        if self.world.beaten:
            last = self.world.numbers[-1]
            top = max(self.learned, key=lambda m: np.mean(self.values(m, last, "ndcg")))
            value = float(np.mean(self.values(top, last, "ndcg")))
            return [
                Claim(f"{self.name}: nDCG@5 of {top}, beside {peer}", value, bar, True)
                for peer, bar in self.world.beaten.items()
            ]
        if not {"unadapted", "ceiling"} <= {*self.methods}:
            return []
        best, head = self.best, f"{self.name}: "
        found = [
            Claim(
                f"{head}share of the distance in {self.title(metric)} recovered at {AT} examples "
                f"by {best}",
                float(np.mean(self.share(best, AT, metric))), self.world.bar, True,
            )
            for metric in TWO
        ]  # fmt: skip
        worst = f"{head}worst point of {best} below unadapted, in standard errors"
        price = float(np.mean([run.prices[best] for run in self.runs]))
        own, low = ([run.curves[m] for run in self.runs] for m in (best, "unadapted"))
        return [
            *found,
            Claim(worst, worst_loss(own, low, self.world.numbers), 1.0, False),
            Claim(f"{head}price of {best} for known keys, AUC", price, PRICE, False),
        ]

    def tables(self) -> str:
        """A table for each metric: mean over seeds, and their standard deviation."""
        numbers = self.world.numbers
        heads = ["all" if num is None else str(num) for num in numbers]
        lines = [f"## {self.name}, {len(self.runs)} seeds", ""]
        for metric in self.world.metrics:
            lines += [f"| {self.title(metric)} | {' | '.join(heads)} |"]
            lines += [f"| --- |{' ---: |' * len(heads)}"]
            for method in self.methods:
                cells = [_cell(self.values(method, num, metric)) for num in numbers]
                if not METHODS[method].adapts:
                    cells = [cells[0], *[""] * (len(cells) - 1)]
                lines += [f"| {method} | {' | '.join(cells)} |"]
            lines += [""]
        return "\n".join(lines)


TWO = ("ndcg", "auc")
HEAD = """# Cold start, by the number of examples

Written by `benchmarks/cold_start.py`, which tells the protocols; do not edit. Columns are numbers
of examples; cells are means over seeds, with their standard deviation. What does not look at
examples has one cell. Claims are in [benchmarks.md](benchmarks.md).

![Quality against the number of examples](cold_start.svg)

"""


def page(reports: Sequence[Report]) -> str:
    """All tables."""
    return HEAD + "\n".join(r.tables() for r in reports)


def draw(reports: Sequence[Report], path: Path) -> None:
    """A row for each world with a ceiling: NDCG and AUC, a line for each method."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "scalerec"
    drawn = [report for report in reports if not report.world.beaten]
    figure = Figure(figsize=(10, 3.1 * len(drawn)), layout="constrained")
    grid = figure.subplots(len(drawn), 2, squeeze=False)
    for row, report in zip(grid, drawn, strict=True):
        for ax, metric in zip(row, TWO, strict=True):
            _lines(ax, report, metric)
            ax.set_title(f"{report.name}: {report.title(metric)}")
    for ax in grid[-1]:
        ax.set_xlabel("examples")
    grid[0][1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


GREY = {"popularity": "-.", "unadapted": ":", "ceiling": "--"}


def _lines(ax: Any, report: Report, metric: str) -> None:
    """Means over seeds; a band of one standard error around the best algorithm."""
    numbers = report.world.numbers
    places = range(len(numbers))
    for method in report.methods:
        many = np.array([report.values(method, num, metric) for num in numbers])
        mean = many.mean(1)
        if method in GREY:
            ax.plot(places, mean, color="grey", linestyle=GREY[method], linewidth=1, label=method)
            continue
        (line,) = ax.plot(places, mean, marker="o", markersize=3, linewidth=1.2, label=method)
        if method == report.best and many.shape[1] > 1:
            error = many.std(1, ddof=1) / math.sqrt(many.shape[1])
            ax.fill_between(
                places, mean - error, mean + error, color=line.get_color(), alpha=0.15, linewidth=0
            )
    ax.set_xticks(places, [str(num) for num in numbers])
    ax.grid(visible=True, alpha=0.3)


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def _examples(num: int | None, method: str) -> str:
    if not METHODS[method].adapts:
        return "any examples"
    return "all examples" if num is None else f"{num} examples"

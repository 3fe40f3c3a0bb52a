"""Transfer: what a model of other domains is worth in a target domain of few examples.

Worlds (`transfer_worlds.py`): `simulated`, whose users' tastes are the same in all domains while
items, domains and categories of a target are new and texts tell of them; and `films`, MovieLens
100K by the rarest genre of a film (Harper and Konstan, 2015, https://doi.org/10.1145/2827872; a
rating of at least 4 is liked). A source learns from all domains but four: two by which settings
are chosen and two for the figures. Of a target's rows two fifths, drawn by chance, are tested on;
of the others the first 30, 100, 300 or 1000 in an order of chance are the examples.

Methods: those of `scalerec.meta.transfer`, each from the same source; but `scratch` starts from
drawn weights, and the source of `meta` was then taught to adapt to its own domains, whose items it
was shown as new ones. `unadapted` is the source as it is. The ceiling learns from the source's rows
and all training rows of the target together.

Figures: AUC of all test rows, and NDCG@10 within each user with at least five of them; for each
seed the mean over both targets. Settings are chosen (`--choose`) by AUC on the validation domains,
of a seed that is not one of the figures, from grids of twelve for each method: at 100 examples for
30 and 100, at 1000 for 300 and 1000. So is the method that claims speak of. What was chosen stands
in `transfer_settings.json`.

With `--work DIR` every measurement is kept there at once, and a later run goes on where an earlier
one ended.

Usage: python benchmarks/transfer.py [--seeds 5] [--worlds 'a;b'] [--work DIR] [--choose]
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import Claim, summarise, write_result
from scalerec.errors import DataError
from scalerec.meta.measuring import Measured
from scalerec.meta.transfer import METHODS, TransferConfig, transfer
from transfer_worlds import WORLDS, Bench, judge

NUMBERS = (30, 100, 300, 1000)
CHOOSING_SEED = 11
# The number of examples at which settings are chosen, for each number.
CHOSEN_AT = {30: 100, 100: 100, 300: 1000, 1000: 1000}
SETTINGS = Path(__file__).with_name("transfer_settings.json")
PICTURE = Path(__file__).parents[1] / "docs" / "transfer.svg"
LRS, EPOCHS = (1e-4, 3e-4, 1e-3, 3e-3), (2, 5, 15)
GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "scratch": {"lr": (1e-3, 3e-3, 1e-2, 3e-2), "epochs": EPOCHS},
    "all": {"lr": LRS, "epochs": EPOCHS},
    "head": {"lr": (3e-4, 1e-3, 3e-3, 1e-2), "epochs": EPOCHS},
    "low-rank": {"lr": (1e-3, 3e-3, 1e-2), "epochs": (5, 15), "rank": (2, 8)},
    # `steps` are those taken; three were learned.
    "meta": {"adapt": ("head,own", "decision,own"), "rate": (0.1, 0.3), "steps": (1, 3, 10)},
}


def choices(method: str) -> list[dict[str, Any]]:
    """All settings of a method's grid."""
    grid = GRIDS[method]
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def run(bench: Bench, domain: str, num: int, method: str, settings: Mapping[str, Any]) -> Measured:
    """Transfer to a target, and test."""
    bundle, train = (
        None,
        {"batch_size": 64, "patience": -1, "precision": "fp32", "seed": bench.seed},
    )
    more: dict[str, Any] = {}
    if method == "meta":
        bundle = bench.meta_source({name: settings[name] for name in ("adapt", "rate")})
        more = {"steps": settings["steps"]}
    else:
        lr, l2 = settings["lr"], bench.world.training["l2"]
        train |= {"epochs": settings["epochs"], "dense": {"lr": lr}, "tables": {"lr": lr, "l2": l2}}
        if method == "low-rank":
            more = {"rank": settings["rank"]}
    config = TransferConfig.from_dict({"method": method, "train": train, **more})
    source = bench.open(domain, num, bundle)
    found = transfer(source, bench.target_data(domain, num), config)
    return judge(found.recommender, bench.target_data(domain, num))


class Kept:
    """Measurements by name, on disk where a folder is given.

    Args:
        folder: Where they are kept; None for nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / "transfer.json"
        known = self._path is not None and self._path.exists()
        self._found: dict[str, list[float]] = (
            json.loads(self._path.read_text("utf-8")) if self._path and known else {}
        )

    def get(self, name: str, work: Callable[[], Measured]) -> list[float]:
        """AUC and NDCG under a name, measured unless they are known."""
        if name not in self._found:
            own = work()
            self._found[name] = [own.auc, own.ndcg]
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.write_text(json.dumps(self._found, indent=0), "utf-8")
        return self._found[name]


def choose(bench: Bench, name: str, kept: Kept) -> dict[str, Any]:
    """What is best on a world's validation domains: by method and number of examples."""
    found: dict[str, Any] = {}
    for method in METHODS:
        found[method] = {}
        for num in sorted(set(CHOSEN_AT.values())):
            scored = []
            for settings in choices(method):
                values = []
                for domain in bench.world.valid:
                    work = partial(run, bench, domain, num, method, settings)
                    key = f"{name} {bench.seed} {domain} {num} {method} {json.dumps(settings)}"
                    values.append(kept.get(key, work)[0])
                scored.append((float(np.mean(values)), settings))
            value, best = max(scored, key=lambda pair: pair[0])
            found[method][str(num)] = {"settings": best, "auc": round(value, 4)}
            print(f"{name}, {method}, {num}: {best} {value:.4f}", flush=True)
    return found


class Report:
    """Figures of one world over seeds.

    Args:
        name: Of the world.
        chosen: Its settings, as `choose` gave them.
        kept: Where measurements are kept.
    """

    def __init__(self, name: str, chosen: Mapping[str, Any], kept: Kept) -> None:
        self.name, self.world, self.chosen, self.kept = name, WORLDS[name], chosen, kept
        self.values: dict[tuple[str, int, str], list[float]] = {}

    def add(self, bench: Bench) -> None:
        """Run all methods on the test domains of one seed."""
        edges = {
            "unadapted": lambda domain: judge(
                bench.open(domain, NUMBERS[0]).start.recommender,
                bench.target_data(domain, NUMBERS[0]),
            ),
            "ceiling": bench.ceiling,
        }
        for method, work in edges.items():
            self._note(bench.seed, method, 0, work)
        for method, num in product(METHODS, NUMBERS):
            settings = self.chosen[method][str(CHOSEN_AT[num])]["settings"]
            self._note(
                bench.seed, method, num,
                partial(run, bench, num=num, method=method, settings=settings),
            )  # fmt: skip

    def _note(self, seed: int, method: str, num: int, work: Callable[[str], Measured]) -> None:
        found = [
            self.kept.get(f"{self.name} {seed} {domain} {num} {method}", partial(work, domain))
            for domain in self.world.test
        ]
        for metric, own in zip(("auc", "ndcg"), np.mean(found, 0), strict=True):
            self.values.setdefault((method, num, metric), []).append(float(own))
        print(f"{self.name} {seed} {method} {num}: {np.round(found, 4).tolist()}", flush=True)

    def best(self, num: int) -> str:
        """The method of transfer that is best on validation domains."""
        at = str(CHOSEN_AT[num])
        return max(
            (method for method in METHODS if method != "scratch"),
            key=lambda method: float(self.chosen[method][at]["auc"]),
        )

    def figures(self) -> dict[str, Any]:
        """All figures."""
        titles = {"auc": "test AUC", "ndcg": "test NDCG@10 in a user"}
        return {
            f"{self.name}, {method}, {_examples(method, num)}: {titles[metric]}": summarise(values)
            for (method, num, metric), values in self.values.items()
        }

    def gain(self, one: str, other: str, num: int, metric: str = "auc") -> float:
        """Mean over seeds of what one method gives more than another."""
        found = [self.values[n, 0 if n == "unadapted" else num, metric] for n in (one, other)]
        return float(np.mean(np.subtract(*found)))

    def claims(self) -> list[Claim]:
        """What transfer must be worth; the bars were set before any test domain was looked at."""
        found = []
        for num, bar in ((30, 0.0), (100, 0.01), (1000, 0.0)):
            best = self.best(num)
            words = f"{self.name}, {num} examples: {best} minus scratch"
            gains = (self.gain(best, "scratch", num, metric) for metric in ("auc", "ndcg"))
            found += [
                Claim(f"{words}, AUC", next(gains), bar, at_least=True),
                Claim(f"{words}, NDCG@10", next(gains), 0.0, at_least=True),
            ]
        for num in (100, 1000):
            best = self.best(num)
            words = f"{self.name}, {num} examples: {best} minus the source unadapted, AUC"
            found.append(Claim(words, self.gain(best, "unadapted", num), 0.0, at_least=True))
        words = f"{self.name}, 1000 examples: low-rank minus all, AUC"
        found.append(Claim(words, self.gain("low-rank", "all", 1000), -0.01, at_least=True))
        return found


def _examples(method: str, num: int) -> str:
    return {"unadapted": "0 examples", "ceiling": "all examples"}.get(method, f"{num} examples")


def draw(reports: Sequence[Report], path: Path) -> None:
    """AUC and NDCG over the number of examples, a line for each method, seeds' spread as a band."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "scalerec"
    figure = Figure(figsize=(9, 3.2 * len(reports)), layout="constrained")
    grid = figure.subplots(len(reports), 2, squeeze=False)
    titles = {"auc": "AUC", "ndcg": "NDCG@10 in a user"}
    for row, report in zip(grid, reports, strict=True):
        for ax, (metric, title) in zip(row, titles.items(), strict=True):
            for method in METHODS:
                many = np.array([report.values[method, num, metric] for num in NUMBERS])
                (line,) = ax.plot(NUMBERS, many.mean(1), marker="o", markersize=3, label=method)
                ax.fill_between(
                    NUMBERS,
                    many.min(1),
                    many.max(1),
                    color=line.get_color(),
                    alpha=0.1,
                    linewidth=0,
                )
            for method, style in (("unadapted", ":"), ("ceiling", "--")):
                value = float(np.mean(report.values[method, 0, metric]))
                ax.axhline(value, color="grey", linestyle=style, linewidth=1, label=method)
            ax.set_xscale("log")
            ax.set_xticks(NUMBERS, [str(num) for num in NUMBERS])
            ax.minorticks_off()
            ax.set_title(f"{report.name}: {title}")
            ax.grid(visible=True, alpha=0.3)
    for ax in grid[-1]:
        ax.set_xlabel("examples of the target")
    grid[0][1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


NOTES = (
    "cite: Harper and Konstan, The MovieLens Datasets: History and Context, 2015",
    "docs/transfer.svg draws these figures; bands are from the lowest seed to the highest",
    "the bars were set before test domains were looked at; benchmarks/transfer_settings.json holds "
    "what was chosen on validation domains",
)


def main() -> int:
    """Run the worlds, and write the result and the picture if they all ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--worlds", default=";".join(WORLDS), help="separated by semicolons")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where measurements are kept; none otherwise")
    parser.add_argument("--choose", action="store_true", help="choose settings; no result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seeds, kept = list(range(1, options.seeds + 1)), Kept(options.work)
    chosen = json.loads(SETTINGS.read_text("utf-8")) if SETTINGS.exists() else {}
    reports = []
    for name in options.worlds.split(";"):
        with tempfile.TemporaryDirectory() as folder:
            try:
                if options.choose:
                    bench = Bench(WORLDS[name], CHOOSING_SEED, Path(folder))
                    chosen[name] = choose(bench, name, kept)
                    SETTINGS.write_text(json.dumps(chosen, indent=1) + "\n", "utf-8")
                    continue
                reports.append(Report(name, chosen[name], kept))
                for seed in seeds:
                    reports[-1].add(Bench(WORLDS[name], seed, Path(folder) / str(seed)))
            except DataError as error:
                print(f"{name}: cannot be run: {error}", file=sys.stderr)
                return 1
    if {report.name for report in reports} == set(WORLDS):
        figures = {name: own for report in reports for name, own in report.figures().items()}
        claims = [claim for report in reports for claim in report.claims()]
        write_result("transfer", figures, claims, seeds=seeds, notes=NOTES)
        draw(reports, PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())

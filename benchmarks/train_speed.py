"""DeepFM on generated Criteo-like data: scalerec beside FuxiCTR, torch-rechub and DeepCTR-Torch.

26 categorical fields of R ids each with a long tail, 13 numbers, dim 16, a tower of 3 x 400, batch
4096, Adam for the peers. All systems train on the same generated rows, each in its own environment
and process, each with its own loader from disk, in turns.

What is timed, alike for all: opening the file, loading, every training step, the optimiser. What is
not: the process's start and imports, making the model, two first steps, evaluation, and what is
done to data once (the peers get ids and numbers as they need them; ours get them by `prepare`).

Quality is the AUC on the test part after one epoch over the whole training file at the first R. At
the other R the peers train on a short stretch of the file only: they are too slow there for more.
Learning rates were chosen on the validation part, for each system from the same grid: `--tune`.

Usage: python benchmarks/train_speed.py [--work DIR] [--rows-per-field 100000,1000000] [--quick]
       python benchmarks/train_speed.py --tune
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import Claim, summarise, write_result
from peers.child import CATEGORICAL, LABEL, NUMBERS
from peers.criteo_like import CriteoLike, generate
from peers.running import PEERS, environment, run_script
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Numeric, Schema, Task
from scalerec.data.sources import open_source
from scalerec.data.splits import SplitConfig

NET: dict[str, Any] = {"dim": 16, "hidden": [400, 400, 400], "batch_size": 4096}
# Found by --tune: the best AUC on the validation part after one epoch at R = 100,000.
LEARNING_RATES = {"FuxiCTR": 4e-3, "torch-rechub": 2e-3, "DeepCTR-Torch": 2e-3}
GRID = (1e-3, 2e-3, 4e-3, 8e-3)
# The fastest of each peer's own loaders on this shape; `workers` are processes beside it.
LOADERS: dict[str, dict[str, Any]] = {
    "FuxiCTR": {"loader": "npz", "workers": 0},
    "torch-rechub": {"loader": "parquet", "workers": 0},
    "DeepCTR-Torch": {},
}
# Of scalerec: the settings of training, and the deviation of the first embeddings.
OURS: dict[str, Any] = {
    "init_std": 0.01,
    "settings": {
        "dense": {"lr": 3e-3},
        "tables": {"optimiser": "rowwise_adagrad", "lr": 0.03},
        "schedule": {"name": "linear"},
        "checkpoint_seconds": 0,
    },
}
GRID_OURS = ((2e-3, 0.05), (3e-3, 0.02), (3e-3, 0.03), (3e-3, 0.05), (3e-3, 0.08))
BARS = {"bf16": {100_000: 5.0, 1_000_000: 60.0}, "fp32": {100_000: 2.0}}
COVERED = 0.8  # of the way from .5 to the true model's AUC
BELOW_BEST = 0.001
STEP_OVER_PRODUCTS = 1.5


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is generated, trained on and repeated.

    Args:
        train: Rows of the training file, by R.
        stretch: Rows of the peers' shorter file, by R.
        held_out: Rows of the test part, and of the validation part.
        steps: Of a step's parts: steps timed at a time.
        rounds: Of a step's parts: turns.
    """

    train: dict[int, int]
    stretch: dict[int, int]
    held_out: int
    steps: int
    rounds: int


FULL = Sizes(
    train={100_000: 2_048_000, 1_000_000: 614_400},
    stretch={100_000: 122_880, 1_000_000: 16_384},
    held_out=200_000,
    steps=40,
    rounds=7,
)
QUICK = Sizes(train={}, stretch={}, held_out=4096, steps=2, rounds=1)
QUICK_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Variant:
    """A system in one precision.

    Args:
        system: Its name.
        precision: `fp32`, or `bf16`: autocast for the peers.
    """

    system: str
    precision: str

    @property
    def is_ours(self) -> bool:
        """Whether it is scalerec."""
        return self.system == "scalerec"

    def __str__(self) -> str:
        autocast = "autocast " if self.precision == "bf16" and not self.is_ours else ""
        return f"{self.system} {autocast}{self.precision}"


VARIANTS = [Variant(s, p) for p in ("fp32", "bf16") for s in ("scalerec", *PEERS)]


def data(work: Path, rows: int, sizes: Sizes) -> tuple[Path, dict[str, Any]]:
    """The generated files of one R, and what is known of them."""
    train = sizes.train.get(rows, QUICK_ROWS)
    stretch = sizes.stretch.get(rows, QUICK_ROWS // 2)
    warm = 2 * NET["batch_size"]
    config = CriteoLike(
        rows_per_field=rows,
        train=train,
        held_out=sizes.held_out,
        stretches=(("stretch", stretch), ("warm", warm)),
    )
    folder = work / f"data-{rows}-{train}"
    return folder, generate(folder, config)


def prepare_ours(folder: Path, name: str, judge: str) -> None:
    """Our data set of a training file and a held-out one, unless it is there."""
    out = folder / f"{name}-{judge}.scalerec"
    if out.exists():
        return
    schema = Schema(
        features=(
            *(Categorical(name=column) for column in CATEGORICAL),
            *(Numeric(name=column, transform="none") for column in NUMBERS),
        ),
        tasks=(Task(name=LABEL),),
        tables={},
    )
    files = {"train": name, "test": judge}
    splits = {part: open_source(folder / f"{file}.parquet") for part, file in files.items()}
    raw = RawData(name="criteo-like", schema=schema, splits=splits)
    prepare(raw, out, PrepareConfig(split=SplitConfig(valid=0.0, test=0.0)))


class Bench:
    """Runs variants on the data of one R.

    Args:
        work: Where environments and data lie.
        rows: R.
        sizes: How much.
        threads: Of each system.
    """

    def __init__(self, work: Path, rows: int, sizes: Sizes, threads: int) -> None:
        self.work, self.rows, self.sizes, self.threads = work, rows, sizes, threads
        self.folder, self.facts = data(work, rows, sizes)

    def job(self, **more: Any) -> dict[str, Any]:
        """What every script reads."""
        common = {"threads": self.threads, "rows_per_field": self.rows, "seed": 1}
        return {**common, **NET, "folder": str(self.folder), **more}

    def run(self, variant: Variant, train: str, judge: str, **more: Any) -> dict[str, Any]:
        """Train once on a file, and judge on a held-out one if it is named."""
        if variant.is_ours:
            for name in (train, "warm"):
                prepare_ours(self.folder, name, judge or "test")
            own = {**OURS, "precision": variant.precision}
            job = self.job(train=train, judge=judge, **{**own, **more})
            found = run_script("scalerec_deepfm.py", job)
        else:
            own = {"lr": LEARNING_RATES[variant.system], "loader": "npz", "workers": 0}
            own |= {**LOADERS[variant.system], "autocast": variant.precision == "bf16"}
            job = self.job(train=train, judge=judge, **{**own, **more})
            python = environment(self.work, variant.system)
            found = run_script(SCRIPTS[variant.system], job, python=python)
        found["rate"] = found["rows"] / found["seconds"]
        auc = f", AUC {found['auc']:.5f}" if "auc" in found else ""
        print(
            f"R = {self.rows:,}: {variant}: {found['rate']:,.0f} samples/s on {found['rows']:,} "
            f"rows{auc}",
            flush=True,
        )
        return found

    def parts(self, precision: str) -> dict[str, Any]:
        """Where our step's time goes."""
        prepare_ours(self.folder, "train", "test")
        own = {"steps": self.sizes.steps, "rounds": self.sizes.rounds, "train": "train"}
        return run_script("scalerec_parts.py", self.job(**OURS, **own, precision=precision))


SCRIPTS = {
    "FuxiCTR": "fuxictr_deepfm.py",
    "torch-rechub": "rechub_deepfm.py",
    "DeepCTR-Torch": "deepctr_deepfm.py",
}


def in_turns(bench: Bench, repeats: int, *, whole: bool) -> tuple[dict[Variant, Any], Any]:
    """All variants in turns: rates of each, and AUCs.

    Args:
        bench: The data.
        repeats: Turns. The peers under autocast take part in the first two only, or, where they
            are not judged, in the first.
        whole: Whether the peers train on the whole file as well, once, for their AUC.
    """
    rates: dict[Variant, list[float]] = {variant: [] for variant in VARIANTS}
    aucs: dict[str, float] = {}
    for turn in range(repeats):
        for variant in VARIANTS:
            is_beside = variant.precision == "bf16" and not variant.is_ours
            if is_beside and turn > int(whole):
                continue
            quality = turn == 0 and (variant.is_ours or (whole and variant.precision == "fp32"))
            train = "train" if quality or variant.is_ours else "stretch"
            found = bench.run(variant, train, "test" if quality else "")
            rates[variant].append(found["rate"])
            if quality:
                aucs[str(variant)] = found["auc"]
    return rates, aucs


def rate_claims(rows: int, rates: dict[Variant, list[float]]) -> Iterator[Claim]:
    """Ours beside the best peer as shipped."""
    middle = {variant: summarise(found)["median"] for variant, found in rates.items()}
    shipped = [v for v in middle if v.precision == "fp32" and not v.is_ours]
    best = max(shipped, key=lambda variant: middle[variant])
    for precision, bars in BARS.items():
        if rows in bars:
            name = f"R = {rows:,}: scalerec in {precision}, times the best peer ({best.system})"
            times = middle[Variant("scalerec", precision)] / middle[best]
            yield Claim(name, times, bars[rows], at_least=True)


def auc_claims(true_auc: float, aucs: dict[str, float]) -> Iterator[Claim]:
    """Everybody learns the data, and ours no worse."""
    for name, auc in aucs.items():
        share = (auc - 0.5) / (true_auc - 0.5)
        yield Claim(f"{name}: share of the way to the true AUC", share, COVERED, at_least=True)
    best = max(aucs.values())
    for name, auc in aucs.items():
        if name.startswith("scalerec"):
            yield Claim(f"{name}: AUC below the best", best - auc, BELOW_BEST, at_least=False)


def step_parts(bench: Bench, figures: dict[str, Any]) -> Iterator[Claim]:
    """Where our step's time goes, in both precisions, into the figures."""
    for precision in ("fp32", "bf16"):
        found = bench.parts(precision)
        head = f"R = {bench.rows:,}: {precision} step, ms"
        for name in ("bare", "step"):
            figures[f"{head}: {NAMES[name]}"] = summarise([1e3 * s for s in found["all"][name]])
        for name, seconds in found["parts"].items():
            figures[f"{head}: {name}"] = 1e3 * seconds
        for name, value in figures.items():
            if name.startswith(head):
                print(name, round(value["median"] if isinstance(value, dict) else value, 2))
        ratio = found["step"] / found["bare"]
        name = f"{precision} step, times its bare products"
        yield Claim(name, ratio, STEP_OVER_PRODUCTS, at_least=False)


NAMES = {"bare": "the bare products", "step": "the whole"}


def tune(bench: Bench, systems: list[str]) -> None:
    """Print the AUC on the validation part for each setting of the grids."""
    for system in systems:
        grid: list[dict[str, Any]] = [{"lr": lr} for lr in GRID]
        if system == "scalerec":
            settings = OURS["settings"]
            grid = [
                {
                    "settings": {
                        **settings,
                        "dense": {"lr": dense},
                        "tables": {**settings["tables"], "lr": tables},
                    }
                }
                for dense, tables in GRID_OURS
            ]
        for more in grid:
            print(more)
            bench.run(Variant(system, "fp32"), "train", "valid", **more)


def main() -> int:
    """Measure everything, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scalerec-train-speed"
    parser.add_argument("--work", type=Path, default=default, help="environments and data")
    parser.add_argument("--rows-per-field", default="100000,1000000", help="R, or several")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--reuse", action="store_true", help="take what an R gave before, if it did"
    )
    parser.add_argument("--systems", default=",".join(("scalerec", *PEERS)), help="for --tune")
    parser.add_argument("--tune", action="store_true", help="try learning rates; no result")
    parser.add_argument("--parts", action="store_true", help="only a step's parts; no result")
    parser.add_argument("--quick", action="store_true", help="small and once; writes no result")
    options = parser.parse_args()
    all_rows = [1000] if options.quick else [int(r) for r in options.rows_per_field.split(",")]
    sizes = QUICK if options.quick else FULL
    if options.tune:
        tune(Bench(options.work, all_rows[0], sizes, options.threads), options.systems.split(","))
        return 0
    figures: dict[str, Any] = {}
    claims: list[Claim] = []
    for place, rows in enumerate(all_rows):
        kept = options.work / f"measured-{rows}.json"
        if options.reuse and kept.is_file():
            held = json.loads(kept.read_text("utf-8"))
        else:
            bench = Bench(options.work, rows, sizes, options.threads)
            repeats = 1 if options.quick else options.repeats
            held = measure(bench, repeats, first=place == 0, only_parts=options.parts)
            if not (options.quick or options.parts):
                kept.write_text(json.dumps(held), "utf-8")
        figures |= held["figures"]
        claims += [Claim(**claim) for claim in held["claims"]]
    if options.quick or options.parts:
        for claim in claims:
            print(claim.name, round(claim.value, 4))
        return 0
    write_result("train_speed", figures, claims, seeds=[1], notes=NOTES)
    return 0


def measure(bench: Bench, repeats: int, *, first: bool, only_parts: bool) -> dict[str, Any]:
    """All figures and claims at one R.

    Args:
        bench: The data.
        repeats: Turns.
        first: Whether quality is judged at this R, and a step's parts are timed.
        only_parts: Whether nothing else is.
    """
    figures: dict[str, Any] = {}
    claims = list(step_parts(bench, figures)) if first else []
    if not only_parts:
        rates, aucs = in_turns(bench, repeats, whole=first)
        head = f"R = {bench.rows:,}"
        for variant, found in rates.items():
            figures[f"{head}: {variant}, samples/s"] = summarise(found)
        true_auc = bench.facts["true auc, test"]
        figures[f"{head}: the true model, test AUC"] = true_auc
        for name, auc in aucs.items():
            figures[f"{head}: {name}, test AUC"] = auc
        claims += rate_claims(bench.rows, rates)
        if first:
            claims += auc_claims(true_auc, aucs)
    return {"figures": figures, "claims": [asdict(claim) for claim in claims]}


NOTES = (
    "the rows are generated; ids follow a bounded Pareto law and are numbered by their frequency, "
    "for all systems alike",
    "timed: opening the file, loading, every step with its optimiser; not timed: start and "
    "imports, making the model, two first steps, evaluation, encoding",
    "the peers run with the fastest of their own loaders, their own loop and dense Adam, without "
    "regularisation; the benchmark puts autocast around their forward pass",
    "learning rates were chosen on the validation part by single runs: three for each peer (1e-3, "
    "2e-3, 4e-3; for FuxiCTR, which did best with the last, 8e-3 as well), and some twenty "
    "settings of ours (lazy Adam and both Adagrads, with and without a linear fall of the "
    "learning rate, which the peers' loops do not offer)",
    f"peers: {'; '.join(', '.join(words) for words in PEERS.values())}, each with torch 2.13.0",
)


if __name__ == "__main__":
    sys.exit(main())

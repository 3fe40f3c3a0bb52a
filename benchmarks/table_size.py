"""Training speed and memory against the size of the tables, from 10^5 to 10^8 rows in all.

DeepFM, dim 16, 26 categorical fields hashed into tables of equal size, 13 numbers, a tower of 3 x
400, batch 4096, row-wise Adagrad. Three parts:

1. Samples/s of `Loader` and `Learner.step` for each size, in turns in one process.
2. The life of the largest model, by the command line: it trains, is killed after a checkpoint, and
   resumes to a bundle; its memory is sampled all the while.
3. What 16-bit rows do to quality: AUC on generated data, fp32 beside fp16, by seeds.

Usage: python benchmarks/table_size.py [--work DIR] [--sizes 1e5,1e6,1e7,1e8] [--quick]
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from common import Claim, summarise, write_result
from peers.child import CATEGORICAL, LABEL, NUMBERS
from peers.criteo_like import CriteoLike, generate
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.loading import Loader
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Numeric, Schema, Task
from scalerec.data.sources import open_source
from scalerec.data.splits import SplitConfig
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.train import Learner, OneProcess, TrainConfig, train

GIB = 2**30
BATCH = 4096
NET = {"dim": 16, "hidden": [400, 400, 400]}
TABLES = {"optimiser": "rowwise_adagrad", "lr": 0.05}
SLOWEST = 1.25
MEMORY_GIB = 20.0
HALF_LOSS = 0.0005
# The law of ids: 1.05 has a long tail, so a batch touches many rows.
SPREAD = CriteoLike(rows_per_field=1_000_000, train=409_600, held_out=4096, exponent=1.05)
QUALITY = CriteoLike(rows_per_field=100_000, train=1_024_000, held_out=200_000)


def hashed(folder: Path, buckets: int) -> Path:
    """The generated rows as a data set whose ids are hashed into tables of this size."""
    out = folder / f"hashed-{buckets}.scalerec"
    if not out.exists():
        features = (
            *(Categorical(name=column, buckets=buckets) for column in CATEGORICAL),
            *(Numeric(name=column, transform="none") for column in NUMBERS),
        )
        _prepare(folder, features, out)
    return out


def plain(folder: Path) -> Path:
    """The generated rows as a data set with a vocabulary a field."""
    out = folder / "plain.scalerec"
    if not out.exists():
        features = (
            *(Categorical(name=column) for column in CATEGORICAL),
            *(Numeric(name=column, transform="none") for column in NUMBERS),
        )
        _prepare(folder, features, out)
    return out


def _prepare(folder: Path, features: Any, out: Path) -> None:
    schema = Schema(features=features, tasks=(Task(name=LABEL),), tables={})
    splits = {part: open_source(folder / f"{part}.parquet") for part in ("train", "test")}
    raw = RawData(name="criteo-like", schema=schema, splits=splits)
    prepare(raw, out, PrepareConfig(split=SplitConfig(valid=0.0, test=0.0)))


@dataclass(slots=True)
class Runner:
    """One size, ready to take steps."""

    learner: Learner
    batches: Iterator[Batch]
    rates: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, dataset: Dataset, precision: str) -> "Runner":
        """A fresh model on a data set."""
        spec = ModelSpec(model="deepfm", settings=NET)
        settings = {"batch_size": BATCH, "tables": TABLES, "precision": precision}
        config = TrainConfig.from_dict(settings)
        recommender = build_recommender(dataset.layout, spec, 1)
        learner = Learner(recommender, dataset, config, OneProcess())
        return cls(learner, _stream(Loader(dataset.split("train"), BATCH, 1)))

    def steps(self, count: int) -> float:
        """Samples/s of so many steps, loading included."""
        begin = time.perf_counter()
        for _ in range(count):
            self.learner.step(next(self.batches), 1.0)
        return count * BATCH / (time.perf_counter() - begin)


def _stream(loader: Loader) -> Iterator[Batch]:
    number = 0
    while True:
        yield from loader.epoch(number)
        number += 1


def measure_rates(
    folder: Path, sizes: list[int], precision: str, rounds: int, steps: int
) -> dict[int, list[float]]:
    """Samples/s of each size, in turns."""
    runners = {}
    for size in sizes:
        begin = time.perf_counter()
        runners[size] = Runner.of(Dataset(hashed(folder, size // len(CATEGORICAL))), precision)
        print(f"{size:,} rows: made in {time.perf_counter() - begin:.1f} s", flush=True)
        runners[size].steps(10)
    for _ in range(rounds):
        for runner in runners.values():
            runner.rates.append(runner.steps(steps))
    return {size: runner.rates for size, runner in runners.items()}


class Memory:
    """Samples a process's memory until it ends.

    Its highest resident size holds pages of mapped files too, which the system takes back at will;
    anonymous memory is what the process itself needs.
    """

    def __init__(self, pid: int) -> None:
        self.resident = self.anonymous = 0
        self._path = Path(f"/proc/{pid}/status")
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            try:
                text = self._path.read_text("ascii")
                self.resident = max(self.resident, _bytes(text, "VmHWM"))
                self.anonymous = max(self.anonymous, _bytes(text, "RssAnon"))
            except (OSError, ValueError):
                return
            time.sleep(0.2)


def _bytes(text: str, name: str) -> int:
    (line,) = (line for line in text.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def life(folder: Path, out: Path, size: int) -> dict[str, float]:
    """Train the model of this size, kill it after a checkpoint, resume it; memory and seconds."""
    data = hashed(folder, size // len(CATEGORICAL))
    settings = (
        "tables.optimiser=rowwise_adagrad",
        "model.hidden=[400,400,400]",
        "checkpoint_seconds=0",
        "checkpoint_steps=60",
        "patience=-1",
    )
    command = [sys.executable, "-m", "scalerec", "train", str(data), "--out", str(out)]
    command += ["--model", "deepfm", "--epochs", "1", "--threads", "2", "--overwrite"]
    command += [word for setting in settings for word in ("--set", setting)]
    begin = time.perf_counter()
    checkpoint = out.with_name(f"{out.name}.checkpoint") / "checkpoint.safetensors"
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = Memory(child.pid)
    while not checkpoint.is_file():
        if child.poll() is not None:
            raise RuntimeError("training ended before its first checkpoint")
        time.sleep(0.05)
    assert first.resident > 0, "memory is sampled"
    found = {"seconds until the first checkpoint": time.perf_counter() - begin}
    time.sleep(1.0)  # into the steps after it
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    found["GiB of the checkpoint"] = checkpoint.stat().st_size / GIB
    begin = time.perf_counter()
    child = subprocess.Popen([*command, "--resume"], stdout=subprocess.DEVNULL)
    second = Memory(child.pid)
    if child.wait() != 0:
        raise RuntimeError("resuming failed")
    found["seconds from resuming to the bundle"] = time.perf_counter() - begin
    size_out = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    found["GiB of the bundle"] = size_out / GIB
    for name, memory in (("training", first), ("resuming", second)):
        found[f"GiB resident at most, {name}"] = memory.resident / GIB
        found[f"GiB anonymous at most, {name}"] = memory.anonymous / GIB
    return found


def half_rows(folder: Path, seeds: list[int], precision: str) -> dict[str, list[float]]:
    """AUC on the test part after one epoch, by how rows are held."""
    found: dict[str, list[float]] = {"fp32": [], "fp16": []}
    dataset = Dataset(plain(folder))
    for seed in seeds:
        for weights, aucs in found.items():
            settings = {
                "epochs": 1, "seed": seed, "patience": -1, "precision": precision,
                "tables": {**TABLES, "weights": weights, "engine": "numba"},
            }  # fmt: skip
            config = TrainConfig.from_dict(settings)
            trained = train(dataset, ModelSpec(model="deepfm", settings=NET), config)
            judge = EvaluateConfig(split="test", ranking="no")
            aucs.append(float(evaluate(trained.recommender, dataset, judge).metrics["auc"] or 0))
            print(f"rows in {weights}, seed {seed}: AUC {aucs[-1]:.5f}", flush=True)
    return found


def main() -> int:
    """Measure everything, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scalerec-table-size"
    parser.add_argument("--work", type=Path, default=default, help="data, checkpoints, bundles")
    parser.add_argument("--sizes", default="1e5,1e6,1e7,1e8", help="rows of all tables together")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small; writes no result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = [1000, 5000] if options.quick else [int(float(s)) for s in options.sizes.split(",")]
    rounds, steps, seeds = (1, 2, [1]) if options.quick else (9, 12, [1, 2, 3])
    spread, quality = SPREAD, QUALITY
    if options.quick:
        spread = quality = CriteoLike(rows_per_field=1000, train=409_600, held_out=4096)
    for folder, config in (("spread", spread), ("quality", quality)):
        generate(options.work / folder, config)
    figures: dict[str, Any] = {}
    claims = []
    for precision in ("bf16", "fp32"):
        rates = measure_rates(options.work / "spread", sizes, precision, rounds, steps)
        middle = {size: summarise(found) for size, found in rates.items()}
        for size, found in middle.items():
            figures[f"{precision}: samples/s with {size:,} rows"] = found
            print(f"{precision}: {size:,} rows: {found['median']:,.0f} samples/s", flush=True)
        medians = [found["median"] for found in middle.values()]
        name = f"{precision}: the fastest size, times the slowest"
        claims.append(Claim(name, max(medians) / min(medians), SLOWEST, at_least=False))
    held = life(options.work / "spread", options.work / "bundle", sizes[-1])
    figures |= {f"{sizes[-1]:,} rows: {name}": value for name, value in held.items()}
    most = max(value for name, value in held.items() if "resident at most" in name)
    name = f"{sizes[-1]:,} rows train, checkpoint and resume: GiB resident at most"
    claims.append(Claim(name, most, MEMORY_GIB, at_least=False))
    aucs = half_rows(options.work / "quality", seeds, "auto")
    for weights, values in aucs.items():
        figures[f"AUC with rows in {weights}"] = summarise(values)
    loss = sum(aucs["fp32"]) / len(seeds) - sum(aucs["fp16"]) / len(seeds)
    claims.append(Claim("AUC lost with rows in fp16", loss, HALF_LOSS, at_least=False))
    if not options.quick:
        notes = [
            "Sizes are measured in turns in one process; loading is included, making a model not.",
            "Ids follow a bounded Pareto law with exponent 1.05 over 10^6 keys a field, hashed.",
            "The large model is killed with SIGKILL after its first checkpoint; patience is -1, as "
            "keeping the best weights would hold them twice.",
        ]
        write_result("table_size", figures, claims, seeds=seeds, notes=notes, packages=["numba"])
    return 0


if __name__ == "__main__":
    sys.exit(main())

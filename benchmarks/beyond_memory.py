"""Training from data larger than memory, beside training from data held in memory.

DeepFM on generated Criteo-like rows: 26 categorical fields of 100,000 ids, 13 numbers, dim 16, a
tower of 3 x 400, batch 4096, one epoch. The data set is larger than 2 GiB on disk. One run holds it
all in memory and shuffles it whole. The other gathers blocks from the mapped files and shuffles
each, with the next one read meanwhile; where control groups can be made, its process may use 2 GiB
in all: model, optimiser, libraries, and the pages of the files.

Usage: python benchmarks/beyond_memory.py [--work DIR] [--rows 14000000] [--repeats 2] [--quick]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common import Claim, summarise, write_result
from peers.child import CATEGORICAL, LABEL, NUMBERS, report, start
from peers.criteo_like import CriteoLike, Truth, draw_rows
from peers.running import run_script
from scalerec.data.dataset import Dataset
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Numeric, Schema, Task
from scalerec.data.sources import open_source
from scalerec.data.splits import SplitConfig
from scalerec.models.recommender import ModelSpec
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.train import TrainConfig, train

GIB = 2**30
LIMIT = 2 * GIB
RATE_SHARE, AUC_APART = 0.9, 0.0005
CHUNK = 262_144
CONFIG = CriteoLike(rows_per_field=100_000, train=14_000_000, held_out=300_000)
GROUPS = Path("/sys/fs/cgroup/memory")
WHOLE = 10**12


def generate(folder: Path, config: CriteoLike) -> Path:
    """The data set, generated and prepared chunk by chunk unless it is there."""
    out = folder / f"data-{config.train}"
    if out.exists():
        return out
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(config.seed)
    truth = Truth(config, generator)
    for name, size in (("train", config.train), ("test", config.held_out)):
        writer = None
        for first in range(0, size, CHUNK):
            columns, _ = draw_rows(truth, min(CHUNK, size - first), generator)
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(folder / f"{name}.parquet", table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
    features = (
        *(Categorical(name=column) for column in CATEGORICAL),
        *(Numeric(name=column, transform="none") for column in NUMBERS),
    )
    schema = Schema(features=features, tasks=(Task(name=LABEL),), tables={})
    splits = {part: open_source(folder / f"{part}.parquet") for part in ("train", "test")}
    raw = RawData(name="criteo-like", schema=schema, splits=splits)
    prepare(raw, out, PrepareConfig(split=SplitConfig(valid=0.0, test=0.0)))
    for name in splits:
        (folder / f"{name}.parquet").unlink()
    return out


def child() -> None:
    """One run, in a process of its own."""
    job = start()
    if job["group"]:
        (Path(job["group"]) / "cgroup.procs").write_text(str(os.getpid()), "ascii")
    settings = {
        "epochs": 1,
        "patience": -1,
        "seed": job["seed"],
        "checkpoint_seconds": 0,
        "block_rows": job["block_rows"],
        "dense": {"lr": 3e-3},
        "tables": {"optimiser": "rowwise_adagrad", "lr": 0.03},
        # Falls to 0: an AUC taken at full learning rate differs by .001 from seed to seed.
        "schedule": {"name": "linear"},
    }
    spec = ModelSpec(model="deepfm", settings={"dim": 16, "hidden": [400, 400, 400]})
    dataset = Dataset(job["data"])
    trained = train(dataset, spec, TrainConfig.from_dict(settings))
    judged = evaluate(trained.recommender, dataset, EvaluateConfig(split="test", ranking="no"))
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    rate = dataset.num_rows("train") / trained.seconds
    report(rate=rate, auc=judged.metrics["auc"], peak=peak * 1024 / GIB)


def group_of(limit: int) -> str:
    """A control group with this limit on memory, page cache included; empty if it cannot be."""
    group = GROUPS / "scalerec-benchmark"
    try:
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(limit), "ascii")
    except OSError:
        return ""
    return str(group)


def forget_pages(folder: Path) -> None:
    """Ask the system to drop what it holds of the files in memory."""
    for path in folder.rglob("*.bin"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> int:
    """Measure both, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scalerec-beyond-memory"
    parser.add_argument("--work", type=Path, default=default, help="where the data lie")
    parser.add_argument("--rows", type=int, default=CONFIG.train)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="turns, each with its own seed")
    parser.add_argument("--quick", action="store_true", help="small; writes no result")
    options = parser.parse_args()
    size = 600_000 if options.quick else options.rows
    data = generate(options.work, replace(CONFIG, train=size))
    subprocess.run(["sync"], check=True)
    on_disk = sum(path.stat().st_size for path in (data / "train").rglob("*.bin"))
    group = group_of(LIMIT)
    settings = {
        "from disk": {"block_rows": 262_144, "group": group},
        "in memory": {"block_rows": WHOLE, "group": ""},
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in settings}
    for turn in range(1 if options.quick else options.repeats):
        # Whoever was first is last in the next turn: the machine may grow slower or faster.
        for name in list(settings)[:: -1 if turn % 2 else 1]:
            forget_pages(data)
            own = settings[name]
            job = {"threads": options.threads, "seed": 1 + turn, "data": str(data), **own}
            run = run_script(str(Path(__file__).resolve()), job)
            found[name].append(run)
            print(name, {key: round(value, 5) for key, value in run.items()}, flush=True)
    if options.quick:
        return 0
    figures: dict[str, Any] = {"GiB of the training rows on disk": on_disk / GIB}
    words = {"rate": "samples/s", "auc": "test AUC", "peak": "GiB resident at most"}
    middle: dict[str, dict[str, float]] = {}
    for name, runs in found.items():
        for key, what in words.items():
            figures[f"{name}: {what}"] = summarise([run[key] for run in runs])
        middle[name] = {key: figures[f"{name}: {what}"]["median"] for key, what in words.items()}
    disk, memory = middle["from disk"], middle["in memory"]
    share = disk["rate"] / memory["rate"]
    claims = [
        Claim("rate from disk, share of that in memory", share, RATE_SHARE, True),
        Claim("test AUC, difference", abs(disk["auc"] - memory["auc"]), AUC_APART, False),
    ]
    limited = f"could use {LIMIT / GIB:g} GiB in all (control group)" if group else "had no limit"
    notes = [
        f"{size:,} rows; the process that trained from disk {limited}, mapped pages included; they "
        "were dropped from memory before",
        "samples/s count loading, steps and optimisers, and not the making of the model",
    ]
    seeds = [1 + turn for turn in range(options.repeats)]
    write_result("beyond_memory", figures, claims, seeds=seeds, notes=notes, packages=["numba"])
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].endswith("job.json"):
        child()
    else:
        raise SystemExit(main())

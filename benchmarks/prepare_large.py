"""Preparing a file larger than the memory allowed: 20 million rows of 40 columns, Parquet and CSV.

The rows are generated, like those of Criteo's challenge: a label, 13 numbers and 26 categories with
long tails, 10 million different ids in all, some values missing. `scalerec prepare` runs on each
file in a process of its own, whose peak of memory is read from the kernel and whose phases are
timed. Generation is not timed. The work folder needs some 18 GB for 20 million rows.

Usage: python benchmarks/prepare_large.py [--rows 20000000] [--work FOLDER] [--quick]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from common import Claim, write_result

# How many ids each category of Criteo's challenge has. Those with more than 100,000 are scaled down
# together, so that all have 10 million.
CRITEO = (1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194,
          27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572)  # fmt: skip
MOST_IDS = 10_000_000
CHUNK = 262_144
BAR_ROWS, BAR_GIB = 500_000, 2.0
HEX = np.frombuffer("".join(f"{i:02x}" for i in range(256)).encode(), np.uint16)

# Runs `scalerec prepare`, with a clock around each phase, and tells them in the last line.
CHILD = """
import json, resource, sys, time
started = time.perf_counter()
from scalerec.cli import main
from scalerec.data import prepare as module
seconds = {"start": time.perf_counter() - started}
PHASES = {"take_in": "read, parse, number", "_split": "split", "_fit": "fit",
          "_write_stores": "encode and write", "Dataset": "open"}
def timed(name, work):
    def run(*args, **more):
        start = time.perf_counter()
        try:
            return work(*args, **more)
        finally:
            seconds[PHASES[name]] = time.perf_counter() - start
    return run
for name in PHASES:
    setattr(module, name, timed(name, getattr(module, name)))
sys.argv = ["scalerec", "prepare", *sys.argv[1:]]
try:
    main()
except SystemExit as done:
    if done.code:
        raise
usage = resource.getrusage(resource.RUSAGE_SELF)
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "peak": max(peak, usage.ru_maxrss) / 2**20,
                  "processor": usage.ru_utime + usage.ru_stime}))
"""


def sizes() -> list[int]:
    """Number of ids of each category; 10 million in all, or a few less."""
    large = sum(size for size in CRITEO if size > 100_000)
    share = (MOST_IDS - (sum(CRITEO) - large)) / large
    return [int(size * share) if size > 100_000 else size for size in CRITEO]


def ids(draw: np.random.Generator, count: int, size: int, salt: int, missing: float) -> pa.Array:
    """Keys of 8 hexadecimal digits; that of rank r has a chance of about 1 / r."""
    ranks = np.floor(size ** draw.random(count)).astype(np.uint32) - np.uint32(1)
    # A permutation of the 32-bit numbers, so different ranks have different keys.
    mixed = ranks + np.uint32((salt * 0x1000003) & 0xFFFFFFFF)
    mixed = (mixed ^ (mixed >> np.uint32(16))) * np.uint32(0x7FEB352D)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x846CA68B)
    mixed ^= mixed >> np.uint32(16)
    text = pa.py_buffer(HEX[mixed.view(np.uint8)])
    offsets = pa.py_buffer(np.arange(0, 8 * count + 8, 8, dtype=np.int32))
    keys = pa.Array.from_buffers(pa.string(), count, [None, offsets, text])
    return pc.if_else(pa.array(draw.random(count) < missing), None, keys) if missing else keys


def chunk(draw: np.random.Generator, count: int) -> pa.Table:
    """Some rows."""
    columns = {"label": pa.array((draw.random(count) < 0.25).astype(np.int8))}
    for i in range(13):
        values = np.floor(draw.exponential(10.0 ** (1 + i % 4), count)).astype(np.int32)
        columns[f"I{i + 1}"] = pa.array(values, mask=draw.random(count) < 0.1 * (i % 5))
    for i, size in enumerate(sizes()):
        columns[f"C{i + 1}"] = ids(draw, count, size, i, 0.3 if i % 6 == 5 else 0.0)
    return pa.table(columns)


def generate(folder: Path, rows: int, seed: int) -> dict[str, Path]:
    """Write the same rows as Parquet and as CSV, chunk by chunk."""
    files = {"parquet": folder / "events.parquet", "csv": folder / "events.csv"}
    draw = np.random.default_rng(seed)
    first = chunk(draw, min(CHUNK, rows))
    schema = first.schema
    with (
        pa.parquet.ParquetWriter(files["parquet"], schema) as parquet,
        pa.csv.CSVWriter(files["csv"], schema) as csv,
    ):
        done, table = 0, first
        while True:
            parquet.write_table(table)
            csv.write_table(table)
            done += len(table)
            if done >= rows:
                break
            table = chunk(draw, min(CHUNK, rows - done))
    return files


def write_schema(path: Path) -> None:
    """What the columns mean."""
    numbers = [f'name = "I{i}"\nkind = "numeric"\ntransform = "log"' for i in range(1, 14)]
    categories = [f'name = "C{i}"\nkind = "categorical"' for i in range(1, 27)]
    features = [f"[[features]]\n{text}\noptional = true\n" for text in numbers + categories]
    task = '[[tasks]]\nname = "click"\ncolumn = "label"\n'
    path.write_text("\n".join([*features, task]), "utf-8")


def measure(source: Path, schema: Path, out: Path, rows: int) -> dict[str, Any]:
    """Prepare a file in a process of its own; seconds, GiB and the data set's digest."""
    options = ["--schema", str(schema), "--out", str(out), "--split", "random", "--json"]
    load, start = os.getloadavg()[0], time.perf_counter()
    command = [sys.executable, "-c", CHILD, str(source), *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stderr)
    found, told = json.loads(done.stdout.splitlines()[-1]), done.stdout.rpartition("\n{")[0]
    digest = json.loads(told)["digest"]
    shutil.rmtree(out)
    print(f"{source.suffix}: {rows / seconds:,.0f} rows/s, {found}", flush=True)
    loads = {"load before": load, "load after": os.getloadavg()[0]}
    return {"total": seconds, "rate": rows / seconds, "digest": digest, **found, **loads}


def main() -> int:
    """Generate, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--work", type=Path, default=None, help="where files are kept and reused")
    parser.add_argument("--quick", action="store_true", help="a million rows; writes no result")
    given = parser.parse_args()
    rows = 1_000_000 if given.quick else given.rows
    folder = given.work or Path(tempfile.mkdtemp(prefix="scalerec-large-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        marker = folder / f"{rows}.rows"
        files = {name: folder / f"events.{name}" for name in ("parquet", "csv")}
        if not marker.exists():
            files = generate(folder, rows, seed=0)
            marker.touch()
        write_schema(folder / "schema.toml")
        found = {
            name: measure(file, folder / "schema.toml", folder / "out", rows)
            for name, file in files.items()
        }
    finally:
        if given.work is None:
            shutil.rmtree(folder)
    assert found["parquet"]["digest"] == found["csv"]["digest"], "one content, one data set"
    if not given.quick:
        report(rows, found)
    return 0


def report(rows: int, found: dict[str, dict[str, Any]]) -> None:
    """Write the result."""
    figures: dict[str, float] = {"rows": rows, "ids": sum(sizes())}
    for name, run in found.items():
        figures[f"{name}: rows/s"] = run["rate"]
        figures[f"{name}: peak memory, GiB"] = run["peak"]
        figures[f"{name}: seconds, whole process"] = run["total"]
        figures[f"{name}: processor seconds"] = run["processor"]
        figures[f"{name}: rows a processor second"] = rows / run["processor"]
        for phase, seconds in run["seconds"].items():
            figures[f"{name}: seconds, {phase}"] = seconds
        figures[f"{name}: load of the machine before"] = run["load before"]
        figures[f"{name}: load of the machine after"] = run["load after"]
    parquet, csv = found["parquet"], found["csv"]
    claims = [
        Claim("rows/s from Parquet", parquet["rate"], BAR_ROWS, True),
        Claim("peak memory from Parquet, GiB", parquet["peak"], BAR_GIB, False),
        Claim("peak memory from CSV, GiB", csv["peak"], BAR_GIB, False),
    ]
    notes = [
        "generated rows, like those of Criteo: 26 categories with long tails, 13 numbers, 1 label",
        "from the start of the process to its end: read, fit, encode, write, digests, open",
        "on a machine with other work the load tells how many processes shared its cores; rows a "
        "processor second do not depend on it as much",
        "both files give the same data set, by its digest",
    ]
    write_result("prepare_large", figures, claims, seeds=[0], notes=notes)


if __name__ == "__main__":
    raise SystemExit(main())

"""Preparation by Spark in local mode beside the single-machine engine: 2 million rows, two shapes.

One shape is Criteo's, 40 columns of which 26 are keys, from Parquet and from CSV; the other is that
of the simulator, with side tables, vectors and histories. Each engine runs in a process of its own,
in turns. Memory is that of all its processes together, pages they share counted once, looked at
every half second; the Java machine's own share is told apart. Equal data sets are demanded.

Usage: python benchmarks/spark_prepare.py [--rows 2000000] [--work FOLDER] [--quick]
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

from common import write_result
from prepare_large import generate, write_schema

GIB = 2**30
ENGINES = {"local": [], "spark": ["--engine", "spark", "--master", "local[2]"]}


def simulate(folder: Path, rows: int) -> None:
    """Write simulated events, users and items."""
    sizes = {"num_events": rows, "num_users": rows // 20, "num_items": rows // 100}
    settings = [f"--set={name}={value}" for name, value in sizes.items()]
    command = [sys.executable, "-m", "scalerec", "simulate", "--out", str(folder), *settings]
    subprocess.run(command, check=True, capture_output=True)


def processes_below(pid: int) -> list[int]:
    """A process and all that it started."""
    found, left = [], [pid]
    while left:
        own = left.pop()
        found.append(own)
        for path in Path(f"/proc/{own}/task").glob("*/children"):
            try:
                left += map(int, path.read_text().split())
            except OSError:
                continue
    return found


def processor_seconds(pid: int, seen: dict[int, float]) -> None:
    """Note what a process and all that it started have used of the processor until now."""
    for own in processes_below(pid):
        try:
            fields = Path(f"/proc/{own}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        seen[own] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process and all that it started, by program; shared pages are parted among all."""
    found: dict[str, int] = {}
    for own in processes_below(pid):
        try:
            lines = Path(f"/proc/{own}/smaps_rollup").read_text().splitlines()
            name = "java" if Path(f"/proc/{own}/comm").read_text().strip() == "java" else "python"
        except OSError:
            continue
        # Pages of mapped files are given up when others need them.
        sizes = [int(line.split()[1]) for line in lines if line.startswith("Pss_Anon")]
        found[name] = found.get(name, 0) + sum(sizes) * 1024
    return found


def measure(source: Path, schema: Path, out: Path, engine: str, split: str) -> dict[str, Any]:
    """Prepare by an engine; seconds, processor seconds, memory and the data set's digest."""
    words = [str(source), "--schema", str(schema), "--out", str(out), "--split", split, "--json"]
    load, start = os.getloadavg()[0], time.perf_counter()
    command = [sys.executable, "-m", "scalerec", "prepare", *words, *ENGINES[engine]]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        peaks: dict[str, int] = {}
        used: dict[int, float] = {}
        while run.poll() is None:
            processor_seconds(run.pid, used)
            now = memory(run.pid)
            now["together"] = sum(now.values())
            peaks = {name: max(now.get(name, 0), peaks.get(name, 0)) for name in now | peaks}
            time.sleep(0.5)
        assert run.stdout is not None
        told = run.stdout.read()
    seconds = time.perf_counter() - start
    if run.returncode:
        raise SystemExit(f"{engine} failed on {source}")
    shutil.rmtree(out)
    found = {"seconds": seconds, "processor": sum(used.values()), "load": load}
    found |= {f"{name}, GiB": size / GIB for name, size in peaks.items()}
    print(
        source.suffix, engine, {name: round(value, 2) for name, value in found.items()}, flush=True
    )
    return {**found, "digest": json.loads(told)["digest"]}


def main() -> int:
    """Generate, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--work", type=Path, default=None, help="where files are kept and reused")
    parser.add_argument("--quick", action="store_true", help="100,000 rows; writes no result")
    given = parser.parse_args()
    rows = 100_000 if given.quick else given.rows
    folder = given.work or Path(tempfile.mkdtemp(prefix="scalerec-spark-"))
    wide, events = folder / f"wide-{rows}", folder / f"events-{rows}"
    try:
        if not wide.is_dir():
            wide.mkdir(parents=True)
            generate(wide, rows, seed=0)
            write_schema(wide / "schema.toml")
        if not events.is_dir():
            simulate(events, rows)
        shapes = {
            "wide Parquet": (wide / "events.parquet", wide / "schema.toml", "random"),
            "histories": (events / "events.parquet", events / "schema.toml", "time"),
            "wide CSV": (wide / "events.csv", wide / "schema.toml", "random"),
        }
        figures: dict[str, float] = {"rows": rows}
        for shape, (source, schema, split) in shapes.items():
            runs = {e: measure(source, schema, folder / "out", e, split) for e in ENGINES}
            digests = {run.pop("digest") for run in runs.values()}
            assert len(digests) == 1, "both engines make one data set"
            for engine, run in runs.items():
                figures |= {f"{shape}, {engine}: {name}": value for name, value in run.items()}
    finally:
        if given.work is None:
            shutil.rmtree(folder)
    if not given.quick:
        notes = [
            "Spark in local mode with two slots, on two cores; the driver and Java are counted too",
            "the machine had other work, as the load tells: compare processor seconds",
        ]
        write_result("spark_prepare", figures, [], seeds=[0], notes=notes, packages=["pyspark"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What local SGD and compression win as the link between hosts gets slower.

It simulates a data set, and trains the same model on the same rows across two hosts, by each way
on each link. It prints the bytes that a host sent, the seconds of training, and the AUC. Larger and
with more ways: benchmarks/slow_links.py. It takes root, or user namespaces; see hosts.py.

    python examples/hosts_compare.py
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hosts import run_all, torchrun
from hosts_links import Hosts, Link, enter_sandbox, parse_rate

RATES = ("none", "10mbit")
WAYS = {
    "every step, float32": (),
    "every step, compressed": ("--codec", "powersgd:2", "--lookups", "int8"),
    "local, 16 steps": ("--aggregate", "local", "--local-steps", "16"),
    "local, compressed": (
        *("--aggregate", "local", "--local-steps", "16"),
        *("--codec", "powersgd:2", "--lookups", "int8"),
    ),
}
TRAINING = (
    *("--model", "deepfm", "--epochs", "1", "--batch-size", "256", "--threads", "1"),
    *("--set", "model.hidden=[256,128]", "--set", "tables.optimiser=rowwise_adagrad"),
    *("--set", "tables.lr=0.1", "--sharding", "row", "--json", "--overwrite"),
)


def scalerec(*arguments: str) -> None:
    """Run a command of this package."""
    command = [sys.executable, "-m", "scalerec", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def simulated(folder: Path, num_events: int) -> str:
    """A data set that is made here."""
    events = f"num_events={num_events}"
    scalerec("simulate", "--set", events, "--out", str(folder / "raw"))
    out = str(folder / "data")
    source, schema = str(folder / "raw" / "events.parquet"), str(folder / "raw" / "schema.toml")
    scalerec("prepare", source, "--schema", schema, "--out", out)
    return out


def train(hosts: Hosts, data: str, out: Path, way: str) -> dict[str, Any]:
    """Train across all hosts; what `scalerec train` tells, and what the first host has sent."""
    arguments = [data, *TRAINING, *WAYS[way], "--out", str(out)]
    said = out.with_name("said.txt")
    with said.open("w", encoding="utf-8") as file:
        command = torchrun(len(hosts.numbers), "scalerec.distributed", arguments)
        report = run_all(hosts, command, stdout=file, stderr=subprocess.STDOUT)
    lines = said.read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines if line.startswith('{"bundle"')]
    if report["exit_code"] or not found:
        raise SystemExit("\n".join(lines))
    return {**found[0], "sent": report["interfaces"]["1"]["sent"]}


def main() -> int:
    """Train by every way on every link, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=2, help="how many, 2 or more")
    parser.add_argument("--rates", nargs="+", default=RATES, help="such as 20mbit; or none")
    parser.add_argument("--events", type=int, default=20_000, help="how many are simulated")
    options = parser.parse_args()
    links = {rate: Link(rate=parse_rate(rate)) for rate in options.rates}
    enter_sandbox()
    hosts = Hosts(options.hosts, Link())
    with tempfile.TemporaryDirectory() as folder:
        data = simulated(Path(folder), options.events)
        print(f"{'link':>8}  {'way':<24}{'MB sent':>8}{'seconds':>9}{'AUC':>8}")
        for rate, link in links.items():
            hosts.change(link)
            for way in WAYS:
                found = train(hosts, data, Path(folder) / "out", way)
                row = f"{found['sent'] / 1e6:8.2f}{found['seconds']:9.1f}{found['valid']:8.4f}"
                print(f"{rate:>8}  {way:<24}{row}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

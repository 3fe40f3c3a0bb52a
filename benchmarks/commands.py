"""How long a person waits: `scalerec --help`, loading a bundle, one recommendation, the demo.

One recommendation on ML-100K ranks the full catalogue for a user, after the bundle was loaded. The
demo is timed as `make demo` runs it, after installation.

Usage: python benchmarks/commands.py [--threads 2] [--quick]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common import Claim, summarise, write_result
from scalerec.bundle.recommenders import OpenRecommender, open_recommender
from scalerec.scoring import recommend

COMMAND = [sys.executable, "-m", "scalerec"]


def seconds_of(work: Callable[[], object]) -> float:
    """The time one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def time_help(repeats: int) -> list[float]:
    """Seconds of the whole process; the first, cold one is left out."""

    def ask() -> None:
        subprocess.run([*COMMAND, "--help"], check=True, capture_output=True)

    ask()
    return [seconds_of(ask) for _ in range(repeats)]


def time_lists(opened: OpenRecommender, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of a list for known users, and for users never seen but for a history."""
    known, strangers = [], []
    for i in range(repeats):
        user = opened.user_keys[(37 * i) % len(opened.user_keys)]
        met = opened.met[(37 * i) % len(opened.user_keys)].as_py()[:20]
        history = [opened.item_keys[item] for item in met] or opened.item_keys[:3]
        known.append(1000 * seconds_of(lambda u=user: recommend(opened, user=u, k=10)))  # type: ignore[misc]
        strangers.append(1000 * seconds_of(lambda h=history: recommend(opened, history=h, k=10)))  # type: ignore[misc]
    return known, strangers


def main() -> int:
    """Time everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few repeats; writes no result")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    repeats = 3 if options.quick else 20
    figures: dict[str, Any] = {"help, seconds": summarise(time_help(repeats))}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        words = [*COMMAND, "demo", "--out", str(out), "--json"]
        figures["demo, seconds"] = seconds_of(lambda: subprocess.run(words, check=True))
        figures["load a bundle, seconds"] = summarise(
            [seconds_of(lambda: open_recommender(out / "bundle")) for _ in range(repeats)]
        )
        opened = open_recommender(out / "bundle")
        known, strangers = time_lists(opened, 5 * repeats)
    figures["first list, ms"] = known[0]
    figures["a known user's list, ms"] = summarise(known)
    figures["a stranger's list, ms"] = summarise(strangers)
    figures["catalogue"] = len(opened.item_keys)
    for name, value in figures.items():
        print(name, value)
    if not options.quick:
        slowest = max(*known, *strangers)
        claims = [
            Claim("--help, seconds", figures["help, seconds"]["median"], 0.5, at_least=False),
            Claim("the slowest list after loading, ms", slowest, 100.0, at_least=False),
            Claim("the demo, seconds", figures["demo, seconds"], 300.0, at_least=False),
        ]
        write_result("commands", figures, claims, seeds=[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())

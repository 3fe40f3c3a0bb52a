"""What every benchmark shares: facts on the machine, summaries, and the form of a result."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "Claim", "machine", "summarise", "versions", "write_result"]

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("scalerec", "torch", "fbgemm-gpu-cpu", "numpy", "pyarrow")


@dataclass(frozen=True, slots=True)
class Claim:
    """A figure that must hold.

    Args:
        name: What is claimed, with its unit.
        value: What was measured.
        bar: What it is held against.
        at_least: Whether the value must reach the bar, or stay at or below it.
    """

    name: str
    value: float
    bar: float
    at_least: bool

    @property
    def holds(self) -> bool:
        """Whether it holds."""
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Median, mean, smallest, largest and number of some measurements."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def machine() -> dict[str, Any]:
    """The processor, its cores and the memory."""
    names = [
        line.partition(":")[2].strip()
        for line in _read("/proc/cpuinfo").splitlines()
        if line.startswith("model name")
    ]
    total = next((s for s in _read("/proc/meminfo").splitlines() if s.startswith("MemTotal")), "")
    gib = round(int(total.split()[1]) / 2**20) if total else 0
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory": f"{gib} GiB",
    }


def versions(*more: str) -> dict[str, str]:
    """The versions that shape a result, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_result(
    name: str,
    figures: Mapping[str, float | Mapping[str, float]],
    claims: Sequence[Claim],
    *,
    seeds: Sequence[int] = (),
    notes: Sequence[str] = (),
    packages: Sequence[str] = (),
) -> Path:
    """Write `results/NAME.json`, and print the claims.

    Args:
        name: The benchmark's name.
        figures: Name to number, or to what `summarise` gave.
        claims: One for each figure that is asked for, also for those that do not hold.
        seeds: The seeds of the runs.
        notes: What must be said wherever a figure is quoted.
        packages: Further packages whose versions matter, such as peers.
    """
    # Folders of this machine mean nothing elsewhere.
    words = ["DIR" if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
    result = {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(*packages),
        "command": command,
        "seeds": list(seeds),
        "notes": [note for note in notes if not note.startswith("read from")],
        "figures": dict(figures),
        "claims": [
            {
                "name": claim.name,
                "value": claim.value,
                "bar": claim.bar,
                "at_least": claim.at_least,
                "holds": claim.holds,
            }
            for claim in claims
        ],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for claim in claims:
        sign = ">=" if claim.at_least else "<="
        word = "holds" if claim.holds else "does not hold"
        print(f"{claim.name}: {claim.value:.6g} {sign} {claim.bar:.6g} {word}")
    return path


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""

"""What the scripts of all systems share; they run in environments that have NumPy and torch.

A job is a JSON file; the outcome is one JSON line on standard output, after `OUTCOME`.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CATEGORICAL",
    "LABEL",
    "MARK",
    "NUMBERS",
    "Clock",
    "area_under_curve",
    "autocast_forward",
    "read_columns",
    "report",
    "start",
]

CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))
NUMBERS = tuple(f"I{i}" for i in range(1, 14))
LABEL = "label"
MARK = "OUTCOME"


def area_under_curve(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """AUC by ranks; equal scores count half.

    Args:
        labels: 0 or 1, ``[n]``.
        scores: ``[n]``.
    """
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[group]
    positive = np.asarray(labels) > 0.5
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    smallest = num_positive * (num_positive + 1) / 2
    return float((ranks[positive].sum() - smallest) / (num_positive * num_negative))


def start() -> dict[str, Any]:
    """The job; threads are set as it asks."""
    import torch

    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    return job


def report(**outcome: Any) -> None:
    """Hand the outcome to the script that started this one."""
    print(f"\n{MARK}{json.dumps(outcome)}", flush=True)


class Clock:
    """Seconds of the parts of a run, and of all of them."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    @contextlib.contextmanager
    def part(self, name: str) -> Any:
        """Time what is done within."""
        begin = time.perf_counter()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - begin

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.parts.values())


def read_columns(path: str) -> dict[str, NDArray[Any]]:
    """All columns of an npz file, in memory."""
    with np.load(path) as held:
        return {name: held[name] for name in held.files}


def autocast_forward(model: Any, wanted: bool, to_float: Callable[[Any], Any]) -> None:
    """Let a model's forward pass run under bf16 autocast, if it is wanted; losses stay in fp32.

    Args:
        model: A module; its `forward` is replaced.
        wanted: Whether.
        to_float: Makes fp32 of what `forward` gives.
    """
    import torch

    if not wanted:
        return
    plain = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            given = plain(*args, **kwargs)
        return to_float(given)

    model.forward = forward

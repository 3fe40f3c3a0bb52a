"""What a model costs a server: numbers, bytes, memory and milliseconds."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from scalerec.bundle.bundle import Bundle
from scalerec.bundle.recommenders import OpenRecommender
from scalerec.config import Config
from scalerec.data.dataset import Dataset
from scalerec.errors import BundleError
from scalerec.models.layers import IntLinear
from scalerec.models.recommender import Recommender
from scalerec.scoring.timing import percentiles_ms, request_scorer, requests_of, time_in_turns

__all__ = [
    "CANDIDATES",
    "Cost",
    "Sizes",
    "count_numbers",
    "measure_cost",
    "measure_times",
    "own_resident_bytes",
    "resident_bytes",
    "sizes_of",
    "tensor_bytes",
]

CANDIDATES = (1, 100, 1_000)
ROWS_AT_A_TIME = 65_536
# Run in a process of its own: memory after everything is loaded, and what opening then adds.
PROBE = """
import gc, sys
from scalerec.bundle.recommenders import open_recommender
from scalerec.scoring.cost import own_resident_bytes
before = own_resident_bytes()
opened = open_recommender(sys.argv[1], verify=False)
gc.collect()
print(own_resident_bytes() - before)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes(Config):
    """How large a bundle is.

    Args:
        parameters: Numbers that the model holds: stored rows of tables, weights, biases, means. The
            scales of codes are none of them.
        nonzero: Those that are not zero.
        weight_bytes: Of the weights on disk.
        directory_bytes: Of all files, attachments aside.
        tensor_bytes: Of all tensors in memory, counted.
        resident_bytes: By how much a fresh process grows that opens it, with encoders, catalogue
            and users; none where the system does not tell.
    """

    parameters: int
    nonzero: int
    weight_bytes: int
    directory_bytes: int
    tensor_bytes: int
    resident_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost(Config):
    """What a server feels of a bundle.

    Args:
        sizes: Of the bundle.
        candidates: Candidates of the requests that were timed.
        p50_ms: Milliseconds in which half of the requests were answered on one thread, for each
            number of candidates.
        p99_ms: The same of 99 in 100.
    """

    sizes: Sizes
    candidates: tuple[int, ...]
    p50_ms: tuple[float, ...]
    p99_ms: tuple[float, ...]


def measure_cost(
    opened: OpenRecommender,
    dataset: Dataset,
    *,
    candidates: Sequence[int] = CANDIDATES,
    repeats: int = 300,
    split: str = "test",
) -> Cost:
    """Measure what a bundle costs.

    Args:
        opened: The bundle.
        dataset: Gives requests and the catalogue.
        candidates: Candidates of the requests, each at least 1.
        repeats: Requests that are timed for each, at least 1.
        split: Whose events are asked for.

    Raises:
        ConfigError: If a number is below 1.
        DataError: If the split has no rows.
    """
    times = measure_times(
        opened.recommender, dataset, candidates=candidates, repeats=repeats, split=split
    )
    return Cost(
        sizes=sizes_of(opened),
        candidates=tuple(candidates),
        p50_ms=tuple(half for half, _ in times),
        p99_ms=tuple(most for _, most in times),
    )


def measure_times(
    recommender: Recommender,
    dataset: Dataset,
    *,
    candidates: Sequence[int] = CANDIDATES,
    repeats: int = 300,
    split: str = "test",
) -> list[tuple[float, float]]:
    """The median and the 99th percentile, in milliseconds, for each number of candidates.

    Args:
        recommender: Any; it is scored in its quickest way, prepared before the clock starts.
        dataset: Gives requests and the catalogue.
        candidates: Candidates of the requests, each at least 1.
        repeats: Requests that are timed for each, at least 1.
        split: Whose events are asked for.

    Raises:
        ConfigError, DataError: As `measure_cost`.
    """
    scorer = request_scorer(recommender, dataset)
    found = []
    for number in candidates:
        requests = requests_of(dataset, number, min(repeats, 100), split=split)
        seconds = time_in_turns({"own": scorer}, requests, repeats)["own"]
        found.append(percentiles_ms(seconds))
    return found


def sizes_of(opened: OpenRecommender) -> Sizes:
    """How large a bundle is; see `Sizes`."""
    parameters, nonzero = count_numbers(opened.recommender)
    bundles = list(_chain(opened.bundle))
    weights = sum(
        entry.size
        for bundle in bundles
        for name, entry in bundle.files.items()
        if name.endswith(".safetensors")
    )
    return Sizes(
        parameters=parameters,
        nonzero=nonzero,
        weight_bytes=weights,
        directory_bytes=sum(bundle.num_bytes for bundle in bundles),
        tensor_bytes=tensor_bytes(opened.recommender),
        resident_bytes=resident_bytes(opened.bundle.path),
    )


@torch.no_grad()
def count_numbers(recommender: Recommender) -> tuple[int, int]:
    """The numbers that a recommender holds, and those of them that are not zero; see `Sizes`."""
    tables = recommender.tables
    size, filled = tables.num_weights, 0
    num_rows = sum(tables.num_rows.values())
    for start in range(0, num_rows, ROWS_AT_A_TIME):
        rows = torch.arange(start, min(start + ROWS_AT_A_TIME, num_rows), device=tables.device)
        filled += int(torch.count_nonzero(tables.engine.lookup(rows)))
    for name, module in recommender.named_modules():
        if not f"{name}.".startswith("tables."):
            own = list(_numbers(module))
            size += sum(tensor.numel() for tensor in own)
            filled += sum(int(torch.count_nonzero(tensor)) for tensor in own)
    return size, filled


def _numbers(module: nn.Module) -> Iterator[Tensor]:
    """The numbers that a module itself holds."""
    if isinstance(module, IntLinear):
        yield module.codes
        if module.bias is not None:
            yield module.bias
        return
    yield from module.parameters(recurse=False)
    # Counters of batches are whole numbers.
    yield from (own for own in module.buffers(recurse=False) if own.is_floating_point())


def tensor_bytes(recommender: Recommender) -> int:
    """The memory that all tensors of a recommender take, in bytes; shared memory counts once."""
    held = [*recommender.parameters(), *recommender.buffers()]
    held += [
        rows for rows in (own.rows for own in recommender.tables.maps.values()) if rows is not None
    ]
    storages = {own.untyped_storage().data_ptr(): own.untyped_storage().nbytes() for own in held}
    return sum(storages.values())


def resident_bytes(path: Path) -> int | None:
    """By how much a fresh process grows that opens a bundle, in bytes.

    Args:
        path: The bundle.

    Returns:
        None where the system does not tell a process's memory.

    Raises:
        BundleError: If it cannot be opened.
    """
    if own_resident_bytes() is None:
        return None
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-c", PROBE, str(path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no words"])[-1]
        raise BundleError(f"{path}: cannot be opened in a process of its own: {last}")
    return max(0, int(done.stdout))


def own_resident_bytes() -> int | None:
    """The memory that this process holds, in bytes; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    found = next((line.split()[1] for line in lines if line.startswith("VmRSS:")), None)
    return None if found is None else int(found) * 1024


def _chain(bundle: Bundle) -> Iterator[Bundle]:
    """A bundle and those that it stands on."""
    own: Bundle | None = bundle
    while own is not None:
        yield own
        own = own.base

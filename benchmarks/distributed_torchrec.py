"""A step of two processes: this package's own exchange beside TorchRec's, on the same batches.

DeepFM on generated Criteo-like data (26 fields of 100,000 ids, 13 numbers, dim 16, 3 x 400, a
global batch of 4096), rows by row-wise Adagrad fused into the backward pass, one thread a process,
in turns. TorchRec is measured row-wise and table-wise, with and without its pipeline; the best of
the four counts. Ours goes through memory that the processes share, and by gloo, as TorchRec does.
`benchmarks/distributed.py` takes what `compare` gives.

Usage: python benchmarks/distributed_torchrec.py [--work DIR] [--quick]
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Claim, summarise
from peers.child import MARK
from peers.criteo_like import CriteoLike, generate
from train_speed import NET, OURS, prepare_ours

__all__ = ["compare"]

HERE = Path(__file__).parent
OWN, SOCKETS = "scalerec", "scalerec over sockets"
INSIDE = "scalerec over sockets, TorchRec's tables"
PEERS = tuple(
    f"TorchRec {kind}{piped}" for kind in ("row", "table") for piped in ("", " pipelined")
)
WAYS = (OWN, SOCKETS, INSIDE, *PEERS)
STEPS_COMPARED = 10
EQUAL = 1e-5
ROWS = 100_000


def together(script: str, job: dict[str, Any], world: int) -> dict[str, Any]:
    """Run copies of a script of `peers` as the processes of a group; give process 0's outcome.

    Args:
        script: Its file name.
        job: What it reads.
        world: How many.

    Raises:
        RuntimeError: If one of them fails, with the end of what it wrote.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    common = {**os.environ, "OMP_NUM_THREADS": str(job["threads"]), "WORLD_SIZE": str(world)}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common["PYTHONPATH"] = str(HERE.parent / "src")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job), "utf-8")
        command = [sys.executable, str(HERE / "peers" / script), str(path)]
        pipe = subprocess.PIPE
        running = [
            subprocess.Popen(
                command, env={**common, "RANK": str(rank)}, stdout=pipe, stderr=pipe, text=True
            )
            for rank in range(world)
        ]
        try:
            texts = [process.communicate() for process in running]
        finally:
            for process in running:
                process.kill()
    for process, (_, err) in zip(running, texts, strict=True):
        if process.returncode:
            raise RuntimeError(f"{script} failed ({process.returncode}):\n{err[-3000:]}")
    (line,) = [line for line in texts[0][0].splitlines() if line.startswith(MARK)]
    outcome: dict[str, Any] = json.loads(line.removeprefix(MARK))
    return outcome


def compare(work: Path, *, quick: bool = False) -> tuple[dict[str, Any], list[Claim]]:
    """Figures and claims of both precisions.

    Args:
        work: Where the data are made.
        quick: Whether to take few steps, once.
    """
    figures: dict[str, Any] = {}
    claims: list[Claim] = []
    folder = work / "torchrec"
    generate(folder, CriteoLike(rows_per_field=ROWS, train=32 * NET["batch_size"], held_out=4096))
    prepare_ours(folder, "train", "test")
    for precision in ("fp32", "bf16"):
        size = {"turns": 1, "steps": 2} if quick else {"turns": 11, "steps": 8}
        job = {**NET, **OURS, **size, "threads": 1, "seed": 1, "folder": str(folder)}
        job |= {"train": "train", "rows_per_field": ROWS, "precision": precision}
        found = together("torchrec_steps.py", {**job, "ways": list(WAYS)}, world=2)
        head = f"two processes, {precision}"
        for way in WAYS:
            figures[f"{head}: {way}, ms a step"] = scaled(found["seconds"][way])
            figures[f"{head}: {way}, ms of both processors a step"] = scaled(found["worked"][way])
            figures[f"{head}: {way}, loss of the last steps"] = mean(found["losses"][way][-8:])
        claims += judged(head, found)
    return figures, claims


def judged(head: str, found: dict[str, Any]) -> list[Claim]:
    """What is claimed of one precision: by the clock, and by processor time."""
    claims = []
    for unit, kind in (("seconds", "time"), ("worked", "processor time")):
        middle = {way: summarise(own)["median"] for way, own in found[unit].items()}
        best = min(PEERS, key=middle.__getitem__)
        told = f"TorchRec's at its best ({best.removeprefix('TorchRec ')})"
        for name, way, own, own_name in (
            (told, best, OWN, "ours"),
            (told, best, SOCKETS, "ours over sockets"),
            ("our loop's with TorchRec's tables", INSIDE, SOCKETS, "ours over sockets"),
        ):
            text = f"{head}: {kind} of a step, {name}, times {own_name}"
            claims.append(Claim(text, middle[way] / middle[own], 1.0, at_least=True))
    if head.endswith("fp32"):
        ours, theirs = (found["losses"][way][:STEPS_COMPARED] for way in (OWN, INSIDE))
        apart = max(abs(a - b) / abs(a) for a, b in zip(ours, theirs, strict=True))
        name = f"{head}: losses of {STEPS_COMPARED} steps with TorchRec's tables, apart from ours"
        claims.append(Claim(name, apart, EQUAL, at_least=False))
    return claims


def scaled(seconds: list[float]) -> dict[str, float]:
    """A summary in milliseconds."""
    return summarise([1e3 * value for value in seconds])


def mean(values: list[float]) -> float:
    """Their mean."""
    return sum(values) / len(values)


def main() -> int:
    """Measure, and print; no result is written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "scalerec-distributed"
    parser.add_argument("--work", type=Path, default=default, help="where data are made")
    parser.add_argument("--quick", action="store_true", help="few steps, once")
    options = parser.parse_args()
    figures, claims = compare(options.work, quick=options.quick)
    for name, value in figures.items():
        print(name, round(value["median"] if isinstance(value, dict) else value, 4))
    for claim in claims:
        print(claim.name, round(claim.value, 8), "holds" if claim.holds else "does not hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())

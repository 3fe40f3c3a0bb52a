"""Measure messages between two processes of this machine; run as a program by `calibrate`."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import scalerec
from scalerec.distributed.group import Group, join_group
from scalerec.errors import GroupError

__all__ = ["measure_messages"]

SMALL, LARGE_BYTES, ROUNDS = 200, 4 * 2**20, 12
TIMEOUT_S = 120.0


def measure_messages() -> dict[str, float]:
    """Start two processes that talk to each other over loopback, as those of a run do.

    Returns:
        `latency_us`, `message_us`, `socket_ns`, `sum_ns`, `crowding` and `process_bytes`, as
        `Machine` has them.

    Raises:
        GroupError: If they fail.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    running = [_start(rank, port) for rank in range(2)]
    try:
        found = [process.communicate(timeout=TIMEOUT_S) for process in running]
    except subprocess.TimeoutExpired:
        raise GroupError(f"measuring messages took more than {TIMEOUT_S:.0f} s") from None
    finally:
        for process in running:
            process.kill()
    for process, (_, said) in zip(running, found, strict=True):
        if process.returncode:
            raise GroupError(f"measuring messages failed: {said.strip().splitlines()[-1:]}")
    both = [json.loads(out.splitlines()[-1]) for out, _ in found]
    return {name: (both[0][name] + both[1][name]) / 2 for name in both[0]}


def _start(rank: int, port: int) -> subprocess.Popen[str]:
    own = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    source = str(Path(scalerec.__file__).parents[1])
    paths = [source, os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, **{name: str(value) for name, value in own.items()}}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    command = [sys.executable, "-m", "scalerec.distributed.planning.messages"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, text=True, stdout=pipe, stderr=pipe)


def _measure(group: Group) -> dict[str, float]:
    """What one of the two processes sees."""
    resident = _resident_bytes()
    ones = torch.ones(2, dtype=torch.int64)
    wall, busy = _best(lambda: group.counts(ones), SMALL, ROUNDS)
    # The own half stays, so that half is sent and half is received.
    rows = torch.ones(LARGE_BYTES // 64, 16)
    half = [len(rows) // 2] * 2
    _, large = _best(lambda: group.exchange(rows, half, half, "rows"), 4, ROUNDS)
    copied = rows.clone()
    _, kept = _best(lambda: copied.copy_(rows), 4, ROUNDS)
    numbers = LARGE_BYTES // 4
    dense = [torch.zeros(numbers // 4) for _ in range(4)]

    def sum_dense() -> None:
        whole = group.sum(torch.cat([part.flatten() for part in dense]), "gradients")
        for part, mine in zip(dense, whole.split([len(part) for part in dense]), strict=True):
            part.copy_(mine)

    _, summed = _best(sum_dense, 4, ROUNDS)
    # What a process sends and receives: half of the rows, all of the sum's bytes.
    socket_s = max(0.0, large - busy - kept / 2) / (LARGE_BYTES // 2)
    sum_s = max(0.0, summed - busy - socket_s * LARGE_BYTES) / numbers
    return {
        "latency_us": wall * 1e6,
        "message_us": busy * 1e6,
        "socket_ns": socket_s * 1e9,
        "sum_ns": sum_s * 1e9,
        "crowding": _crowding(group),
        "process_bytes": float(resident),
    }


def _crowding(group: Group) -> float:
    """How much longer the same work takes while the other process works too."""
    left, right = torch.ones(512, 512), torch.ones(512, 512)
    table, rows = torch.ones(1 << 20, 17), torch.randint(1 << 20, (40_000,))

    def work() -> None:
        torch.mm(left, right)
        table.index_select(0, rows)

    alone = 0.0
    for turn in range(2):
        group.wait()
        if turn == group.rank:
            alone = _best(work, 8, ROUNDS)[1]
    group.wait()
    return max(1.0, _best(work, 8, ROUNDS)[1] / alone)


def _best(work: Callable[[], object], number: int, rounds: int) -> tuple[float, float]:
    """Time of the quickest round, and a core's time of the least busy one, for one call."""
    walls, cores = [], []
    for _ in range(rounds):
        wall, core = time.perf_counter(), time.process_time()
        for _ in range(number):
            work()
        walls.append((time.perf_counter() - wall) / number)
        cores.append((time.process_time() - core) / number)
    return min(walls), min(cores)


def _resident_bytes() -> int:
    text = Path("/proc/self/status").read_text("ascii")
    (line,) = (line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Be one of the two processes, and print what it sees."""
    torch.set_num_threads(1)
    with join_group(timeout_s=TIMEOUT_S) as group:
        found = _measure(group)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

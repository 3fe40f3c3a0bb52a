"""Measure messages between processes of this machine; run as a program by `calibrate`."""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from scalerec.distributed.group import Group, join_group
from scalerec.errors import GroupError

__all__ = ["measure_messages"]

LARGE_BYTES, ROUNDS = 4 * 2**20, 60
TIMEOUT_S = 120.0


def measure_messages() -> dict[str, float]:
    """Let two processes, then four, talk to each other over loopback, as those of a run do.

    Returns:
        `latency_us`, `message_us`, `peer_us`, `socket_ns`, `sum_ns`, `crowding` and
        `process_bytes`, as `Machine` has them.

    Raises:
        GroupError: If they fail.
    """
    two, four = _run(2), _run(4)
    # Four processes have three others, two have one.
    return {**two, "peer_us": max(0.0, (four["message_us"] - two["message_us"]) / 2)}


def _run(world: int) -> dict[str, float]:
    """What so many processes see, on average."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    running = [_start(rank, world, port) for rank in range(world)]
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
    seen = [json.loads(out.splitlines()[-1]) for out, _ in found]
    return {name: statistics.mean(own[name] for own in seen) for name in seen[0]}


def _start(rank: int, world: int, port: int) -> subprocess.Popen[str]:
    own = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    source = str(Path(__file__).parents[3])
    paths = [source, os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, **{name: str(value) for name, value in own.items()}}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    command = [sys.executable, "-m", "scalerec.distributed.planning.messages"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, text=True, stdout=pipe, stderr=pipe)


def _measure(group: Group) -> dict[str, float]:
    """What one of the processes sees."""
    resident = _resident_bytes()
    ones = torch.ones(group.world, dtype=torch.int64)
    wall, busy = _middle(lambda: group.counts(ones), ROUNDS)
    if group.world > 2:
        return {"message_us": busy * 1e6}
    # The own half stays, so that half is sent and half is received.
    rows = torch.ones(LARGE_BYTES // 64, 16)
    half = [len(rows) // 2] * 2
    _, large = _middle(lambda: group.exchange(rows, half, half, "rows"), ROUNDS)
    numbers = LARGE_BYTES // 4
    whole = torch.zeros(numbers)
    dense = [torch.zeros(numbers // 4) for _ in range(4)]
    _, ring = _middle(lambda: group.sum(whole, "gradients"), ROUNDS)

    def rearrange() -> None:
        joined = torch.cat([part.flatten() for part in dense])
        for part, mine in zip(dense, joined.split([len(part) for part in dense]), strict=True):
            part.copy_(mine)

    _, arranged = _middle(rearrange, ROUNDS)
    # A process sends and receives half of the rows, and all of the sum's bytes.
    socket_s = max(0.0, large - busy) / (LARGE_BYTES // 2)
    sum_s = (max(0.0, ring - 2 * busy - socket_s * LARGE_BYTES) + arranged) / numbers
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
        for _ in range(4):
            torch.mm(left, right)
            table.index_select(0, rows)

    alone = 0.0
    for turn in range(2):
        group.wait()
        if turn == group.rank:
            alone = _middle(work, ROUNDS)[1]
    group.wait()
    return max(1.0, _middle(work, ROUNDS)[1] / alone)


def _middle(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """The middle of some calls' times, and of a core's times.

    Between two calls the caches are filled with something else, as a step does.
    """
    walls, cores = [], []
    other = torch.ones(8 * 2**20)
    for _ in range(rounds):
        other.add_(1.0)
        wall, core = time.perf_counter(), time.process_time()
        work()
        cores.append(time.process_time() - core)
        walls.append(time.perf_counter() - wall)
    return statistics.median(walls), statistics.median(cores)


def _resident_bytes() -> int:
    text = Path("/proc/self/status").read_text("ascii")
    (line,) = (line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Be one of the processes, and print what it sees."""
    torch.set_num_threads(1)
    with join_group(timeout_s=TIMEOUT_S) as group:
        found = _measure(group)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

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
from typing import Any

import torch

from scalerec.distributed.group import Group, join_group
from scalerec.distributed.planning.machine import MessageCosts
from scalerec.errors import GroupError

__all__ = ["measure_messages"]

LARGE_BYTES, ROUNDS = 4 * 2**20, 60
WAYS = ("sockets", "shared")
MANY = 8
TIMEOUT_S = 300.0


def measure_messages() -> dict[str, Any]:
    """Let two processes, then eight, talk to each other as those of a run do.

    Returns:
        `sockets`, over loopback, and `shared`, through memory, as `Machine` has them; and
        `crowding` and `process_bytes`.

    Raises:
        GroupError: If they fail.
    """
    two, eight = _run(2), _run(MANY)
    found: dict[str, Any] = {name: two[name] for name in ("crowding", "process_bytes")}
    for way in WAYS:
        own = {name: two[f"{way}.{name}"] for name in ("message_us", "byte_ns", "sum_ns")}
        more = max(0.0, (eight[f"{way}.message_us"] - own["message_us"]) / (MANY - 2))
        found[way] = MessageCosts(**own, peer_us=more)
    return found


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
    """What one of the processes sees of one way to send messages."""
    ones = torch.ones(group.world, dtype=torch.int64)
    busy = _middle(lambda: group.counts(ones), ROUNDS)
    if group.world > 2:
        return {"message_us": busy * 1e6}
    # The own half stays, so that half is sent and half is received.
    rows = torch.ones(LARGE_BYTES // 64, 16)
    half = [len(rows) // 2] * 2
    large = _middle(lambda: group.exchange(rows, half, half, "rows"), ROUNDS)
    numbers = LARGE_BYTES // 4
    dense = [torch.zeros(numbers // 4) for _ in range(4)]
    summed = _middle(lambda: group.sum_all(dense, "gradients"), ROUNDS)
    # A process sends and receives half of the rows, and all of the sum's bytes.
    byte_s = max(0.0, large - busy) / (LARGE_BYTES // 2)
    sum_s = max(0.0, summed - busy - byte_s * LARGE_BYTES) / numbers
    return {"message_us": busy * 1e6, "byte_ns": byte_s * 1e9, "sum_ns": sum_s * 1e9}


def _crowding(group: Group) -> float:
    """How much longer the same work takes while the other process works too."""
    left, right = torch.ones(512, 512), torch.ones(512, 512)
    table, rows = torch.ones(1 << 20, 17), torch.randint(1 << 20, (40_000,))

    def work() -> None:
        for _ in range(4):
            torch.mm(left, right)
            table.index_select(0, rows)

    alone = 0.0
    for turn in range(group.world):
        group.wait()
        if turn == group.rank:
            alone = _middle(work, ROUNDS)
    group.wait()
    return max(1.0, _middle(work, ROUNDS) / alone)


def _middle(work: Callable[[], object], rounds: int) -> float:
    """The middle of a core's times for a call.

    Between two calls the caches are filled with something else, as a step does.
    """
    cores = []
    other = torch.ones(8 * 2**20)
    for _ in range(rounds):
        other.add_(1.0)
        core = time.process_time()
        work()
        cores.append(time.process_time() - core)
    return statistics.median(cores)


def _resident_bytes() -> int:
    text = Path("/proc/self/status").read_text("ascii")
    (line,) = (line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Be one of the processes, and print what it sees."""
    torch.set_num_threads(1)
    with join_group(timeout_s=TIMEOUT_S, shared=False) as group:
        found = {"process_bytes": float(_resident_bytes()), "crowding": _crowding(group)}
        for way in WAYS:
            # Where memory cannot be shared, messages of one host go over loopback too.
            if way == "shared":
                group.share_memory(TIMEOUT_S)
            found |= {f"{way}.{name}": value for name, value in _measure(group).items()}
        group.wait()
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""What an all-reduce of gloo sends, counted by the network interface of each process.

Started as a script it makes hosts out of network namespaces, runs itself on each of them with its
rank, and prints what each gave, as JSON. Exit code 77: namespaces are not permitted here.
"""

import importlib
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

PORT = 29411
REPEATS = 3


def sent_bytes(interface: str) -> int:
    """What has left by an interface of this process's network, with all headers."""
    for line in Path("/proc/self/net/dev").read_text("ascii").splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == interface:
            return int(numbers.split()[8])
    raise RuntimeError(f"there is no interface {interface}")


def member(rank: int, world: int, num_numbers: int, interface: str, master: str) -> dict[str, int]:
    """Sum a tensor over all processes some times; bytes sent for one, and the tensor's."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    how: dict[str, Any] = {"rank": rank, "world_size": world, "timeout": timedelta(seconds=120)}
    dist.init_process_group("gloo", init_method=f"tcp://{master}:{PORT}", **how)
    value = torch.ones(num_numbers)
    # The first connects.
    dist.all_reduce(value)
    dist.barrier()
    sent = []
    for _ in range(REPEATS):
        before = sent_bytes(interface)
        value = torch.full((num_numbers,), rank + 1.0)
        dist.all_reduce(value)
        assert float(value[-1]) == world * (world + 1) / 2
        dist.barrier()
        sent.append(sent_bytes(interface) - before)
    # The least: a busy machine makes the network send some parts twice.
    found = {"sent": min(sent), "tensor": value.nbytes}
    # Nobody leaves before all have counted.
    dist.barrier()
    dist.destroy_process_group()
    return found


def main() -> None:
    """Make the hosts, or be one of them."""
    if sys.argv[1] == "member":
        rank, world, num_numbers = map(int, sys.argv[2:5])
        print(json.dumps(member(rank, world, num_numbers, *sys.argv[5:])), flush=True)
        # At once: threads of gloo that wait for a process that is gone would hold this one up.
        os._exit(0)
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    links: Any = importlib.import_module("hosts_links")
    links.enter_sandbox()
    world = int(sys.argv[1])
    hosts, master = links.Hosts(world, links.Link()), links.address(1)
    running = []
    for rank in range(world):
        own = ["member", str(rank), str(world), sys.argv[2], links.INTERFACE, master]
        command = [sys.executable, __file__, *own]
        running.append(hosts.start(rank + 1, command, stdout=subprocess.PIPE))
    found = [process.communicate()[0] for process in running]
    print(json.dumps([json.loads(text) for text in found]))


if __name__ == "__main__":
    main()

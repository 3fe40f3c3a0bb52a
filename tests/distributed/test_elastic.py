"""The number of hosts changes while a run is on: it goes on from the last checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.distributed.workers import free_port

from scalerec.bundle import read_bundle
from scalerec.data.dataset import Dataset

TIMEOUT_S = 300
# How soon the agents notice that one is gone, and how long they wait for more; its defaults, a
# quarter and half a minute, are made for hosts that come and go more slowly than tests.
RENDEZVOUS = "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=2"
ARGUMENTS = (
    *("--model", "deepfm", "--epochs", "24", "--batch-size", "16", "--threads", "1", "--json"),
    *("--set", "model.dim=4", "--set", "model.hidden=[8]", "--set", "precision=fp32"),
    *("--set", "tables.optimiser=rowwise_adagrad", "--set", "patience=-1"),
    # `--resume`, as torchrun does not tell those that start anew because one has come.
    *("--set", "checkpoint_steps=20", "--resume"),
)


def environment() -> dict[str, str]:
    path = os.pathsep.join(p for p in sys.path if p)
    # Else an agent that stays does not tell one that comes where the processes meet (torch 2.13,
    # `DynamicRendezvousHandler.next_rendezvous`), and both give up after a minute.
    anew = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return {**os.environ, **anew, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


@contextmanager
def agents(data: Dataset, out: Path) -> Iterator[Any]:
    """A function that starts an agent of torchrun, a host with one process; all end at the end."""
    port = free_port()
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        conf = f"is_host={int(not started)},{RENDEZVOUS}"
        how = ["--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3", "--rdzv-backend=c10d"]
        how += [f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-conf={conf}", "--rdzv-id=test"]
        run = [sys.executable, "-m", "torch.distributed.run", *how, "--local-addr=127.0.0.1"]
        given = ["-m", "scalerec.distributed", str(data.directory), "--out", str(out), *ARGUMENTS]
        log = out.with_name(f"{out.name}.agent{len(started)}.txt").open("w", encoding="utf-8")
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": log, "text": True}
        # A session of its own: what is killed is the agent with its process, as a host is.
        agent = subprocess.Popen([*run, *given], env=environment(), start_new_session=True, **pipes)
        log.close()
        started.append(agent)
        return agent

    try:
        yield start
    finally:
        for agent in started:
            kill_host(agent)


def kill_host(agent: subprocess.Popen[str]) -> None:
    """An agent and its processes, at once: the agent first, or it would start new ones."""
    for pid in [agent.pid, *children(agent.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    agent.wait()
    if agent.stdout:
        agent.stdout.close()


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text("ascii").split()] if path.exists() else []


def wait_for_step(out: Path, step: int, world: int, agent: subprocess.Popen[str]) -> int:
    """Wait until a checkpoint of so many processes is at least at a step; give its step."""
    pointer = out.with_name(f"{out.name}.checkpoint") / "checkpoint.json"
    ends = time.monotonic() + TIMEOUT_S
    while time.monotonic() < ends:
        assert agent.poll() is None, logs(out)
        try:
            facts = json.loads(pointer.read_text("utf-8"))
            found = int(facts["folder"].split("-")[1])
            if facts["world"] == world and found >= step:
                return found
        except FileNotFoundError:
            pass
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint of {world} processes at step {step}\n{logs(out)}")


def logs(out: Path) -> str:
    return "\n".join(path.read_text("utf-8") for path in out.parent.glob(f"{out.name}.agent*"))


def losses(out: Path) -> list[float]:
    text = read_bundle(out).attachment("curves.json")
    return [step["train/loss"] for step in json.loads(text)["steps"]]


@pytest.mark.slow
def test_hosts_go_and_come(simulated: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "elastic"
    with agents(simulated, out) as start:
        stays, goes = start(), start()
        left = wait_for_step(out, 60, 2, stays)
        kill_host(goes)
        alone = wait_for_step(out, left + 60, 1, stays)
        comes = start()
        both = wait_for_step(out, alone + 40, 2, stays)
        said, _ = stays.communicate(timeout=TIMEOUT_S)
        assert stays.returncode == 0, logs(out)
        assert comes.wait(TIMEOUT_S) == 0, logs(out)
    assert left < alone < both
    (line,) = (line for line in said.splitlines() if line.startswith('{"bundle"'))
    found = json.loads(line)
    whole = tmp_path / "undisturbed"
    command = [sys.executable, "-m", "scalerec", "train", str(simulated.directory)]
    command += ["--out", str(whole), *ARGUMENTS]
    pipes: dict[str, Any] = {"capture_output": True, "text": True, "timeout": TIMEOUT_S}
    done = subprocess.run(command, env=environment(), check=True, **pipes)
    wanted = json.loads(done.stdout.splitlines()[-1])
    assert found["steps"] == wanted["steps"] == 3600
    # The same global batches, in whatever number of processes: to the rounding of float32 over
    # 3,600 steps, where 1e-3 is allowed over 100.
    assert losses(out) == pytest.approx(losses(whole), rel=1e-3)
    assert found["valid"] == pytest.approx(wanted["valid"], abs=2e-3)

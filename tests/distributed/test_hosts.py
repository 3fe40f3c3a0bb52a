"""Training across hosts: namespaces of this machine with limited links, `examples/hosts.py`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from scalerec.bundle import read_bundle
from scalerec.data.dataset import Dataset

EXAMPLE = Path(__file__).parents[2] / "examples" / "hosts.py"
NOT_PERMITTED = 77
TIMEOUT_S = 300
MARK = "SCALEREC_TEST_MARK"
MBIT = 20

# A tower that sends enough for the frames' headers to be few beside it.
ARGUMENTS = (
    *("--model", "deepfm", "--epochs", "1", "--batch-size", "256", "--threads", "1", "--json"),
    *("--set", "model.dim=8", "--set", "model.hidden=[256,128]", "--set", "precision=fp32"),
    *("--set", "tables.optimiser=rowwise_adagrad", "--sharding", "row"),
)

# Of Ethernet, IP and TCP: 66 of 1,514 bytes in full frames, one acknowledgement of 66 bytes for
# one or two of them, and frames that are not full: together less than a sixth.
HEADERS = 1 / 6
# The rendezvous of torchrun, its heartbeats, the store and connecting; and what the probe leaves.
BESIDES = 600_000


def environment(mark: Path | str = "") -> dict[str, str]:
    path = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, MARK: str(mark)}


def train_on_hosts(
    report: Path, options: Sequence[str], arguments: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the example reports, and what training gave; skips where hosts cannot be made."""
    command = [sys.executable, str(EXAMPLE), *options, "--report", str(report), "--", *arguments]
    found = call(command, report)
    if found.returncode == NOT_PERMITTED:
        pytest.skip(found.stderr.strip())
    assert found.returncode == 0, found.stdout + found.stderr
    assert not namespaces_of(report)
    return json.loads(report.read_text("utf-8")), outcome(found.stdout)


def call(command: Sequence[str], mark: Path) -> subprocess.CompletedProcess[str]:
    how: dict[str, Any] = {"env": environment(mark), "capture_output": True, "text": True}
    return subprocess.run(command, **how, timeout=TIMEOUT_S, check=False)


def outcome(said: str) -> dict[str, Any]:
    """What `scalerec train --json` printed."""
    (line,) = (line for line in said.splitlines() if line.startswith('{"bundle"'))
    return dict(json.loads(line))


def namespaces_of(mark: Path) -> set[str]:
    """The network namespaces, beside our own, of all processes that were started with a mark."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.add(str((folder / "ns/net").readlink()))
        except OSError:  # gone, or not ours
            continue
    return found - {str(Path("/proc/self/ns/net").readlink())}


def named_namespaces() -> set[str]:
    names = Path("/run/netns")
    return {path.name for path in names.iterdir()} if names.is_dir() else set()


def compare(folder: Path, data: Dataset, world: int, *options: str) -> dict[str, Any]:
    """Train on hosts and in as many processes of this one: the link changes nothing.

    Two numbers have one sum, and the bundles are the same to the last bit. Of more processes the
    order differs: on one host gloo adds up in shared memory, between hosts along a ring. That is
    the last place of a float32, below 1e-6 of weights below 1.
    """
    given = [str(data.directory), *ARGUMENTS, "--out"]
    there = [*given, str(folder / "hosts")]
    report, found = train_on_hosts(folder / "report.json", ["--hosts", str(world), *options], there)
    here = [sys.executable, "-m", "scalerec", "train", *given, str(folder / "processes")]
    # Of all processes of this machine together.
    here[here.index("--threads") + 1] = str(world)
    done = call([*here, "--nproc", str(world)], folder / "processes")
    assert done.returncode == 0, done.stderr
    wanted = outcome(done.stdout)
    bundles = [read_bundle(folder / name) for name in ("hosts", "processes")]
    if world == 2:
        assert bundles[0].digest == bundles[1].digest == found["bundle"] == wanted["bundle"]
        assert found["valid"] == wanted["valid"]
    for name in bundles[0].tensor_infos():
        own, other = (bundle.tensor(name) for bundle in bundles)
        torch.testing.assert_close(own, other, rtol=0, atol=1e-6)
    # Which host has which rank is torchrun's to say, so all hosts are counted together.
    counted = sum(sum(own["sent"].values()) for own in found["traffic"])
    carried = sum(own["sent"] for own in report["interfaces"].values())
    assert counted < carried < counted * (1 + HEADERS) + world * BESIDES
    return {**report, **found}


def test_two_hosts_train_as_two_processes_of_one(simulated: Dataset, tmp_path: Path) -> None:
    report = compare(tmp_path, simulated, 2, "--rate", f"{MBIT}mbit", "--delay-ms", "5")
    link = report["link"]
    # Frames have headers, so that less than the rate comes through; a busy machine adds to it.
    assert 0.2 * MBIT < link["bits_per_second"] / 1e6 < MBIT
    assert 10.0 <= link["round_trip_ms"] < 1000.0
    # What training sent went over the line while it trained: at most at the rate.
    for own in report["traffic"]:
        sent = sum(own["sent"][name] for name in ("gradients", "rows", "gradients of rows"))
        assert sent > 1_000_000
        assert sent * 8 / report["seconds"] < MBIT * 1e6


@pytest.mark.slow
def test_four_hosts_train_as_four_processes_of_one(simulated: Dataset, tmp_path: Path) -> None:
    compare(tmp_path, simulated, 4, "--rate", "100mbit")


@pytest.mark.slow
def test_local_steps_and_codecs_spare_the_link(tmp_path: Path) -> None:
    script = EXAMPLE.with_name("hosts_compare.py")
    options = ["--rates", "10mbit", "--events", "10000"]
    found = call([sys.executable, str(script), *options], tmp_path / "mark")
    if found.returncode == NOT_PERMITTED:
        pytest.skip(found.stderr.strip())
    assert found.returncode == 0, found.stdout + found.stderr
    rows = [line.split() for line in found.stdout.splitlines()[1:]]
    sent = {" ".join(row[1:-3]): float(row[-3]) for row in rows}
    plain = sent["every step, float32"]
    # Sixteen steps send once what one sends; what else travels (weights, rows' states, headers,
    # torchrun's own) keeps the ratio below that.
    assert sent["local, 16 steps"] < plain / 4
    assert sent["every step, compressed"] < plain / 4
    assert sent["local, compressed"] < sent["local, 16 steps"]
    assert sent["local, compressed"] < plain / 8


SLEEPER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from hosts_links import Hosts, Link, enter_sandbox
enter_sandbox()
hosts = Hosts(2, Link(rate=1e6, delay_ms=1))
for host in hosts.numbers:
    hosts.start(host, ["sleep", "1000"])
Path(sys.argv[2]).touch()
time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left(number: int, tmp_path: Path) -> None:
    named = named_namespaces()
    mark, script = tmp_path / "started", tmp_path / "sleeper.py"
    script.write_text(SLEEPER, "utf-8")
    command = [sys.executable, str(script), str(EXAMPLE.parent), str(mark)]
    process = subprocess.Popen(command, env=environment(mark), start_new_session=True)
    try:
        wait_until(lambda: mark.exists() or process.poll() is not None)
        if process.poll() == NOT_PERMITTED:
            pytest.skip("hosts cannot be made on this machine")
        # The switch and two hosts.
        wait_until(lambda: len(namespaces_of(mark)) == 3)
        process.send_signal(number)
        process.wait(TIMEOUT_S)
    finally:
        process.kill()
    wait_until(lambda: not namespaces_of(mark))
    assert named_namespaces() <= named


CROWD = """
import json, sys
sys.path.insert(0, sys.argv[1])
from hosts import address, probe
from hosts_links import Hosts, Link, call, enter_sandbox
enter_sandbox()
link = Link(rate=2e7, delay_ms=5)
hosts = Hosts(3, link)
flood = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
flood += "end = time.monotonic() + 1; to = (sys.argv[1], 9)"
flood = "import sys;" + flood + chr(10) + "while time.monotonic() < end: s.sendto(bytes(1400), to)"
senders = [hosts.start(h, [sys.executable, "-c", flood, address(1)]) for h in (2, 3)]
codes = [process.wait() for process in senders]
(queue,) = json.loads(call("tc", "-s", "-j", "qdisc", "show", "dev", "port1"))
after = probe(hosts, link)
print(json.dumps({"codes": codes, "dropped": queue["drops"], "after": after}))
"""


def test_a_queue_that_is_full_drops_and_the_link_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "crowd.py"
    script.write_text(CROWD, "utf-8")
    found = call([sys.executable, str(script), str(EXAMPLE.parent)], tmp_path)
    if found.returncode == NOT_PERMITTED:
        pytest.skip(found.stderr.strip())
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout.splitlines()[-1])
    assert told["codes"] == [0, 0]
    # Two hosts at the full rate are twice what one takes.
    assert told["dropped"] > 0
    assert 0 < told["after"]["bits_per_second"] < 2e7


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_cannot_be_is_said() -> None:
    for options, words in (
        (["--hosts", "1", "x"], "--hosts must be at least 2; got 1"),
        (["--rate", "fast", "x"], "a rate is like 512kbit, 20mbit or 1gbit, or none; got 'fast'"),
    ):
        command = [sys.executable, str(EXAMPLE), *options]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 2
        assert words in found.stderr
    nothing = {**os.environ, "PATH": "/nonexistent"}
    command = [sys.executable, str(EXAMPLE), "x"]
    found = subprocess.run(command, env=nothing, capture_output=True, text=True, check=False)
    assert found.returncode == NOT_PERMITTED
    assert "hosts cannot be made on this machine: these commands are missing" in found.stderr

"""What goes wrong with one process, and what the others and a person get to know of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed.fault_workers import MODULE
from tests.distributed.workers import run

from scalerec._version import __version__
from scalerec.bundle import read_bundle
from scalerec.cli import main
from scalerec.data.dataset import Dataset

SPEC: dict[str, Any] = {"model": "deepfm", "settings": {"dim": 4, "hidden": [8]}, "init_std": 0.1}
CONFIG: dict[str, Any] = {
    **{"batch_size": 64, "epochs": 1, "precision": "fp32", "checkpoint_seconds": 0},
    **{"checkpoint_steps": 7, "tables": {"optimiser": "rowwise_adagrad", "lr": 0.05}},
}
SETTINGS = (
    *("--set", "model.dim=4", "--set", "model.hidden=[8]", "--set", "checkpoint_steps=5"),
    *("--set", "tables.optimiser=rowwise_adagrad", "--set", "precision=fp32"),
    *("--set", "patience=-1", "--batch-size", "32", "--threads", "1"),
)
PATIENCE_S = 120.0
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program; it ends with the test."""
    running = []

    def begin(*words: str, **env: str) -> subprocess.Popen[str]:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-m", *words], env=env, text=True, **pipes)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + PATIENCE_S
    while not path.is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} did not come"
        time.sleep(0.01)


def members(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """The processes that a launcher has started: their rank to their number in the system."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            words = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        ranks = [int(word[5:]) for word in words if word.startswith(b"RANK=")]
        if parent == str(launcher.pid) and ranks:
            found[ranks[0]] = int(folder.name)
    return found


def train_words(data: Dataset, out: Path, *more: str) -> tuple[str, ...]:
    return ("train", str(data.directory), "--out", str(out), *SETTINGS, *more)


def kill_one(start: Start, data: Dataset, out: Path, epochs: str) -> tuple[str, str]:
    """Train in two processes, kill one within an epoch, and give what a person reads."""
    many = ("--nproc", "2", "--sharding", "row", "--json")
    words = train_words(data, out, "--epochs", epochs, *many)
    launcher = start("scalerec", *words)
    wait_for(out.with_name(f"{out.name}.checkpoint") / "checkpoint.json", launcher)
    os.kill(members(launcher)[1], signal.SIGKILL)
    found, told = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 0, told
    again = "process 1 was ended by SIGKILL; starting again from the last checkpoint (1 of 3)"
    assert told.splitlines().count(again) == 1
    assert "Traceback" not in told
    return found, told


def test_a_killed_process_is_started_again(
    start: Start, simulated: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends where one process that nothing happened to ends."""
    found, _ = kill_one(start, simulated, tmp_path / "killed", "2")
    killed = json.loads(found)
    assert main([*train_words(simulated, tmp_path / "alone", "--epochs", "2"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert killed["steps"] == alone["steps"]
    # Sums over two processes have another order.
    assert killed["valid"] == pytest.approx(alone["valid"], abs=1e-4)
    assert killed["parameters"] == alone["parameters"]
    assert not (tmp_path / "killed.checkpoint").exists()
    bundle = read_bundle(tmp_path / "killed")
    traffic = bundle.attachment_json("traffic.json")["processes"]
    assert traffic == killed["traffic"]
    assert [set(own) for own in traffic] == [{"sent", "received"}] * 2
    distributed = bundle.lineage[-1].settings["distributed"]
    assert isinstance(distributed, dict)
    assert distributed["processes"] == 2
    other = read_bundle(tmp_path / "alone").tensors()
    for name, tensor in bundle.tensors().items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_killed_run_gives_the_very_bundle_of_an_undisturbed_one(
    start: Start, simulated: Dataset, tmp_path: Path
) -> None:
    found, _ = kill_one(start, simulated, tmp_path / "killed", "3")
    many = ("--nproc", "2", "--sharding", "row", "--json")
    words = train_words(simulated, tmp_path / "calm", "--epochs", "3", *many)
    calm, told = start("scalerec", *words).communicate(timeout=PATIENCE_S)
    assert json.loads(found)["bundle"] == json.loads(calm)["bundle"], told


def test_a_stopped_process_is_given_up(start: Start, simulated: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = train_words(simulated, out, "--epochs", "1000", "--nproc", "2", "--timeout", "5")
    launcher = start("scalerec", *words)
    wait_for(tmp_path / "out.checkpoint" / "checkpoint.json", launcher)
    both = members(launcher)
    os.kill(both[1], signal.SIGSTOP)
    found, told = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 1
    assert found == ""
    error = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert error[0].startswith("error: process 0 of 2: ")
    assert "another process is gone, was stopped, or cannot be reached" in error[0]
    assert "Traceback" not in told
    # The stopped one is gone too.
    assert not any(Path(f"/proc/{number}").exists() for number in both.values())
    assert not out.exists()


def test_an_interrupt_ends_all(start: Start, simulated: Dataset, tmp_path: Path) -> None:
    words = train_words(simulated, tmp_path / "out", "--epochs", "1000", "--nproc", "2")
    launcher = start("scalerec", *words)
    wait_for(tmp_path / "out.checkpoint" / "checkpoint.json", launcher)
    both = members(launcher)
    launcher.send_signal(signal.SIGINT)
    _, told = launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 1
    assert told.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in told
    assert not any(Path(f"/proc/{number}").exists() for number in both.values())


def test_a_port_in_use(start: Start, simulated: Dataset, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        words = train_words(simulated, tmp_path / "out")[1:]
        process = start("scalerec.distributed", *words, **env)
        found, told = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, found) == (1, "")
    assert told.startswith(f"error: process 0 of 2 cannot join the others at 127.0.0.1:{port}: ")
    assert "in use" in told
    assert len(told.splitlines()) == 1, told


def test_a_stranger_is_refused_before_the_first_step() -> None:
    for own in run(2, "refuse", module=MODULE):
        good, data, settings, version = own["texts"]
        assert good == ""
        same = "; all processes of a run need the same"
        one, other = ("eeeeeeeeeeee...", "dddddddddddd...")
        assert data == f"process 1 has the data set {one}, process 0 has {other}{same}"
        setting = "process 1 has setting tables.lr 0.5, process 0 has 0.25, and 1 more differ"
        assert settings == setting + same
        assert version == f"process 1 has scalerec 0.0.9, process 0 has {__version__}{same}"


def test_a_full_disk_leaves_the_earlier_checkpoint(simulated: Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "run.checkpoint"
    job: dict[str, Any] = {"spec": SPEC, "config": CONFIG, "folder": str(folder)}
    found = run(2, "full_disk", module=MODULE, data=str(simulated.directory), **job)
    for own in found:
        assert own["text"].startswith(f"process 1: {folder}/step-14-of-2/1: the checkpoint cannot")
        assert "the earlier one, if any, stays; make room and go on with --resume" in own["text"]
        assert (own["saved"], own["step"]) == ([7], 7)
        assert own["files"] == ["checkpoint.json", "step-7-of-2"]
        assert own["equal"]
        assert own["best"][0] == own["best"][1]


@pytest.mark.parametrize(
    ("words", "text", "code"),
    [
        (("--nproc", "2", "--sharding", "sideways"), "distributed: sharding must be one of", 2),
        (("--nproc", "2", "--set", "epochs=0"), "epochs must be at least 1; got 0", 2),
    ],
)
def test_wrong_settings_are_told_before_anything_starts(
    words: tuple[str, ...],
    text: str,
    code: int,
    simulated: Dataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*train_words(simulated, tmp_path / "out"), *words]) == code
    told = capsys.readouterr().err
    assert text in told
    assert len(told.splitlines()) == 1

"""What a launcher finds out, and what a process owes it; no process is started here."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scalerec.cli.several import traffic_table
from scalerec.distributed.config import DistributedConfig
from scalerec.distributed.launching import find_cause, without_options
from scalerec.distributed.member import tell_failure, threads_of_each, was_restarted
from scalerec.errors import GroupError, TrainError


@dataclass
class Ended:
    exitcode: int
    message: Any = ""
    timestamp: int = 100


def told(kind: str, text: str, exitcode: int = 1, timestamp: int = 100) -> Ended:
    return Ended(exitcode, {"kind": kind, "message": text}, timestamp)


def test_the_cause_is_not_its_consequence() -> None:
    lost = told("GroupError", "process 0 of 3: process 1 is gone")
    found = find_cause({0: lost, 1: told("TrainError", "step 3: loss is nan"), 2: Ended(-15)})
    assert (found.rank, found.text) == (1, "process 1: step 3: loss is nan")
    assert (found.code, found.is_kill) == (1, False)


def test_wrong_usage_is_told_once() -> None:
    found = find_cause({0: Ended(-15), 1: told("ConfigError", "epochs must be 1", exitcode=2)})
    assert (found.text, found.code, found.is_kill) == ("epochs must be 1", 2, False)


def test_a_killed_process_may_be_started_again() -> None:
    lost = told("GroupError", "process 0 of 2: process 1 is gone")
    found = find_cause({0: lost, 1: Ended(-9)})
    assert (found.rank, found.text) == (1, "process 1 was ended by SIGKILL")
    assert found.is_kill
    # By somebody, not by the agent, which ends processes that way only when one has failed.
    assert find_cause({0: Ended(-15), 1: Ended(-15)}).text == "process 0 was ended by SIGTERM"


def test_a_stopped_process_is_no_killed_one() -> None:
    """The agent kills it some seconds after another one has given it up."""
    late = told("GroupError", "process 0 of 2: timed out", timestamp=100)
    found = find_cause({0: late, 1: Ended(-9, timestamp=106)})
    assert (found.rank, found.text, found.is_kill) == (0, "process 0 of 2: timed out", False)


def test_a_process_that_told_nothing() -> None:
    assert find_cause({1: Ended(3)}).text == "process 1 ended with exit code 3"


def test_options_of_the_launcher_go() -> None:
    words = ["data", "--nproc", "2", "--out", "x", "--launcher=torchrun", "--nproc=2", "--resume"]
    assert without_options(words, ["--nproc", "--launcher"]) == ["data", "--out", "x", "--resume"]


def test_a_failure_is_told_as_torchrun_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("RANK", "3")
    tell_failure(TrainError("x"), "step 3: loss is nan")
    message = json.loads((tmp_path / "error.json").read_text())["message"]
    assert (message["message"], message["kind"]) == ("step 3: loss is nan", "TrainError")
    assert message["extraInfo"]["py_callstack"] == "step 3: loss is nan"
    assert capsys.readouterr().err == "error: process 3: step 3: loss is nan\n"
    tell_failure(GroupError("x"), "process 3 of 4: gone")
    assert capsys.readouterr().err == "error: process 3 of 4: gone\n"
    monkeypatch.setenv("SCALEREC_LAUNCHED", "0")
    tell_failure(TrainError("x"), "told by the launcher")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["SCALEREC_LAUNCHED", "TORCHELASTIC_RESTART_COUNT"])
def test_a_process_knows_whether_it_was_started_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not was_restarted()
    monkeypatch.setenv(name, "0")
    assert not was_restarted()
    monkeypatch.setenv(name, "2")
    assert was_restarted()


def test_threads_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_of_each(6) == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert [threads_of_each(n) for n in (1, 4, 11, 16)] == [1, 1, 2, 4]
    assert threads_of_each(0) >= 1


def test_traffic_by_purpose() -> None:
    one = {"sent": {"ids": 10, "rows": 4}, "received": {"ids": 6, "rows": 4}}
    other = {"sent": {"ids": 30}, "received": {"ids": 8}}
    columns, rows = traffic_table([one, other])
    assert len(columns) == 5
    assert rows == [["ids", 20, 30, 7, 8], ["rows", 2, 4, 2, 4]]


def test_only_what_decides_the_weights_is_remembered() -> None:
    config = DistributedConfig.from_dict({"sharding": "table", "timeout_s": 3.0})
    assert config.shaping(1) == {}
    found = config.shaping(2)
    assert found == DistributedConfig().shaping(2)
    assert (found["processes"], found["codec"]) == (2, "none")
    assert "local_steps" not in found
    local = DistributedConfig.from_dict({"aggregate": "local", "local_steps": 4}).shaping(2)
    assert local["local_steps"] == 4

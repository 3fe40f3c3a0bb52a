"""What single sinks do beyond the contract."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.errors import ConfigError, DataError, MissingExtraError
from scalerec.track import (
    SINKS,
    Fanout,
    JsonlSink,
    MemorySink,
    Sink,
    SinkEntry,
    TensorBoardSink,
    WandbSink,
    open_sinks,
    read_jsonl,
)
from scalerec.track.sinks import merge_rows

# Lines


def test_a_line_is_on_its_way_at_once(tmp_path: Path) -> None:
    sink = JsonlSink(tmp_path / "deep" / "log.jsonl")
    sink.log(1, {"train/loss": float("nan"), "lr": 0.25})
    assert sink.path.read_bytes() == b'{"step": 1, "train/loss": null, "lr": 0.25}\n'
    sink.close()


@given(st.integers(min_value=0, max_value=400))
def test_a_log_cut_anywhere_goes_on(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    sink = JsonlSink(path)
    for step in range(10):
        sink.log(step, {"train/loss": step / 8})
    sink.close()
    text = path.read_bytes()[:cut]
    path.write_bytes(text)
    whole = text.count(b"\n")
    assert [row["step"] for row in read_jsonl(path)] == list(range(whole))
    resumed = JsonlSink(path, resume=True)
    resumed.log(99, {"lr": 0.5})
    resumed.close()
    assert [row["step"] for row in read_jsonl(path)] == [*range(whole), 99]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_half_line_longer_than_a_block_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n' + b"x" * 200_000)
    JsonlSink(path, resume=True).close()
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_killed_run_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from scalerec.track.jsonl import JsonlSink\n"
        "sink = JsonlSink(sys.argv[1])\n"
        "for step in range(5):\n"
        "    sink.log(step, {'lr': 0.5})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "log.jsonl"
    source = str(Path(__file__).parents[2] / "src")
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": source},
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert [row["step"] for row in read_jsonl(path)] == [0, 1, 2, 3, 4]


def test_two_runs_do_not_share_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n')
    with pytest.raises(ConfigError) as caught:
        JsonlSink(path)
    assert str(caught.value) == f"{path}: holds the log of an earlier run; resume it or remove it"
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the log cannot be written: Is a directory"):
        JsonlSink(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"the log cannot be written: File exists"):
        TensorBoardSink(tmp_path / "file")


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    sinks: list[Sink] = [JsonlSink(tmp_path / "log.jsonl"), TensorBoardSink(tmp_path)]
    for sink in sinks:
        sink.close()
        with pytest.raises(ConfigError, match="the log is closed"):
            sink.log(1, {"lr": 0.5})


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"lr": 1}', '{"step": null}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(DataError) as caught:
        read_jsonl(path)
    assert str(caught.value) == f"{path}: line 2 must be a table with a step; got {line!r}"


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log.jsonl: cannot be read: No such file"):
        read_jsonl(tmp_path / "log.jsonl")


# Memory and fan-out


def test_rows_of_a_step_become_one() -> None:
    sink = MemorySink()
    sink.log(5, {"valid/auc": 0.5})
    sink.log(0, {"train/loss": 1.0, "lr": float("inf")})
    sink.log(5, {"valid/auc": 0.75, "seconds": 2.0})
    assert sink.rows() == [
        {"step": 0, "train/loss": 1.0, "lr": None},
        {"step": 5, "valid/auc": 0.75, "seconds": 2.0},
    ]
    assert sink.series("valid/auc") == [(5, 0.5), (5, 0.75)]


def test_merging_leaves_the_rows_alone() -> None:
    rows: list[dict[str, float | int | None]] = [{"step": 1, "a": 1.0}, {"step": 1, "a": 2.0}]
    assert merge_rows(rows) == [{"step": 1, "a": 2.0}]
    assert rows[0] == {"step": 1, "a": 1.0}


class Stubborn(MemorySink):
    """Fails when it is closed."""

    def close(self) -> None:
        raise OSError("disk full")


def test_every_sink_is_closed_though_one_fails(tmp_path: Path) -> None:
    last = JsonlSink(tmp_path / "log.jsonl")
    with pytest.raises(OSError, match="disk full"):
        Fanout([Stubborn(), last]).close()
    with pytest.raises(ConfigError, match="closed"):
        last.log(1, {})


# Services


@pytest.mark.parametrize(
    ("environment", "mode", "expected"),
    [
        ({}, None, "offline"),
        ({"WANDB_API_KEY": "secret"}, None, "online"),
        ({"WANDB_API_KEY": "secret", "WANDB_MODE": "disabled"}, None, "disabled"),
        ({"WANDB_API_KEY": "secret"}, "offline", "offline"),
        ({}, "online", "online"),
    ],
)
def test_mode_of_wandb(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    mode: Any,
    expected: str,
) -> None:
    seen: dict[str, str] = {}
    module: Any = ModuleType("wandb")
    module.init = lambda **settings: seen.update(settings)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    WandbSink("films", tmp_path, mode)
    assert seen["mode"] == expected


def test_settings_of_wandb_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="project must have a name; got ' '"):
        WandbSink(" ", tmp_path)
    wrong: Any = "sometimes"
    with pytest.raises(ConfigError, match="mode must be online or offline; got 'sometimes'"):
        WandbSink("films", tmp_path, wrong)


def test_an_absent_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"tensorboard .* 'scalerec\[track\]'"):
        TensorBoardSink(tmp_path)
    with pytest.raises(MissingExtraError, match=r"wandb .* 'scalerec\[track\]'"):
        WandbSink("films", tmp_path)


# By name


@pytest.mark.parametrize(
    "word", ["csv", "", "jsonl:log", "wandb:", "tensorboard:", "wandb: ", "JSONL"]
)
def test_an_unknown_word_is_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_sinks(["jsonl", word], tmp_path)
    allowed = "jsonl, tensorboard, wandb, wandb:PROJECT"
    assert str(caught.value) == f"a sink must be one of {allowed}; got {word!r}"
    assert not (tmp_path / "log.jsonl").exists()


def test_a_sink_comes_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sink 'wandb' is given 2 times"):
        open_sinks(["wandb", "wandb:films"], tmp_path)
    with pytest.raises(ConfigError, match="sinks must be a list of words; got 'jsonl'"):
        open_sinks("jsonl", tmp_path)


def test_resuming_by_name(tmp_path: Path) -> None:
    for step, resume in ((1, False), (2, True)):
        sinks = open_sinks(["jsonl"], tmp_path, resume=resume)
        sinks.log(step, {"lr": 0.5})
        sinks.close()
    assert [row["step"] for row in read_jsonl(tmp_path / "log.jsonl")] == [1, 2]


def test_sinks_are_closed_when_a_later_one_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[JsonlSink] = []

    def open_one(directory: Path, _argument: str, _resume: bool) -> JsonlSink:
        opened.append(JsonlSink(directory / "log.jsonl"))
        return opened[-1]

    monkeypatch.setitem(SINKS, "jsonl", SinkEntry(open=open_one))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError):
        open_sinks(["jsonl", "wandb"], tmp_path)
    with pytest.raises(ConfigError, match="closed"):
        opened[0].log(1, {})

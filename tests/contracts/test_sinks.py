"""What every sink promises: one suite over all members; a new one joins by adding a row."""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scalerec.errors import ConfigError
from scalerec.track import (
    SINKS,
    Fanout,
    JsonlSink,
    MemorySink,
    Sink,
    TensorBoardSink,
    WandbSink,
    open_sinks,
    read_jsonl,
)

Points = list[tuple[int, float | None]]


@dataclass
class FakeRun:
    """Stands in for a run of Weights & Biases."""

    settings: dict[str, str]
    logged: list[dict[str, float]] = field(default_factory=list)
    finished: int = 0

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


class FakeWandb(ModuleType):
    """Stands in for the module, which the tests do not need to be installed."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[FakeRun] = []

    def init(self, **settings: str) -> FakeRun:
        self.runs.append(FakeRun(settings))
        return self.runs[-1]


@pytest.fixture(autouse=True)
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return module


def _from_jsonl(sink: Any, _folder: Path, name: str) -> Points:
    return [(int(row["step"] or 0), row[name]) for row in read_jsonl(sink.path) if name in row]


def _from_tensorboard(_sink: Any, folder: Path, name: str) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tb"))
    events.Reload()
    if name not in events.Tags()["scalars"]:
        return []
    return [(event.step, _none(event.value)) for event in events.Scalars(name)]


def _from_wandb(_sink: Any, _folder: Path, name: str) -> Points:
    module: Any = sys.modules["wandb"]
    rows = module.runs[0].logged
    return [(int(row["step"]), _none(row[name])) for row in rows if name in row]


def _from_memory(sink: Any, _folder: Path, name: str) -> Points:
    return [(step, _none(value)) for step, value in sink.series(name)]


def _from_fanout(sink: Any, folder: Path, name: str) -> Points:
    first, second = sink.sinks
    points = _from_memory(first, folder, name)
    assert _from_jsonl(second, folder, name) == points
    return points


def _none(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Member:
    """How a sink is made in a folder, and how one value is read back after it was closed."""

    make: Callable[[Path], Sink]
    read: Callable[[Any, Path, str], Points]


MEMBERS = {
    "jsonl": Member(lambda folder: JsonlSink(folder / "log.jsonl"), _from_jsonl),
    "tensorboard": Member(lambda folder: TensorBoardSink(folder / "tb"), _from_tensorboard),
    "wandb": Member(lambda folder: WandbSink("tests", folder), _from_wandb),
    "memory": Member(lambda _: MemorySink(), _from_memory),
    "fanout": Member(
        lambda folder: Fanout([MemorySink(), JsonlSink(folder / "log.jsonl")]), _from_fanout
    ),
}


@pytest.fixture(params=MEMBERS)
def member(request: pytest.FixtureRequest) -> Member:
    return MEMBERS[request.param]


def test_the_suite_covers_the_table() -> None:
    assert set(SINKS) <= set(MEMBERS)


def test_values_arrive_in_order(member: Member, tmp_path: Path) -> None:
    sink = member.make(tmp_path)
    assert isinstance(sink, Sink)
    sink.log(0, {"train/loss": 0.75, "lr": 1})
    sink.log(10, {"train/loss": 0.5})
    sink.log(10, {"valid/ndcg@10": 0.25})
    sink.close()
    # All of these are exact in 32 bits, which is what TensorBoard keeps.
    assert member.read(sink, tmp_path, "train/loss") == [(0, 0.75), (10, 0.5)]
    assert member.read(sink, tmp_path, "lr") == [(0, 1.0)]
    assert member.read(sink, tmp_path, "valid/ndcg@10") == [(10, 0.25)]
    assert member.read(sink, tmp_path, "absent") == []


def test_numbers_that_are_not_finite_are_taken(member: Member, tmp_path: Path) -> None:
    sink = member.make(tmp_path)
    for step, value in enumerate([math.nan, math.inf, -math.inf, 0.5]):
        sink.log(step, {"train/loss": value})
    sink.close()
    points = member.read(sink, tmp_path, "train/loss")
    assert points == [(0, None), (1, None), (2, None), (3, 0.5)]


def test_the_callers_values_are_left_alone(member: Member, tmp_path: Path) -> None:
    sink = member.make(tmp_path)
    values = {"train/loss": 0.5}
    sink.log(1, values)
    values["train/loss"] = 9.0
    sink.log(2, values)
    sink.close()
    assert values == {"train/loss": 9.0}
    assert member.read(sink, tmp_path, "train/loss") == [(1, 0.5), (2, 9.0)]


def test_closing_twice_does_nothing(member: Member, tmp_path: Path) -> None:
    sink = member.make(tmp_path)
    sink.log(1, {"lr": 0.5})
    sink.close()
    sink.close()
    assert member.read(sink, tmp_path, "lr") == [(1, 0.5)]


@pytest.mark.parametrize(
    ("step", "values", "message"),
    [
        (-1, {"lr": 0.5}, "step must be a whole number of at least 0; got -1"),
        (True, {"lr": 0.5}, "step must be a whole number of at least 0; got True"),
        (1, {"": 0.5}, "the name of a value must be text other than 'step'; got ''"),
        (1, {"step": 0.5}, "the name of a value must be text other than 'step'; got 'step'"),
        (1, {"lr": "high"}, "value 'lr' must be a number; got 'high'"),
    ],
)
def test_wrong_values_are_refused_whole(
    member: Member, tmp_path: Path, step: int, values: dict[str, Any], message: str
) -> None:
    sink = member.make(tmp_path)
    with pytest.raises(ConfigError) as caught:
        sink.log(step, {"train/loss": 0.5, **values})
    assert str(caught.value) == message
    sink.close()
    assert member.read(sink, tmp_path, "train/loss") == []


def test_every_name_of_the_table_opens(tmp_path: Path, wandb: FakeWandb) -> None:
    fanout = open_sinks(["jsonl", "tensorboard", "wandb:films"], tmp_path)
    fanout.log(3, {"lr": 0.5})
    fanout.close()
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 3, "lr": 0.5}
    assert [path.name[:7] for path in (tmp_path / "tensorboard").iterdir()] == ["events."]
    assert wandb.runs[0].settings == {
        "project": "films",
        "dir": str(tmp_path),
        "mode": "offline",
    }
    assert wandb.runs[0].finished == 1

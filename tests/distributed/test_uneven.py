"""Runs on shards of unequal size: all take equally many steps, and no row is seen twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.distributed.workers import run
from tests.train.toys import narrow

from scalerec.data.batches import Bag
from scalerec.data.dataset import Dataset
from scalerec.data.frames import empty_batch
from scalerec.data.layout import BagField, IdField, Layout
from scalerec.data.loading import Loader
from scalerec.data.schema import Role, Task
from scalerec.distributed.skew import ShardReport, count_distinct
from scalerec.errors import TrainError
from scalerec.rounds import skew_of
from scalerec.train import OneProcess, TrainConfig, train

PARTITIONS = ("batch", "contiguous", "user", "hashed", "balanced")
LOCAL = "user, local steps"
WORLD = 3
# 240 training rows, of which no process has 80 where users stay whole; batches of 20, 20 and 19.
CONFIG: dict[str, Any] = {
    "batch_size": 59,
    "epochs": 2,
    "negatives": 2,
    "precision": "fp32",
    "patience": -1,
    "schedule": {"name": "cosine"},
    "tables": {"optimiser": "rowwise_adagrad", "lr": 0.05},
}


@pytest.fixture(scope="module")
def found(rated: Dataset) -> list[dict[str, Any]]:
    """What each process gave, by partition."""
    spec = {"model": "deepfm", "settings": {"dim": 4, "hidden": [8], "dropout": 0.1}}
    cases = {partition: {"partition": partition} for partition in PARTITIONS}
    local: dict[str, Any] = {"partition": "user", "aggregate": "local", "local_steps": 3}
    job: dict[str, Any] = {"data": str(rated.directory), "spec": spec, "config": CONFIG}
    return run(
        WORLD, "shards", module="tests.distributed.steps", cases={**cases, LOCAL: local}, **job
    )


@pytest.mark.parametrize("partition", [*PARTITIONS, LOCAL])
def test_every_row_once_an_epoch(
    partition: str, found: list[dict[str, Any]], rated: Dataset
) -> None:
    own = [process[partition] for process in found]
    times = sorted(rated.split("train").column("time").tolist())
    for epoch in range(CONFIG["epochs"]):
        seen = [process["seen"][epoch] for process in own]
        assert sorted(time for part in seen for batch in part for time in batch) == times
        assert len({len(part) for part in seen}) == 1
    # All tell the same of the run, to the last bit.
    steps = own[0]["report"]["steps"]
    assert {process["steps"] for process in own} == {steps * CONFIG["epochs"]}
    assert own[1]["curve"] == own[2]["curve"] == own[0]["curve"]
    assert len(own[0]["curve"]) == CONFIG["epochs"]


@pytest.mark.parametrize("partition", PARTITIONS)
def test_the_report_is_of_what_was_seen(
    partition: str, found: list[dict[str, Any]], rated: Dataset
) -> None:
    own = [process[partition] for process in found]
    report, table = own[0]["report"], own[0]["table"]
    assert all(process["report"] == report for process in own)
    events = rated.split("train")
    place = {time: row for row, time in enumerate(events.column("time").tolist())}
    lookups = events.num_ids(slice(0, len(events)))
    for rank, process in enumerate(own):
        batches = process["seen"][0]
        rows = [place[time] for batch in batches for time in batch]
        assert report["rows"]["sizes"][rank] == len(rows)
        assert report["idle_steps"][rank] == sum(not batch for batch in batches)
        mean = float(events.column("labels")[rows, 0].mean(dtype=np.float64))
        assert report["labels"]["liked"][rank] == pytest.approx(mean, rel=1e-12)
        assert report["lookups"][rank] == int(lookups[rows].sum())
        distinct = [
            count_distinct(
                rated.layout, events.take(np.array([place[time] for time in batch], int))
            )
            for batch in batches
        ]
        assert report["distinct_ids"][rank] == pytest.approx(np.mean(distinct), rel=1e-12)
        assert report["sent"][rank] > 0 < report["received"][rank]
    assert sum(report["sent"]) == sum(report["received"])
    columns, rows_ = table
    assert columns[:4] == ["process", "rows", "idle steps", "mean liked"]
    assert all(len(row) == len(columns) for row in rows_)
    assert [row[1] for row in rows_[:-1]] == report["rows"]["sizes"]


def test_balanced_is_the_most_even(found: list[dict[str, Any]]) -> None:
    ratios = {}
    for partition in ("user", "balanced"):
        lookups = found[0][partition]["report"]["lookups"]
        ratios[partition] = max(lookups) / np.mean(lookups)
    # Twelve users, each dealt whole.
    assert ratios["balanced"] < 1.1 < ratios["user"]


def test_a_report_by_hand() -> None:
    report = ShardReport(
        partition="user",
        steps=4,
        idle_steps=(0, 3),
        rows=skew_of([30, 10], [0.5, None]),
        labels={"liked": (0.5, None)},
        lookups=(60, 20),
        distinct_ids=(7.0, 1.23456),
        sent=(0, 0),
        received=(5, 15),
    )
    columns, rows = report.table()
    assert columns == [
        "process", "rows", "idle steps", "mean liked", "ids looked up", "distinct a step",
        "bytes sent", "received",
    ]  # fmt: skip
    assert rows == [
        ["0", 30, 0, 0.5, 60, 7, 0, 5],
        ["1", 10, 3, None, 20, 1, 0, 15],
        ["largest / mean", "1.500", "", "", "1.500", "1.700", "", "1.500"],
    ]
    assert report.to_dict()["rows"]["label_rates"] == (0.5, None)
    assert ShardReport.from_dict(report.to_dict()) == report


def test_distinct_ids_by_hand() -> None:
    layout = Layout(
        ids=tuple(IdField(name=name, role=Role.USER, table="t") for name in "ab"),
        bags=(BagField(name="c", role=Role.USER, table="u", max_length=3),),
        tables={"t": 9, "u": 9},
        tasks=(Task(name="y"),),
    )
    batch = empty_batch(layout, 2)
    batch.ids[:] = torch.tensor([[3, 0], [3, 4]])
    bag = Bag(torch.tensor([3, 3, 5]), torch.tensor([0, 1, 3]))
    object.__setattr__(batch, "bags", (bag,))
    assert count_distinct(layout, batch) == 4  # 3 and 4 of t, 3 and 5 of u


class Divided(OneProcess):
    """One process whose rows are divided in a way of some name."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order

    def make_loader(self, dataset: Dataset, config: TrainConfig) -> Loader:
        loader = super().make_loader(dataset, config)
        loader.order = self.order
        return loader


def test_within_an_epoch_the_division_must_stay(
    rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig.from_dict({"epochs": 2, "batch_size": 80, "checkpoint_steps": 1})

    def go(order: str, resume: bool = True) -> int:
        runtime = Divided(order)
        return train(
            rated, narrow(), config, runtime=runtime, checkpoints=tmp_path, resume=resume
        ).num_steps

    def stop_after(steps: int) -> None:
        real = OneProcess.write_checkpoint

        def write(self: OneProcess, folder: Path, checkpoint: Any) -> None:
            real(self, folder, checkpoint)
            if checkpoint.state["step"] == steps:
                raise KeyboardInterrupt

        monkeypatch.setattr(OneProcess, "write_checkpoint", write)

    # Three steps an epoch: first within one, then at its end.
    stop_after(2)
    with pytest.raises(KeyboardInterrupt):
        go("user, 2 shards", resume=False)
    words = "rows were divided by user, 2 shards, now by user, 3 shards; resume in as many"
    with pytest.raises(TrainError, match=words):
        go("user, 3 shards")
    stop_after(3)
    with pytest.raises(KeyboardInterrupt):
        go("user, 2 shards")
    monkeypatch.undo()
    assert go("user, 3 shards") == 6

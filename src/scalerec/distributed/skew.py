"""How uneven the work of the processes of a run is: rows, labels, and what travels for them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
import torch

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.layout import Layout
from scalerec.data.loading import Loader
from scalerec.data.parts import EventsPart
from scalerec.distributed.runtime import Processes
from scalerec.rounds import Skew, skew_of
from scalerec.train.config import TrainConfig

__all__ = ["ShardReport", "shard_report"]

# Batches that are read to count the distinct ids of a step.
STEPS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What each process has to do in an epoch, by rank.

    Args:
        partition: How the training rows are divided.
        steps: Steps of an epoch, the same for all.
        idle_steps: Steps in which a process has no row.
        rows: Sizes, and mean labels of the first task, with how uneven they are.
        labels: Task to its mean label; None where a process has no known one.
        lookups: Ids that the rows look up, repeats included.
        distinct_ids: Distinct ids of a step, the mean of the first steps of the first epoch.
        sent: Bytes sent until now, for every purpose.
        received: Bytes received until now.
    """

    partition: str
    steps: int
    idle_steps: tuple[int, ...]
    rows: Skew
    labels: dict[str, tuple[float | None, ...]]
    lookups: tuple[int, ...]
    distinct_ids: tuple[float, ...]
    sent: tuple[int, ...]
    received: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(**{**values, "rows": Skew(**values["rows"])})

    def table(self) -> tuple[list[str], list[list[object]]]:
        """Columns and rows for a person: a process a row, then the largest against the mean."""
        tasks = [f"mean {task}" for task in self.labels]
        head = ["process", "rows", "idle steps", *tasks]
        columns = [*head, "ids looked up", "distinct a step", "bytes sent", "received"]
        parts = zip(
            self.rows.sizes,
            self.idle_steps,
            *self.labels.values(),
            self.lookups,
            map(round, self.distinct_ids),
            self.sent,
            self.received,
            strict=True,
        )
        rows: list[list[object]] = [
            [str(rank), *map(_plain, own)] for rank, own in enumerate(parts)
        ]
        most = (self.lookups, self.distinct_ids, self.sent, self.received)
        blank = [""] * (1 + len(tasks))
        ratios = [_show(ratio_of(values)) for values in most]
        rows.append(["largest / mean", _show(self.rows.size_ratio), *blank, *ratios])
        return columns, rows


def shard_report(dataset: Dataset, config: TrainConfig, runtime: Processes) -> ShardReport:
    """Find how uneven the processes' work is; all of them must ask at once, and all are told.

    Nothing of the rows is read but labels and lengths of lists, and the batches of a few steps.

    Args:
        dataset: What is trained on.
        config: The settings of training.
        runtime: The processes, with what they have sent to each other until now.
    """
    loader = runtime.make_loader(dataset, config)
    own = _own_facts(dataset, loader)
    own["sent"] = sum(runtime.group.traffic.sent.values())
    own["received"] = sum(runtime.group.traffic.received.values())
    found = runtime.group.gather_facts(own)

    def of_all(name: str) -> tuple[Any, ...]:
        return tuple(facts[name] for facts in found)

    labels = {
        task.name: tuple(facts["labels"][number] for facts in found)
        for number, task in enumerate(dataset.schema.tasks)
    }
    return ShardReport(
        partition=runtime.config.partition,
        steps=loader.steps_per_epoch,
        idle_steps=of_all("idle_steps"),
        rows=skew_of(of_all("rows"), next(iter(labels.values()))),
        labels=labels,
        lookups=of_all("lookups"),
        distinct_ids=of_all("distinct_ids"),
        sent=of_all("sent"),
        received=of_all("received"),
    )


def _own_facts(dataset: Dataset, loader: Loader) -> dict[str, Any]:
    """What this process has to do in the first epoch."""
    events, whole = loader.events, dataset.split("train")
    labels = whole.column("labels")
    sums, known = np.zeros(labels.shape[1]), np.zeros(labels.shape[1], np.int64)
    rows = lookups = idle = 0
    for numbers in loader.rows(0):
        own = events.numbers(numbers) if isinstance(events, EventsPart) else numbers
        values = np.asarray(labels[own], np.float64)
        sums += np.nansum(values, axis=0)
        known += (~np.isnan(values)).sum(axis=0)
        rows, idle = rows + len(own), idle + (not len(own))
        lookups += int(whole.num_ids(own).sum())
    first = [events.take(numbers) for numbers in islice(loader.rows(0), STEPS)]
    distinct = [count_distinct(dataset.layout, batch) for batch in first]
    return {
        "rows": rows,
        "idle_steps": idle,
        "labels": [float(s / n) if n else None for s, n in zip(sums, known, strict=True)],
        "lookups": lookups,
        "distinct_ids": sum(distinct) / max(1, len(distinct)),
    }


def count_distinct(layout: Layout, batch: Batch) -> int:
    """Distinct ids that a batch looks up, padding left out.

    Args:
        layout: Names the table of each field.
        batch: The rows.
    """
    ids: dict[str, list[torch.Tensor]] = {}
    for field, own in zip(layout.ids, batch.ids, strict=True):
        ids.setdefault(field.table, []).append(own)
    for bag_field, bag in zip(layout.bags, batch.bags, strict=True):
        ids.setdefault(bag_field.table, []).append(bag.values)
    return sum(int((torch.cat(parts).unique() != 0).sum()) for parts in ids.values())


def ratio_of(values: Sequence[float]) -> float | None:
    """The largest against the mean: 1 is even. None if all are 0."""
    mean = sum(values) / len(values)
    return max(values) / mean if mean else None


def _show(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"


def _plain(value: float | int | None) -> object:
    return value if isinstance(value, int) else None if value is None else round(value, 4)

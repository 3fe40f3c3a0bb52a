"""What a process does in the tests of codecs and local steps: `run(..., module=MODULE)`."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.loading import Loader
from scalerec.distributed import DistributedConfig, Group, Processes, join_group
from scalerec.models.engines import RemoteEngine
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.train import Learner, TrainConfig, train
from scalerec.train.checkpoints import Checkpoint

__all__ = ["MODULE", "batches_of"]

MODULE = "tests.distributed.rounds_workers"


def batches_of(dataset: Dataset, config: TrainConfig, rank: int, world: int) -> Iterator[Batch]:
    """A process's part of each batch, epoch after epoch."""
    events, share = dataset.split("train"), (rank, world)
    loader = Loader(events, config.batch_size, config.seed, share=share)
    number = 0
    while True:
        yield from loader.epoch(number)
        number += 1


class Run:
    """One case: a learner of this process, and its batches.

    Args:
        dataset: The data.
        group: The processes.
        case: `spec`, `config` and `distributed`, as JSON has them.
    """

    def __init__(self, dataset: Dataset, group: Group, case: dict[str, Any]) -> None:
        spec, config = ModelSpec.from_dict(case["spec"]), TrainConfig.from_dict(case["config"])
        self.runtime = Processes(group, DistributedConfig.from_dict(case["distributed"]))
        make_tables = self.runtime.make_tables(config.tables)
        recommender = build_recommender(dataset.layout, spec, config.seed, make_tables)
        self.learner = Learner(recommender, dataset, config, self.runtime)
        self.batches = batches_of(dataset, config, group.rank, group.world)

    def go(self, rounds: Sequence[int]) -> None:
        """Take rounds of so many steps each; one where all processes step at once."""
        for steps in rounds:
            batches = list(islice(self.batches, steps))
            if self.runtime.local_steps:
                self.learner.begin_round(batches)
            for batch in batches:
                self.learner.step(batch, 1.0)
            if self.runtime.local_steps:
                self.learner.end_round()

    def tensors(self) -> dict[str, Tensor]:
        """The dense part, and all rows of all tables as one matrix."""
        recommender = self.learner.recommender
        tables = recommender.tables
        rows = tables.matrix
        if isinstance(tables.engine, RemoteEngine):
            fetched = tables.engine.fetch(torch.arange(sum(tables.num_rows.values())))
            rows = fetched.rows_mw[fetched.places]
        dense = {n: p.detach().clone() for n, p in recommender.dense_parameters().items()}
        return {**dense, "rows": rows.clone()}


def rounds(job: dict[str, Any]) -> dict[str, Any]:
    """Weights of several cases after some rounds, and what was sent."""
    dataset, sent = Dataset(job["data"]), {}
    with join_group() as group:
        for name, case in job["cases"].items():
            group.traffic.sent.clear()
            own = Run(dataset, group, case)
            own.go(case["rounds"])
            sent[name] = dict(group.traffic.sent)
            save_file(own.tensors(), Path(job["folder"]) / f"{name} {group.rank}.safetensors")
    return sent


def resuming(job: dict[str, Any]) -> dict[str, Any]:
    """Rounds without a break, and with a checkpoint between; weights that differ at the end."""
    dataset, found = Dataset(job["data"]), {}
    with join_group() as group:
        for name, case in job["cases"].items():
            folder = Path(job["folder"]) / name
            whole = Run(dataset, group, case)
            whole.go(case["rounds"])
            state = {"step": sum(case["rounds"])}
            checkpoint = Checkpoint(whole.learner.tensors(), state)
            whole.runtime.write_checkpoint(folder, checkpoint)
            again = Run(dataset, group, case)
            read = again.runtime.read_checkpoint(folder)
            assert read is not None
            again.learner.load(read.tensors, state["step"])
            again.batches = islice(again.batches, state["step"], None)
            for run in (whole, again):
                run.go(case["rounds"])
            pairs = zip(whole.tensors().items(), again.tensors().values(), strict=True)
            found[name] = [n for (n, tensor), other in pairs if not torch.equal(tensor, other)]
    return found


def going_on(job: dict[str, Any]) -> dict[str, Any]:
    """What this process reads of a checkpoint that another number of processes wrote."""
    dataset = Dataset(job["data"])
    with join_group() as group:
        run = Run(dataset, group, job["case"])
        folder = Path(job["folder"])
        if job["write"]:
            run.go(job["case"]["rounds"])
            state = {"step": sum(job["case"]["rounds"])}
            tensors = run.learner.tensors()
            run.runtime.write_checkpoint(folder, Checkpoint(tensors, state))
        else:
            read = run.runtime.read_checkpoint(folder)
            assert read is not None
            tensors = dict(read.tensors)
        heads = ("own.", "optimiser.")
        sums = {n: float(t.double().sum()) for n, t in tensors.items() if n.startswith(heads)}
        if not job["write"]:
            run.learner.load(tensors, 0)
            run.go(job["case"]["rounds"])
        return sums


def whole(job: dict[str, Any]) -> dict[str, Any]:
    """A whole training run."""
    dataset, case = Dataset(job["data"]), job["case"]
    spec, config = ModelSpec.from_dict(case["spec"]), TrainConfig.from_dict(case["config"])
    with join_group() as group:
        runtime = Processes(group, DistributedConfig.from_dict(case["distributed"]))
        found = train(dataset, spec, config, runtime=runtime, checkpoints=job["folder"])
        losses = [entry["train/loss"] for entry in found.curve]
        return {"best": found.best, "steps": found.num_steps, "curve": losses}


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "going_on": going_on,
    "resuming": resuming,
    "rounds": rounds,
    "whole": whole,
}


def main() -> None:
    """Do one task, and print what it gives as the last line."""
    torch.set_num_threads(1)
    print(json.dumps(TASKS[sys.argv[1]](json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()

"""What a process of a test of TorchRec does; see `tests.distributed.workers`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scalerec.data.dataset import Dataset
from scalerec.data.loading import Loader
from scalerec.distributed import DistributedConfig, Group, Processes, join_group
from scalerec.distributed.collecting import lend_tables
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.train import Learner, TrainConfig
from scalerec.train.checkpoints import Checkpoint

ENGINES = ("scalerec", "torchrec")


class Run:
    """A few steps of training with some settings.

    Args:
        group: The processes.
        job: Data, spec and config.
        distributed: Settings of the processes.
        tables: Settings of the tables.
    """

    def __init__(
        self, group: Group, job: dict[str, Any], distributed: dict[str, Any], tables: dict[str, Any]
    ) -> None:
        dataset = Dataset(job["data"])
        config = TrainConfig.from_dict({**job["config"], "tables": tables})
        self.group = group
        self.runtime = Processes(group, DistributedConfig.from_dict(distributed))
        make_tables = self.runtime.make_tables(config.tables)
        spec = ModelSpec.from_dict(job["spec"])
        self.recommender = build_recommender(dataset.layout, spec, config.seed, make_tables)
        self.learner = Learner(self.recommender, dataset, config, self.runtime)
        share = (group.rank, group.world)
        loader = Loader(dataset.split("train"), config.batch_size, config.seed, share=share)
        self.batches = (batch for epoch in range(100) for batch in loader.epoch(epoch))
        self.valid = dataset.split("valid").read(0, 20)

    def losses(self, steps: int) -> list[float]:
        """Losses of the whole batches of some further steps."""
        found = []
        for _ in range(steps):
            loss = torch.tensor([self.learner.step(next(self.batches), 1.0)], dtype=torch.float64)
            found.append(float(self.group.sum(loss, "losses")))
        return found

    def scores(self) -> list[float]:
        """Of some rows, without a gradient, as evaluation has it."""
        with torch.inference_mode():
            return [float(score) for score in self.recommender.eval()(self.valid).flatten()]


def losses(group: Group, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each case and engine: losses, scores after them, what is kept, and whole tables."""
    found = []
    for case in job["cases"]:
        given: dict[str, Any] = {}
        for engine in ENGINES:
            run = Run(group, job, {**case["distributed"], "engine": engine}, case["tables"])
            given[engine] = run.losses(job["steps"])
            given[f"{engine} scores"] = run.scores()
            tensors = run.recommender.tables.to_tensors()
            given[f"{engine} kept"] = {name: list(t.shape) for name, t in tensors.items()}
            with lend_tables(run.recommender, group) as pieces:
                whole = {name: torch.cat(list(own.read())) for name, own in pieces.items()}
            given[f"{engine} whole"] = {name: t.flatten().tolist() for name, t in whole.items()}
        found.append(given)
    return found


def resuming(group: Group, job: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of each engine, gone on from by both."""
    folder, tables = Path(job["folder"]), job["cases"][0]["tables"]
    found = {}
    for writer in ENGINES:
        run = Run(group, job, {"engine": writer}, tables)
        run.losses(3)
        kept = Checkpoint(run.learner.tensors(), {"step": 3})
        run.runtime.write_checkpoint(folder / writer, kept)
        found[writer] = run.losses(3)
        for reader in ENGINES:
            other = Run(group, job, {"engine": reader}, tables)
            checkpoint = other.runtime.read_checkpoint(folder / writer)
            assert checkpoint is not None
            other.learner.load(checkpoint.tensors, 3)
            for _ in range(3):
                next(other.batches)
            found[f"{writer} to {reader}"] = other.losses(3)
    return found


def both(job: dict[str, Any]) -> dict[str, Any]:
    """Losses, and resuming where a folder is given; in one group, as its start takes seconds."""
    with join_group() as group:
        return {
            "cases": losses(group, job),
            "resumed": resuming(group, job) if job["folder"] else {},
        }


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"both": both}


def main() -> None:
    """Do one task, and print what it gives as the last line."""
    torch.set_num_threads(1)
    print(json.dumps(TASKS[sys.argv[1]](json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()

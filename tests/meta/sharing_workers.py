"""What a process does in the tests of shared updates: `run(..., module=MODULE)`."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.meta.worlds import small
from torch import Tensor

from scalerec.data.dataset import Dataset
from scalerec.distributed import Processes, join_group
from scalerec.errors import TrainError
from scalerec.meta.config import MetaConfig
from scalerec.meta.learning import MetaTrained, meta_train
from scalerec.meta.tasks import TaskSet
from scalerec.train.runtime import Runtime

__all__ = ["MODULE", "learned", "tensors_of"]

MODULE = "tests.meta.sharing_workers"


def learned(
    dataset: Dataset, settings: dict[str, Any], runtime: Runtime | None = None, **more: Any
) -> MetaTrained:
    """A run on the world's users."""
    tasks = TaskSet(dataset.split("train"), "user", least_rows=8)
    config = MetaConfig.from_dict(settings)
    return meta_train(small(dataset), tasks, config, runtime=runtime, **more)


def tensors_of(found: MetaTrained) -> dict[str, Tensor]:
    """The start and the rates."""
    rates = {f"rates.{name}": rate.clone() for name, rate in found.rates.items()}
    return {**found.recommender.to_tensors(), **rates}


def share(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Learn each case together; what is told of it, and its tensors in a file of this process."""
    dataset, folder, told = Dataset(job["data"]), Path(job["folder"]), []
    with join_group() as group:
        runtime = Processes(group)
        for number, case in enumerate(job["cases"]):
            found = learned(dataset, case, runtime)
            save_file(tensors_of(found), folder / f"{number}-{group.rank}.safetensors")
            told.append({"curve": found.curve, "updates": found.updates, "best": found.best})
    return told


def go_on(job: dict[str, Any]) -> list[str]:
    """Break off, go on together, and go on where one process finds no checkpoint."""
    dataset, folder, words = Dataset(job["data"]), Path(job["folder"]), []

    def stop(seen: Any) -> None:
        if seen["step"] == 3:
            raise KeyboardInterrupt

    def leave(folder: Path) -> None:
        try:
            learned(dataset, job["case"], runtime, checkpoints=folder, on_progress=stop)
        except KeyboardInterrupt:
            words.append("broken off")

    with join_group() as group:
        runtime = Processes(group)
        leave(folder / "run")
        group.wait()
        found = learned(dataset, job["case"], runtime, checkpoints=folder / "run", resume=True)
        save_file(tensors_of(found), folder / f"resumed-{group.rank}.safetensors")
        leave(folder / "other")
        group.wait()
        own = folder / ("other" if group.rank == 0 else "none")
        try:
            learned(dataset, job["case"], runtime, checkpoints=own, resume=True)
        except TrainError as error:
            words.append(str(error))
        except Exception as error:
            # Process 0 goes on and loses the other.
            words.append(type(error).__name__)
    return words


def main() -> None:
    """Do one task, and print what it gives as the last line."""
    torch.set_num_threads(1)
    tasks: dict[str, Any] = {"go_on": go_on, "share": share}
    print(json.dumps(tasks[sys.argv[1]](json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()

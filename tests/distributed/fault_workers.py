"""What a process does in the tests of faults and of bundles: `run(..., module=MODULE)`."""

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from scalerec.bundle import Contents, write_bundle
from scalerec.bundle.recommenders import write_recommender
from scalerec.data.dataset import Dataset
from scalerec.data.layout import Layout
from scalerec.distributed import DistributedConfig, Group, Processes, handshake, join_group
from scalerec.distributed.checkpoints import read_pointer
from scalerec.distributed.collecting import lend_tables
from scalerec.distributed.continuing import open_shared_start
from scalerec.distributed.single import SingleProcess
from scalerec.errors import GroupError, TrainError
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.train import OneProcess, TrainConfig, Trained, open_start, train
from scalerec.train.checkpoints import Checkpoint
from scalerec.train.lineage import prepare_step

__all__ = ["MODULE"]

MODULE = "tests.distributed.fault_workers"
Job = dict[str, Any]


class StoppedError(Exception):
    """A run ends here, as if it were killed."""


class StopsOnceSaved(Processes):
    """Ends the run when it has written a checkpoint."""

    def write_checkpoint(self, folder: Path, checkpoint: Checkpoint) -> None:
        super().write_checkpoint(folder, checkpoint)
        raise StoppedError


class StopsAlone(SingleProcess):
    """As `StopsOnceSaved`, for one process."""

    def write_checkpoint(self, folder: Path, checkpoint: Checkpoint) -> None:
        super().write_checkpoint(folder, checkpoint)
        raise StoppedError


def subgroups(group: Group, sizes: list[int]) -> dict[int, Group]:
    """The first processes of a run as groups of their own; those that this one belongs to."""
    found = {}
    for size in sizes:
        handle = dist.new_group(list(range(size)))
        if group.rank < size:
            found[size] = Group(group.rank, size, group.device, handle)
    return found


def whole(trained: Recommender, group: Group) -> dict[str, torch.Tensor]:
    """Every tensor, whole, on process 0."""
    with lend_tables(trained, group) as pieces:
        tensors = dict(trained.to_tensors())
        return tensors | {name: torch.cat(list(own.read())) for name, own in pieces.items()}


def go_on(job: Job) -> Job:
    """Checkpoints that some write and others go on from; how far the end is from undisturbed."""
    dataset, spec = Dataset(job["data"]), ModelSpec.from_dict(job["spec"])
    config = TrainConfig.from_dict(job["config"])
    found: Job = {}
    with join_group() as all_of_us:
        groups = subgroups(all_of_us, [1, 2, 4])

        def run(size: int, sharding: str, folder: Path, *, stops: bool) -> Trained:
            distributed = DistributedConfig.from_dict({"sharding": sharding})
            runtime: OneProcess | Processes
            if size == 1:
                runtime = StopsAlone() if stops else SingleProcess()
            else:
                kind = StopsOnceSaved if stops else Processes
                runtime = kind(groups[size], distributed)
            more: Any = {"runtime": runtime, "checkpoints": folder, "resume": True}
            return train(dataset, spec, config, **more)

        wanted: dict[str, torch.Tensor] = {}
        if 1 in groups:
            alone = train(dataset, spec, config)
            wanted = {name: t.clone() for name, t in alone.recommender.to_tensors().items()}
        for number, (before, after, sharding, later) in enumerate(job["cases"]):
            folder = Path(job["folder"]) / str(number)
            if before in groups:
                try:
                    run(before, sharding, folder, stops=True)
                except StoppedError:
                    pass
                else:
                    raise AssertionError("no checkpoint was written")
            all_of_us.wait()
            if after in groups:
                trained = run(after, later, folder, stops=False)
                tensors = whole(trained.recommender, groups[after])
                found[str(number)] = {
                    name: float((tensors[name].double() - own.double()).abs().max())
                    for name, own in wanted.items()
                }
                found[f"{number} left"] = folder.exists()
            all_of_us.wait()
    return found


def continued(job: Job) -> Job:
    """How far a start on several processes, and what is learned from it, is from one process's."""
    dataset, parent = Dataset(job["data"]), job["parent"]
    config = TrainConfig.from_dict(job["config"])
    alone = open_start(parent, dataset)
    spec = alone.recommender.spec
    wanted = [{n: t.clone() for n, t in alone.recommender.to_tensors().items()}]
    train(dataset, spec, config, start=alone)
    wanted.append(alone.recommender.to_tensors())
    found: Job = {"fresh": alone.grown.num_fresh}
    with join_group() as group:
        for sharding in ("row", "table", "column", "replicated"):
            runtime = Processes(group, DistributedConfig.from_dict({"sharding": sharding}))
            start = open_shared_start(parent, dataset, runtime, config.tables)
            tensors = [{n: t.clone() for n, t in whole(start.recommender, group).items()}]
            kept = sum(
                t.numel() for n, t in start.recommender.to_tensors().items() if "weight" in n
            )
            train(dataset, spec, config, runtime=runtime, start=start)
            tensors.append(whole(start.recommender, group))
            apart = [
                max(float((t - other[name]).abs().max()) for name, t in own.items() if t.numel())
                for own, other in zip(wanted, tensors, strict=True)
                if group.rank == 0
            ]
            found[sharding] = {"kept": kept, "apart": apart}
    return found


def refuse(_: Job) -> Job:
    """What processes say of a stranger."""
    texts = []
    with join_group() as group:
        second = group.rank == 1

        def shake(data: str = "d" * 64, **settings: Any) -> str:
            try:
                handshake.shake_hands(group, data, settings)
            except GroupError as error:
                return str(error)
            return ""

        texts.append(shake(lr=1))
        texts.append(shake(data="e" * 64 if second else "d" * 64))
        texts.append(shake(lr=0.1, tables={"lr": 0.5 if second else 0.25}, other=group.rank))
        if second:
            vars(handshake)["__version__"] = "0.0.9"
        texts.append(shake())
    return {"texts": texts}


def full_disk(job: Job) -> Job:
    """The second checkpoint does not fit; the run fails, and goes on from the first."""
    dataset, spec = Dataset(job["data"]), ModelSpec.from_dict(job["spec"])
    config = TrainConfig.from_dict(job["config"])
    folder = Path(job["folder"])
    saved: list[int] = []
    tight = resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY)

    class FullDisk(Processes):
        def write_checkpoint(self, folder: Path, checkpoint: Checkpoint) -> None:
            if saved and self.rank == 1:
                resource.setrlimit(*tight)
            super().write_checkpoint(folder, checkpoint)
            saved.append(int(checkpoint.state["step"]))

    with join_group() as group:
        text = ""
        try:
            train(dataset, spec, config, runtime=FullDisk(group), checkpoints=folder)
        except TrainError as error:
            text = str(error)
        resource.setrlimit(tight[0], (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        # Process 0 removes what the others could write.
        group.wait()
        step, files = read_pointer(folder).step, sorted(path.name for path in folder.iterdir())
        group.wait()
        again = train(
            dataset, spec, config, runtime=Processes(group), checkpoints=folder, resume=True
        )
        undisturbed = train(dataset, spec, config, runtime=Processes(group))
        one, other = (run.recommender.to_tensors() for run in (again, undisturbed))
        equal = all(torch.equal(one[name], other[name]) for name in one)
    found = {"text": text, "saved": saved, "step": step, "files": files, "equal": equal}
    return {**found, "best": [again.best, undisturbed.best]}


def bundles(job: Job) -> Job:
    """The bundle of the same weights, by however many processes and wherever rows are kept."""
    dataset, spec = Dataset(job["data"]), ModelSpec.from_dict(job["spec"])
    tables = TrainConfig.from_dict(job["config"]).tables
    digests = {}
    with join_group() as all_of_us:
        groups = subgroups(all_of_us, [1, all_of_us.world])
        for size, group in groups.items():
            for sharding in ("row", "table", "column", "replicated"):
                distributed = DistributedConfig.from_dict({"sharding": sharding})
                make = Processes(group, distributed).make_tables(tables)
                recommender = build_recommender(dataset.layout, spec, 3, make)
                path = Path(job["folder"]) / f"{size}-{sharding}"
                with lend_tables(recommender, group) as pieces:
                    if group.rank == 0:
                        steps = (prepare_step(dataset),)
                        more: Any = {"pieces": pieces}
                        written = write_recommender(path, recommender, dataset, steps, **more)
                        digests[f"{size} {sharding}"] = written.digest
        all_of_us.wait()
        if all_of_us.rank == 0:
            plain = build_recommender(dataset.layout, spec, 3)
            path = Path(job["folder"]) / "plain"
            digests["plain"] = write_recommender(
                path, plain, dataset, (prepare_step(dataset),)
            ).digest
    return digests


def memory(job: Job) -> Job:
    """The most memory that was held beyond the own rows, in MiB, while a big table was made, kept
    in a checkpoint and written as a bundle.
    """
    rows, width = job["rows"], 17
    layout = Layout.from_dict({**job["layout"], "tables": {"big": rows}})
    spec = ModelSpec.from_dict(job["spec"])

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    with join_group() as group:
        make = Processes(group).make_tables(TrainConfig.from_dict(job["config"]).tables)
        # Small first, so that what is loaded with the first use does not count.
        small = Layout.from_dict({**job["layout"], "tables": {"big": 100}})
        write(build_recommender(small, spec, 1, make), group, Path(job["folder"]) / "small")
        start = peak()
        recommender = build_recommender(layout, spec, 1, make)
        made = peak()
        write(recommender, group, Path(job["folder"]) / "big")
        written = peak()
        own = recommender.tables.table("big")
        first = own[:3].tolist()
    table = rows * width * 4 / 2**20
    return {"table": table, "made": made - start, "written": written - made, "first": first}


def write(recommender: Recommender, group: Group, path: Path) -> None:
    with lend_tables(recommender, group) as pieces:
        if group.rank:
            return
        tensors = {n: t for n, t in recommender.to_tensors().items() if n not in pieces}
        more: Any = {"schema": {}, "layout": {}, "spec": {"kind": "test"}}
        write_bundle(path, Contents(tensors=tensors, pieces=pieces, **more))


TASKS: dict[str, Callable[[Job], Job]] = {
    "bundles": bundles,
    "continued": continued,
    "full_disk": full_disk,
    "go_on": go_on,
    "memory": memory,
    "refuse": refuse,
}


def main() -> None:
    """Do one task, and print what it gives as the last line."""
    torch.set_num_threads(1)
    print(json.dumps(TASKS[sys.argv[1]](json.loads(sys.argv[2]))))


if __name__ == "__main__":
    main()

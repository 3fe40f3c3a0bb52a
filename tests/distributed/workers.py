"""Several processes for a test, and what each of them does: `run` starts them, `main` is one."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from scalerec.data.dataset import Dataset
    from scalerec.distributed import Group

__all__ = ["run"]

TIMEOUT_S = 300


def free_port() -> int:
    """A port nobody uses now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def run(world: int, task: str, *, module: str = __name__, **job: Any) -> list[dict[str, Any]]:
    """Run a task of `TASKS` in several processes of one thread each.

    Args:
        world: How many.
        task: Its name.
        module: Where the tasks are; its `main` takes what this module's takes.
        job: What it is told, as JSON has it.

    Returns:
        What each gave, by rank.
    """
    port = str(free_port())
    running = []
    for rank in range(world):
        own = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {**os.environ, **{name: str(value) for name, value in own.items()}}
        env |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-m", module, task, json.dumps(job)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen(command, env=env, text=True, **pipes))
    try:
        found = [process.communicate(timeout=TIMEOUT_S) for process in running]
    finally:
        for process in running:
            process.kill()
    pairs = zip(running, found, strict=True)
    failed = [f"{process.returncode}: {err}" for process, (_, err) in pairs if process.returncode]
    assert not failed, "\n".join(failed)
    return [json.loads(out.splitlines()[-1]) for out, _ in found]


def messages(job: dict[str, Any]) -> dict[str, Any]:
    """Each kind of message once."""
    import torch

    from scalerec.distributed import join_group

    with join_group(shared=job["shared"]) as group:
        assert group.shares_memory == job["shared"]
        rank, world = group.rank, group.world
        total = group.sum(torch.tensor([1.0, rank]), "test").tolist()
        # Process r sends r + 1 rows to each.
        rows = torch.arange(world * (rank + 1)).view(-1, 1) + 100 * rank
        counts = group.counts(torch.full((world,), rank + 1))
        exchanged = group.exchange(rows, [rank + 1] * world, counts, "rows").flatten().tolist()
        gathered = [part.tolist() for part in group.gather(torch.full((rank,), rank), "parts")]
        facts = group.gather_facts({"name": f"process {rank}", "é": [rank]})
        group.wait()
        return {
            "total": total,
            "counts": counts,
            "exchanged": exchanged,
            "gathered": gathered,
            "facts": facts,
            "sent": group.traffic.sent,
            "received": group.traffic.received,
        }


def training(job: dict[str, Any]) -> dict[str, Any]:
    """Losses of the first steps of several cases, and each one's weights at the end in a file."""
    import torch
    from safetensors.torch import save_file

    from scalerec.data.dataset import Dataset
    from scalerec.distributed import join_group

    torch.set_num_threads(1)
    dataset, found = Dataset(job["data"]), {}
    with join_group() as group:
        for name, case in job["cases"].items():
            losses, tensors = train_some(dataset, group, case)
            folder = Path(job["folder"]) / name
            folder.mkdir(parents=True, exist_ok=True)
            save_file(tensors, folder / f"{group.rank}.safetensors")
            found[name] = losses
        return {"losses": found, "sent": group.traffic.sent}


def train_some(
    dataset: "Dataset", group: "Group", case: dict[str, Any]
) -> tuple[list[float], dict[str, "Tensor"]]:
    """Losses of a case's first steps, over all processes, and the weights here at the end."""
    import torch

    from scalerec.data.loading import Loader
    from scalerec.distributed import DistributedConfig, Processes
    from scalerec.models.recommender import ModelSpec, build_recommender
    from scalerec.train import Learner, TrainConfig

    spec, config = ModelSpec.from_dict(case["spec"]), TrainConfig.from_dict(case["config"])
    runtime = Processes(group, DistributedConfig.from_dict(case.get("distributed", {})))
    make_tables = runtime.make_tables(config.tables)
    recommender = build_recommender(dataset.layout, spec, config.seed, make_tables)
    learner = Learner(recommender, dataset, config, runtime)
    share = (group.rank, group.world)
    loader = Loader(dataset.split("train"), config.batch_size, config.seed, share=share)
    losses: list[float] = []
    epoch = 0
    while len(losses) < case["steps"]:
        for batch in loader.epoch(epoch):
            loss = torch.tensor([learner.step(batch, 1.0)], dtype=torch.float64)
            losses.append(float(group.sum(loss, "losses")))
        epoch += 1
    return losses[: case["steps"]], {n: t.clone() for n, t in recommender.to_tensors().items()}


TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "messages": messages,
    "training": training,
}


def main() -> None:
    """Do one task, and print what it gives as the last line."""
    given = TASKS[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps(given))


if __name__ == "__main__":
    main()

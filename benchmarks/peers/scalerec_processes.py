"""scalerec: steps of one process alone, of processes side by side, and of processes together.

Two (or more) copies of this script run at once, each on one thread. In turns they train together on
the same global batches; each by itself, all at once, on batches of a process's share; and the first
alone on the whole batches while the others wait. A turn is timed from all being ready to all being
done, with loading, forward, backward and optimisers.
"""

import statistics
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

from child import report, start
from scalerec_deepfm import open_dataset

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.loading import Loader
from scalerec.distributed import DistributedConfig, Group, Processes, join_group
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.train import Learner, OneProcess, TrainConfig
from scalerec.train.runtime import Runtime

WAYS = ("together", "side by side", "one")


def config_of(job: dict[str, Any]) -> TrainConfig:
    """The settings of training."""
    own = {"batch_size": job["batch_size"], "seed": job["seed"], "precision": job["precision"]}
    return TrainConfig.from_dict({**job["settings"], **own})


def batches_of(
    dataset: Dataset, config: TrainConfig, size: int, share: tuple[int, int]
) -> Iterator[Batch]:
    """Batches without end."""
    loader = Loader(dataset.split("train"), size, config.seed, share=share)
    for epoch in count():
        yield from loader.epoch(epoch)


def learner_of(
    job: dict[str, Any], dataset: Dataset, runtime: Runtime, config: TrainConfig
) -> Learner:
    """A model at its first step."""
    settings = {"model": "deepfm", "settings": {"dim": job["dim"], "hidden": job["hidden"]}}
    spec = ModelSpec.from_dict({**settings, "init_std": job["init_std"]})
    make_tables = runtime.make_tables(config.tables)
    recommender = build_recommender(dataset.layout, spec, config.seed, make_tables)
    return Learner(recommender, dataset, config, runtime)


def arms(
    job: dict[str, Any], group: Group
) -> dict[str, tuple[Learner | None, Iterator[Batch] | None]]:
    """What this process trains in each turn."""
    path = f"{job['folder']}/{job['train']}-test.scalerec"
    dataset = open_dataset(path, job["rows_per_field"])
    config, rank, world = config_of(job), group.rank, group.world
    together = Processes(group, DistributedConfig.from_dict(job["distributed"]))
    size = config.batch_size
    found: dict[str, tuple[Learner | None, Iterator[Batch] | None]] = {
        "together": (
            learner_of(job, dataset, together, config),
            batches_of(dataset, config, size, (rank, world)),
        ),
        "side by side": (
            learner_of(job, dataset, OneProcess(), config),
            batches_of(dataset, config, size // world, (0, 1)),
        ),
        "one": (None, None),
    }
    if rank == 0:
        whole = batches_of(dataset, config, size, (0, 1))
        found["one"] = learner_of(job, dataset, OneProcess(), config), whole
    return found


def main() -> None:
    job = start()
    with join_group() as group:
        kept = arms(job, group)
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        own: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(job["turns"] + 1):
            for way in WAYS:
                learner, batches = kept[way]
                group.wait()
                begun, cpu = time.perf_counter(), time.process_time()
                if learner is not None and batches is not None:
                    for _ in range(job["steps"]):
                        learner.step(next(batches), 1.0)
                group.wait()
                # The first turn compiles kernels and fills caches.
                if turn:
                    times[way].append(time.perf_counter() - begun)
                    own[way].append(time.process_time() - cpu)
        size, steps = job["batch_size"], job["steps"]
        rates = {way: [size * steps / each for each in took] for way, took in times.items()}
        busy = {way: statistics.median(took) / steps for way, took in own.items()}
        steps_done = max(1, job["steps"] * (job["turns"] + 1))
        sent = {name: value / steps_done for name, value in group.traffic.sent.items()}
        if group.rank == 0:
            medians = {way: statistics.median(rate) for way, rate in rates.items()}
            report(rates=rates, medians=medians, busy=busy, sent=sent)


if __name__ == "__main__":
    main()

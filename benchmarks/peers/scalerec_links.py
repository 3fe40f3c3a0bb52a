"""scalerec: one process on one of several hosts, which does one task after the other.

It joins the others, says so, and reads tasks, one JSON object a line; the answer to each is one
line. `rate` times rounds of training, and counts its bytes and the interface's; `quality` trains
for whole epochs and evaluates on the test part.

Usage: python scalerec_links.py SETTINGS, a JSON object; see `slow_links.py`.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.distributed import DistributedConfig, Group, Processes, join_group
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.scoring import EvaluateConfig, evaluate
from scalerec.train import Learner, TrainConfig, train

MARK = "ANSWER"
LOCAL_STEPS = 64  # measured of ways that step alone, at least


def wire_bytes() -> int:
    """What this host's interfaces to others have sent, with headers."""
    lines = Path("/proc/self/net/dev").read_text("ascii").splitlines()[2:]
    parts = [line.partition(":") for line in lines]
    return sum(int(rest.split()[8]) for name, _, rest in parts if name.strip() != "lo")


class Rounds:
    """A model and its batches, a round at a time: one step of all, or some of each and an average.

    Args:
        settings: Of data, model and training.
        group: All processes.
        distributed: How they work together.
    """

    def __init__(
        self, settings: dict[str, Any], group: Group, distributed: DistributedConfig
    ) -> None:
        self.group, self.dataset = group, Dataset(settings["data"])
        spec, config = configs(settings)
        self.runtime = Processes(group, distributed)
        make_tables = self.runtime.make_tables(config.tables)
        recommender = build_recommender(self.dataset.layout, spec, config.seed, make_tables)
        self.learner = Learner(recommender, self.dataset, config, self.runtime)
        self.loader = self.runtime.make_loader(self.dataset, config)
        self.steps = self.runtime.local_steps or 1
        self.batches = self._batches()

    def _batches(self) -> Iterator[Batch]:
        for epoch in count():
            yield from self.loader.epoch(epoch)

    def run(self, rounds: int) -> float:
        """Seconds of some rounds, from all being ready to all being done."""
        self.group.wait()
        start = time.perf_counter()
        for _ in range(rounds):
            some = list(islice(self.batches, self.steps))
            if self.runtime.local_steps:
                self.learner.begin_round(some)
            for batch in some:
                self.learner.step(batch, 1.0)
            if self.runtime.local_steps:
                self.learner.end_round()
        self.group.wait()
        return time.perf_counter() - start


def configs(settings: dict[str, Any]) -> tuple[ModelSpec, TrainConfig]:
    """Of the model and of training."""
    return ModelSpec.from_dict(settings["spec"]), TrainConfig.from_dict(settings["config"])


def rate(settings: dict[str, Any], group: Group, task: dict[str, Any]) -> dict[str, Any]:
    """Seconds and bytes of a step, over as many rounds as fit in the time."""
    rounds = Rounds(settings, group, DistributedConfig.from_dict(task["distributed"]))
    # The first fills the link's queues and compiles kernels.
    rounds.run(1)
    local = bool(rounds.runtime.local_steps)
    seconds = torch.tensor([0.0 if local else rounds.run(1)])
    guess = float(group.sum(seconds, "time")) / group.world
    some = max(1, LOCAL_STEPS // rounds.steps)
    least, most = (some, some) if local else (task["least"], task["most"])
    number = max(least, min(most, math.ceil(task["seconds"] / max(guess, 1e-3))))
    sent, wire = dict(group.traffic.sent), wire_bytes()
    elapsed = rounds.run(number)
    steps = number * rounds.steps
    counted = {n: (v - sent.get(n, 0)) / steps for n, v in group.traffic.sent.items()}
    return {
        "seconds": elapsed / steps,
        "steps": steps,
        "counted": {name: value for name, value in counted.items() if value},
        "wire": (wire_bytes() - wire) / steps,
    }


def quality(settings: dict[str, Any], group: Group, task: dict[str, Any]) -> dict[str, Any]:
    """AUC on the test part after all epochs."""
    dataset = Dataset(settings["data"])
    config = {**settings["config"], "seed": task["seed"], "epochs": task["epochs"]}
    spec, training = configs({**settings, "config": config})
    runtime = Processes(group, DistributedConfig.from_dict(task["distributed"]))
    trained = train(dataset, spec, training, runtime=runtime)
    chosen = EvaluateConfig(split="test", ranking="no")
    metrics = evaluate(trained.recommender, dataset, chosen, runtime).metrics
    return {"auc": metrics["auc"], "log_loss": metrics["log_loss"], "seconds": trained.seconds}


def main() -> None:
    """Do tasks until there are no more."""
    torch.set_num_threads(1)
    settings = json.loads(sys.argv[1])
    tasks = {"rate": rate, "quality": quality}
    with join_group(timeout_s=settings["timeout_s"]) as group:
        answer(ready=True)
        for line in sys.stdin:
            task = json.loads(line)
            answer(**tasks[task["task"]](settings, group, task))


def answer(**found: Any) -> None:
    print(f"{MARK}{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()

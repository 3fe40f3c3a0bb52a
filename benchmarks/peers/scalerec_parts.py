"""Where scalerec's step spends its time, beside the bare matrix products of the same net.

The steps are those of training: `Loader` and `Learner.step`. What is timed within them is told by
`watch`, and only there; it uses public names and hooks of torch. What it cannot see (a loader
thread beside the step, say) is in the whole step, which is timed on its own, without any hook.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import scalerec  # noqa: F401  (before torch, whose threads it sets up)

# isort: split
import torch
from child import Clock, report, start
from scalerec_deepfm import open_dataset
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from scalerec.data.loading import Loader
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.train import Learner, OneProcess, TrainConfig


class Marks:
    """Adds up the time between two moments of the same name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since: dict[str, float] = {}

    def begin(self, name: str) -> Callable[..., None]:
        """A hook that starts the time."""

        def hook(*_: Any, **__: Any) -> None:
            self._since[name] = time.perf_counter()

        return hook

    def end(self, name: str) -> Callable[..., None]:
        """A hook that stops the time."""

        def hook(*_: Any, **__: Any) -> None:
            passed = time.perf_counter() - self._since.pop(name)
            self.seconds[name] = self.seconds.get(name, 0.0) + passed

        return hook

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.begin(name)()
            try:
                return work(*args, **kwargs)
            finally:
                self.end(name)()

        return timed


def watch(learner: Learner, marks: Marks) -> None:
    """Time the parts of a step; the place to change when a step is made in another way."""
    recommender = learner.recommender
    recommender.register_forward_pre_hook(marks.begin("forward"))
    recommender.register_forward_hook(marks.end("forward"))
    recommender.read = marks.around("lookup", recommender.read)
    engine = recommender.tables.engine
    engine.move = marks.around("update", engine.move)
    torch.Tensor.backward = marks.around("backward", torch.Tensor.backward)  # type: ignore[method-assign]
    register_optimizer_step_pre_hook(marks.begin("optimiser"))
    register_optimizer_step_post_hook(marks.end("optimiser"))


def parts_of(marks: Marks, loader: float, whole: float, steps: int) -> dict[str, float]:
    """Seconds a step of parts that do not overlap; `other` is what is left of the watched step.

    Args:
        marks: What was watched over some steps.
        loader: Seconds of a step's batch.
        whole: Seconds of a watched step, its batch included.
        steps: How many were watched.
    """
    found = {name: seconds / steps for name, seconds in marks.seconds.items()}
    lookup, update = found.get("lookup", 0.0), found.get("update", 0.0)
    parts = {
        "loader": loader,
        "lookup": lookup,
        "dense forward": found.get("forward", 0.0) - lookup,
        "dense backward": found.get("backward", 0.0) - update,
        "table update": update,
        "dense optimiser": found.get("optimiser", 0.0),
    }
    return {**parts, "other": whole - sum(parts.values())}


class BareProducts:
    """The net's matrix products: forward, and both of the backward pass, into ready memory.

    Args:
        sizes: Of the layers, from the input on.
        batch_size: B.
        dtype: Of all matrices.
    """

    def __init__(self, sizes: list[int], batch_size: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator).to(dtype)

        self.layers = [
            (draw(batch_size, n), draw(m, n), draw(batch_size, m)) for n, m in pairwise(sizes)
        ]
        self.out = [
            (torch.empty_like(grad), torch.empty_like(x), torch.empty_like(weight))
            for x, weight, grad in self.layers
        ]

    def once(self) -> None:
        """All products of one step."""
        for (x, weight, grad), (y, grad_x, grad_weight) in zip(self.layers, self.out, strict=True):
            torch.mm(x, weight.T, out=y)
            torch.mm(grad, weight, out=grad_x)
            torch.mm(grad.T, x, out=grad_weight)


def main() -> None:
    job = start()
    spec = ModelSpec.from_dict(
        {
            "model": "deepfm",
            "settings": {"dim": job["dim"], "hidden": job["hidden"]},
            "init_std": job["init_std"],
        }
    )
    settings = {**job["settings"], "batch_size": job["batch_size"], "precision": job["precision"]}
    config = TrainConfig.from_dict(settings)
    dataset = open_dataset(f"{job['folder']}/{job['train']}-test.scalerec", job["rows_per_field"])
    learner = Learner(build_recommender(dataset.layout, spec, 1), dataset, config, OneProcess())
    loader = Loader(dataset.split("train"), job["batch_size"], 1)
    dtype = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
    sizes = [dataset.layout.num_fields * job["dim"], *job["hidden"], 1]
    bare = BareProducts(sizes, job["batch_size"], dtype)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        bare.once()
    times = measure(learner, loader, bare, job["steps"], job["rounds"])
    report(**times)


def measure(
    learner: Learner, loader: Loader, bare: BareProducts, steps: int, rounds: int
) -> dict[str, Any]:
    """Bare products and whole steps in turns; then the parts, watched."""
    batches = stream(loader)
    for _ in range(5):
        learner.step(next(batches), 1.0)
    found: dict[str, list[float]] = {"bare": [], "step": []}
    for _ in range(rounds):
        found["bare"].append(seconds_each(bare.once, steps))
        found["step"].append(seconds_each(lambda: learner.step(next(batches), 1.0), steps))
    waiting = seconds_each(lambda: next(batches), steps)
    marks = Marks()
    watch(learner, marks)
    whole = seconds_each(lambda: learner.step(next(batches), 1.0), steps)
    middle = {name: statistics.median(values) for name, values in found.items()}
    return {**middle, "all": found, "parts": parts_of(marks, waiting, whole, steps)}


def stream(loader: Loader) -> Any:
    """Batches without end."""
    number = 0
    while True:
        yield from loader.epoch(number)
        number += 1


def seconds_each(work: Callable[[], Any], times: int) -> float:
    """The mean time of one call."""
    clock = Clock()
    with clock.part("all"):
        for _ in range(times):
            work()
    return clock.total / times


if __name__ == "__main__":
    main()

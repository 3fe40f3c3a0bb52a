"""What `scalerec train` does in a process: train, write the bundle, tell what came out."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalerec.cli.output import Progress, note

if TYPE_CHECKING:
    from scalerec.data.dataset import Dataset
    from scalerec.distributed import DistributedConfig, Processes
    from scalerec.models.forms import Forms
    from scalerec.models.recommender import ModelSpec
    from scalerec.train import OneProcess, Start, TrainConfig, Trained

__all__ = ["Way", "train_bundle"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How a run is carried out, beside the settings that decide its weights.

    Args:
        track: Where its numbers go, as `scalerec.track.open_sinks` has it.
        device: Where tensors live.
        resume: Whether to go on from the last checkpoint.
        overwrite: Whether a bundle may be replaced.
        keep_state: Whether to keep what optimisers remember.
        fresh: What rows of new ids start from: `unknown` or `warm`.
        parent: The bundle to go on from.
        several: How this and other processes, which a launcher has started, train together; none
            to train in this process alone.
    """

    track: tuple[str, ...] = ()
    device: str = "cpu"
    resume: bool = False
    overwrite: bool = False
    keep_state: bool = False
    fresh: Literal["unknown", "warm"] = "unknown"
    parent: Path | None = None
    several: "DistributedConfig | None" = None


@dataclass(frozen=True, slots=True)
class _Job:
    """A run that is about to start."""

    dataset: "Dataset"
    spec: "ModelSpec"
    config: "TrainConfig"
    runtime: "OneProcess | Processes"
    start: "Start | None"
    warmed: Mapping[str, int]


def train_bundle(
    data: Path,
    out: Path,
    model: str,
    net: Mapping[str, Any],
    values: Mapping[str, Any],
    way: Way | None = None,
) -> dict[str, Any] | None:
    """Train, write the bundle with its curve, and tell what came out.

    Args:
        data: The data set.
        out: Where the bundle goes.
        model: Its name in the zoo.
        net: Its settings.
        values: Those of training.
        way: How it is carried out.

    Returns:
        What a person is told; none on a process other than the first.
    """
    from scalerec.data.dataset import Dataset
    from scalerec.train.lineage import read_run

    way = way or Way()
    spec, config = read_run(model, net, values)
    dataset = Dataset(data)
    aside = out.with_name(f"{out.name}.checkpoint")
    with _runtime(way) as runtime:
        start = _open_start(way, dataset, config, runtime)
        warmed = _warm(start, dataset, way)
        if start is not None:
            warm_ups = start.recommender.spec.warm_ups
            spec = replace(spec, forms=_forms_of(start), warm_ups=warm_ups)
        job = _Job(dataset, spec, config, runtime, start, warmed)
        _prepare(job, way, aside)
        trained = _train(job, way, out, aside)
        found = _write(job, way, out, trained)
        runtime.remove_checkpoint(aside)
    return found


@contextmanager
def _runtime(way: Way) -> Iterator["OneProcess | Processes"]:
    """This process alone, or among those that the launcher has started."""
    import torch

    from scalerec.distributed import Processes, join_group
    from scalerec.distributed.single import SingleProcess
    from scalerec.errors import ConfigError

    try:
        device = torch.device(way.device)
        if way.several and device.type == "cuda" and device.index is None:
            # Each process takes the device of its number on this host.
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {way.device}: {str(error).splitlines()[0]}") from None
    if way.several is None:
        yield SingleProcess(device)
        return
    with join_group(device, way.several.timeout_s) as group:
        yield Processes(group, way.several)


def _forms_of(start: "Start") -> "Forms":
    """The forms of what the run goes on from, all of which must still be float."""
    from scalerec.errors import ConfigError
    from scalerec.models.forming import frozen_names

    if frozen := frozen_names(start.recommender):
        raise ConfigError(
            f"--continue: parts of this bundle have too few bits to be trained further: "
            f"{', '.join(frozen)}; go on from the bundle that it was compressed from, then "
            "compress again"
        )
    return start.recommender.spec.forms


def _warm(start: "Start | None", dataset: "Dataset", way: Way) -> Mapping[str, int]:
    """How many new ids were given warm rows, by key, if it was asked for."""
    from scalerec.cli.warming import warm_start

    if start is None or way.parent is None or way.fresh != "warm":
        return {}
    return warm_start(start, dataset, way.parent)


def _open_start(
    way: Way, dataset: "Dataset", config: "TrainConfig", runtime: "OneProcess | Processes"
) -> "Start | None":
    """What the run goes on from, if it does."""
    from scalerec.distributed import Processes
    from scalerec.train import open_start

    if way.parent is None:
        return None
    if isinstance(runtime, Processes):
        from scalerec.distributed.continuing import open_shared_start

        return open_shared_start(way.parent, dataset, runtime, config.tables)
    start = open_start(way.parent, dataset)
    _tell_added(start)
    return start


def _tell_added(start: "Start") -> None:
    """Say which fields a run adds, and what that does to scores."""
    if not start.added:
        return
    note(f"added fields: {', '.join(start.added)}")
    if not start.grown.exact:
        note("note: this model's scores move a little where fields are added, before it learns")
    if start.grown.lost:
        note(f"note: drawn anew, for want of a place: {', '.join(start.grown.lost)}")


def _prepare(job: _Job, way: Way, aside: Path) -> None:
    """Several processes agree on what they do; none goes on from what an earlier run left."""
    from scalerec.distributed import Processes
    from scalerec.distributed.handshake import shake_hands

    if not isinstance(job.runtime, Processes):
        return
    settings = {"model": job.spec.to_dict(), **job.config.to_dict()}
    settings["distributed"] = job.runtime.config.to_dict()
    parent = job.start.digest if job.start else None
    shake_hands(job.runtime.group, job.dataset.digest, settings, parent)
    if not way.resume:
        # Else, started again after a fault, they would take an earlier run's for their own.
        job.runtime.remove_checkpoint(aside)


def _train(job: _Job, way: Way, out: Path, aside: Path) -> "Trained":
    from scalerec.track import open_sinks
    from scalerec.train import train

    first = job.runtime.rank == 0
    with ExitStack() as stack:
        folder = out.with_name(f"{out.name}.track")
        sinks = open_sinks(way.track if first else (), folder, resume=way.resume)
        stack.callback(sinks.close)
        return train(
            job.dataset,
            job.spec,
            job.config,
            runtime=job.runtime,
            sinks=[sinks],
            checkpoints=aside,
            resume=way.resume,
            on_progress=Progress() if first else None,
            start=job.start,
            keep_state=way.keep_state,
            keep_checkpoint=True,
        )


def _write(job: _Job, way: Way, out: Path, trained: "Trained") -> dict[str, Any] | None:
    """Write the bundle, on the first process; the others give it what they keep."""
    from scalerec.bundle.recommenders import write_recommender
    from scalerec.distributed import Processes
    from scalerec.distributed.collecting import lend_tables
    from scalerec.distributed.skew import shard_report
    from scalerec.train.start import STATE_FILE, state_bytes

    runtime = job.runtime
    traffic: list[dict[str, Any]] = []
    report: dict[str, Any] = {}
    with ExitStack() as stack:
        pieces = {}
        trained.recommender.to("cpu")
        if isinstance(runtime, Processes):
            report = shard_report(job.dataset, job.config, runtime).to_dict()
            traffic = runtime.group.gather_facts(runtime.group.traffic.to_dict())
            pieces = stack.enter_context(lend_tables(trained.recommender, runtime.group))
        if runtime.rank:
            return None
        steps = _lineage(job, way, trained)
        parts: dict[str, Any] = {"overwrite": way.overwrite, "pieces": pieces}
        bundle = write_recommender(out, trained.recommender, job.dataset, steps, **parts)
    bundle.attach("curves.json", {"metric": trained.metric, "steps": trained.curve})
    if way.keep_state:
        bundle.attach(STATE_FILE, state_bytes(trained.state, job.config))
    if traffic:
        bundle.attach("traffic.json", {"processes": traffic})
        bundle.attach("shards.json", report)
    note(f"wrote {out}")
    infos = bundle.tensor_infos().values()
    return {
        "bundle": bundle.digest,
        "path": str(out),
        "model": job.spec.model,
        "steps": trained.num_steps,
        "seconds": round(trained.seconds, 3),
        "metric": trained.metric,
        "valid": trained.best,
        **({"new_ids": job.start.grown.num_fresh} if job.start else {}),
        **({"warmed": dict(job.warmed)} if way.fresh == "warm" else {}),
        "parameters": sum(_count(info.shape) for info in infos),
        **({"shards": report, "traffic": traffic} if traffic else {}),
    }


def _count(shape: tuple[int, ...]) -> int:
    from math import prod

    return prod(shape)


def _lineage(job: _Job, way: Way, trained: "Trained") -> tuple[Any, ...]:
    """The steps that led to the bundle."""
    from scalerec.bundle import read_bundle
    from scalerec.distributed import Processes
    from scalerec.train.lineage import prepare_step, train_step

    before = read_bundle(way.parent, verify=False).lineage if way.parent else ()
    parents = (job.start.digest,) if job.start else ()
    runtime = job.runtime
    several = runtime.config.shaping(runtime.world) if isinstance(runtime, Processes) else {}
    arguments = job.dataset, job.spec, job.config, trained.seconds, parents
    step = train_step(*arguments, several)
    if way.fresh != "unknown":
        step = replace(step, settings={**step.settings, "fresh": way.fresh})
    return (*before, prepare_step(job.dataset), step)

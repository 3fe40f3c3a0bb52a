"""What could be changed: each change is predicted like the job itself."""

from collections.abc import Iterator
from dataclasses import dataclass

from scalerec.distributed.planning.job import Job
from scalerec.distributed.planning.predict import Prediction, predict, smallest_nodes
from scalerec.distributed.planning.units import show_bytes
from scalerec.rounds.codecs import CodecName

__all__ = ["Advice", "advise"]

# A gain below this is within the model's own error.
LEAST_GAIN = 1.1
LEAST_SAVED = 0.1
ROUND = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """A change that would help.

    Args:
        change: What to set.
        gain: Examples a second, as a multiple of those without it.
        memory: Bytes of a node with it.
        fits: Whether that is what a node has.
        note: What it may cost.
    """

    change: str
    gain: float
    memory: float
    fits: bool
    note: str


def advise(job: Job, found: Prediction) -> list[Advice]:
    """Changes that help, the best first.

    Args:
        job: As it is.
        found: Its prediction.
    """
    good = []
    for change, other, note in _changes(job):
        new = predict(other)
        gain = new.examples_per_s / found.examples_per_s
        saves = new.node_memory <= (1 - LEAST_SAVED) * found.node_memory
        if (gain >= LEAST_GAIN and new.fits) or (saves and not found.fits):
            memory, fits = new.node_memory, new.fits
            good.append(Advice(change=change, gain=gain, memory=memory, fits=fits, note=note))
    return sorted(good, key=lambda own: (not own.fits, -own.gain))


def fewest_nodes_text(job: Job) -> str:
    """How many nodes would hold the job, in words."""
    fewest = smallest_nodes(job)
    if fewest is None:
        return "no number of nodes holds it: what each process keeps for itself is too much"
    memory = show_bytes(predict(job.with_nodes(fewest)).node_memory)
    return f"the fewest nodes that hold it are {fewest:,}, with {memory} each"


def _changes(job: Job) -> Iterator[tuple[str, Job, str]]:
    """Changes that a user can make, what they give, and what they may cost."""
    train, tables, distributed, cluster = job.train, job.train.tables, job.distributed, job.cluster
    if tables.weights == "fp32" and tables.engine in ("auto", "numba") and not job.is_dense:
        half = train.replace(tables=tables.replace(weights="fp16"))
        yield "tables.weights=fp16", job.replace(train=half), "rows rounded by chance"
    if tables.optimiser in ("adam", "lazy_adam", "adagrad") and not job.is_dense:
        light = train.replace(tables=tables.replace(optimiser="rowwise_adagrad"))
        yield "tables.optimiser=rowwise_adagrad", job.replace(train=light), "another optimiser"
    if train.patience >= 0:
        last = job.replace(train=train.replace(patience=-1))
        yield "patience=-1", last, "keeps the last weights, not the best"
    if cluster.processes < cluster.cores:
        more = cluster.replace(processes=cluster.cores)
        yield f"--nproc {cluster.cores}", job.replace(cluster=more), "one thread each"
    if job.world > 1:
        yield from _messages(job)
    yield f"--nodes {2 * cluster.nodes}", job.with_nodes(2 * cluster.nodes), "twice the batch"
    larger = train.replace(batch_size=4 * train.batch_size)
    yield f"--batch-size {larger.batch_size}", job.replace(train=larger), "may need another lr"
    if distributed.sharding != "row" or distributed.placements:
        rows = distributed.replace(sharding="row", placements={})
        yield "distributed.sharding=row", job.replace(distributed=rows), "the same result"


def _messages(job: Job) -> Iterator[tuple[str, Job, str]]:
    """Shorter and fewer messages."""
    distributed = job.distributed
    if not job.is_dense:
        for kind in ("bf16", "int8"):
            if distributed.lookups == "fp32" or (distributed.lookups, kind) == ("bf16", "int8"):
                new = job.replace(distributed=distributed.replace(lookups=kind))
                yield f"distributed.lookups={kind}", new, "rows rounded on their way"
    if CodecName.parse(distributed.codec).kind == "none":
        new = job.replace(distributed=distributed.replace(codec="bf16"))
        yield "distributed.codec=bf16", new, "gradients rounded on their way"
    if distributed.aggregate == "sync":
        rounds = distributed.replace(aggregate="local", local_steps=ROUND)
        words = f"distributed.aggregate=local distributed.local_steps={ROUND}"
        yield words, job.replace(distributed=rounds), "other steps: compare the AUC"

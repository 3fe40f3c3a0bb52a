"""Bytes that a process sends in a step, by purpose, and the messages they go in.

Purposes are named as `scalerec.distributed.group.Traffic` counts them in a run.

Shapes: P processes, W columns of a row, S numbers of its state, d distinct rows that a process
reads in a step, N numbers of the dense part, H steps of a round.
"""

from dataclasses import dataclass
from math import prod

from scalerec.distributed.planning.job import Job
from scalerec.rounds.codecs import CodecName

__all__ = ["DENSE", "Sent", "dense_bytes", "sent_bytes"]

IDS, ROWS, ROW_GRADIENTS = "ids", "rows", "gradients of rows"
STATES, MOVED_ROWS = "states of rows", "displaced rows"
GRADIENTS, DISPLACEMENTS = "gradients", "displacements"
DENSE = (GRADIENTS, DISPLACEMENTS)
ID_BYTES = 8
SCALE_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What a process sends in a step on average.

    Args:
        bytes_by: Purpose to bytes; it receives as many.
        exchanges: Messages of each process to each other.
        sums: Sums over all processes, which go round a ring.
        uneven: Traffic of the process that has the most, as a multiple of the mean.
    """

    bytes_by: dict[str, float]
    exchanges: float
    sums: float
    uneven: float = 1.0

    @property
    def total(self) -> float:
        """Bytes for all purposes."""
        return sum(self.bytes_by.values())

    @property
    def dense(self) -> float:
        """Bytes for the dense part."""
        return sum(self.bytes_by.get(name, 0.0) for name in DENSE)


def sent_bytes(job: Job) -> Sent:
    """What a process of a job sends in a step."""
    if job.world == 1:
        return Sent(bytes_by={}, exchanges=0.0, sums=0.0)
    numbers = job.shape.num_parameters
    if job.is_dense:
        numbers += job.num_rows * job.shape.width
    steps = job.local_steps
    local = job.distributed.aggregate == "local"
    dense, dense_exchanges, dense_sums = _dense_messages(job, numbers)
    found = {DISPLACEMENTS if local else GRADIENTS: dense / steps}
    exchanges, sums = dense_exchanges / steps, (dense_sums + (0 if local else 1)) / steps
    if local:
        exchanges += 4 / steps  # weights of the round, steps
    if job.is_dense:
        return Sent(bytes_by=found, exchanges=exchanges, sums=sums)
    rows, row_exchanges, uneven = (_local_rows if local else _sync_rows)(job)
    return Sent(
        bytes_by={**rows, **found},
        exchanges=exchanges + row_exchanges,
        sums=sums,
        uneven=uneven,
    )


def dense_bytes(codec: CodecName, shapes: tuple[tuple[int, ...], ...], world: int) -> float:
    """Bytes that a process sends to aggregate the dense part once.

    A sum goes round a ring (Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations,
    Patarasuk and Yuan, 2009, https://doi.org/10.1016/j.jpdc.2008.09.002).

    Args:
        codec: How it travels.
        shapes: Sizes of its parts.
        world: P.
    """
    ring = 2 * (world - 1) / world
    size = 2 if codec.kind == "bf16" or codec.half else 4
    if codec.kind == "topk":
        kept = sum(max(1, round(codec.share * prod(shape))) for shape in shapes)
        return kept * (4 + size) * (world - 1)
    if codec.kind == "powersgd":
        numbers = 0
        for shape in shapes:
            first, rest = (shape[0], prod(shape[1:])) if len(shape) > 1 else (prod(shape), 0)
            factors = codec.rank * (first + rest)
            numbers += factors if rest and factors < first * rest else prod(shape)
        return ring * numbers * size
    return ring * size * sum(prod(shape) for shape in shapes)


def _dense_messages(job: Job, numbers: int) -> tuple[float, float, float]:
    """Bytes, exchanges and sums of one aggregation of the dense part."""
    codec = CodecName.parse(job.distributed.codec)
    rest = numbers - job.shape.num_parameters
    shapes = (*job.shape.shapes, (rest,)) if rest else job.shape.shapes
    size = dense_bytes(codec, shapes, job.world)
    if codec.kind == "none":
        return size, 0.0, 1.0
    if codec.kind == "bf16":
        return size, 2.0, 0.0
    # PowerSGD sums two factors and what is no matrix; the largest numbers are told to all.
    return (size, 0.0, 3.0) if codec.kind == "powersgd" else (size, 4.0, 0.0)


def _row_bytes(job: Job, columns: float, *, is_gradient: bool) -> float:
    """Of so many columns of a row on their way."""
    kind = job.distributed.lookups
    if kind == "int8":
        return columns + SCALE_BYTES
    plain = 4 if is_gradient else job.row_number_bytes
    return columns * (2 if kind == "bf16" else plain)


def _sync_rows(job: Job) -> tuple[dict[str, float], float, float]:
    """Bytes, messages and unevenness of the rows of a step."""
    world, width = job.world, job.shape.width
    found = dict.fromkeys((IDS, ROWS, ROW_GRADIENTS), 0.0)
    placements = job.placements()
    kept = [0.0] * world
    others = 0.0
    for name, placement in placements.items():
        reads = job.reads[name].distinct(job.batch)
        away = reads * (world - 1) / world
        kind, _, home = placement.partition(":")
        if kind == "replicated":
            found[IDS] += reads * ID_BYTES * (world - 1)
            found[ROW_GRADIENTS] += reads * (world - 1) * _row_bytes(job, width, is_gradient=True)
            continue
        columns = kind == "column"
        found[IDS] += ID_BYTES * (reads * (world - 1) if columns else away)
        parts = world if columns else 1
        for purpose, is_gradient in ((ROWS, False), (ROW_GRADIENTS, True)):
            found[purpose] += away * parts * _row_bytes(job, width / parts, is_gradient=is_gradient)
        if kind == "table":
            kept[int(home)] += reads
        else:
            others += reads / world
    kinds = {placement.partition(":")[0] for placement in placements.values()}
    by_rows = bool(kinds & {"row", "table"})
    exchanges = 4.0 * (by_rows + ("column" in kinds) + ("replicated" in kinds))
    mean = others + sum(kept) / world
    return found, exchanges, (others + max(kept)) / mean if mean else 1.0


def _local_rows(job: Job) -> tuple[dict[str, float], float, float]:
    """As `_sync_rows`, of rows that stay for a round, with what their optimiser remembers."""
    steps, width = job.local_steps, job.shape.width
    away = job.distinct(job.batch * steps) * (job.world - 1) / job.world / steps
    states = 2 * 4 * job.state_width
    found = {
        IDS: away * ID_BYTES,
        ROWS: away * _row_bytes(job, width, is_gradient=False),
        STATES: away * states,
        MOVED_ROWS: away * _row_bytes(job, width, is_gradient=True),
    }
    return found, (4.0 + 2.0 * bool(states)) / steps, 1.0

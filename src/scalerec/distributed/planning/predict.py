"""Predict a run: memory, bytes, time of a step by part, efficiency, time and price of an epoch.

A step's time is

```text
compute   net + rows + dense part, over the cores there are
messages  a core's work to send and receive them, which more threads do not share
link      bytes that leave a node / (rate x the share that TCP leaves)
latency   messages one after the other
waiting   for the slowest of P processes: deviation of a step's time x the expected largest of P
```

Both are a core's time, so that more processes than cores add up. Link and latency are that part
of the exchange that no overlap hides.
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from scalerec.distributed.planning.job import Job
from scalerec.distributed.planning.memory import checkpoint_bytes, process_memory
from scalerec.distributed.planning.traffic import Sent, sent_bytes

__all__ = ["Prediction", "predict", "smallest_nodes"]

# Of a node's memory; the rest is the system's, and pages of the files that are read.
USABLE = 0.9
MOST_NODES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a job is expected to take.

    Args:
        memory: Bytes of the fullest process, by what they hold.
        node_memory: Bytes of a node.
        fits: Whether that is what a node has.
        sent: What a process sends in a step.
        work: A core's time of a process's step, by part, in seconds.
        step: Seconds of a step, by part: compute, messages, link, latency, waiting.
        alone_s: Seconds of the same step in one process that has all rows in its memory.
        checkpoint_bytes: Of all processes together.
        checkpoint_s: To write it, each node its part.
        restart_s: To read it back.
        epoch_s: None if the number of examples is unknown.
        price: Of an epoch; None if it or its time is unknown.
    """

    memory: dict[str, float]
    node_memory: float
    fits: bool
    sent: Sent
    work: dict[str, float]
    step: dict[str, float]
    alone_s: float
    examples_per_s: float
    efficiency: float
    checkpoint_bytes: float
    checkpoint_s: float
    restart_s: float
    epoch_s: float | None
    price: float | None

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return sum(self.step.values())

    @property
    def binds(self) -> str:
        """What is short: `memory` if it does not fit, else the largest part of a step."""
        return max(self.step, key=self.step.__getitem__) if self.fits else "memory"

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            "memory_per_process_bytes": {**self.memory, "total": sum(self.memory.values())},
            "memory_per_node_bytes": self.node_memory,
            "fits": self.fits,
            "sent_per_step_bytes": {**self.sent.bytes_by, "total": self.sent.total},
            "work_per_step_s": self.work,
            "step_s": {**self.step, "total": self.step_s},
            "alone_s": self.alone_s,
            "examples_per_s": self.examples_per_s,
            "efficiency": self.efficiency,
            "checkpoint_bytes": self.checkpoint_bytes,
            "checkpoint_s": self.checkpoint_s,
            "restart_s": self.restart_s,
            "epoch_s": self.epoch_s,
            "price": self.price,
            "binds": self.binds,
        }


def predict(job: Job) -> Prediction:
    """Predict what a job takes."""
    cluster, world = job.cluster, job.world
    memory = process_memory(job)
    node_memory = cluster.processes * sum(memory.values())
    sent = sent_bytes(job)
    work = _work(job, sent)
    # More threads do not send messages sooner.
    threaded = sum(work.values()) - work.get("messages", 0.0)
    compute = _on_cores(job, threaded, 0.0, crowded=True)
    messages = _on_cores(job, 0.0, work.get("messages", 0.0), crowded=True)
    link, latency = _link(job, sent), _latency(job, sent)
    busy = compute + messages
    hidden = min(job.overlap * (link + latency), busy)
    shown = 1 - hidden / (link + latency) if hidden else 1.0
    step = {
        "compute": compute,
        "messages": messages,
        "link": link * shown,
        "latency": latency * shown,
        "waiting": job.machine.waiting * busy * _largest_of(world) if world > 1 else 0.0,
    }
    step_s, alone_s = sum(step.values()), _alone(job)
    rate = job.train.batch_size / step_s
    epoch_s = job.examples / rate if job.examples else None
    checkpoint = checkpoint_bytes(job)
    per_hour = cluster.nodes * cluster.price_per_hour
    return Prediction(
        memory=memory,
        node_memory=node_memory,
        fits=node_memory <= USABLE * cluster.memory_bytes,
        sent=sent,
        work=work,
        step=step,
        alone_s=alone_s,
        examples_per_s=rate,
        efficiency=alone_s / (world * step_s),
        checkpoint_bytes=checkpoint,
        checkpoint_s=checkpoint / cluster.nodes / job.machine.disk_write,
        restart_s=checkpoint / cluster.nodes / job.machine.disk_read,
        epoch_s=epoch_s,
        price=per_hour * epoch_s / 3600 if per_hour and epoch_s is not None else None,
    )


def smallest_nodes(job: Job) -> int | None:
    """The fewest nodes whose memory holds the job, each with the same part of the batch.

    Returns:
        None if no number does: a node's own buffers, or copies, are too large.
    """

    def fits(nodes: int) -> bool:
        moved = job.with_nodes(nodes)
        need = moved.cluster.processes * sum(process_memory(moved).values())
        return need <= USABLE * moved.cluster.memory_bytes

    most = 1
    while not fits(most):
        if most >= MOST_NODES:
            return None
        most *= 2
    least = most // 2
    while most - least > 1:
        middle = (most + least) // 2
        least, most = (least, middle) if fits(middle) else (middle, most)
    return most


def _net_s(job: Job, examples: float) -> float:
    """A core's time for the net's forward and backward pass."""
    machine, shape = job.machine, job.shape
    products = shape.flops / machine.net_gflops[job.precision] * 1e-9
    return examples * (products + shape.activations * machine.activation_ns[job.precision] * 1e-9)


def _work(job: Job, sent: Sent) -> dict[str, float]:
    """A core's time of one process's step, by part."""
    machine, shape, world = job.machine, job.shape, job.world
    numbers = shape.num_parameters + (job.num_rows * shape.width if job.is_dense else 0)
    dense = numbers * machine.parameter_ns * 1e-9 + machine.step_ms * 1e-3
    found = {"net": _net_s(job, job.batch), "rows": _rows_s(job), "dense part": dense}
    if world > 1:
        costs = machine.shared if job.cluster.nodes == 1 else machine.sockets
        # A ring has two rounds of messages to one other.
        begun, peers = sent.exchanges + sent.sums, sent.exchanges + 2 * sent.sums
        further = peers * (world - 1) - begun
        found["messages"] = costs.seconds(begun, further, sent.total, numbers / job.local_steps)
    return found


def _rows_s(job: Job) -> float:
    """A core's time to look up and move the rows of a process's step."""
    machine, width, steps = job.machine, job.shape.width, job.local_steps
    ids = job.batch * job.lookups
    rows = job.distinct(job.batch)
    # What the optimiser remembers is read and written with the row.
    columns = width + job.state_width - 1
    if job.world == 1 or job.is_dense:
        return machine.whole.seconds(ids, rows, columns)
    if job.distributed.aggregate == "local":
        brought = job.distinct(job.batch * steps) / steps
        return machine.whole.seconds(ids, rows, columns) + 2 * machine.spread.seconds(
            0.0, brought, columns
        )
    copies = sum(
        job.reads[name].distinct(job.batch)
        for name, placement in job.placements().items()
        if placement == "replicated"
    )
    # Who keeps copies moves what all others tell.
    return machine.spread.seconds(ids, rows + copies * (job.world - 1), columns)


def _on_cores(job: Job, threaded_s: float, serial_s: float, *, crowded: bool) -> float:
    """Time of a process's work on its part of a node's cores.

    Args:
        job: Tells them.
        threaded_s: A core's time of what threads share.
        serial_s: Of what they do not.
        crowded: Whether all the node's processes work at once.
    """
    cluster, machine = job.cluster, job.machine
    threads = cluster.threads_each
    time = threaded_s * (machine.serial_share + (1 - machine.serial_share) / threads) + serial_s
    if not crowded:
        return time
    wanted, cores = cluster.processes * threads, cluster.cores
    others = (min(wanted, cores) - threads) / max(1, cores - threads)
    return time * (1 + (machine.crowding - 1) * max(0.0, others)) * max(1.0, wanted / cores)


def _link(job: Job, sent: Sent) -> float:
    """Seconds of a node's link in a step."""
    cluster, world = job.cluster, job.world
    if cluster.nodes == 1:
        return 0.0
    away = (world - cluster.processes) / (world - 1)
    # Each process sends to all others; the ring's last process of a node to the next node alone.
    rows = (sent.total - sent.dense) * cluster.processes * away * sent.uneven
    rate = cluster.link * job.machine.link_share
    return (rows * cluster.oversubscription + sent.dense) / rate


def _latency(job: Job, sent: Sent) -> float:
    """Seconds that messages are under way, however small."""
    if job.cluster.nodes == 1:
        return 0.0
    return job.cluster.latency_s * (sent.exchanges + sent.sums * 2 * (job.cluster.nodes - 1))


def _alone(job: Job) -> float:
    """Seconds of the step in one process with the threads of each of these, and all rows."""
    one = job.replace(
        cluster=job.cluster.replace(nodes=1),
        distributed=job.distributed.replace(aggregate="sync", placements={}),
    )
    whole = one.machine.whole.seconds(
        job.train.batch_size * job.lookups,
        job.distinct(job.train.batch_size),
        job.shape.width + job.state_width - 1,
    )
    numbers = job.shape.num_parameters
    dense = numbers * job.machine.parameter_ns * 1e-9 + job.machine.step_ms * 1e-3
    net = _net_s(job, job.train.batch_size)
    return _on_cores(one, net + whole + dense, 0.0, crowded=False)


def _largest_of(number: int) -> float:
    """The expected largest of so many draws of a normal law, in standard deviations.

    Statistical Estimates and Transformed Beta-Variables, Blom, 1958: the quantile at
    (n - 0.375) / (n + 0.25).
    """
    return NormalDist().inv_cdf((number - 0.375) / (number + 0.25))

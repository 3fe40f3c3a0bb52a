"""What is to be planned: a model, its tables, the machines, and how they divide the work."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from scalerec.config import Config, require
from scalerec.distributed.config import DistributedConfig
from scalerec.distributed.planning.machine import Machine
from scalerec.distributed.planning.placing import explain_placements
from scalerec.distributed.planning.reads import TableReads, total_distinct
from scalerec.distributed.planning.shape import ModelShape
from scalerec.errors import ConfigError
from scalerec.rounds.codecs import CodecName
from scalerec.train import TrainConfig

__all__ = ["Cluster", "Job"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster(Config):
    """The machines.

    Args:
        nodes: Their number.
        processes: Of each node.
        cores: Of each node.
        threads: Of each process; 0 for its share of the cores.
        memory_bytes: Of each node.
        link: Bytes a second that a node can send, and receive at the same time.
        latency_s: From one node to another.
        oversubscription: How many times more the nodes' links carry together than the switches
            between the halves of the cluster, at least 1; 1 is full bisection bandwidth.
        price_per_hour: Of a node; 0 if it does not matter.
    """

    nodes: int = 1
    processes: int = 1
    cores: int = 2
    threads: int = 0
    memory_bytes: float = 24 * 2.0**30
    link: float = 1.25e9
    latency_s: float = 50e-6
    oversubscription: float = 1.0
    price_per_hour: float = 0.0

    def __post_init__(self) -> None:
        for name in ("nodes", "processes", "cores", "oversubscription"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1; got {value}")
        for name in ("memory_bytes", "link"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be above 0; got {value}")
        for name in ("threads", "latency_s", "price_per_hour"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be at least 0; got {value}")

    @property
    def world(self) -> int:
        """P, the number of processes."""
        return self.nodes * self.processes

    @property
    def threads_each(self) -> int:
        """Threads of a process."""
        return self.threads or max(1, self.cores // self.processes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job(Config):
    """A run that is to be planned.

    Args:
        cluster: The machines.
        machine: The constants of each of them.
        shape: What an example asks of the model.
        reads: Table to what examples read of it.
        train: The settings of training; `batch_size` is of all processes together.
        distributed: How processes divide the work.
        examples: Of an epoch; 0 if unknown.
        overlap: Part of the exchange that runs while the processor computes, in [0, 1]. Today's
            loop does one after the other: 0.
    """

    cluster: Cluster
    machine: Machine
    shape: ModelShape
    reads: dict[str, TableReads]
    train: TrainConfig = field(default_factory=TrainConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    examples: int = 0
    overlap: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.overlap <= 1, f"overlap must be in [0, 1]; got {self.overlap}")
        require(self.examples >= 0, f"examples must be at least 0; got {self.examples}")
        require(bool(self.reads), "a plan needs at least one table")
        CodecName.parse(self.distributed.codec)
        for name in self.distributed.placements:
            if name not in self.reads:
                known = ", ".join(self.reads)
                raise ConfigError(f"placements: there is no table {name!r}; allowed: {known}")

    @property
    def world(self) -> int:
        """P, the number of processes."""
        return self.cluster.world

    @property
    def batch(self) -> float:
        """Examples of a step of one process."""
        return self.train.batch_size / self.world

    @property
    def precision(self) -> str:
        """Of the dense part: `auto` is bf16, as the stored machine has it."""
        return "fp32" if self.train.precision == "fp32" else "bf16"

    @property
    def row_number_bytes(self) -> int:
        """Of each number of a row that is kept."""
        return 2 if self.train.tables.weights == "fp16" else 4

    @property
    def state_width(self) -> int:
        """S, what the row optimiser remembers of a row, in numbers."""
        _, optimiser = self.train.tables.row_optimiser()
        return sum(optimiser.state_widths(self.shape.width).values())

    @property
    def num_rows(self) -> int:
        """Of all tables."""
        return sum(own.rows for own in self.reads.values())

    @property
    def is_dense(self) -> bool:
        """Whether the tables are so small that all processes train them whole."""
        return self.train.tables.is_dense(self.num_rows * self.shape.width)

    @property
    def local_steps(self) -> int:
        """H, steps from one exchange to the next."""
        sync = self.distributed.aggregate == "sync"
        return 1 if sync or self.world == 1 else self.distributed.local_steps

    @property
    def lookups(self) -> float:
        """Ids of an example."""
        return sum(own.lookups for own in self.reads.values())

    def distinct(self, examples: float) -> float:
        """Distinct rows of all tables that so many examples read."""
        return total_distinct(self.reads, examples)

    def placements(self) -> dict[str, str]:
        """Table to `row`, `table:N`, `column` or `replicated`."""
        return {name: text for name, (text, _) in self.placements_and_reasons().items()}

    def placements_and_reasons(self) -> Mapping[str, tuple[str, str]]:
        """Table to where it is kept, and why where that was chosen."""
        asked = self.distributed
        wanted = {name: asked.placements.get(name, asked.sharding) for name in self.reads}
        found = {name: (text, "as asked") for name, text in wanted.items()}
        if "auto" in wanted.values():
            rows = {name: own.rows for name, own in self.reads.items()}
            reads = {name: own.distinct(self.batch) for name, own in self.reads.items()}
            chosen = explain_placements(rows, reads, self.shape.width, self.world)
            found |= {
                name: (choice.placement, choice.why)
                for name, choice in chosen.items()
                if wanted[name] == "auto"
            }
        for number, (name, (text, why)) in enumerate(list(found.items())):
            if text == "table":
                found[name] = (f"table:{number % self.world}", why)
        return found

    def with_nodes(self, nodes: int) -> "Job":
        """The same on another number of nodes, each with the same part of the batch."""
        batch = max(1, math.ceil(self.train.batch_size / self.cluster.nodes * nodes))
        return self.replace(
            cluster=self.cluster.replace(nodes=nodes), train=self.train.replace(batch_size=batch)
        )

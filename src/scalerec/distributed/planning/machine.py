"""What a machine does in a second: the constants of the model, measured and stored.

All times of work are of one core in use, so that they hold on a machine that is shared, and so
that work on more processes than cores can be added up.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalerec.config import Config, require
from scalerec.errors import ConfigError

__all__ = ["Machine", "MessageCosts", "RowCosts", "read_machine", "stored_machine", "write_machine"]

STORED = Path(__file__).with_name("machine.json")
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowCosts(Config):
    """What looking up and moving rows costs, in nanoseconds of a core.

    Args:
        id_ns: Of a looked-up id: its row's place, its field's assembly, its gradient's sum.
        id_number_ns: Of each number of its row.
        row_ns: Of a distinct row: read from memory, moved, written.
        row_number_ns: Of each number of it.
    """

    id_ns: float
    id_number_ns: float
    row_ns: float
    row_number_ns: float

    def seconds(self, ids: float, rows: float, width: int) -> float:
        """For so many looked-up ids of so many distinct rows of W columns."""
        per_id = self.id_ns + self.id_number_ns * width
        per_row = self.row_ns + self.row_number_ns * width
        return (ids * per_id + rows * per_row) * 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageCosts(Config):
    """What messages between processes cost, of a core's time.

    Args:
        message_us: Of a message to all others, however small, if there is one.
        peer_us: Of each further one.
        byte_ns: Of each byte that a process sends, and one that it receives.
        sum_ns: Of each number that is summed over processes, beside its bytes.
    """

    message_us: float
    peer_us: float
    byte_ns: float
    sum_ns: float

    def seconds(self, messages: float, further: float, size: float, numbers: float) -> float:
        """For so many messages to further processes, bytes in all and numbers summed."""
        begun = messages * self.message_us + further * self.peer_us
        return begun * 1e-6 + (size * self.byte_ns + numbers * self.sum_ns) * 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine(Config):
    """The constants of one kind of machine.

    Args:
        name: Its processor.
        date: When they were measured.
        cores: Of the machine.
        memory_bytes: Of the machine.
        product_gflops: Of one core, of matrix products alone, by precision.
        net_gflops: Of one core, of a net's products within a step, by precision.
        activation_ns: Of each number that a net keeps for its backward pass, by precision.
        step_ms: Of a step, whatever its size.
        whole: Rows that are all in the process.
        spread: Rows that are asked of the processes that keep them; messages left out.
        parameter_ns: Of each number of the dense part: optimiser.
        sockets: Messages between hosts.
        shared: Messages between processes of one host, through memory that they share.
        serial_share: Part of a step that more threads do not shorten.
        crowding: Time of a core's work when all cores work, as a multiple of that alone.
        waiting: Standard deviation of a process's step time, as a part of it.
        link_share: Part of a link's rate that is left for what is sent.
        disk_write: Bytes a second, until they are on the disk.
        disk_read: Bytes a second.
        process_bytes: Memory of a process that has loaded its libraries and nothing else.
    """

    name: str
    date: str
    cores: int
    memory_bytes: float
    product_gflops: dict[str, float]
    net_gflops: dict[str, float]
    activation_ns: dict[str, float]
    step_ms: float
    whole: RowCosts
    spread: RowCosts
    parameter_ns: float
    sockets: MessageCosts
    shared: MessageCosts
    serial_share: float
    crowding: float
    waiting: float
    link_share: float
    disk_write: float
    disk_read: float
    process_bytes: float

    def __post_init__(self) -> None:
        for group in ("product_gflops", "net_gflops", "activation_ns"):
            held = getattr(self, group)
            missing = {"fp32", "bf16"} - held.keys()
            require(not missing, f"{group} must hold fp32 and bf16; got {', '.join(held)}")
        for group in ("product_gflops", "net_gflops"):
            for precision, value in getattr(self, group).items():
                require(value > 0, f"{group}.{precision} must be above 0; got {value}")
        for name in ("cores", "memory_bytes", "crowding", "link_share", "disk_write", "disk_read"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be above 0; got {value}")


def stored_machine() -> Machine:
    """The machine on which the project's benchmarks ran."""
    return read_machine(STORED)


def read_machine(path: Path) -> Machine:
    """A machine's constants from a file that `write_machine` wrote.

    Raises:
        ConfigError: If there is none, or it does not hold them.
    """
    try:
        held = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a file of a machine's constants: {error}") from None
    if not isinstance(held, dict):
        raise ConfigError(f"{path}: must hold one JSON object; got {type(held).__name__}")
    return Machine.from_dict(held, str(path))


def write_machine(path: Path, machine: Machine) -> None:
    """Write a machine's constants, to be read, compared and changed by hand."""
    path.write_text(json.dumps(machine.to_dict(), indent=1) + "\n", "utf-8")

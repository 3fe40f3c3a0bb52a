"""The processes of one run and what they say to each other, every byte of it counted."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scalerec.distributed.shared import SharedLink, memory_facts
from scalerec.errors import GroupError

__all__ = ["Group", "Traffic", "join_group"]

TIMEOUT_S = 600.0


@dataclass(slots=True)
class Traffic:
    """Bytes that a process has sent to others and received from them, by purpose.

    A sum over P processes is counted as the ring all-reduce has it, 2 (P - 1) / P times its size
    each way (Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations, Patarasuk and
    Yuan, 2009, https://doi.org/10.1016/j.jpdc.2008.09.002); headers are not counted.
    """

    sent: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)

    def add(self, purpose: str, sent: int, received: int) -> None:
        """Count one message."""
        self.sent[purpose] = self.sent.get(purpose, 0) + sent
        self.received[purpose] = self.received.get(purpose, 0) + received

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Both, as JSON."""
        return {"sent": dict(self.sent), "received": dict(self.received)}


class Group:
    """The processes of a run, seen from one of them.

    Args:
        rank: Number of this process, from 0.
        world: P, the number of processes.
        device: Where the tensors that travel live.
        handle: Torch's process group; its default one unless given.
    """

    def __init__(
        self, rank: int, world: int, device: torch.device, handle: dist.ProcessGroup | None = None
    ) -> None:
        self.rank, self.world, self.device = rank, world, device
        self.traffic = Traffic()
        self._handle = handle
        self._link: SharedLink | None = None

    @property
    def shares_memory(self) -> bool:
        """Whether messages go through shared memory."""
        return self._link is not None

    def share_memory(self, timeout_s: float) -> bool:
        """Send messages through shared memory from now on, if all processes can; tell whether."""
        if self.world == 1 or self.device.type != "cpu":
            return False
        own, files = memory_facts()
        facts = self.gather_facts(own)
        link = None
        if SharedLink.fits(facts):
            with contextlib.suppress(OSError):
                link = SharedLink(facts, self.rank, files, timeout_s)
        else:
            for file in files:
                os.close(file)
        ready = self.sum(torch.tensor([float(link is not None)]), "waiting")
        if int(ready) == self.world:
            self._link = link
            return True
        if link is not None:
            link.close()
        return False

    def close(self) -> None:
        """Let go of shared memory, when all are done with it."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def sum(self, value: Tensor, purpose: str) -> Tensor:
        """The sum of a tensor over all processes, in its place.

        Args:
            value: Of one shape and type on all; overwritten.
            purpose: Under which its bytes are counted.
        """
        found = self.sum_all([value], purpose)[0]
        return value if found is value else value.copy_(found)

    def sum_all(self, values: Sequence[Tensor], purpose: str) -> list[Tensor]:
        """The sums of tensors over all processes, in one message.

        Args:
            values: Of the same shapes and of one type on all; they may be overwritten.
            purpose: Under which their bytes are counted.
        """
        if self.world == 1 or not values:
            return list(values)
        with self._told(f"the sum of {purpose}"):
            by = self._link.sum if self._link else self._sum_by_sockets
            found = by(values)
        size = sum(value.nbytes for value in values)
        share = 2 * size * (self.world - 1) // self.world
        self.traffic.add(purpose, share, share)
        return found

    def _sum_by_sockets(self, values: Sequence[Tensor]) -> list[Tensor]:
        # NCCL takes what is on the device alone.
        there = [value.to(self.device) for value in values]
        if len(there) == 1:
            dist.all_reduce(there[0], group=self._handle)
            return [there[0].to(values[0].device)]
        flat = torch.cat([value.flatten() for value in there])
        dist.all_reduce(flat, group=self._handle)
        parts = flat.split([value.numel() for value in values])
        both = zip(parts, values, strict=True)
        return [part.view(value.shape).to(value.device) for part, value in both]

    def exchange(
        self,
        rows: Tensor,
        sent: Sequence[int],
        received: Sequence[int],
        purpose: str,
        out: Tensor | None = None,
    ) -> Tensor:
        """Send each process its stretch of rows, and get theirs.

        Args:
            rows: ``[n, ...]``, the stretches one after the other, by process.
            sent: Length of each stretch.
            received: Length of what each process sends here.
            purpose: Under which the bytes are counted.
            out: To be filled, contiguous, if there is room for it already.

        Returns:
            ``[sum of received, ...]``, by process.
        """
        if self.world == 1:
            return rows if out is None else out.copy_(rows)
        if out is None:
            out = rows.new_empty(sum(received), *rows.shape[1:])
        with self._told(f"the exchange of {purpose}"):
            if self._link is None:
                own, there = rows.to(self.device).contiguous(), out.to(self.device)
                dist.all_to_all_single(there, own, list(received), list(sent), group=self._handle)
                if there is not out:
                    out.copy_(there)
            else:
                self._link.exchange(rows, sent, received, out)
        self._count(purpose, sent, received, rows[:1].nbytes or out[:1].nbytes)
        return out

    def lend(
        self,
        matrix: Tensor,
        numbers: Tensor,
        sent: Sequence[int],
        received: Sequence[int],
        purpose: str,
        out: Tensor,
    ) -> None:
        """Send each process those rows of a matrix that it asked for, and get theirs.

        Args:
            matrix: ``[R, ...]``.
            numbers: Which rows of it, ``[n]`` int64, by process.
            sent: How many of them each process gets.
            received: How many each process sends here.
            purpose: Under which the bytes are counted.
            out: To be filled, ``[sum of received, ...]``, contiguous, of the matrix's type.
        """
        if self._link is None:
            self.exchange(matrix.index_select(0, numbers), sent, received, purpose, out=out)
            return
        with self._told(f"the exchange of {purpose}"):
            self._link.lend(matrix, numbers, sent, received, out)
        self._count(purpose, sent, received, matrix[:1].nbytes)

    def ask(self, rows: Tensor, sent: Sequence[int], purpose: str) -> tuple[Tensor, list[int]]:
        """Send each process its stretch of rows, and get theirs, however many they are.

        Args:
            rows: ``[n, ...]``, the stretches one after the other, by process.
            sent: Length of each stretch.
            purpose: Under which the bytes are counted; those of the lengths are `counts`.

        Returns:
            ``[m, ...]``, by process, and how many come from each.
        """
        if self._link is None:
            received = self.counts(torch.tensor(sent, device=rows.device))
            return self.exchange(rows, sent, received, purpose), received
        with self._told(f"the exchange of {purpose}"):
            found, received = self._link.ask(rows, sent)
        ones = [1] * self.world
        self._count("counts", ones, ones, torch.int64.itemsize)
        self._count(purpose, sent, received, found[:1].nbytes or rows[:1].nbytes)
        return found, received

    def counts(self, sent: Tensor) -> list[int]:
        """Tell each process how many rows it will get; give how many come from each.

        Args:
            sent: ``[P]`` int64.
        """
        ones = [1] * self.world
        return self.exchange(sent, ones, ones, "counts").tolist()

    def gather(self, value: Tensor, purpose: str) -> list[Tensor]:
        """A tensor of every process, by rank; their first dimensions may differ.

        Args:
            value: ``[n, ...]``.
            purpose: Under which the bytes are counted.
        """
        if self.world == 1:
            return [value]
        copies = value.repeat(self.world, *[1] * (value.ndim - 1))
        found, sizes = self.ask(copies, [len(value)] * self.world, purpose)
        return list(found.split(sizes))

    def gather_first(self, value: Tensor, purpose: str) -> list[Tensor]:
        """A tensor of every process, by rank, on process 0; nothing on the others.

        Args:
            value: ``[n, ...]``; n may differ.
            purpose: Under which the bytes are counted.
        """
        if self.world == 1:
            return [value]
        sent = [len(value), *[0] * (self.world - 1)]
        found, sizes = self.ask(value, sent, purpose)
        return list(found.split(sizes)) if self.rank == 0 else []

    def gather_facts(self, facts: dict[str, Any]) -> list[dict[str, Any]]:
        """What every process says of itself, by rank; it travels as JSON.

        Args:
            facts: As JSON has it.
        """
        text = bytearray(json.dumps(facts).encode())
        found = self.gather(torch.frombuffer(text, dtype=torch.uint8).to(self.device), "facts")
        return [json.loads(bytes(part.cpu().numpy())) for part in found]

    def wait(self) -> None:
        """Wait for all processes."""
        self.sum(torch.zeros(1, device=self.device), "waiting")

    def _count(self, purpose: str, sent: Sequence[int], received: Sequence[int], size: int) -> None:
        """Count rows of so many bytes; what stays here does not travel."""
        kept = sent[self.rank]
        self.traffic.add(purpose, (sum(sent) - kept) * size, (sum(received) - kept) * size)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, dist.DistError) as error:
            first = _first_line(error)
            raise GroupError(
                f"process {self.rank} of {self.world}: {what} failed: {first}; another process is "
                "gone, was stopped, or cannot be reached: what it said last is the cause"
            ) from error


def _first_line(error: BaseException) -> str:
    """What torch says went wrong, without the line of its source that says so."""
    return re.sub(r"^\[[^]]*\] *", "", (str(error).splitlines() or [""])[0]).rstrip(".")


@contextlib.contextmanager
def join_group(
    device: torch.device | str = "cpu", timeout_s: float = TIMEOUT_S, *, shared: bool = True
) -> Iterator[Group]:
    """Join the run that a launcher started, and leave it at the end.

    The launcher (torchrun, or one that sets the same variables) says by RANK, WORLD_SIZE,
    MASTER_ADDR and MASTER_PORT who takes part. Without them the group is this process alone.

    Args:
        device: `cpu`, which talks by gloo, or `cuda`, which talks by NCCL and takes the device of
            the process's number on its host.
        timeout_s: Seconds after which a process that does not answer is given up.
        shared: Whether processes of one host send messages through shared memory, where they can.

    Raises:
        GroupError: If the others cannot be reached, or the port is taken.
    """
    device = torch.device(device)
    rank, world = (int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield Group(rank, world, device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend, rank=rank, world_size=world, timeout=timedelta(seconds=timeout_s)
        )
    except (RuntimeError, ValueError, dist.DistError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise GroupError(
            f"process {rank} of {world} cannot join the others at {place}: {_first_line(error)}"
        ) from error
    group = Group(rank, world, device)
    try:
        if shared:
            group.share_memory(timeout_s)
        yield group
    finally:
        group.close()
        dist.destroy_process_group()

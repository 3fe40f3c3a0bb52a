"""Messages between processes of one host through memory that they share.

Over sockets a message is copied four times and every part of it is a call of the system; here it is
written once and read once. Each process has memories of its own that all map: a page of facts (how
many messages were written so far, how large the rooms are, where each stretch begins) and two rooms
that messages take in turns. Who writes message n + 2 into a room knows that all have read message n
there, because all have written message n + 1 since, which they do after reading n.

The memories have no name, are not part of any file system, and are gone when the processes are.
"""

import mmap
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.distributed.futex import sleep_until_changed, wake_all
from scalerec.errors import GroupError

__all__ = ["SharedLink", "memory_facts"]

PAGE = 4096
FIRST_BYTES = 1 << 20
# Places on the page of facts, in numbers of 8 bytes; the flag lies in a cache line of its own.
WRITTEN, ROOM_BYTES, STARTS = 0, 8, 16
MOST_PROCESSES = (PAGE // 8 - STARTS) // 2 - 1
# Messages up to this size are summed whole by everybody, larger ones in parts.
SMALL = 16_384
# A process that waits looks so often before it sleeps; asleep it wakes now and then to see whether
# the others are alive.
LOOKS, LOOK_S = 100, 0.25


def memory_facts() -> tuple[dict[str, Any], list[int]]:
    """What another process needs to share memory with this one, and the memories' descriptors.

    Processes share memory if they run on one host and in one network, so that hosts made of
    namespaces talk over their links.
    """
    where = Path("/proc/sys/kernel/random/boot_id")
    if not hasattr(os, "memfd_create") or platform.machine() not in ("x86_64", "AMD64"):
        # The order in which one core writes is the order that others see on x86 only.
        return {"host": ""}, []
    files = []
    try:
        for size in (PAGE, 0, 0):
            files.append(os.memfd_create("scalerec"))
            os.ftruncate(files[-1], size)
        spaces = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("net", "pid")]
        host = " ".join([where.read_text("ascii").strip(), *spaces])
    except OSError:
        for file in files:
            os.close(file)
        return {"host": ""}, []
    return {"host": host, "pid": os.getpid(), "files": files}, files


class _Memory:
    """One process's memories, as mapped here.

    Args:
        files: Their descriptors, which are this object's from now on.
    """

    def __init__(self, files: Sequence[int]) -> None:
        self.files = list(files)
        self.facts: NDArray[np.int64] = np.frombuffer(mmap.mmap(files[0], PAGE), np.int64)
        self._rooms: list[NDArray[np.uint8]] = [np.empty(0, np.uint8), np.empty(0, np.uint8)]

    def room(self, number: int) -> NDArray[np.uint8]:
        """One of the two rooms, mapped anew if it has grown."""
        size = int(self.facts[ROOM_BYTES + number])
        if len(self._rooms[number]) != size:
            mapped = mmap.mmap(self.files[1 + number], size)
            self._rooms[number] = np.frombuffer(mapped, np.uint8)
        return self._rooms[number]

    def grow(self, number: int, needed: int) -> None:
        """Make a room large enough for a message; for the process whose memory it is."""
        size = max(FIRST_BYTES, int(self.facts[ROOM_BYTES + number]))
        while size < needed:
            size *= 2
        os.ftruncate(self.files[1 + number], size)
        self.facts[ROOM_BYTES + number] = size

    def close(self) -> None:
        """Close the descriptors; what is mapped stays until nobody looks at it."""
        for file in self.files:
            os.close(file)


class SharedLink:
    """The messages of a group whose processes share memory.

    Args:
        facts: What `memory_facts` gave on every process, by rank.
        rank: Number of this process.
        files: The descriptors that `memory_facts` gave here.
        timeout_s: Seconds after which a process that does not answer is given up.

    Raises:
        OSError: If another's memory cannot be reached.
    """

    def __init__(
        self, facts: Sequence[Mapping[str, Any]], rank: int, files: list[int], timeout_s: float
    ) -> None:
        self.rank, self.world, self.timeout_s = rank, len(facts), timeout_s
        self._pids = [int(own["pid"]) for own in facts]
        # The own one is closed with the rest if another's cannot be reached.
        mine = _Memory(files)
        self._memories: list[_Memory] = [mine]
        try:
            others = {o: _Memory(_open(own)) for o, own in enumerate(facts) if o != rank}
        except OSError:
            self.close()
            raise
        self._memories = [others.get(number, mine) for number in range(self.world)]
        self._own = self._memories[rank]
        self._messages = 0
        self._nowhere = np.zeros(self.world + 1, np.int64)

    @classmethod
    def fits(cls, facts: Sequence[Mapping[str, Any]]) -> bool:
        """Whether processes of these facts can share memory."""
        hosts = {str(own["host"]) for own in facts}
        return len(hosts) == 1 and "" not in hosts and len(facts) <= MOST_PROCESSES

    def exchange(
        self, rows: Tensor, sent: Sequence[int], received: Sequence[int], out: Tensor
    ) -> None:
        """As `Group.exchange`, of rows on the CPU."""
        size = _bytes_of_one(rows)
        source, target = _bytes(rows.contiguous()), _bytes(out)
        starts, own = self._starts(sent)
        room = self._write([source[: own.start * size], source[own.stop * size :]], starts)
        here = sum(received[: self.rank]) * size
        target[here : here + sent[self.rank] * size] = source[own.start * size : own.stop * size]
        self._read_all(room, target, received, size)

    def lend(
        self,
        matrix: Tensor,
        numbers: Tensor,
        sent: Sequence[int],
        received: Sequence[int],
        out: Tensor,
    ) -> None:
        """As `Group.lend`, of rows on the CPU: each is read once, and written once."""
        size = _bytes_of_one(matrix)
        starts, own = self._starts(sent)
        lent = int(starts[-1])
        number, room = self._reserve(lent * size)
        if lent * size:
            there = torch.from_numpy(room[: lent * size]).view(matrix.dtype)
            there = there.view(lent, *matrix.shape[1:])
            torch.index_select(matrix, 0, numbers[: own.start], out=there[: own.start])
            torch.index_select(matrix, 0, numbers[own.stop :], out=there[own.start :])
        self._publish(number, starts)
        here = sum(received[: self.rank])
        torch.index_select(matrix, 0, numbers[own], out=out[here : here + sent[self.rank]])
        self._read_all(number, _bytes(out), received, size)

    def ask(self, rows: Tensor, sent: Sequence[int]) -> tuple[Tensor, list[int]]:
        """As `Group.ask`, of rows on the CPU."""
        size, source = _bytes_of_one(rows), _bytes(rows.contiguous())
        starts, own = self._starts(sent)
        room = self._write([source[: own.start * size], source[own.stop * size :]], starts)
        parts = {self.rank: source[own.start * size : own.stop * size]}
        received = list(sent)
        for other, memory in self._others():
            low, high = self._stretch(memory, room)
            parts[other], received[other] = memory.room(room)[low * size : high * size], high - low
        # Copied at once: the room is another message's after the next one.
        out = rows.new_empty(sum(received), *rows.shape[1:])
        np.concatenate([parts[rank] for rank in range(self.world)], out=_bytes(out))
        return out, received

    def sum(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The sums of tensors on the CPU, of one type, added up in the order of ranks on all."""
        assert len({value.dtype for value in values}) == 1, "bytes are added up as one type"
        flat = [value.contiguous().view(-1) for value in values]
        out = flat[0].new_empty(sum(map(len, flat)))
        if out.nbytes <= SMALL:
            room = self._write([_bytes(part) for part in flat], self._nowhere)
            parts = {self.rank: self._read(self._own, room, 0, out)}
            parts |= {other: self._read(memory, room, 0, out) for other, memory in self._others()}
            _total(parts, out)
        else:
            self._sum_in_parts(flat, out)
        pieces = out.split([len(part) for part in flat])
        return [piece.view(value.shape) for piece, value in zip(pieces, values, strict=True)]

    def close(self) -> None:
        """Let go of all memories."""
        for memory in self._memories:
            memory.close()
        self._memories = []

    def _sum_in_parts(self, values: Sequence[Tensor], out: Tensor) -> None:
        """Each process adds up one part of everybody's numbers, then tells all."""
        bounds = [len(out) * part // self.world for part in range(self.world + 1)]
        own = out[bounds[self.rank] : bounds[self.rank + 1]]
        room = self._write([_bytes(value) for value in values], self._nowhere)
        start = bounds[self.rank] * out.element_size()
        parts = {self.rank: self._read(self._own, room, start, own)}
        parts |= {o: self._read(memory, room, start, own) for o, memory in self._others()}
        _total(parts, own)
        room = self._write([_bytes(own)], self._nowhere)
        for other, memory in self._others():
            piece = out[bounds[other] : bounds[other + 1]]
            piece.copy_(self._read(memory, room, 0, piece))

    def _starts(self, sent: Sequence[int]) -> tuple[NDArray[np.int64], slice]:
        """Which row in the room each process's stretch starts at; those that do not travel."""
        starts = np.cumsum([0, *sent], dtype=np.int64)
        own = slice(int(starts[self.rank]), int(starts[self.rank + 1]))
        starts[self.rank + 1 :] -= own.stop - own.start
        return starts, own

    def _stretch(self, memory: _Memory, room: int) -> tuple[int, int]:
        """The first row in a room that is for this process, and the end of them."""
        first = STARTS + room * (self.world + 1) + self.rank
        return int(memory.facts[first]), int(memory.facts[first + 1])

    def _write(self, parts: Sequence[NDArray[np.uint8]], starts: NDArray[np.int64]) -> int:
        """Put a message into the room whose turn it is; gives which."""
        number, room = self._reserve(sum(map(len, parts)))
        place = 0
        for part in parts:
            room[place : place + len(part)] = part
            place += len(part)
        self._publish(number, starts)
        return number

    def _reserve(self, needed: int) -> tuple[int, NDArray[np.uint8]]:
        """The room whose turn it is, large enough."""
        number, memory = self._messages % 2, self._own
        if needed > memory.facts[ROOM_BYTES + number]:
            self._grow(number, needed)
        return number, memory.room(number)

    def _publish(self, number: int, starts: NDArray[np.int64]) -> None:
        """Let the others see what was put into a room."""
        memory, first = self._own, STARTS + number * (self.world + 1)
        memory.facts[first : first + self.world + 1] = starts
        self._messages += 1
        # Last, so that who sees it sees the message too.
        memory.facts[WRITTEN] = self._messages
        wake_all(memory.facts.ctypes.data + 8 * WRITTEN)

    def _read_all(
        self, room: int, target: NDArray[np.uint8], received: Sequence[int], size: int
    ) -> None:
        """Copy what the others wrote for this process to where it belongs, by process."""
        places = np.cumsum([0, *received]) * size
        for other, memory in self._others():
            if received[other]:
                low, high = self._stretch(memory, room)
                place = memory.room(room)[low * size : high * size]
                target[places[other] : places[other + 1]] = place

    def _grow(self, number: int, needed: int) -> None:
        try:
            self._own.grow(number, needed)
        except OSError as error:
            raise GroupError(
                f"process {self.rank} of {self.world}: no memory to share for a message of "
                f"{needed:,} bytes: {error}"
            ) from error

    def _others(self) -> Iterator[tuple[int, _Memory]]:
        """The memories of the other processes, each when its message is there."""
        for step in range(1, self.world):
            other = (self.rank + step) % self.world
            memory = self._memories[other]
            if memory.facts[WRITTEN] < self._messages:
                self._await(other)
            yield other, memory

    def _await(self, other: int) -> None:
        facts, wanted = self._memories[other].facts, self._messages
        for _ in range(LOOKS):
            if facts[WRITTEN] >= wanted:
                return
        begun, address = time.monotonic(), facts.ctypes.data + 8 * WRITTEN
        while (written := int(facts[WRITTEN])) < wanted:
            sleep_until_changed(address, written, LOOK_S)
            if facts[WRITTEN] == written:
                self._check(other, time.monotonic() - begun)

    def _check(self, other: int, waited: float) -> None:
        """Give up on a process that is gone, or has been silent for too long."""
        silent = waited > self.timeout_s
        if silent or not _is_alive(self._pids[other]):
            why = f"has not answered for {waited:.0f} s" if silent else "has ended"
            raise GroupError(
                f"process {other} of {self.world} {why}, as process {self.rank} waited for its "
                "part of a message"
            )

    @staticmethod
    def _read(memory: _Memory, room: int, start: int, like: Tensor) -> Tensor:
        """A view of a message's numbers from a byte on, as many as another tensor has."""
        content = memory.room(room)[start : start + like.nbytes]
        return torch.from_numpy(content).view(like.dtype)


def _total(parts: Mapping[int, Tensor], out: Tensor) -> None:
    """Add tensors up in the order of ranks, so that the sum is the same to the last bit on all."""
    torch.add(parts[0], parts[1], out=out)
    for rank in range(2, len(parts)):
        out += parts[rank]


def _open(facts: Mapping[str, Any]) -> list[int]:
    """Another process's memories."""
    found: list[int] = []
    try:
        for file in facts["files"]:
            path = f"/proc/{facts['pid']}/fd/{file}"
            found.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        for file in found:
            os.close(file)
        raise
    return found


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """The bytes of a contiguous tensor, live."""
    flat: NDArray[np.uint8] = tensor.detach().view(-1).view(torch.uint8).numpy()
    return flat


def _bytes_of_one(rows: Tensor) -> int:
    """Bytes of a row, also of none."""
    numbers = 1
    for size in rows.shape[1:]:
        numbers *= size
    return numbers * rows.element_size()


def _is_alive(pid: int) -> bool:
    try:
        state = (
            Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0]
        )
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")

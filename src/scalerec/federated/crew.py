"""Processes that train parts of cohorts beside this one, each on one core.

A process is forked from this one when it is first needed, so it has the model and all examples as
they were then, without a copy. Where the parties start, and what they moved, lies in memory that
all of them see; a pipe carries a line of JSON each way, and another the numbers of the parts that
nobody has taken yet, so that whoever is done takes the next. Threads would share more, but batched
products of small matrices get in each other's way in one process: two threads gained a third where
two processes gained all.

Only where a system can fork; elsewhere `Crew.possible` is false, and threads do it.
"""

import contextlib
import json
import os
import signal
import sys
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.errors import RoundError
from scalerec.federated.cohorts import Cohort
from scalerec.federated.local import Local, LocalConfig, Pull, train_cohort
from scalerec.federated.sharing import Arena, FullError
from scalerec.federated.work import Work
from scalerec.train.cohort.models import PartyModel

__all__ = ["Crew"]

# Bytes of a part's number in the pipe; a pipe holds some ten thousand of them.
NUMBER = 4
Chunks = Sequence[tuple[int, int]]
Job = dict[str, Any]
Tensors = Mapping[str, Tensor]


class Crew:
    """Processes beside this one.

    Args:
        model: That they train with; parts with other examples are not for them.
        order: Numbers of examples, those of each party in turn, as cohorts have it.
        num: How many processes, this one among them, at least 2.
    """

    possible = sys.platform == "linux" and not torch.cuda.is_available()
    """Whether processes that are forked here may compute; with autograd's threads for GPUs not."""

    def __init__(self, model: PartyModel, order: NDArray[np.int64], num: int) -> None:
        self.shared = _Shared(Arena(), model, order, _Queue.open())
        self.others = [_Other(self.shared, place) for place in range(1, num)]
        self._end = weakref.finalize(self, _dismiss, self.others, self.shared.queue)

    @property
    def closed(self) -> bool:
        """Whether the processes were ended."""
        return not self._end.alive

    def close(self) -> None:
        """End the processes; without it they end with this object."""
        self._end()

    def train(self, work: Work, chunks: Chunks) -> Local | None:
        """Train the parts of a cohort, if they fit the shared memory.

        Args:
            work: What is to be trained; with plain gradients.
            chunks: First and last of each part; those that take longest should come first.

        Returns:
            What parties moved, in shared memory; None if it does not fit.

        Raises:
            RoundError: If a process failed.
        """
        arena = self.shared.arena
        try:
            room, shared = _room(arena, work), _share(arena, work)
        except FullError:
            return None
        try:
            # Each has one part for sure; the others go to whoever asks.
            self.shared.queue.put(range(len(self.others) + 1, len(chunks)))
            job = _job(arena, shared, room, chunks)
            for other in self.others:
                other.send(job)
            _train(shared, room, self.shared.queue.take(0, chunks))
            for other in self.others:
                other.receive()
        except BaseException:
            # Answers and parts that nobody read would be taken for those of the next cohort.
            self.close()
            raise
        return room


@dataclass(frozen=True, slots=True)
class _Queue:
    """Numbers of parts, each to be had once; a pipe that all processes read."""

    back: int
    out: int

    @staticmethod
    def open() -> "_Queue":
        back, out = os.pipe()
        os.set_blocking(back, False)
        return _Queue(back, out)

    def put(self, numbers: range) -> None:
        os.write(self.out, b"".join(n.to_bytes(NUMBER, "little") for n in numbers))

    def take(self, place: int, chunks: Chunks) -> Iterator[tuple[int, int]]:
        """The parts of one process: that of its place, and then whatever is left."""
        yield from chunks[place : place + 1]
        with contextlib.suppress(BlockingIOError):
            while found := os.read(self.back, NUMBER):
                yield chunks[int.from_bytes(found, "little")]


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all processes of a crew have."""

    arena: Arena
    model: PartyModel
    order: NDArray[np.int64]
    queue: _Queue


class _Other:
    """One process, seen from the one that forked it."""

    def __init__(self, shared: _Shared, place: int) -> None:
        down, up = os.pipe(), os.pipe()
        with warnings.catch_warnings():
            # Other threads are this program's own, and the new process uses none of their locks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.close(down[1])
            os.close(up[0])
            _serve(shared, place, os.fdopen(down[0], "rb"), os.fdopen(up[1], "wb"))
        os.close(down[0])
        os.close(up[1])
        self.out, self.back = os.fdopen(down[1], "wb"), os.fdopen(up[0], "rb")

    def send(self, job: Job) -> None:
        """Let the process begin."""
        # If it is gone, `receive` says so.
        with contextlib.suppress(BrokenPipeError):
            _write(self.out, job)

    def receive(self) -> None:
        """Wait until the process is done."""
        line = self.back.readline()
        if not line:
            raise RoundError("a process that trains parties died; is there enough memory?")
        found = json.loads(line)
        if found:
            raise RoundError(f"a process that trains parties failed: {found}")


def _serve(shared: _Shared, place: int, jobs: BinaryIO, out: BinaryIO) -> None:
    """What the other process does until its pipe ends; it never returns."""
    # An interrupt is for the process that forked this one, which then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        while line := jobs.readline():
            try:
                job = json.loads(line)
                work, room = _of_job(shared, job)
                _train(work, room, shared.queue.take(place, job["chunks"]))
                _write(out, "")
            except Exception as error:
                _write(out, f"{type(error).__name__}: {error}")
    finally:
        # Nothing of the other process's own is to be cleaned up here.
        os._exit(0)


def _train(work: Work, room: Local, chunks: Iterator[tuple[int, int]]) -> None:
    for first, last in chunks:
        own = room.part(first, last, work.rows_of(first, last))
        train_cohort(*work.part(first, last), room=own)


def _room(arena: Arena, work: Work) -> Local:
    """Where what the parties move is put."""
    num = len(work.cohort)
    moved = {n: arena.take((num, *t.shape[1:]), t.dtype) for n, t in work.starts.items()}
    rows = arena.take(work.rows_kw.shape, work.rows_kw.dtype)
    losses, steps = arena.take((num,), torch.float32), arena.take((num,), torch.int64)
    return Local(moved, rows, losses, steps)


def _share(arena: Arena, work: Work) -> Work:
    """The same work, its tensors in shared memory."""
    cohort, pull = work.cohort, work.pull

    def named(tensors: Tensors | None) -> dict[str, Tensor] | None:
        return None if tensors is None else {n: arena.put(t) for n, t in tensors.items()}

    def single(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else arena.put(tensor)

    own = replace(
        cohort,
        parties=arena.put(torch.from_numpy(cohort.parties)).numpy(),
        sizes=arena.put(torch.from_numpy(cohort.sizes)).numpy(),
        starts=arena.put(torch.from_numpy(cohort.starts)).numpy(),
        rows=arena.put(cohort.rows),
        offsets=arena.put(cohort.offsets),
        still=arena.put(cohort.still),
    )
    if pull is not None:
        rows = single(pull.anchor_rows), single(pull.shift_rows)
        pull = Pull(named(pull.anchors), rows[0], pull.strength, named(pull.shift), rows[1])
    starts, rows_kw = named(work.starts) or {}, arena.put(work.rows_kw)
    return replace(work, cohort=own, starts=starts, rows_kw=rows_kw, pull=pull)


def _job(arena: Arena, work: Work, room: Local, chunks: Chunks) -> Job:
    """What another process needs to find work that lies in shared memory."""
    cohort, pull = work.cohort, work.pull
    rows = {} if pull is None else {"anchor": pull.anchor_rows, "shift": pull.shift_rows}
    arrays = {
        "parties": torch.from_numpy(cohort.parties),
        "sizes": torch.from_numpy(cohort.sizes),
        "starts": torch.from_numpy(cohort.starts),
        "rows": cohort.rows,
        "offsets": cohort.offsets,
        "still": cohort.still,
        "values": work.rows_kw,
        "moved_rows": room.moved_rows,
        "losses": room.losses,
        "steps": room.steps,
    }
    return {
        "arrays": arena.places(arrays),
        "begin": arena.places(work.starts),
        "moved": arena.places(room.moved),
        "config": work.config.to_dict(),
        "key": list(work.key),
        "chunks": list(chunks),
        "strength": None if pull is None else pull.strength,
        "anchors": arena.places(pull.anchors) if pull else None,
        "shift": arena.places(pull.shift) if pull else None,
        "pull_rows": arena.places({n: t for n, t in rows.items() if t is not None}),
    }


def _of_job(shared: _Shared, job: Job) -> tuple[Work, Local]:
    """The work of a job, and where what parties move is put."""
    arena = shared.arena
    arrays, extra = arena.views(job["arrays"]) or {}, arena.views(job["pull_rows"]) or {}
    parties, sizes, starts = (arrays[name].numpy() for name in ("parties", "sizes", "starts"))
    rows, offsets, still = (arrays[name] for name in ("rows", "offsets", "still"))
    cohort = Cohort(parties, sizes, starts, rows, offsets, still, shared.order, shared.model)
    pull = None
    if job["strength"] is not None:
        pull = Pull(
            arena.views(job["anchors"]),
            extra.get("anchor"),
            job["strength"],
            arena.views(job["shift"]),
            extra.get("shift"),
        )
    config = LocalConfig.from_dict(job["config"], "local")
    begin, key = arena.views(job["begin"]) or {}, tuple(job["key"])
    work = Work(cohort, begin, arrays["values"], config, key, pull)
    moved = arena.views(job["moved"]) or {}
    return work, Local(moved, *(arrays[name] for name in ("moved_rows", "losses", "steps")))


def _write(out: BinaryIO, message: object) -> None:
    out.write(json.dumps(message).encode() + b"\n")
    out.flush()


def _dismiss(others: Sequence[_Other], queue: _Queue) -> None:
    """End processes: their pipes end."""
    for other in others:
        with contextlib.suppress(BrokenPipeError):
            other.out.close()
        other.back.close()
    for other in others:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(other.pid, 0)
    os.close(queue.back)
    os.close(queue.out)

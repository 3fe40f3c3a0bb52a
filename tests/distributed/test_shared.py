"""Messages through shared memory; threads stand for processes, each with memories of its own."""

import gc
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalerec.distributed.shared import SharedLink, memory_facts
from scalerec.errors import GroupError

pytestmark = pytest.mark.skipif(
    not hasattr(os, "memfd_create") or platform.machine() not in ("x86_64", "AMD64"),
    reason="memory is shared on Linux on x86-64 only; elsewhere messages go through sockets",
)


def together(world: int, work: Callable[[SharedLink], Any], timeout_s: float = 20.0) -> list[Any]:
    """What a work gives on each of several links."""
    known = [memory_facts() for _ in range(world)]
    facts = [own for own, _ in known]
    assert SharedLink.fits(facts)
    links = [SharedLink(facts, rank, files, timeout_s) for rank, (_, files) in enumerate(known)]
    try:
        with ThreadPoolExecutor(world) as pool:
            return list(pool.map(work, links))
    finally:
        for link in links:
            # Own descriptors belong to each link; those of the others were opened anew.
            link.close()


@pytest.mark.parametrize("way", ["exchange", "ask", "lend"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_rows_arrive_where_they_are_sent(way: str, data: Any) -> None:
    """Several messages one after the other, of any sizes, none among them."""
    world, rounds = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 4))
    width = data.draw(st.integers(0, 3))
    sizes = st.lists(st.integers(0, 5), min_size=world, max_size=world)
    sent = [[data.draw(sizes) for _ in range(world)] for _ in range(rounds)]

    def rows_of(turn: int, rank: int) -> Tensor:
        start, rows = 1000 * turn + 100 * rank, sum(sent[turn][rank])
        return torch.arange(start, start + width * rows).view(rows, width)

    def one(link: SharedLink, turn: int) -> Tensor:
        rows, lengths = rows_of(turn, link.rank), sent[turn][link.rank]
        received = [sent[turn][other][link.rank] for other in range(world)]
        if way == "ask":
            found, counts = link.ask(rows, lengths)
            assert counts == received
            return found
        out = torch.empty(sum(received), width, dtype=torch.int64)
        if way == "exchange":
            link.exchange(rows, lengths, received, out)
        else:
            # From a matrix that has them in another order, with rows that nobody asks for.
            matrix = torch.cat([rows.flip(0), torch.full((2, width), -1)])
            link.lend(matrix, torch.arange(len(rows)).flip(0), lengths, received, out)
        return out

    given_ = together(world, lambda link: [one(link, turn) for turn in range(rounds)], 2.0)
    for turn in range(rounds):
        parts = [rows_of(turn, other).split(sent[turn][other]) for other in range(world)]
        for rank in range(world):
            wanted = torch.cat([parts[other][rank] for other in range(world)])
            assert torch.equal(given_[rank][turn], wanted)


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("numbers", [1, 7, 5000, 700_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_sums_are_those_of_all_to_the_last_bit(
    world: int, numbers: int, dtype: torch.dtype
) -> None:
    """Small ones in one message, large ones in parts, beyond the first size of the memory."""
    own = [(torch.randn(numbers, generator=seed(r)) * 100).to(dtype) for r in range(world)]
    wanted = own[0].clone()
    for other in own[1:]:
        wanted += other

    def work(link: SharedLink) -> list[Tensor]:
        return link.sum([own[link.rank], own[link.rank][: numbers // 2].view(1, -1)])

    for whole, half in together(world, work):
        assert torch.equal(whole, wanted)
        assert torch.equal(half, wanted[: numbers // 2].view(1, -1))


def test_a_message_may_outgrow_the_last_one() -> None:
    """What others still read of an earlier message stays as it was."""

    def work(link: SharedLink) -> list[float]:
        found = []
        for power in range(8, 21):
            own = torch.full((2**power,), float(link.rank + 1))
            found += [float(each.mean()) for each in link.sum([own])]
        return found

    assert together(3, work) == [[6.0] * 13] * 3


def test_a_process_that_is_silent_or_gone() -> None:
    def waits(link: SharedLink) -> str:
        if link.rank == 1:
            return ""
        with pytest.raises(GroupError) as error:
            link.sum([torch.ones(1)])
        return str(error.value)

    words = "process 1 of 2 has not answered for [0-9]+ s, as process 0 waited for its part"
    found = together(2, waits, timeout_s=0.2)[0]
    assert re.match(words, found), found


def test_a_process_that_has_ended() -> None:
    """Known long before the time is up."""
    facts, files = memory_facts()
    other, others_files = memory_facts()
    link = SharedLink([facts, other], 0, files, 60.0)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    link._pids[1] = ended.pid
    with pytest.raises(GroupError, match="process 1 of 2 has ended, as process 0 waited"):
        link.sum([torch.ones(1)])
    link.close()
    for file in others_files:
        os.close(file)


def test_memory_that_cannot_be_reached_leaves_nothing_open() -> None:
    """As where processes may not look into each other: messages then go through sockets."""
    # What earlier tests left in cycles would be closed whenever the collector likes.
    gc.collect()
    facts, files = memory_facts()
    before = num_open() - len(files)
    hidden = {**facts, "files": [10**6]}
    with pytest.raises(FileNotFoundError):
        SharedLink([facts, hidden], 0, files, 1.0)
    assert num_open() == before


def test_other_hosts_and_other_networks_do_not_fit() -> None:
    one = {"host": "a net:[1] pid:[1]", "pid": 1, "files": [3]}
    assert SharedLink.fits([one, {**one, "pid": 2}])
    assert not SharedLink.fits([one, {**one, "host": "a net:[2] pid:[1]"}])
    assert not SharedLink.fits([one, {"host": ""}])
    assert not SharedLink.fits([{"host": ""}, {"host": ""}])


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def num_open() -> int:
    """Files that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))

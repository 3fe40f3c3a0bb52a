"""Arrivals at a server with a buffer: by hand, by chance, and the same when resumed."""

from itertools import islice

import numpy as np
import pytest

from scalerec.errors import ConfigError
from scalerec.federated.devices import Devices, DevicesConfig
from scalerec.federated.devices_schedule import Buffer, BufferedConfig, Load, buffers


def load_of(examples: list[int]) -> Load:
    nothing = np.zeros(len(examples))
    return Load(examples=np.array(examples), downloaded=nothing, uploaded=nothing)


def still(**more: float) -> Devices:
    """Devices of one example a second."""
    config = {"speed": 1.0, "speed_sigma": 0.0, "jitter_sigma": 0.0, "start_s": 0.0}
    return Devices(DevicesConfig.from_dict({**config, **more}))


def run(devices: Devices, load: Load, num: int, first: int = 0, **more: int) -> list[Buffer]:
    return list(islice(buffers(devices, load, BufferedConfig.from_dict(more), first), num))


def test_arrivals_by_hand() -> None:
    """Party 0 takes 2 seconds and party 1 takes 5; both always work."""
    found = run(still(), load_of([2, 5]), 3, concurrency=2, buffer=2)
    # Arrivals: 0 at 2 and 4, 1 at 5, 0 at 6 and 8, 1 and 0 at 10 (1 started first).
    assert [buffer.parties.tolist() for buffer in found] == [[0, 0], [1, 0], [0, 1]]
    assert [buffer.clock_s for buffer in found] == [4.0, 6.0, 10.0]
    # Version 1 is there from 4 on, version 2 from 6 on. The second start of 0 is at 2.
    assert [buffer.versions.tolist() for buffer in found] == [[0, 0], [0, 1], [2, 1]]
    assert [buffer.staleness.tolist() for buffer in found] == [[0, 0], [1, 0], [0, 1]]
    assert [buffer.number for buffer in found] == [0, 1, 2]


def test_who_drops_out_is_counted_and_replaced() -> None:
    found = run(still(drop_out=0.4), load_of([3] * 50), 300, concurrency=20, buffer=5)
    dropped = sum(buffer.num_dropped for buffer in found)
    ends = dropped + 5 * 300
    assert dropped / ends == pytest.approx(0.4, abs=4.5 * (0.24 / ends) ** 0.5)
    starts = [start for buffer in found for start in buffer.starts.tolist()]
    assert len(set(starts)) == len(starts)
    clocks = [buffer.clock_s for buffer in found]
    assert clocks == sorted(clocks)


def test_a_resumed_run_sees_the_same() -> None:
    devices = Devices(DevicesConfig(drop_out=0.2, on=0.7, swing=0.5, seed=3))
    load = load_of(list(range(100, 160)))
    whole = run(devices, load, 30, concurrency=12, buffer=4, seed=9)
    rest = run(devices, load, 10, first=20, concurrency=12, buffer=4, seed=9)
    for buffer, again in zip(whole[20:], rest, strict=True):
        assert again.number == buffer.number
        assert again.clock_s == buffer.clock_s
        assert again.parties.tolist() == buffer.parties.tolist()
        assert again.versions.tolist() == buffer.versions.tolist()
    other = run(devices, load, 30, concurrency=12, buffer=4, seed=10)
    assert [b.parties.tolist() for b in other] != [b.parties.tolist() for b in whole]


def test_the_slow_are_stale() -> None:
    load = load_of([10] * 30 + [100] * 30)
    found = run(still(), load, 400, concurrency=20, buffer=10)
    stale = np.concatenate([buffer.staleness for buffer in found])
    slow = np.concatenate([buffer.parties for buffer in found]) >= 30
    assert stale[slow].mean() > 5 * stale[~slow].mean()
    assert (stale >= 0).all()


def test_a_server_waits_where_nobody_is_on() -> None:
    """At the low of a full swing nobody is on; by night the run goes on."""
    devices = still(on=0.5, swing=1.0, spread_h=0.0, peak_hour=12.5)
    found = run(devices, load_of([1] * 10), 3, concurrency=2, buffer=1)
    assert found[0].clock_s >= 3600.0


def test_words() -> None:
    with pytest.raises(ConfigError, match="at most the number of parties, 2; got 3"):
        run(still(), load_of([1, 1]), 1, concurrency=3)
    with pytest.raises(ConfigError, match="buffer must be at least 1; got 0"):
        BufferedConfig(buffer=0)

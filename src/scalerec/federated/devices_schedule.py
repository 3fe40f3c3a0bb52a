"""When updates arrive in an asynchronous run: a server with a buffer, and parties that never wait.

The order of arrivals follows from speeds, sizes and chance alone, not from what is learned. So it
is found first, without any training, and an engine may then train the parties of a buffer together.

Shapes: P parties, K updates of a buffer.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.federated.chance import numbers_of
from scalerec.federated.devices import Devices

__all__ = ["Buffer", "BufferedConfig", "Load", "buffers"]

Index = NDArray[np.int64]
Floats = NDArray[np.float64]
# How often a party is drawn again that is at work or off, before nobody is taken.
TRIES = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class BufferedConfig(Config):
    """How many work at once, and how many updates the server waits for.

    Args:
        concurrency: Parties at work at any time, at least 1.
        buffer: K, updates that arrive between two versions of the model, at least 1.
        seed: Of who starts next, at least 0.
    """

    concurrency: int = 100
    buffer: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("buffer", 1), ("seed", 0)):
            value = getattr(self, name)
            require(value >= least, f"{name} must be at least {least}; got {value}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Load:
    """What a start costs each party.

    Args:
        examples: That it trains on, epochs counted, ``[P]``.
        downloaded: Bytes that it gets, ``[P]``.
        uploaded: Bytes that it sends, ``[P]``.
    """

    examples: NDArray[Any]
    downloaded: NDArray[Any]
    uploaded: NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Buffer:
    """The updates that make the next version of the model.

    Args:
        number: Of the version that they arrive at, from 0; they make the next one.
        parties: Whose they are, in the order of their arrival, ``[K]`` int64; one that is fast may
            be there twice.
        versions: The version that each started from, ``[K]`` int64.
        starts: The number of each start in the run, ``[K]`` int64: another one has other luck.
        clock_s: When the last arrived, in seconds of simulated time.
        num_dropped: Parties that dropped out meanwhile.
    """

    number: int
    parties: Index
    versions: Index
    starts: Index
    clock_s: float
    num_dropped: int

    @property
    def staleness(self) -> Index:
        """How many versions were made since each started, ``[K]`` int64."""
        return self.number - self.versions


def buffers(
    devices: Devices, load: Load, config: BufferedConfig, first: int = 0
) -> Iterator[Buffer]:
    """Simulate an asynchronous run, without end.

    At all times `concurrency` parties are at work. When one's update arrives, or it drops out,
    another is started on the newest version, drawn uniformly from those that are on and not at
    work. After `buffer` updates there is a new version (Federated Learning with Buffered
    Asynchronous Aggregation, Nguyen et al., 2022, https://arxiv.org/abs/2106.06639).

    Args:
        devices: What the parties' devices are like.
        load: What a start costs each.
        config: How many work at once, and the size of the buffer.
        first: The number of the first buffer to give; a resumed run asks for the one it is at.

    Raises:
        ConfigError: If there are fewer parties than are to work at once.
    """
    num = len(load.examples)
    require(
        config.concurrency <= num,
        f"concurrency must be at most the number of parties, {num}; got {config.concurrency}",
    )
    return islice(_Server(devices, load, config).run(), first, None)


class _Server:
    def __init__(self, devices: Devices, load: Load, config: BufferedConfig) -> None:
        self.devices, self.load, self.config = devices, load, config
        self.at_work: set[int] = set()
        # When it ends, number of the start, party, version it started from, whether it arrives.
        self.queue: list[tuple[float, int, int, int, bool]] = []
        self.num_starts = 0

    def run(self) -> Iterator[Buffer]:
        arrived: list[tuple[int, int, int]] = []
        version, dropped = 0, 0
        self._fill(0.0, version)
        while True:
            clock, start, party, began, arrives = heapq.heappop(self.queue)
            self.at_work.discard(party)
            if party >= 0:
                dropped += not arrives
            if arrives:
                arrived.append((party, began, start))
            full = len(arrived) == self.config.buffer
            if full:
                parties, versions, starts = np.array(arrived, np.int64).T
                yield Buffer(
                    number=version, parties=parties, versions=versions, starts=starts,
                    clock_s=clock, num_dropped=dropped,
                )  # fmt: skip
                version, dropped = version + 1, 0
                arrived.clear()
            self._fill(clock, version)

    def _fill(self, clock: float, version: int) -> None:
        """Start parties until as many are at work as should be; those already asked for wait."""
        while len(self.queue) < self.config.concurrency:
            start, self.num_starts = self.num_starts, self.num_starts + 1
            party = self._draw(start, clock)
            if party is None:
                # Nobody was found: look again in a while.
                heapq.heappush(self.queue, (clock + 60.0, start, -1, version, False))
                continue
            one, load = np.array([party]), self.load
            times = self.devices.simulate(
                start, one, load.examples[one], load.downloaded[one], load.uploaded[one]
            )
            self.at_work.add(party)
            end = clock + float(times.spent_s[0])
            heapq.heappush(self.queue, (end, start, party, version, not times.dropped[0]))

    def _draw(self, start: int, clock: float) -> int | None:
        numbers = numbers_of(self.config.seed, "devices/start", start)
        drawn = numbers.integers(len(self.load.examples), size=TRIES)
        on = self.devices.available(drawn, clock)
        for party in drawn[on].tolist():
            if party not in self.at_work:
                return int(party)
        return None

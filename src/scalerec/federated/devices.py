"""Simulated devices: how fast each party is, when it is on, and whether it drops out of a round.

Nothing here is measured on devices: it is a model with stated laws, for studies of slow parties,
of asynchronous rounds and of quality over time. All of it follows from the seed, the party, the
round and the clock, so a loop, a batched run and a resumed one see the same world.

Shapes: c parties asked.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.federated.chance import key_of, normals
from scalerec.federated.draws import uniforms

__all__ = ["Devices", "DevicesConfig", "RoundTimes"]

Index = NDArray[np.int64]
Floats = NDArray[np.float64]
HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicesConfig(Config):
    """What the devices are like.

    Speeds are lognormal: a deviation of .7 makes one device in six at least twice as fast as the
    median one, and one in six at most half as fast.

    Args:
        speed: Examples a second of the median device, above 0.
        speed_sigma: Deviation of the logarithm of speed between devices, at least 0.
        jitter_sigma: Deviation of the logarithm of one device's speed between rounds, at least 0.
        download: Bytes a second that the median device gets, above 0.
        upload: Bytes a second that the median device sends, above 0.
        link_sigma: Deviation of the logarithm of link speed between devices, at least 0; one draw
            a device for both directions.
        start_s: Seconds that a round takes before anything moves, at least 0.
        on: Share of devices that are on, over the day, above 0, at most 1.
        swing: How far that share swings over the day, from 0 (not at all) to 1 (from nothing to
            twice as much, or to all).
        peak_hour: The hour of day at which most are on, from 0 to 24.
        spread_h: Standard deviation of devices' own clocks, in hours: time zones and habits.
        drop_out: Chance that a device drops out of a round that it began, from 0 to below 1.
        seed: At least 0.
    """

    speed: float = 1000.0
    speed_sigma: float = 0.7
    jitter_sigma: float = 0.2
    download: float = 2.5e6
    upload: float = 6e5
    link_sigma: float = 0.7
    start_s: float = 1.0
    on: float = 1.0
    swing: float = 0.0
    peak_hour: float = 2.0
    spread_h: float = 2.0
    drop_out: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("speed", "download", "upload"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{name} must be above 0 and finite; got {value}")
        for name, most in {
            "speed_sigma": 5, "jitter_sigma": 5, "link_sigma": 5, "start_s": 1e6, "swing": 1,
            "peak_hour": 24, "spread_h": 24,
        }.items():  # fmt: skip
            value = getattr(self, name)
            require(0 <= value <= most, f"{name} must be from 0 to {most:g}; got {value}")
        require(0 < self.on <= 1, f"on must be above 0 and at most 1; got {self.on}")
        good = 0 <= self.drop_out < 1
        require(good, f"drop_out must be at least 0 and below 1; got {self.drop_out}")
        require(self.seed >= 0, f"seed must be at least 0; got {self.seed}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RoundTimes:
    """How long a round took each party that was asked.

    Args:
        download_s: Until it had the model, start included, ``[c]`` seconds.
        compute_s: Its local training, ``[c]`` seconds.
        upload_s: Sending its update, ``[c]`` seconds.
        dropped: Whether it dropped out on the way, ``[c]`` bool.
        spent_s: What it spent: all of it, or what passed until it dropped out, ``[c]`` seconds.
    """

    download_s: Floats
    compute_s: Floats
    upload_s: Floats
    dropped: NDArray[np.bool_]
    spent_s: Floats

    @property
    def arrivals(self) -> Floats:
        """When each update arrives, in seconds from the start; infinite if never, ``[c]``."""
        return np.where(self.dropped, np.inf, self.spent_s)


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of parties; it holds no state, so it may be asked about any party and round.

    Args:
        config: What they are like.
    """

    config: DevicesConfig

    def speeds(self, parties: Index) -> Floats:
        """Examples a second of each, without what differs from round to round, ``[c]``."""
        return self.config.speed * self._spread("speed", parties, self.config.speed_sigma)

    def links(self, parties: Index) -> tuple[Floats, Floats]:
        """Bytes a second that each gets and sends, ``[c]`` each."""
        factors = self._spread("link", parties, self.config.link_sigma)
        return self.config.download * factors, self.config.upload * factors

    def available(self, parties: Index, clock_s: float) -> NDArray[np.bool_]:
        """Whether each is on, ``[c]``; it stays so for the hour of its own clock.

        The chance is ``on (1 + swing cos(2 pi (hour - peak_hour) / 24))`` by the device's own
        clock, at most 1; so the mean over the day is `on`, or less where it would be above 1.

        Args:
            parties: Their numbers, ``[c]``.
            clock_s: Simulated time since midnight of the first day, at least 0.
        """
        config = self.config
        shifts = config.spread_h * normals(self._key("zone"), parties)[:, 0]
        # Ten days ahead, so that no clock is before 0.
        hours = np.floor(clock_s / HOUR_S + shifts).astype(np.int64) + 240
        wave = np.cos(2.0 * math.pi * (hours + 0.5 - config.peak_hour) / 24.0)
        chances = config.on * (1.0 + config.swing * wave)
        drawn = np.empty(len(parties))
        # Own clocks read a few different hours.
        for hour in np.unique(hours).tolist():
            own = np.flatnonzero(hours == hour)
            drawn[own] = uniforms(self._key("on", hour), parties[own], 1)[:, 0]
        found: NDArray[np.bool_] = drawn < chances
        return found

    def expected_seconds(
        self, parties: Index, examples: NDArray[Any], downloaded: Any, uploaded: Any
    ) -> Floats:
        """Seconds that a round takes each if nothing goes wrong and its speed is as usual, ``[c]``.

        Args:
            parties: Their numbers, ``[c]``.
            examples: That each trains on, epochs counted, ``[c]``.
            downloaded: Bytes, ``[c]`` or one number.
            uploaded: Bytes, ``[c]`` or one number.
        """
        down, up = self.links(parties)
        moving = downloaded / down + uploaded / up
        found: Floats = self.config.start_s + moving + examples / self.speeds(parties)
        return found

    def simulate(
        self,
        round_number: int,
        parties: Index,
        examples: NDArray[Any],
        downloaded: Any,
        uploaded: Any,
    ) -> RoundTimes:
        """How long a round takes each, and who drops out.

        Args:
            round_number: From 0; another one has other luck. In asynchronous runs, the number of
                the model that a party started from.
            parties: As in `expected_seconds`.
            examples: As in `expected_seconds`.
            downloaded: As in `expected_seconds`.
            uploaded: As in `expected_seconds`.
        """
        config = self.config
        down, up = self.links(parties)
        jitter = np.exp(config.jitter_sigma * normals(self._key("jitter", round_number), parties))
        download_s = config.start_s + downloaded / down
        compute_s = examples / (self.speeds(parties) * jitter[:, 0])
        upload_s = np.broadcast_to(uploaded / up, len(parties))
        luck = uniforms(self._key("drop", round_number), parties, 2)
        dropped = luck[:, 0] < config.drop_out
        total = download_s + compute_s + upload_s
        return RoundTimes(
            download_s=download_s,
            compute_s=compute_s,
            upload_s=upload_s,
            dropped=dropped,
            spent_s=np.where(dropped, total * luck[:, 1], total),
        )

    def _spread(self, purpose: str, parties: Index, sigma: float) -> Floats:
        factors: Floats = np.exp(sigma * normals(self._key(purpose), parties)[:, 0])
        return factors

    def _key(self, purpose: str, *counters: int) -> tuple[int, ...]:
        return key_of(self.config.seed, f"devices/{purpose}", *counters)

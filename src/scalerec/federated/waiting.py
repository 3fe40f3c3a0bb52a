"""Rounds that wait: who is asked, who answers in time, and how long it took; on simulated devices.

Shapes: P parties.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.federated.choice import Choice, Chosen, Facts, keep_first
from scalerec.federated.devices import Devices, DevicesConfig
from scalerec.federated.devices_schedule import Load
from scalerec.rounds import Parameters
from scalerec.train.cohort.holdings import Holdings

__all__ = ["Waiting", "WaitingConfig", "load_of"]

NUMBER_BYTES = 4
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingConfig(Config):
    """Whom a round waits for.

    Args:
        over: So many times the cohort is asked, from 1 to 100; the round ends when the cohort is
            complete. Parties that join by a coin each are all waited for.
        deadline_s: Seconds of simulated time after which a party is not waited for; 0 for none.
    """

    over: float = 1.0
    deadline_s: float = 0.0

    def __post_init__(self) -> None:
        require(1 <= self.over <= 100, f"over must be from 1 to 100; got {self.over}")
        require(self.deadline_s >= 0, f"deadline_s must be at least 0; got {self.deadline_s}")


def load_of(parameters: Parameters, holdings: Holdings, epochs: int = 1) -> Load:
    """What a round costs each party: examples, and the dense part and its rows each way.

    Args:
        parameters: The server's.
        holdings: Who holds what.
        epochs: Of local training.
    """
    dense = NUMBER_BYTES * sum(tensor.numel() for tensor in parameters.dense.values())
    width = next(iter(parameters.tables.values())).shape[1] if parameters.tables else 0
    each = dense + NUMBER_BYTES * width * np.diff(holdings.row_offsets.numpy())
    return Load(examples=holdings.sizes * epochs, downloaded=each, uploaded=each)


class Waiting:
    """Chooses cohorts and lets time pass.

    Args:
        config: Whom to wait for.
        devices: What parties' devices are like.
        choice: How parties are chosen.
        cohort: How many updates complete a round; 0 to wait for all who were chosen.
        load: What a round costs each.
    """

    def __init__(
        self,
        config: WaitingConfig,
        devices: DevicesConfig,
        choice: Choice,
        cohort: int,
        load: Load,
    ) -> None:
        self.config, self.choice, self.cohort, self.load = config, choice, cohort, load
        self.devices = Devices(devices)
        self.parties = np.arange(len(load.examples))
        self.clock_s = 0.0

    def choose(self, number: int, losses: Floats) -> tuple[Chosen, dict[str, float]]:
        """Those whose updates arrive in a round, and what is to be counted.

        Args:
            number: Of the round.
            losses: What each party said last, NaN where it never did, ``[P]``.
        """
        load, devices = self.load, self.devices
        available = None
        if devices.config.on < 1 or devices.config.swing > 0:
            available = devices.available(self.parties, self.clock_s)
        seconds = devices.expected_seconds(
            self.parties, load.examples, load.downloaded, load.uploaded
        )
        sizes = np.maximum(load.examples, 1)
        facts = Facts(sizes=sizes, losses=losses, available=available, seconds=seconds)
        asked = self.choice.choose(number, facts)
        own = asked.parties
        times = devices.simulate(
            number, own, load.examples[own], load.downloaded[own], load.uploaded[own]
        )
        arrivals = times.arrivals
        slow = np.zeros(len(own), np.bool_)
        if self.config.deadline_s:
            slow = ~times.dropped & (arrivals > self.config.deadline_s)
            arrivals = np.where(slow, np.inf, arrivals)
        kept, passed = keep_first(asked, arrivals, self.cohort or len(asked))
        if self.config.deadline_s and len(kept) < min(self.cohort or len(asked), len(asked)):
            passed = self.config.deadline_s
        self.clock_s += passed
        counts = {
            "simulated_s": passed,
            "dropped_out": float(times.dropped.sum()),
            "slow": float(slow.sum()),
            "not_needed": float(np.isfinite(arrivals).sum() - len(kept)),
        }
        return kept, counts

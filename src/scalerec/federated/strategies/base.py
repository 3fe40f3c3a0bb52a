"""What a federated method is: how parties start, what pulls them, and what becomes of their work.

`FedAvg` is the plain one, and the base of the others: a member overrides the parts that its paper
changes. What a method remembers of parties it holds itself, as tensors that a checkpoint keeps.

Shapes: P parties of a cohort, K rows that they read, W a row's width, R rows of all tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import Config, require
from scalerec.federated.alone import train_alone
from scalerec.federated.cohorts import Cohort
from scalerec.federated.crew import Crew
from scalerec.federated.devices import DevicesConfig
from scalerec.federated.gradients import Gradients
from scalerec.federated.local import Local, LocalConfig, Pull, train_cohort
from scalerec.federated.work import Work
from scalerec.federated.workers import run_chunks
from scalerec.models.kernels.threads import one_thread
from scalerec.optim import Sgd, sgd
from scalerec.rounds import Aggregator, Parameters, Update, optimised_mean
from scalerec.rounds.aggregate import Over, mean_aggregator
from scalerec.rounds.cohort import CohortRows, CohortUpdate, cohort_mean
from scalerec.train.cohort.holdings import Holdings
from scalerec.train.cohort.models import PartyModel

__all__ = ["TABLE", "FedAvg", "FedAvgConfig", "Ground", "Traffic", "Trained"]

# All tables as one, with the rows of `Tables.matrix`.
TABLE = "embeddings"
# Stacked parameters of the parties that compute at once: less is mostly calls, more leaves caches.
CHUNK_BYTES = 16 * 2**20
# Fewer parties at once would be mostly calls; small parts are not worth a second thread.
FEWEST = 8

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What stays as it is from round to round.

    Args:
        model: The model and all examples.
        holdings: Who holds what.
        private: Whether a row of the tables is one party's own and never leaves it, ``[R]`` bool.
        local: How parties train.
        seed: Of the run.
        engine: `batched`, or `loop`, the reference.
        devices: What parties' devices are like, where that is known.
    """

    model: PartyModel
    holdings: Holdings
    private: Tensor
    local: LocalConfig
    seed: int = 0
    engine: Literal["batched", "loop"] = "batched"
    devices: DevicesConfig | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """A cohort after its local training.

    Args:
        cohort: Who trained, in the order of everything here.
        update: What they send.
        local: Where they ended.
    """

    cohort: Cohort
    update: CohortUpdate
    local: Local


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """How many numbers travel between the server and each party of a cohort, codecs aside.

    Args:
        down: Numbers outside tables that each gets, ``[P]``.
        up: Numbers outside tables that each sends, ``[P]``.
        per_row: Vectors of a row's width that each gets, and sends, for every row that it shares.
    """

    down: NDArray[np.int64]
    up: NDArray[np.int64]
    per_row: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class FedAvgConfig(Config):
    """How the mean of the updates moves the server.

    Args:
        server_lr: Times the mean; 1 for the mean itself.
        server_momentum: Of the server's steps, in [0, 1).
        rows_over: Whether a row is averaged over the parties that read it (`holders`) or over all
            of the cohort, as if the others had left it where it was (`all`).
    """

    server_lr: float = 1.0
    server_momentum: float = 0.0
    rows_over: Over = "holders"

    def __post_init__(self) -> None:
        require(self.server_lr > 0, f"server_lr must be above 0; got {self.server_lr}")
        fits = 0 <= self.server_momentum < 1
        require(fits, f"server_momentum must be in [0, 1); got {self.server_momentum}")


class FedAvg:
    """Parties train from the server's parameters; it moves by the weighted mean of what they moved.

    Paper: Communication-Efficient Learning of Deep Networks from Decentralized Data, McMahan et
    al., 2017, algorithm 1, https://arxiv.org/abs/1602.05629

    Args:
        config: Its settings.
        ground: What stays as it is.
    """

    Config: ClassVar[type[Config]] = FedAvgConfig

    def __init__(self, config: Any, ground: Ground) -> None:
        self.config, self.ground = config, ground
        self.server: dict[str, Tensor] | None = None
        self.crew: Crew | None = None
        self._refused = False
        self._followed: Gradients | None = None

    def follow(self, gradients: Gradients) -> None:
        """Let the parties' steps follow these: private ones, say."""
        self._followed = gradients

    def expect_noise(self, deviation: float) -> None:
        """Be told of the noise in each number of the means to come; nothing by default."""
        del deviation

    def aggregator(self) -> Aggregator:
        """How the mean moves the server's parameters."""
        config = self.config
        if config.server_lr == 1.0 and not config.server_momentum:
            return mean_aggregator(config.rows_over, in_place=True)
        dense = sgd(config.server_lr, config.server_momentum)
        return optimised_mean(
            dense, Sgd(), rows_lr=config.server_lr, over=config.rows_over, in_place=True
        )

    def starts(self, parameters: Parameters, cohort: Cohort) -> dict[str, Tensor]:
        """Where the parties' dense parts start, ``[P, ...]``, or ``[1, ...]`` where all alike."""
        del cohort
        return {name: tensor.unsqueeze(0) for name, tensor in parameters.dense.items()}

    def pull(self, parameters: Parameters, cohort: Cohort) -> Pull | None:
        """What is added to the parties' gradients."""
        del parameters, cohort
        return None

    def gradients(self) -> Gradients | None:
        """What the parties' steps follow; None for plain gradients."""
        return self._followed

    def keep(self, parameters: Parameters, cohort: Cohort, local: Local, number: int) -> None:
        """Remember what the method needs of parties that trained; nothing by default."""

    def sent(self, cohort: Cohort, update: CohortUpdate, local: Local) -> CohortUpdate:
        """What the parties send, given what they moved; that by default."""
        del cohort, local
        return update

    def lost(self, parties: NDArray[np.int64], update: CohortUpdate) -> None:
        """The updates of some parties will never be combined; nothing by default.

        A party may have trained again since.

        Args:
            parties: Who sent them, each once, ``[n]``.
            update: What `sent` gave for them.
        """

    def traffic(self, cohort: Cohort) -> Traffic:
        """How many numbers go each way to and from the parties."""
        dense = sum(tensor.numel() for tensor in self.ground.model.dense.values())
        each = np.full(len(cohort), dense, np.int64)
        return Traffic(down=each, up=each)

    def train(self, parameters: Parameters, cohort: Cohort, number: int) -> Trained:
        """Let a cohort train.

        Args:
            parameters: The server's.
            cohort: Who trains.
            number: Of the round.
        """
        matrix = parameters.tables.get(TABLE)
        rows = matrix[cohort.rows] if matrix is not None else torch.zeros(0, 1)
        starts = self.starts(parameters, cohort)
        pull = self.pull(parameters, cohort)
        local = self.run(cohort, starts, rows, number, pull)
        self.keep(parameters, cohort, local, number)
        update = self._displacement(cohort, local)
        return Trained(cohort, self.sent(cohort, update, local), local)

    def run(
        self,
        cohort: Cohort,
        starts: Tensors,
        rows_kw: Tensor,
        number: int,
        pull: Pull | None = None,
        config: LocalConfig | None = None,
    ) -> Local:
        """Train a cohort, so many parties at once as caches like.

        Args:
            cohort: Who trains.
            starts: Where their dense parts start.
            rows_kw: Where their rows start.
            number: Of the round.
            pull: What is added to their gradients.
            config: How they train; as all do by default.
        """
        ground, config = self.ground, config or self.ground.local
        work = Work(cohort, starts, rows_kw, config, (ground.seed, number), pull)
        gradients = self.gradients()
        if ground.engine == "loop":
            return train_alone(*work.part(0, len(cohort)), gradients)
        chunks = self._chunks(cohort)
        found = self._crews_work(work, chunks) if gradients is None else None
        if found is not None:
            return found
        room = Local.room(cohort, starts, rows_kw)

        def train(model: PartyModel, first: int, last: int) -> None:
            part = room.part(first, last, work.rows_of(first, last))
            train_cohort(*work.part(first, last, model), gradients, part)

        run_chunks(train, cohort.model, chunks)
        return room

    def _crews_work(self, work: Work, chunks: list[tuple[int, int]]) -> Local | None:
        """What processes do together, of examples that they have; None if it is not for them."""
        ground, num = self.ground, torch.get_num_threads()
        own = work.cohort.model is ground.model and work.cohort.order is ground.holdings.order
        alone = num == 1 or len(chunks) == 1 or work.cohort.coins is not None
        if not own or alone or self._refused or ground.model.draws or not Crew.possible:
            return None
        crew = self.crew
        if crew is None or crew.closed or len(crew.others) != num - 1:
            try:
                crew = self.crew = Crew(ground.model, ground.holdings.order, num)
            except OSError:
                # The system refuses a process or so much memory to share; threads need neither.
                self._refused = True
                return None
        with one_thread():
            return crew.train(work, chunks)

    def combine(
        self, update: CohortUpdate, steps: Tensor, parties: NDArray[np.int64] | None = None
    ) -> Update:
        """One update from those that arrived.

        Args:
            update: What arrived.
            steps: That each of these parties took, ``[P]``.
            parties: Their numbers, ``[P]``; some methods need them.
        """
        del steps, parties
        return cohort_mean(update, self.config.rows_over)

    def apply(self, parameters: Parameters, mean: Update) -> Parameters:
        """The server's parameters after a round.

        Its tables move in place, so that a round costs what it touches; dense tensors are new.
        """
        aggregator = self.aggregator()
        state = aggregator.init(parameters) if self.server is None else self.server
        after, self.server = aggregator.apply(parameters, [mean], state)
        return after

    def personal(
        self, parameters: Parameters, cohort: Cohort
    ) -> tuple[dict[str, Tensor], Tensor] | None:
        """What the parties predict with, ``[P, ...]`` and ``[K, W]``; None for the server's."""
        del parameters, cohort
        return None

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint must keep."""
        return {f"server/{name}": tensor for name, tensor in (self.server or {}).items()}

    def load_state(self, state: Tensors) -> None:
        """Go on from what `state` gave."""
        own = {n.removeprefix("server/"): t for n, t in state.items() if n.startswith("server/")}
        self.server = own or None

    def _chunks(self, cohort: Cohort) -> list[tuple[int, int]]:
        """Parts of a cohort: small enough for caches, and none with more than a core's share."""
        one = sum(tensor.nbytes for tensor in self.ground.model.dense.values())
        most = max(FEWEST, CHUNK_BYTES // max(1, one))
        done = np.concatenate([[0], np.cumsum(cohort.sizes)])
        share = -(-int(done[-1]) // torch.get_num_threads())
        found, first = [], 0
        while first < len(cohort):
            fair = int(np.searchsorted(done, done[first] + share, side="right")) - 1
            last = min(first + min(most, max(FEWEST, fair - first)), len(cohort))
            found.append((first, last))
            first = last
        return found

    def _displacement(self, cohort: Cohort, local: Local) -> CohortUpdate:
        """What the parties moved; their private rows are not in it."""
        tables = {}
        if len(self.ground.private):
            shared = ~(self.ground.private[cohort.rows] | cohort.still)
            counts = torch.cat([torch.zeros(1, dtype=torch.int64), shared.cumsum(0)])
            places = shared.nonzero()[:, 0]
            tables[TABLE] = CohortRows(
                rows=cohort.rows[places],
                offsets=counts[cohort.offsets],
                values=local.moved_rows.index_select(0, places),
            )
        weights = torch.from_numpy(cohort.sizes.astype(np.float64))
        return CohortUpdate(dense=dict(local.moved), tables=tables, weights=weights)

"""Federated training, simulated: choose parties, let them train, combine what they send.

All of it runs in one process. What parties hold stays apart by construction: a party's examples
enter its own local training alone, its private rows are written to nobody's update, and the server
sees what `Strategy.sent` and the stages after it let through.

Shapes: P parties of a cohort, R rows of all tables.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalerec.data.dataset import Dataset
from scalerec.errors import RoundError, TrainError
from scalerec.federated.choice import (
    Choice,
    Chosen,
    Facts,
    PoissonChoice,
    SizeChoice,
    UniformChoice,
)
from scalerec.federated.config import FREE_SETTINGS, FederatedConfig
from scalerec.federated.private import private_rows
from scalerec.federated.splitting import Parties
from scalerec.federated.strategies import STRATEGIES, TABLE, FedAvg, Ground, Trained
from scalerec.federated.supply import Negatives, open_supply
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.rounds import Parameters
from scalerec.rounds.cohort import CohortUpdate
from scalerec.scoring import evaluate
from scalerec.track import Sink
from scalerec.train.checkpoints import (
    Checkpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from scalerec.train.goal import Goal

__all__ = ["Federated", "federate", "make_choice", "without_private"]

REPORT_EVERY_S = 2.0
NUMBER_BYTES = 4
MODEL, BEST, METHOD, LOSSES = "model.", "best.", "method.", "losses"
Report = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class Federated:
    """What a federated run gives.

    Args:
        recommender: Trained; private rows are those that each party has.
        private: Whether a row of its tables never left its party, ``[R]`` bool.
        curve: One entry an evaluation.
        best: The best value of the metric; None without a validation part.
        metric: Its name.
        rounds: Rounds that were run.
        totals: Bytes each way and counts of trouble, summed over the rounds.
        seconds: Time taken.
    """

    recommender: Recommender
    private: Tensor
    curve: list[dict[str, float]]
    best: float | None
    metric: str
    rounds: int
    totals: dict[str, float]
    seconds: float


@dataclass(slots=True)
class _Progress:
    """Where a run stands, as JSON keeps it."""

    round: int = 0
    best: float | None = None
    num_bad: int = 0
    stopped: bool = False
    loss_sum: float = 0.0
    loss_rounds: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def count(self, **more: float) -> None:
        """Add to the totals."""
        for name, value in more.items():
            self.totals[name] = self.totals.get(name, 0.0) + value


def federate(
    dataset: Dataset,
    spec: ModelSpec,
    parties: Parties,
    config: FederatedConfig | None = None,
    *,
    sinks: Sequence[Sink] = (),
    checkpoints: str | Path | None = None,
    resume: bool = False,
    on_progress: Report | None = None,
) -> Federated:
    """Train a model over parties that keep their data.

    Args:
        dataset: Its training rows are the parties'; its validation rows judge the model.
        spec: The model.
        parties: Who holds which rows.
        config: The settings.
        sinks: Where losses and metrics are tracked.
        checkpoints: The directory of checkpoints; none are written without it.
        resume: Whether to go on from the checkpoint there, if there is one.
        on_progress: Called now and then with the round and what it measured.

    Raises:
        ConfigError: If settings do not fit each other, the model or the data.
        RoundError: If no round can be aggregated.
        TrainError: If a checkpoint is of another run.
    """
    folder = Path(checkpoints) if checkpoints is not None else None
    with torch.random.fork_rng(devices=[]):
        run = _Run(dataset, spec, parties, config or FederatedConfig(), folder)
        run.sinks, run.on_progress = sinks, on_progress
        if resume:
            run.restore()
        found = run.finish()
    if folder is not None:
        remove_checkpoint(folder)
    return found


def without_private(found: Federated, config: FederatedConfig) -> Recommender:
    """What the server has: private rows as they were drawn, which every party can draw too.

    Args:
        found: The outcome of a run.
        config: Its settings.
    """
    own = found.recommender
    recommender = build_recommender(own.layout, own.spec, config.seed)
    drawn = recommender.tables.matrix[found.private].clone()
    recommender.load_tensors(own.to_tensors())
    with torch.no_grad():
        recommender.tables.matrix[found.private] = drawn
    return recommender.eval()


def make_choice(config: FederatedConfig, num_parties: int) -> Choice:
    """How cohorts are chosen."""
    cohort = min(config.cohort, num_parties)
    if config.choice == "poisson":
        return PoissonChoice(rate=cohort / num_parties, seed=config.seed)
    kind = SizeChoice if config.choice == "size" else UniformChoice
    return kind(cohort=cohort, seed=config.seed)


class _Run:
    def __init__(
        self,
        dataset: Dataset,
        spec: ModelSpec,
        parties: Parties,
        config: FederatedConfig,
        folder: Path | None,
    ) -> None:
        self.dataset, self.parties, self.config, self.folder = dataset, parties, config, folder
        self.sinks: Sequence[Sink] = ()
        self.on_progress: Report | None = None
        self.recommender = build_recommender(dataset.layout, spec, config.seed)
        negatives = Negatives(count=config.negatives, by=config.negatives_by)
        wanted = negatives if config.negatives else None
        self.supply = open_supply(self.recommender, dataset, parties, config.seed, wanted)
        self.private = private_rows(dataset, self.recommender, parties, config.private)
        self._check_private()
        ground = Ground(
            model=self.supply.model,
            holdings=self.supply.holdings,
            private=self.private,
            local=config.local,
            seed=config.seed,
            engine=config.engine,
        )
        self.strategy: FedAvg = STRATEGIES[config.strategy](config.method_config(), ground)
        self.choice = make_choice(config, len(parties))
        matrix = self.recommender.tables.matrix.clone()
        dense = {name: tensor.clone() for name, tensor in self.supply.model.dense.items()}
        self.parameters = Parameters(dense=dense, tables={TABLE: matrix})
        self.padding = self.recommender.tables.get_buffer("padding")
        self.losses = np.full(len(parties), np.nan)
        self.goal = Goal(dataset.schema.tasks, config.metric)
        self.has_valid = dataset.num_rows("valid") > 0
        self.at = _Progress()
        self.kept: dict[str, Tensor] | None = None
        self.started = self.reported = time.perf_counter()

    def finish(self) -> Federated:
        every = self.config.checkpoint_every
        while self.at.round < self.config.rounds and not self.at.stopped:
            self._round(self.at.round)
            self.at.round += 1
            self._evaluate_if_due()
            if self.folder is not None and every and self.at.round % every == 0:
                self._save(self.folder)
        if self.kept is not None:
            self._load({n.removeprefix(BEST): t for n, t in self.kept.items()})
        recommender, at = self._filled(), self.at
        seconds = self._elapsed()
        return Federated(
            recommender.eval(), self.private, at.curve, at.best, self.goal.metric, at.round,
            at.totals, seconds,
        )  # fmt: skip

    def _round(self, number: int) -> None:
        """One round: choose, train, combine, move."""
        facts = Facts(sizes=self.parties.sizes, losses=self.losses)
        chosen = self.choice.choose(number, facts)
        if not len(chosen):
            self.at.count(empty_rounds=1)
            return
        torch.manual_seed((self.config.seed * 1_000_003 + number) % 2**63)
        cohort = self.supply.gather(chosen.parties, number)
        trained = self.strategy.train(self.parameters, cohort, number)
        self._note(trained)
        update = _weighed(trained, chosen)
        self._count_bytes(trained)
        update, steps = self._screen(update, trained)
        if not len(update):
            self.at.count(empty_rounds=1)
            return
        mean = self.strategy.combine(update, steps)
        self.parameters = self.strategy.apply(self.parameters, mean)
        matrix = self.parameters.tables[TABLE]
        own = self.private[trained.cohort.rows]
        matrix[trained.cohort.rows[own]] = trained.local.rows[own]
        matrix[self.padding] = 0.0

    def _note(self, trained: Trained) -> None:
        """What parties say of their losses."""
        losses = trained.local.losses.double().numpy()
        self.losses[trained.cohort.parties] = losses
        finite = losses[np.isfinite(losses)]
        if len(finite):
            self.at.loss_sum += float(finite.mean())
            self.at.loss_rounds += 1

    def _screen(self, update: CohortUpdate, trained: Trained) -> tuple[CohortUpdate, Tensor]:
        """Leave out what cannot be used, and count it."""
        fine = update.are_finite()
        if bool(fine.all()):
            return update, trained.local.steps
        self.at.count(nonfinite=int((~fine).sum()))
        places = fine.nonzero()[:, 0]
        return update.take(places), trained.local.steps[places]

    def _count_bytes(self, trained: Trained) -> None:
        """Bytes each way: dense numbers and rows of four bytes a number, row numbers of eight."""
        num, update = len(trained.cohort), trained.update
        dense = sum(tensor.nbytes for tensor in self.parameters.dense.values())
        rows = sum(part.values.nbytes for part in update.tables.values())
        numbers = sum(part.rows.nbytes for part in update.tables.values())
        sent = sum(tensor.nbytes for tensor in update.dense.values())
        self.at.count(bytes_down=dense * num + rows, bytes_up=sent + rows + numbers, parties=num)

    def _evaluate_if_due(self) -> None:
        at, every = self.at, self.config.evaluate_every
        last = at.round == self.config.rounds
        if not last and not (every and at.round % every == 0):
            self._tell({})
            return
        entry: dict[str, float] = {"train/loss": at.loss_sum / max(1, at.loss_rounds)}
        at.loss_sum, at.loss_rounds = 0.0, 0
        if self.has_valid:
            entry |= self._judge()
        entry |= {f"total/{name}": value for name, value in at.totals.items()}
        entry["seconds"] = self._elapsed()
        at.curve.append({"step": at.round, **entry})
        for sink in self.sinks:
            sink.log(at.round, entry)
        self._tell(entry, always=True)

    def _judge(self) -> dict[str, float]:
        found = evaluate(self._filled(), self.dataset, self.goal.evaluation).metrics
        value, at = self.goal.value(found), self.at
        if self.goal.is_better(value, at.best):
            at.best, at.num_bad = value, 0
            if self.config.patience >= 0:
                self.kept = {BEST + name: t.clone() for name, t in self._tensors().items()}
        else:
            at.num_bad += 1
            at.stopped = 0 <= self.config.patience < at.num_bad
        return {f"valid/{name}": v for name, v in found.items() if v is not None}

    def _tell(self, entry: Mapping[str, float], *, always: bool = False) -> None:
        now = time.perf_counter()
        if self.on_progress and (always or now - self.reported > REPORT_EVERY_S):
            self.reported = now
            loss = self.at.loss_sum / max(1, self.at.loss_rounds)
            steps = {"step": self.at.round, "num_steps": self.config.rounds}
            self.on_progress({**steps, "train/loss": loss, **entry})

    def _filled(self) -> Recommender:
        """The model with the present parameters."""
        with torch.no_grad():
            self.recommender.tables.matrix.copy_(self.parameters.tables[TABLE])
            own = self.recommender.dense_parameters()
            for name, tensor in self.parameters.dense.items():
                own[name].copy_(tensor)
        return self.recommender

    def _check_private(self) -> None:
        """A row that is called private must be one party's own."""
        held = torch.bincount(self.supply.holdings.rows, minlength=len(self.private))
        several = (held > 1) & self.private
        if bool(several.any()):
            raise RoundError(
                f"{int(several.sum())} rows of private tables are read by several parties each, so "
                "they are not private; name other tables in private, or none"
            )

    def _elapsed(self) -> float:
        return self.at.seconds + time.perf_counter() - self.started

    def _tensors(self) -> dict[str, Tensor]:
        return self.parameters.flat()

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        self.parameters = Parameters.from_flat(tensors)

    def _save(self, folder: Path) -> None:
        tensors = {MODEL + name: tensor for name, tensor in self._tensors().items()}
        tensors |= {METHOD + name: tensor for name, tensor in self.strategy.state().items()}
        tensors |= self.kept or {}
        tensors[LOSSES] = torch.from_numpy(self.losses)
        progress = {name: getattr(self.at, name) for name in _Progress.__slots__}
        state = {"run": self._identity(), "progress": {**progress, "seconds": self._elapsed()}}
        write_checkpoint(folder, Checkpoint(tensors, state))

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be resumed."""
        config = self.config.to_dict()
        identity = {
            "data": self.dataset.digest,
            "model": self.recommender.spec.to_dict(),
            "parties": f"{self.parties.by}: {len(self.parties)}",
            **{name: value for name, value in config.items() if name not in FREE_SETTINGS},
        }
        return dict(json.loads(json.dumps(identity)))

    def restore(self) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        checkpoint = read_checkpoint(self.folder) if self.folder is not None else None
        if checkpoint is None:
            return
        saved = checkpoint.state["run"]
        for name, value in self._identity().items():
            if saved.get(name) != value:
                raise TrainError(
                    f"{self.folder}: the checkpoint is of a run with another {name}: "
                    f"{saved.get(name)!r}, now {value!r}; start without --resume, or with the "
                    "settings it was started with"
                )
        tensors = checkpoint.tensors
        self._load(_under(MODEL, tensors))
        self.strategy.load_state(_under(METHOD, tensors))
        kept = {name: tensor for name, tensor in tensors.items() if name.startswith(BEST)}
        self.kept = kept or None
        self.losses = tensors[LOSSES].numpy()
        self.at = _Progress(**checkpoint.state["progress"])


def _weighed(trained: Trained, chosen: Chosen) -> CohortUpdate:
    """The updates with the weights that the choice gives; largest parties stand first in them."""
    order = np.argsort(chosen.parties)
    places = order[np.searchsorted(chosen.parties[order], trained.cohort.parties)]
    weights = torch.from_numpy(chosen.weights[places])
    if chosen.divisor is not None and not math.isclose(chosen.divisor, float(weights.sum())):
        # The mean divides by the sum of weights; what it should divide by is known beforehand.
        return replace(trained.update, weights=weights).scale(
            torch.full((len(weights),), float(weights.sum()) / chosen.divisor)
        )
    return replace(trained.update, weights=weights)


def _under(head: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n[len(head) :]: tensor for n, tensor in tensors.items() if n.startswith(head)}

"""Federated training, simulated: choose parties, let them train, combine what they send.

All of it runs in one process. What parties hold stays apart by construction: a party's examples
enter its own local training alone, its private rows are written to nobody's update, and the server
sees what `Strategy.sent` and the stages after it let through.

Shapes: P parties of a cohort, R rows of all tables.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalerec.data.dataset import Dataset
from scalerec.errors import TrainError
from scalerec.federated.asynchronous import Arrivals
from scalerec.federated.beginning import Progress, choice_of, first_model, waiting_of
from scalerec.federated.choice import Chosen
from scalerec.federated.config import FREE_SETTINGS, FederatedConfig
from scalerec.federated.exchange import Exchange
from scalerec.federated.hiding import open_hider
from scalerec.federated.judging import Judge
from scalerec.federated.outcome import Federated
from scalerec.federated.privacy import Phase
from scalerec.federated.private import check_private, private_rows
from scalerec.federated.running_mean import RunningMean
from scalerec.federated.splitting import Parties
from scalerec.federated.strategies import STRATEGIES, TABLE, FedAvg, Ground, Trained
from scalerec.federated.strategies.buffered import FedBuff
from scalerec.federated.supply import Negatives, open_supply
from scalerec.models.recommender import ModelSpec, Recommender
from scalerec.rounds import Parameters
from scalerec.scoring import evaluate
from scalerec.track import Sink
from scalerec.train.checkpoints import (
    Checkpoint,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from scalerec.train.goal import Goal
from scalerec.train.start import Start

__all__ = ["federate"]

REPORT_EVERY_S = 2.0
# So far in one round moves a number of a private row only where its party's training diverged.
ASTRAY = 1e3
ARRIVALS, MEAN = "arrivals.", "mean."
MODEL, BEST, METHOD, EXCHANGE, LOSSES = "model.", "best.", "method.", "exchange.", "losses"
Report = Callable[[Mapping[str, float]], None]


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
    start: Start | None = None,
    before: Sequence[Phase] = (),
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
        start: What to start from in place of drawn weights.
        before: Rounds that the same parties have paid for on the way to that start; see
            `scalerec.federated.privacy.phases_of`. What they gave to it without a promise, no
            promise of this run covers.

    Raises:
        ConfigError: If settings do not fit each other, the model or the data.
        RoundError: If no round can be aggregated.
        TrainError: If a checkpoint is of another run.
    """
    folder = Path(checkpoints) if checkpoints is not None else None
    with torch.random.fork_rng(devices=[]):
        config = config or FederatedConfig()
        run = _Run(dataset, first_model(dataset, spec, config, start), parties, config, before)
        run.folder, run.start = folder, start.digest if start else None
        run.sinks, run.on_progress = sinks, on_progress
        if resume:
            run.restore()
        found = run.finish()
    if folder is not None:
        remove_checkpoint(folder)
    return found


class _Run:
    def __init__(
        self,
        dataset: Dataset,
        recommender: Recommender,
        parties: Parties,
        config: FederatedConfig,
        before: Sequence[Phase],
    ) -> None:
        self.dataset, self.parties, self.config = dataset, parties, config
        self.recommender = recommender
        self.folder: Path | None = None
        self.start: str | None = None
        self.sinks: Sequence[Sink] = ()
        self.on_progress: Report | None = None
        negatives = Negatives(count=config.negatives, by=config.negatives_by)
        wanted = negatives if config.negatives else None
        self.supply = open_supply(self.recommender, dataset, parties, config.seed, wanted)
        self.private = private_rows(dataset, self.recommender, parties, config.private)
        check_private(self.private, self.supply.holdings.rows)
        ground = Ground(
            model=self.supply.model,
            holdings=self.supply.holdings,
            private=self.private,
            local=config.local,
            seed=config.seed,
            engine=config.engine,
            devices=config.devices,
        )
        self.strategy: FedAvg = STRATEGIES[config.strategy](config.method_config(), ground)
        matrix = recommender.tables.matrix.clone()
        self.private_start = matrix[self.private]
        dense = {name: tensor.clone() for name, tensor in self.supply.model.dense.items()}
        self.parameters = Parameters(dense=dense, tables={TABLE: matrix})
        self.padding = self.recommender.tables.get_buffer("padding")
        args = (config, self.strategy, self.parameters, self.private, self.padding, len(parties))
        whole = dataset, self.recommender, self.supply.holdings, self.private, config.seed
        self.exchange = Exchange(*args, before, hider=open_hider(config.hiding, *whole))
        seed = self.exchange.choice_seed
        self.waiting = waiting_of(config, self.parameters, self.supply.holdings, seed)
        self.arrivals: Arrivals | None = None
        if isinstance(self.strategy, FedBuff):
            waiting = self.strategy.config, config.devices, min(config.cohort, len(parties))
            held = self.supply, self.parameters, config.local.epochs
            self.arrivals = Arrivals(*waiting, config.seed, *held)
        self.judge = Judge(self.recommender, self.strategy, self.supply, parties)
        self.losses = np.full(len(parties), np.nan)
        self.goal = Goal(dataset.schema.tasks, config.metric)
        self.has_valid = dataset.num_rows("valid") > 0
        self.at = Progress()
        self.mean = RunningMean(config.ema) if config.ema else None
        self.kept: dict[str, Tensor] | None = None
        self.started = self.reported = time.perf_counter()

    def finish(self) -> Federated:
        every = self.config.checkpoint_every
        while self.at.round < self.config.rounds and not self.at.stopped:
            if not self.exchange.may_run():
                break
            self._round(self.at.round)
            self.at.round += 1
            self._evaluate_if_due()
            if self.folder is not None and every and self.at.round % every == 0:
                self._save(self.folder)
        if self.kept is not None:
            self._load({n.removeprefix(BEST): t for n, t in self.kept.items()})
            self.mean = None
        recommender, at = self._filled(), self.at
        seconds = self._elapsed()
        guard = self.exchange.guard
        return Federated(
            recommender.eval(), self.private, self.private_start, at.curve, at.best,
            self.goal.metric, at.round, at.totals, guard.record() if guard else None, seconds,
        )  # fmt: skip

    def _round(self, number: int) -> None:
        """One round: choose, train, combine, move."""
        torch.manual_seed((self.config.seed * 1_000_003 + number) % 2**63)
        chosen = None
        if self.arrivals is None:
            chosen, trained = self._together(number)
        else:
            trained, late = self.arrivals.train(self.strategy, number)
            self.at.count(**late)
        if trained is not None:
            self._note(trained)
        mean, counts = self.exchange.meet(trained, chosen, number)
        self.at.count(**counts)
        if mean is not None:
            self.parameters = self.strategy.apply(self.parameters, mean)
        matrix = self.parameters.tables[TABLE]
        if trained is not None:
            _keep_private(matrix, trained, self.private)
        matrix[self.padding] = 0.0
        if self.mean is not None:
            self.mean.add(self.parameters, number)
        if self.arrivals is not None:
            self.arrivals.add(number + 1, self.parameters)

    def _together(self, number: int) -> tuple[Chosen, Trained | None]:
        """A cohort that trains from the present parameters."""
        chosen, counts = self.waiting.choose(number, self.losses)
        self.at.count(**counts)
        chosen = self.exchange.admit(chosen)
        if not len(chosen):
            return chosen, None
        cohort = self.exchange.prepare(self.supply.gather(chosen.parties, number))
        self.exchange.catch_up(self.parameters.tables[TABLE], cohort.rows)
        return chosen, self.strategy.train(self.parameters, cohort, number)

    def _note(self, trained: Trained) -> None:
        """What parties say of their losses."""
        losses = trained.local.losses.double().numpy()
        self.losses[trained.cohort.parties] = losses
        finite = losses[np.isfinite(losses)]
        if len(finite):
            self.at.loss_sum += float(finite.mean())
            self.at.loss_rounds += 1

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
        if self.judge.applies:
            # What parties see decides; the server's own metrics stand beside.
            own = self.judge.metrics(self.parameters, self.dataset.split("valid"))
            found = {**{f"server/{n}": v for n, v in found.items()}, **found, **own}
        value, at = self.goal.value(found), self.at
        if self.goal.is_better(value, at.best):
            at.best, at.num_bad = value, 0
            if self.config.patience >= 0:
                shown = self._shown().flat()
                self.kept = {BEST + name: t.clone() for name, t in shown.items()}
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
        self.exchange.flush(self.parameters.tables[TABLE])
        shown = self._shown()
        with torch.no_grad():
            self.recommender.tables.matrix.copy_(shown.tables[TABLE])
            own = self.recommender.dense_parameters()
            for name, tensor in shown.dense.items():
                own[name].copy_(tensor)
        return self.recommender

    def _shown(self) -> Parameters:
        """What is measured, and given at the end."""
        if self.mean is None:
            return self.parameters
        return self.mean.fill(self.parameters, {TABLE: self.private})

    def _elapsed(self) -> float:
        return self.at.seconds + time.perf_counter() - self.started

    def _tensors(self) -> dict[str, Tensor]:
        return self.parameters.flat()

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        found = Parameters.from_flat(tensors)
        # In the model's order: a file has another, and methods lay tensors side by side.
        dense = {name: found.dense[name] for name in self.supply.model.dense}
        self.parameters = Parameters(dense=dense, tables=found.tables)

    def _save(self, folder: Path) -> None:
        tensors = {MODEL + name: tensor for name, tensor in self._tensors().items()}
        tensors |= {METHOD + name: tensor for name, tensor in self.strategy.state().items()}
        tensors |= self.kept or {}
        averaged = self.mean.tensors if self.mean is not None else {}
        tensors |= {MEAN + name: tensor for name, tensor in averaged.items()}
        tensors[LOSSES] = torch.from_numpy(self.losses)
        held, values = self.exchange.state()
        tensors |= {EXCHANGE + name: tensor for name, tensor in held.items()}
        arrivals = self.arrivals.state() if self.arrivals is not None else {}
        tensors |= {ARRIVALS + name: tensor for name, tensor in arrivals.items()}
        progress = {name: getattr(self.at, name) for name in Progress.__slots__}
        state = {
            "run": self._identity(),
            "progress": {**progress, "seconds": self._elapsed()},
            "exchange": values,
            "clock_s": self.waiting.clock_s,
        }
        write_checkpoint(folder, Checkpoint(tensors, state))

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to be resumed."""
        config = self.config.to_dict()
        identity = {
            "data": self.dataset.digest,
            "start": self.start,
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
        if self.mean is not None:
            self.mean.tensors = _under(MEAN, tensors)
        kept = {name: tensor for name, tensor in tensors.items() if name.startswith(BEST)}
        self.kept = kept or None
        self.losses = tensors[LOSSES].numpy()
        self.exchange.load_state(_under(EXCHANGE, tensors), checkpoint.state["exchange"])
        self.waiting.choice = choice_of(self.config, len(self.parties), self.exchange.choice_seed)
        self.at = Progress(**checkpoint.state["progress"])
        self.waiting.clock_s = checkpoint.state["clock_s"]
        if self.arrivals is not None:
            self.arrivals.load_state(_under(ARRIVALS, tensors), self.at.round)


def _keep_private(matrix: Tensor, trained: Trained, private: Tensor) -> None:
    """Move private rows by what their parties learned; a party that went astray keeps its old."""
    rows, local = trained.cohort.rows, trained.local
    owners = torch.repeat_interleave(trained.cohort.offsets.diff())
    moved = local.moved_rows
    near = (moved.abs() < ASTRAY).all(1)
    own = private[rows] & near & local.losses.isfinite()[owners]
    matrix[rows[own]] += moved[own]


def _under(head: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n[len(head) :]: tensor for n, tensor in tensors.items() if n.startswith(head)}

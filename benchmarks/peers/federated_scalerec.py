"""scalerec: whole rounds of federated averaging; run in the environment of the script that asks.

A round gathers its cohort, trains it, combines what it sends, moves the server's parameters and
keeps the parties' private rows: what `federate` does, without choice, evaluation and counts.
"""

import resource
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from child import report, start
from federated_parties import HELD, Work, make_net, read_parties
from torch import Tensor

from scalerec.data.frames import empty_batch
from scalerec.data.layout import IdField, Layout
from scalerec.data.schema import Role, Task
from scalerec.federated.cohorts import Cohort, gather_cohort
from scalerec.federated.local import LocalConfig
from scalerec.federated.splitting import Names, Parties
from scalerec.federated.strategies import FedAvg, Ground
from scalerec.federated.strategies.base import TABLE, FedAvgConfig
from scalerec.federated.supply import Supply
from scalerec.models.recommender import ModelSpec, build_recommender
from scalerec.rounds import Parameters
from scalerec.train.cohort.holdings import hold_examples
from scalerec.train.cohort.module_model import ModuleModel, class_losses

SPARE = 2
"""Rows at the head of each table: padding, and ids that are not known."""


@dataclass(slots=True)
class Run:
    """A run: its server, and what gives a round its cohort.

    Args:
        strategy: Trains, combines and applies.
        parameters: The server's.
        private: Whether a row is one party's own, ``[R]``.
        supply: Gives examples; none where there are no tables.
    """

    strategy: FedAvg
    parameters: Parameters
    private: Tensor
    supply: Supply | None

    def gather(self, parties: list[int], number: int) -> Cohort:
        """A cohort with what it trains on."""
        chosen = np.asarray(parties, np.int64)
        if self.supply is not None:
            return self.supply.gather(chosen, number)
        return gather_cohort(self.strategy.ground.model, self.strategy.ground.holdings, chosen)

    def round(self, parties: list[int], number: int) -> float:
        """One round; the mean loss of its parties."""
        cohort = self.gather(parties, number)
        trained = self.strategy.train(self.parameters, cohort, number)
        mean = self.strategy.combine(trained.update, trained.local.steps, cohort.parties)
        self.parameters = self.strategy.apply(self.parameters, mean)
        if self.supply is not None:
            own = self.private[cohort.rows]
            matrix = self.parameters.tables[TABLE]
            matrix[cohort.rows[own]] += trained.local.moved_rows[own]
        return float(trained.local.losses.mean())


def of_module(work: Work, folder: str, local: LocalConfig) -> Run:
    """A run of the MLP."""
    inputs, labels, begin = read_parties(folder)
    net = make_net(work)
    net.load_state_dict(begin)
    model = ModuleModel(net, inputs, labels, class_losses)
    num = work.parties * HELD
    holdings = hold_examples(np.arange(num), np.arange(work.parties + 1) * HELD)
    private = torch.zeros(0, dtype=torch.bool)
    ground = Ground(model=model, holdings=holdings, private=private, local=local, seed=work.seed)
    parameters = Parameters(dense=dict(model.dense), tables={})
    return Run(FedAvg(FedAvgConfig(), ground), parameters, private, None)


def of_recommender(work: Work, folder: str, local: LocalConfig, *, shared: bool) -> Run:
    """A run of the recommender.

    Args:
        work: Its sizes.
        folder: Of the data.
        local: How parties train.
        shared: Whether one user vector is averaged over all parties, as the peers' is, and rows
            are averaged over the whole cohort; by default each party has its own, which stays.
    """
    inputs, labels, begin = read_parties(folder)
    users = 1 if shared else work.parties
    layout = Layout(
        ids=(
            IdField(name="user", role=Role.USER, table="user"),
            IdField(name="item", role=Role.ITEM, table="item"),
        ),
        tables={"user": users + SPARE, "item": work.items + SPARE},
        tasks=(Task(name="liked"),),
    )
    settings = {"dim": work.dim, "hidden": [work.hidden]}
    recommender = build_recommender(layout, ModelSpec(model="deepfm", settings=settings), work.seed)
    first = torch.cat([begin["items.weight"], begin["first.weight"]], 1)
    with torch.no_grad():
        start_of = recommender.tables.start
        matrix = recommender.tables.matrix
        matrix[start_of["user"] + SPARE : start_of["user"] + SPARE + users] = begin["user"]
        matrix[start_of["item"] + SPARE : start_of["item"] + SPARE + work.items] = first
        for name, tensor in recommender.dense_parameters().items():
            if name.startswith("net."):
                tensor.copy_(begin[name.removeprefix("net.")])
    num = work.parties * HELD
    owners = torch.arange(num) // HELD
    batch = replace(
        empty_batch(layout, num),
        ids=torch.stack([owners * (not shared) + SPARE, inputs + SPARE]),
        labels=labels[:, None],
        label_mask=torch.ones(num, 1, dtype=torch.bool),
    )
    parties = Parties(
        names=Names(np.arange(work.parties), "party "),
        order=np.arange(num),
        offsets=np.arange(work.parties + 1) * HELD,
    )
    supply = Supply(recommender, batch, parties, work.seed)
    private = torch.zeros(len(matrix), dtype=torch.bool)
    private[start_of["user"] : start_of["user"] + users + SPARE] = not shared
    ground = Ground(
        model=supply.model,
        holdings=supply.holdings,
        private=private,
        local=local,
        seed=work.seed,
    )
    config = FedAvgConfig(rows_over="all" if shared else "holders")
    parameters = Parameters(dense=dict(supply.model.dense), tables={TABLE: matrix.clone()})
    return Run(FedAvg(config, ground), parameters, private, supply)


def main() -> None:
    job = start()
    work = Work.from_job(job)
    local = LocalConfig(batch_size=work.batch_size, lr=work.lr, rows_lr=work.lr)

    def made(*, shared: bool) -> Run:
        if work.sizes:
            return of_module(work, job["folder"], local)
        return of_recommender(work, job["folder"], local, shared=shared)

    found: dict[str, Any] = {}
    if job.get("check"):
        run = made(shared=True)
        losses = [run.round(cohort, number) for number, cohort in enumerate(job["check"])]
        found["loss"] = losses[-1]
        del run
    run = made(shared=False)
    begun = time.perf_counter()
    for number, cohort in enumerate(job["cohorts"]):
        if number == 1:
            begun = time.perf_counter()
        last = run.round(cohort, number)
    seconds = time.perf_counter() - begun
    clients = sum(len(cohort) for cohort in job["cohorts"][1:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report(clients=clients, seconds=seconds, gib=peak, last=last, **found)


if __name__ == "__main__":
    main()

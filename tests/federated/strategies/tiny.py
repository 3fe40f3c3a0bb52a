"""Small grounds for methods: one weight by hand, and a recommender with tables."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tests.federated.test_local import recommender_of, spread
from tests.models.toys import LAYOUTS, draw_batch
from torch import Tensor, nn

from scalerec.federated.cohorts import gather_cohort
from scalerec.federated.local import LocalConfig
from scalerec.federated.strategies import STRATEGIES, TABLE, FedAvg, Ground, Trained
from scalerec.rounds import Parameters
from scalerec.train.cohort.holdings import hold, hold_examples
from scalerec.train.cohort.models import RecommenderModel
from scalerec.train.cohort.module_model import ModuleModel

# Labels y of each party's examples; the input is always 1. The loss of weight w is the mean of
# (w - y)^2 / 2, so the gradient is w - mean(y). Party 0 has mean 1, party 1 has mean 5.
LABELS = [[1.0], [4.0, 6.0]]
SIZES = [5, 1, 9, 3, 12, 4]


class Weight(nn.Module):
    """One number, times the input."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def one_weight(
    local: LocalConfig, *, labels: list[list[float]] | None = None, engine: Any = "batched"
) -> tuple[Ground, Parameters]:
    """The ground of `LABELS`, and the server's weight, 0."""
    labels = LABELS if labels is None else labels
    flat = torch.tensor([y for own in labels for y in own])
    offsets = np.cumsum([0, *(len(own) for own in labels)])
    model = ModuleModel(
        Weight(0.0), torch.ones(len(flat)), flat, lambda out, y: (out - y).square() / 2
    )
    ground = Ground(
        model=model,
        holdings=hold_examples(np.arange(len(flat)), offsets),
        private=torch.zeros(0, dtype=torch.bool),
        local=local,
        engine=engine,
    )
    return ground, Parameters(dense=dict(model.dense), tables={})


def tabled(
    local: LocalConfig, *, name: str = "deepfm", layout: str = "mixed", engine: Any = "batched"
) -> tuple[Ground, Parameters]:
    """A recommender over six parties; the rows of its first field are private where one reads."""
    recommender = recommender_of(name, layout)
    order, offsets = spread(SIZES)
    batch = draw_batch(LAYOUTS[layout], sum(SIZES) + 4, torch.Generator().manual_seed(2))
    labels = torch.randint(
        2, batch.labels.shape, generator=torch.Generator().manual_seed(5)
    ).float()
    batch = replace(batch, labels=labels, label_mask=torch.ones_like(batch.label_mask))
    holdings, own = hold(batch, recommender.tables, order, offsets)
    matrix = recommender.tables.matrix.clone()
    held = torch.bincount(holdings.rows, minlength=len(matrix))
    private = held == 1
    model = RecommenderModel(recommender, own)
    ground = Ground(
        model=model, holdings=holdings, private=private, local=local, seed=3, engine=engine
    )
    return ground, Parameters(dense=dict(model.dense), tables={TABLE: matrix})


def make(name: str, ground: Ground, **settings: Any) -> Any:
    """A method by its name."""
    return STRATEGIES[name](STRATEGIES[name].Config.from_dict(settings), ground)


def train(strategy: FedAvg, parameters: Parameters, parties: list[int], number: int) -> Trained:
    """What a cohort sends."""
    ground = strategy.ground
    cohort = gather_cohort(ground.model, ground.holdings, np.array(parties, np.int64))
    return strategy.train(parameters, cohort, number)


def play(
    strategy: FedAvg, parameters: Parameters, parties: list[int], number: int = 0
) -> Parameters:
    """A whole round, as the simulation has it; the given parameters stay as they are."""
    own = {name: table.clone() for name, table in parameters.tables.items()}
    before = Parameters(dense=parameters.dense, tables=own)
    trained = train(strategy, before, parties, number)
    mean = strategy.combine(trained.update, trained.local.steps, trained.cohort.parties)
    after = strategy.apply(before, mean)
    private = strategy.ground.private
    if len(private):
        alone = private[trained.cohort.rows]
        after.tables[TABLE][trained.cohort.rows[alone]] += trained.local.moved_rows[alone]
    return after


def weight_after(
    name: str, local: LocalConfig, rounds: list[list[int]], **settings: Any
) -> list[float]:
    """The server's weight after each round with these parties."""
    ground, parameters = one_weight(local)
    strategy, found = make(name, ground, **settings), []
    for number, parties in enumerate(rounds):
        parameters = play(strategy, parameters, parties, number)
        found.append(float(parameters.dense["w"]))
    return found


def close(left: Parameters, right: Parameters, rtol: float, atol: float) -> None:
    """Refuse parameters that differ."""
    for name, tensor in left.flat().items():
        torch.testing.assert_close(tensor, right.flat()[name], rtol=rtol, atol=atol, msg=name)


def cohorts(num: int, seed: int = 1) -> list[NDArray[np.int64]]:
    """Some cohorts of four of the six parties."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(len(SIZES))[:4] for _ in range(num)]

"""Several processes, and `run_round` in one with the same parties, give the same parameters.

Both kinds of training on several processes are rounds: a synchronous step is one whose local update
is a gradient, local SGD one whose local update is some steps. Here the parties of `run_round` take
their steps by plain autograd, through `Recommender.score` and pure optimisers, and what the
processes gave by kernels, messages and torch's optimisers must equal it.
"""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.rounds_workers import MODULE, batches_of
from tests.distributed.workers import run
from torch import Tensor, nn

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.distributed import DistributedConfig
from scalerec.distributed.local import outer_aggregator
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.optim import Optimiser, RowwiseAdagrad, Sgd, adam, sgd
from scalerec.rounds import (
    Algorithm,
    LocalUpdate,
    Parameters,
    Party,
    TableRows,
    Update,
    difference,
    optimised_mean,
    run_round,
    weighted_mean,
)
from scalerec.rounds.codecs import CodecName
from scalerec.train import TrainConfig
from scalerec.train.losses import row_losses, task_loss

WORLD = 2
ROWS_LR = 0.05
SPEC: dict[str, Any] = {"model": "deepfm", "settings": {"dim": 4, "hidden": [8]}, "init_std": 0.1}
CONFIG: dict[str, Any] = {
    "batch_size": 64,
    "precision": "fp32",
    "dense": {"name": "adam", "lr": 0.01},
    "tables": {"optimiser": "sgd", "lr": ROWS_LR},
}
# Of 37 steps of an epoch none of these rounds holds the last, which is short.
SYNC, LOCAL = [1] * 6, [3, 3, 2]
MOMENTUM = {"outer_lr": 0.7, "outer_momentum": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "sync": {"sharding": "row"},
    "sync, bf16": {"codec": "bf16"},
    "sync, topk": {"codec": "topk:0.05"},
    "sync, topk in halves": {"codec": "topk:0.05+bf16"},
    "sync, powersgd": {"codec": "powersgd:2"},
    "local": {"aggregate": "local", "sharding": "row"},
    "local, kept by tables": {"aggregate": "local", "sharding": "table"},
    "local, copies": {"aggregate": "local", "sharding": "replicated"},
    "local, momentum": {"aggregate": "local", **MOMENTUM},
    "local, bf16": {"aggregate": "local", "codec": "bf16"},
    "local, topk": {"aggregate": "local", "codec": "topk:0.05", **MOMENTUM},
    "local, powersgd": {"aggregate": "local", "codec": "powersgd:2"},
    "local, adagrad": {"aggregate": "local", "sharding": "row"},
    "local, adagrad of copies": {"aggregate": "local", "sharding": "replicated"},
}


def config_of(name: str) -> dict[str, Any]:
    """Settings of training of a case."""
    rows = "rowwise_adagrad" if "adagrad" in name else "sgd"
    return {**CONFIG, "tables": {**CONFIG["tables"], "optimiser": rows}}


class Scored(nn.Module):
    """A recommender as a function of its dense part and of rows."""

    def __init__(self, recommender: Recommender) -> None:
        super().__init__()
        self.recommender = recommender

    def forward(self, rows: Tensor, batch: Batch) -> Tensor:
        return self.recommender.score(rows, batch)


class Reference:
    """The same training as rounds of parties, whose batches it holds by the party's name.

    What row-wise Adagrad remembers of a row is one more column of the table, which is averaged like
    the others.

    Args:
        data: The data.
        name: Of the case.
    """

    def __init__(self, data: Dataset, name: str) -> None:
        self.how = DistributedConfig.from_dict(CASES[name])
        self.has_state = "adagrad" in name
        config, spec = TrainConfig.from_dict(CONFIG), ModelSpec.from_dict(SPEC)
        recommender = build_recommender(data.layout, spec, config.seed)
        self.scored = Scored(recommender.train())
        self.tables = recommender.tables
        self.sources = [batches_of(data, config, rank, WORLD) for rank in range(WORLD)]
        self.batches: dict[str, list[Batch]] = {}
        self.inner: dict[str, dict[str, Tensor]] = {}
        # What a party's codec has not sent yet, and what it had to send.
        self.missed: dict[str, dict[str, Tensor]] = {}
        self.whole: dict[str, dict[str, Tensor]] = {}
        dense = {n: p.detach().clone() for n, p in recommender.dense_parameters().items()}
        self.width = self.tables.matrix.shape[1]
        state = torch.zeros(len(self.tables.matrix), int(self.has_state))
        table = torch.cat([self.tables.matrix, state], 1)
        self.parameters = Parameters(dense=dense, tables={"rows": table})

    def go(self, rounds: list[int]) -> Parameters:
        """The parameters after some rounds."""
        is_local = self.how.aggregate == "local"
        shapes = {name: tensor.shape for name, tensor in self.parameters.dense.items()}
        outer = optimised_mean(adam(CONFIG["dense"]["lr"]), Sgd(), rows_lr=ROWS_LR)
        codec = CodecName.parse(self.how.codec)
        step = LocalUpdate(lambda *_: {}, self.steps if is_local else self.gradient)
        # All parties' own mean on its way through one codec is what averaged factors give.
        as_one = codec.kind == "powersgd"
        algorithm = Algorithm(
            local_update=LocalUpdate(lambda *_: {}, self.mean_of(step)) if as_one else step,
            aggregator=outer_aggregator(self.how) if is_local else outer,
            codec=codec.build(shapes),
        )
        state = algorithm.init(self.parameters)
        for steps in rounds:
            parties = [self.party(rank, steps) for rank in range(WORLD)]
            if as_one:
                rows = torch.cat([party.rows["rows"] for party in parties]).unique()
                data = {"parties": torch.arange(WORLD)}
                parties = [Party(name="all", rows={"rows": rows}, data=data, weight=1.0)]
            before = state.parameters.dense
            state, _ = run_round(state, parties, algorithm, torch.Generator())
            for rank in range(WORLD if is_local else 0):
                if not as_one:
                    self.missed[str(rank)] = codec.missed(state.codecs.get(str(rank), {}), shapes)
                    continue
                # Of a mean on the way each misses what that is not of its own.
                names = codec.missed(state.codecs["all"], shapes)
                arrived = {n: state.parameters.dense[n] - before[n] for n in names}
                self.missed[str(rank)] = {n: self.whole[str(rank)][n] - arrived[n] for n in names}
        return state.parameters

    def party(self, rank: int, steps: int) -> Party:
        """A process's next steps as a party: the rows that they touch, and their batches."""
        batches = list(islice(self.sources[rank], steps))
        self.batches[str(rank)] = batches
        rows = torch.cat([self.tables.rows_of(batch) for batch in batches]).unique()
        weight = float(sum(len(batch) for batch in batches))
        # A step is one of all processes: each has an equal say in the sum of its gradients.
        weight = weight if self.how.aggregate == "local" else 1.0
        return Party(name=str(rank), rows={"rows": rows}, data={}, weight=weight)

    def gradients(
        self, tensors: Mapping[str, Tensor], rows: Tensor, batch: Batch, weights: Tensor | None
    ) -> dict[str, Tensor]:
        """Of the batch's loss, or of its share of one whose weights are given."""
        own = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        own["tables/rows"] = own["tables/rows"].detach()[:, : self.width].requires_grad_()
        looked_up = own["tables/rows"][torch.searchsorted(rows, self.tables.rows_of(batch))]
        dense = {n: t for n, t in own.items() if n.startswith("dense/")}
        named = {n.replace("dense/", "recommender."): tensor for n, tensor in dense.items()}
        logits = torch.func.functional_call(self.scored, named, (looked_up, batch))
        total = None if weights is None else lambda _: weights
        loss = task_loss(self.tables.layout, logits, batch, total)
        found = torch.autograd.grad(loss, list(own.values()))
        gradients = dict(zip(own, found, strict=True))
        gradients["tables/rows"][torch.isin(rows, self.tables.get_buffer("padding"))] = 0.0
        return gradients

    def gradient(self, parameters: Parameters, party: Party, _: Mapping[str, Tensor]) -> Update:
        """The local update of a synchronous step."""
        layout, none = self.tables.layout, torch.zeros(0)
        sums = [
            row_losses(layout, none.new_zeros(len(batch), layout.num_outputs), batch)[1].sum(0)
            for (batch,) in self.batches.values()
        ]
        rows = party.rows["rows"]
        batch = self.batches[party.name][0]
        found = self.gradients(parameters.flat(), rows, batch, torch.stack(sums).sum(0))
        moves = {name: -WORLD * tensor for name, tensor in found.items()}
        return Update(
            dense={n.removeprefix("dense/"): t for n, t in moves.items() if n[0] == "d"},
            tables={"rows": TableRows(rows=rows, values=moves["tables/rows"])},
            weight=1.0,
        )

    def steps(self, parameters: Parameters, party: Party, _: Mapping[str, Tensor]) -> Update:
        """The local update of a round of local steps; the inner optimiser goes on."""
        inner: Optimiser = adam(CONFIG["dense"]["lr"])
        missed = self.missed.get(party.name, {})
        dense = {n: t + missed.get(n, 0.0) for n, t in parameters.dense.items()}
        parameters = Parameters(dense=dense, tables=parameters.tables)
        tensors, rows = parameters.flat(), party.rows["rows"]
        names = [name for name in tensors if name.startswith("dense/")]
        state = self.inner.get(party.name) or inner.init({n: tensors[n] for n in names})
        for batch in self.batches[party.name]:
            slopes = self.gradients(tensors, rows, batch, None)
            own = {n: tensors[n] for n in names}
            moved, state = inner.apply(own, {n: slopes[n] for n in names}, state)
            table = self.step_rows(tensors["tables/rows"], slopes["tables/rows"])
            tensors = {**moved, "tables/rows": table}
        self.inner[party.name] = state
        found = difference(Parameters.from_flat(tensors), parameters, party.rows, party.weight)
        self.whole[party.name] = {n: t + missed.get(n, 0.0) for n, t in found.dense.items()}
        return found

    def step_rows(self, table: Tensor, gradient: Tensor) -> Tensor:
        """Move rows, and what is remembered of them."""
        if not self.has_state:
            return sgd(ROWS_LR).apply({"rows": table}, {"rows": gradient}, {})[0]["rows"]
        weights, sums = table[:, : self.width], {"sum": table[:, self.width :]}
        moved, after = RowwiseAdagrad().apply(weights, gradient, sums, 1, ROWS_LR)
        return torch.cat([moved, after["sum"]], 1)

    def mean_of(self, step: LocalUpdate) -> Any:
        """The mean update of all parties as one party's."""

        def apply(parameters: Parameters, whole: Party, _: Mapping[str, Tensor]) -> Update:
            updates = []
            for name, batches in self.batches.items():
                rows = torch.cat([self.tables.rows_of(batch) for batch in batches]).unique()
                table = parameters.tables["rows"][torch.searchsorted(whole.rows["rows"], rows)]
                own = Parameters(dense=parameters.dense, tables={"rows": table})
                weight = float(sum(len(batch) for batch in batches))
                weight = weight if self.how.aggregate == "local" else 1.0
                party = Party(name=name, rows={"rows": rows}, data={}, weight=weight)
                updates.append(step.apply(own, party, {}))
            return weighted_mean(updates, self.over)

        return apply

    @property
    def over(self) -> Any:
        return "holders" if self.how.aggregate == "local" else "all"


def rounds_of(how: dict[str, Any]) -> list[int]:
    return LOCAL if how.get("aggregate") == "local" else SYNC


@pytest.fixture(scope="module")
def found(simulated: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of every case, what each process has at the end, and what was sent."""
    folder = tmp_path_factory.mktemp("rounds")
    cases = {
        name: {
            "spec": SPEC,
            "config": config_of(name),
            "distributed": how,
            "rounds": rounds_of(how),
        }
        for name, how in CASES.items()
    }
    job: dict[str, Any] = {"data": str(simulated.directory), "folder": str(folder), "cases": cases}
    sent = run(WORLD, "rounds", module=MODULE, **job)
    return folder, sent


def read(folder: Path, name: str) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"{name} {rank}.safetensors") for rank in range(WORLD)]


@pytest.mark.parametrize("name", CASES)
def test_processes_are_parties(name: str, found: Any, simulated: Dataset) -> None:
    own, other = read(found[0], name)
    # All processes end with the same, to the last bit.
    assert all(torch.equal(tensor, other[key]) for key, tensor in own.items())
    reference = Reference(simulated, name)
    start = reference.parameters
    wanted = reference.go(rounds_of(CASES[name]))
    rows = wanted.tables["rows"][:, : reference.width]
    for key, tensor in {**wanted.dense, "rows": rows}.items():
        if CASES[name].get("codec") == "bf16":
            # Here the mean is rounded as well, by 2^-8 of itself, there the rows; and Adam makes
            # steps of full size even of small gradients.
            before = start.dense[key] if key in start.dense else start.tables[key]
            assert (own[key] - tensor).norm() <= 0.02 * (tensor - before).norm()
        else:
            # Sums in another order; Adam divides by gradients, of which some are small.
            torch.testing.assert_close(own[key], tensor, rtol=1e-3, atol=2e-5)


def test_codecs_send_less(found: Any) -> None:
    """Bytes of the dense part, against the sum of all numbers at every step."""
    sent = found[1][0]
    steps = sum(LOCAL)
    size = sum(t.numel() for n, t in read(found[0], "local")[0].items() if n != "rows")
    # Of two processes each sends as much as there is, and gets as much.
    assert sent["sync"]["gradients"] == len(SYNC) * size * 4
    assert sent["sync, bf16"]["gradients"] == len(SYNC) * size * 2
    num_top = -(-size // 20)
    # An index and a number each, and the weight.
    assert sent["sync, topk"]["gradients"] == len(SYNC) * (num_top * 8 + 8)
    assert sent["sync, topk in halves"]["gradients"] == len(SYNC) * (num_top * 6 + 8)
    assert sent["local"]["displacements"] == len(LOCAL) * size * 4
    assert sent["local, topk"]["displacements"] == len(LOCAL) * (num_top * 8 + 8)
    assert "gradients" not in sent["local"]
    # Rows are asked for once a round.
    assert sent["local"]["rows"] < sent["sync"]["rows"] / len(SYNC) * steps

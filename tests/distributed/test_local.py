"""Local steps: what is kept, what a round may hold, and what happens between rounds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distributed.rounds_workers import MODULE, Run
from tests.distributed.workers import run
from tests.train.toys import ratings

from scalerec.data.dataset import Dataset
from scalerec.distributed import DistributedConfig, Group, ShardedTables
from scalerec.distributed.cached import CachedEngine
from scalerec.errors import ConfigError

SPEC: dict[str, Any] = {"model": "deepfm", "settings": {"dim": 4, "hidden": [8]}, "init_std": 0.1}
DIN: dict[str, Any] = {"model": "din", "settings": {"dim": 4, "hidden": [8]}, "init_std": 0.1}
TOWERS: dict[str, Any] = {
    "model": "two-tower", "settings": {"dim": 4, "hidden": [8], "vector_dim": 4}, "init_std": 0.1,
}  # fmt: skip


def case(
    spec: dict[str, Any] = SPEC, tables: dict[str, Any] | None = None, **where: Any
) -> dict[str, Any]:
    rows = tables or {"optimiser": "rowwise_adagrad", "lr": 0.05}
    config = {"batch_size": 64, "precision": "fp32", "tables": rows}
    return {"spec": spec, "config": config, "rounds": [3, 2], "distributed": where}


LOCAL: dict[str, Any] = {"aggregate": "local", "local_steps": 4, "sharding": "row"}
RESUMED: dict[str, Any] = {
    "sync, topk": case(codec="topk:0.05"),
    "sync, powersgd": case(codec="powersgd:1"),
    "local": case(**LOCAL),
    "local, topk": case(codec="topk:0.05+bf16", outer_momentum=0.5, **LOCAL),
    "local, powersgd": case(codec="powersgd:1+bf16", **LOCAL),
    "local, lazy adam": case(tables={"optimiser": "lazy_adam", "lr": 0.01, "l2": 1e-3}, **LOCAL),
    "local, dense tables": case(tables={"lr": 0.01}, codec="topk:0.05", **LOCAL),
}


def test_a_checkpoint_between_rounds(simulated: Dataset, tmp_path: Path) -> None:
    """A resumed run is the undisturbed one: each process has its own residual and optimiser."""
    job: dict[str, Any] = {"data": str(simulated.directory), "folder": str(tmp_path)}
    for own in run(2, "resuming", module=MODULE, cases=RESUMED, **job):
        assert own == {name: [] for name in RESUMED}


def test_another_number_of_processes_goes_on_with_the_mean(
    simulated: Dataset, tmp_path: Path
) -> None:
    own = case(codec="topk:0.05", outer_momentum=0.5, **LOCAL)
    job: dict[str, Any] = {"data": str(simulated.directory), "folder": str(tmp_path), "case": own}
    before = run(2, "going_on", module=MODULE, write=True, **job)
    after = run(1, "going_on", module=MODULE, write=False, **job)
    assert any("topk:0.05/error" in name for name in after[0])
    assert any(name.endswith("exp_avg") for name in after[0])
    for name, total in after[0].items():
        assert total == pytest.approx(sum(part[name] for part in before) / 2, rel=1e-4, abs=1e-6)


def alone(dataset: Dataset, own: dict[str, Any], **where: Any) -> Run:
    """A run of one process, as one of several has it."""
    torch.set_num_threads(1)
    return Run(dataset, Group(0, 1, torch.device("cpu")), {**own, "distributed": where})


@pytest.mark.parametrize(
    ("spec", "more"),
    [
        (SPEC, {}),
        (SPEC, {"tables": {"optimiser": "lazy_adam", "lr": 0.01, "l2": 1e-3}}),
        (SPEC, {"tables": {"optimiser": "adagrad", "lr": 0.05, "engine": "torch"}}),
        (SPEC, {"tables": {"optimiser": "sgd", "lr": 0.05}}),
        (SPEC, {"negatives": 2}),
        (DIN, {}),
    ],
    ids=["compiled", "lazy adam", "torch", "sgd", "negatives", "histories"],
)
def test_steps_on_a_cache_are_steps(
    spec: dict[str, Any], more: dict[str, Any], simulated: Dataset
) -> None:
    """One process takes the same steps from a cache as from the tables themselves."""
    own = case(spec)
    own["config"] |= more
    found = alone(simulated, own, **LOCAL)
    wanted = alone(simulated, own)
    for run_ in (found, wanted):
        run_.go([3, 4, 1])
    for name, tensor in found.tensors().items():
        # Where rows lie decides the order of no sum; a displacement is added to what it came from.
        torch.testing.assert_close(tensor, wanted.tensors()[name], rtol=1e-5, atol=1e-6)
    engines = [run_.learner.recommender.tables.engine for run_ in (found, wanted)]
    for name, state in engines[0].state.items():
        torch.testing.assert_close(state, engines[1].state[name], rtol=1e-5, atol=1e-6)
    assert engines[0].step == engines[1].step == 8


def test_a_retrieval_task(tmp_path: Path) -> None:
    data = ratings(tmp_path / "data", [{"name": "liked", "kind": "retrieval"}])
    own = case(TOWERS)
    # A bias that all items share changes no softmax; Adam would make steps of its rounding.
    own["config"]["dense"] = {"name": "sgd", "lr": 0.1}
    found, wanted = alone(data, own, **LOCAL), alone(data, own)
    for run_ in (found, wanted):
        run_.go([3, 2])
    for name, tensor in found.tensors().items():
        torch.testing.assert_close(tensor, wanted.tensors()[name], rtol=1e-5, atol=1e-6)


def test_a_row_that_was_not_announced(simulated: Dataset) -> None:
    own = alone(simulated, case(), **LOCAL)
    batch = next(own.batches)
    own.learner.begin_round([batch.take(torch.arange(1))])
    tables = own.learner.recommender.tables
    assert isinstance(tables, ShardedTables)
    assert isinstance(tables.engine, CachedEngine)
    with pytest.raises(KeyError, match=r"row [0-9]+ of the tables was not brought here"):
        own.learner.step(batch, 1.0)


def test_an_empty_batch_is_no_step(simulated: Dataset) -> None:
    own = alone(simulated, case(), **LOCAL)
    before = own.tensors()
    nothing = next(own.batches).take(torch.arange(0))
    own.learner.begin_round([nothing, nothing])
    assert own.learner.step(nothing, 1.0) == own.learner.step(nothing, 1.0) == 0.0
    own.learner.end_round()
    assert own.learner.step_number == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.tensors().items())


def test_outer_momentum_by_hand(simulated: Dataset) -> None:
    """d = 1 and 3: m = 1, w = .5 (1 + .5); then m = 3.5, and .5 (3 + 1.75) more."""
    from scalerec.distributed.local import outer_aggregator
    from scalerec.rounds import Parameters, TableRows, Update

    config = DistributedConfig(aggregate="local", outer_lr=0.5, outer_momentum=0.5)
    aggregator = outer_aggregator(config)
    table = torch.zeros(4, 1)
    parameters = Parameters(dense={"w": torch.zeros(1)}, tables={"t": table})
    state = aggregator.init(parameters)
    for move, wanted in ((1.0, 0.75), (3.0, 3.125)):
        rows = TableRows(rows=torch.tensor([1]), values=torch.full((1, 1), move))
        update = Update(dense={"w": torch.tensor([move])}, tables={"t": rows}, weight=2.0)
        parameters, state = aggregator.apply(parameters, [update], state)
        assert parameters.dense["w"].tolist() == [wanted]
    # Rows have no momentum: half of 1 and half of 3.
    assert parameters.tables["t"].flatten().tolist() == [0.0, 2.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codec": "topk:2"}, "the share of topk must be above 0 and at most 1; got 2.0"),
        (
            {"aggregate": "local", "engine": "torchrec"},
            "aggregate 'local' needs engine 'scalerec'; got 'torchrec'",
        ),
        (
            {"aggregate": "local", "sharding": "column"},
            "aggregate 'local' needs sharding row, table, replicated or auto; got 'column'",
        ),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DistributedConfig.from_dict(settings)


def test_one_table_by_columns_is_refused(simulated: Dataset) -> None:
    name = next(iter(simulated.layout.tables))
    own = alone(simulated, case(), placements={name: "column"}, **LOCAL)
    with pytest.raises(ConfigError, match=f"table '{name}' is kept by column; set its placement"):
        own.go([1])


def test_an_average_over_steps_is_refused(simulated: Dataset) -> None:
    own = case(tables={"lr": 0.01})
    own["config"]["ema"] = 0.9
    with pytest.raises(ConfigError, match="set ema = 0, or aggregate = 'sync'"):
        alone(simulated, own, **LOCAL)


def test_whole_training_with_shards_of_users(simulated: Dataset, tmp_path: Path) -> None:
    """Uneven shards, an evaluation within an epoch and checkpoints: all processes agree."""
    own = case(partition="user", **LOCAL)
    own["config"] |= {"epochs": 2, "evaluate_every": 7, "checkpoint_steps": 5}
    job: dict[str, Any] = {"data": str(simulated.directory), "folder": str(tmp_path), "case": own}
    first, second = run(2, "whole", module=MODULE, **job)
    assert first == second
    # More is learned than by chance, and of both shards.
    assert first["best"] > 0.55
    assert len(first["curve"]) == 2 * (first["steps"] // 2 // 7 + 1)
    assert all(0.3 < loss < 3.0 for loss in first["curve"])

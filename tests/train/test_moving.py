"""Training parts of a model: what moves, what stays to the last bit, and going on after a stop."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_learner import Neighbour
from tests.train.toys import narrow

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError, TrainError
from scalerec.models.recommender import build_recommender
from scalerec.train import Learner, OneProcess, TrainConfig, train
from scalerec.train.moving import Moving

pytestmark = pytest.mark.usefixtures("one_thread")
HEAD = ("net.tower.6.weight", "net.tower.6.bias")
Tensors = dict[str, torch.Tensor]


def learner_of(dataset: Dataset, moving: Moving | None, **settings: Any) -> Learner:
    config = TrainConfig.from_dict({"precision": "fp32", **settings})
    recommender = build_recommender(dataset.layout, narrow(), config.seed)
    return Learner(recommender, dataset, config, OneProcess(), moving=moving)


def taught(dataset: Dataset, moving: Moving | None, **settings: Any) -> tuple[Tensors, Tensors]:
    """All tensors before and after three steps."""
    learner = learner_of(dataset, moving, **settings)
    before = {n: t.clone() for n, t in learner.recommender.to_tensors().items()}
    for _ in range(3):
        learner.step(dataset.split("train").read(0, 64), 1.0)
    return before, {n: t.clone() for n, t in learner.recommender.to_tensors().items()}


def no_rows(dataset: Dataset) -> torch.Tensor:
    return torch.zeros(sum(dataset.layout.tables.values()), dtype=torch.bool)


@pytest.mark.parametrize("engine", ["dense", "numba", "torch"])
def test_only_what_is_named_moves(rated: Dataset, engine: str) -> None:
    moving = Moving(whole=HEAD, rows=no_rows(rated))
    l2 = {"dense": {"weight_decay": 0.1}, "tables": {"engine": engine, "l2": 0.1}}
    before, after = taught(rated, moving, **l2)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == set(HEAD)


@pytest.mark.parametrize("engine", ["dense", "numba", "torch"])
def test_some_rows_move(rated: Dataset, engine: str) -> None:
    rows = no_rows(rated)
    rows[3:6] = True
    before, after = taught(rated, Moving(whole=HEAD, rows=rows), tables={"engine": engine})
    assert next(iter(rated.layout.tables)) == "user"
    changed = (after["tables.user.weight"] != before["tables.user.weight"]).any(1)
    assert changed.nonzero().flatten().tolist() == [3, 4, 5]
    assert torch.equal(after["tables.item.weight"], before["tables.item.weight"])


def test_rows_move_as_they_would_if_all_did(rated: Dataset) -> None:
    """In one step; later ones see what else has moved."""
    rows = no_rows(rated)
    rows[2:8] = True
    found = []
    for moving in (None, Moving(whole=HEAD, rows=rows)):
        learner = learner_of(rated, moving)
        learner.step(rated.split("train").read(0, 64), 1.0)
        found.append(learner.recommender.tables.matrix[2:8].clone())
    assert torch.equal(*found)


def test_everything_moves_as_without_a_choice(rated: Dataset) -> None:
    names = tuple(build_recommender(rated.layout, narrow(), 1).dense_parameters())
    free, named = taught(rated, None), taught(rated, Moving(whole=names))
    for name, tensor in free[1].items():
        assert torch.equal(named[1][name], tensor)


def test_a_weight_moves_by_few_directions(rated: Dataset) -> None:
    weight = "net.tower.0.weight"
    moving = Moving(factored=(weight,), rank=2, rows=no_rows(rated))
    before, after = taught(rated, moving, dense={"lr": 0.05})
    assert {n for n, t in after.items() if not torch.equal(t, before[n])} == {weight}
    assert int(torch.linalg.matrix_rank(after[weight] - before[weight], tol=1e-5)) == 2


def test_numbers_of_a_parameter_move(rated: Dataset) -> None:
    weight = "net.tower.0.weight"
    mask = torch.zeros_like(
        build_recommender(rated.layout, narrow(), 1).get_parameter(weight), dtype=torch.bool
    )
    mask[:, 2] = True
    moving = Moving(parts={weight: mask}, rows=no_rows(rated))
    before, after = taught(rated, moving, dense={"weight_decay": 0.1})
    changed = after[weight] != before[weight]
    assert changed[:, 2].any()
    assert not changed[~mask].any()


def test_a_moving_average_is_of_what_moves(rated: Dataset) -> None:
    weight = "net.tower.0.weight"
    moving = Moving(factored=(weight,), whole=HEAD, rows=no_rows(rated))
    learner = learner_of(rated, moving, ema=0.9, dense={"lr": 0.05})
    for _ in range(3):
        learner.step(rated.split("train").read(0, 64), 1.0)
    live = {n: t.clone() for n, t in learner.recommender.to_tensors().items()}
    learner.swap_average()
    for name, tensor in learner.recommender.to_tensors().items():
        assert torch.equal(tensor, live[name]) == (name not in {weight, *HEAD})
    learner.swap_average()
    for name, tensor in learner.recommender.to_tensors().items():
        assert torch.equal(tensor, live[name])


def test_running_means_stay_where_their_weight_does(rated: Dataset) -> None:
    config = TrainConfig(batch_size=64)
    recommender = build_recommender(rated.layout, narrow("dcn-v2", batch_norm=True), 1)
    means = {n: t.clone() for n, t in recommender.state_dict().items() if "running" in n}
    assert means
    moving = Moving(whole=("net.out.weight",), rows=no_rows(rated))
    learner = Learner(recommender, rated, config, OneProcess(), moving=moving)
    recommender.train()
    learner.step(rated.split("train").read(0, 64), 1.0)
    for name, tensor in means.items():
        assert torch.equal(recommender.state_dict()[name], tensor)


def test_a_run_that_was_stopped_goes_on_alike(rated: Dataset, tmp_path: Path) -> None:
    moving = Moving(factored=("net.tower.2.weight",), whole=HEAD, rows=no_rows(rated))
    config = TrainConfig(epochs=2, batch_size=64, patience=-1, checkpoint_steps=2)
    whole = train(rated, narrow(), config, moving=moving)

    def stop(step: int) -> None:
        if step == 5:
            raise KeyboardInterrupt

    folder = tmp_path / "aside"
    with pytest.raises(KeyboardInterrupt):
        train(rated, narrow(), config, moving=moving, checkpoints=folder, after_step=stop)
    with pytest.raises(TrainError, match="another moving"):
        train(rated, narrow(), config, checkpoints=folder, resume=True)
    resumed = train(rated, narrow(), config, moving=moving, checkpoints=folder, resume=True)
    for name, tensor in whole.recommender.to_tensors().items():
        assert torch.equal(resumed.recommender.to_tensors()[name], tensor)


@pytest.mark.parametrize(
    ("moving", "words"),
    [
        (Moving(whole=("net.none",)), "no parameters net.none"),
        (Moving(whole=HEAD, factored=HEAD[:1]), "named twice: net.tower.6.weight"),
        (Moving(parts={HEAD[1]: torch.ones(4, dtype=torch.bool)}), r"must be \[1\]; got \[4\]"),
        (Moving(rows=torch.ones(2, dtype=torch.bool)), r"rows must be \[\d+\]; got \[2\]"),
        (Moving(factored=("net.tower.2.weight",), rank=99), "must be from 1 to 20; got 99"),
    ],
)
def test_what_does_not_fit_is_refused(rated: Dataset, moving: Moving, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        learner_of(rated, moving)


def test_something_must_move(rated: Dataset) -> None:
    with pytest.raises(ConfigError, match="nothing moves"):
        learner_of(rated, Moving(rows=no_rows(rated)))


def test_several_processes_train_whole_models(rated: Dataset) -> None:
    recommender = build_recommender(rated.layout, narrow(), 1)
    with pytest.raises(ConfigError, match="in one process; got 2"):
        Learner(recommender, rated, TrainConfig(), Neighbour(0, [1, 1]), moving=Moving(whole=HEAD))


def test_masks_are_told_by_how_much_moves(rated: Dataset) -> None:
    moving = Moving(whole=HEAD, factored=("a",), rank=3, rows=no_rows(rated))
    assert moving.identity == {
        "whole": list(HEAD), "factored": {"a": [3, 1.0]}, "parts": {}, "rows": 0,
    }  # fmt: skip
    assert replace(moving, rows=None).identity["rows"] is None

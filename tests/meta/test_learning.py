"""The outer loop: starts are learned that adapt, runs go on as they would have, errors say why."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.meta.worlds import parity, small

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError, TrainError
from scalerec.meta.algorithms import ALGORITHMS
from scalerec.meta.config import MetaConfig
from scalerec.meta.episodes import Mixing, draw_mixing, rectangle, shorten
from scalerec.meta.learning import MetaTrained, meta_train
from scalerec.meta.tasks import Episode, Ragged, TaskSet
from scalerec.track import MemorySink

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS: dict[str, Any] = {
    "adapt": "decision", "rate": 0.5, "steps": 3, "num_support": 5, "num_query": 6, "tasks": 16,
    "updates": 60, "evaluate_every": 20, "lr": 0.02, "rows_lr": 0.02, "held_out": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return parity(tmp_path_factory.mktemp("parity") / "data")


def run(dataset: Dataset, folder: Path | None = None, **settings: Any) -> MetaTrained:
    tasks = TaskSet(dataset.split("train"), "user", least_rows=8)
    resume = bool(settings.pop("resume", False))
    config = MetaConfig.from_dict({**SETTINGS, **settings})
    return meta_train(small(dataset), tasks, config, checkpoints=folder, resume=resume)


# What an algorithm needs beside `SETTINGS` to learn this world in seconds.
NEEDED: dict[str, dict[str, Any]] = {
    "anil": {"adapt": "auto"},
    "reptile": {"updates": 120},
    "meta-sgd": {"rates_lr": 0.02},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_start_is_learned_that_adapts(dataset: Dataset, algorithm: str) -> None:
    settings = NEEDED.get(algorithm, {})
    found = run(dataset, algorithm=algorithm, **settings)
    last = max(found.curve, key=lambda seen: seen["valid/task_auc"])
    # Who is new may like either parity; five examples tell which.
    assert last["valid/start_task_auc"] < 0.7
    assert last["valid/task_auc"] > 0.85
    assert found.best == last["valid/task_auc"]
    assert found.metric == "task_auc"
    assert {"gap", "learned/task_auc", "learned/loss", "valid/loss"} <= last.keys()


def test_rates_are_learned_where_they_shall_be(dataset: Dataset) -> None:
    fixed = run(dataset, updates=5).rates
    assert all(float(rate) == 0.5 for rate in fixed.values())
    layer = run(dataset, updates=20, rates="layer", rates_lr=0.01).rates
    assert all(rate.ndim == 0 for rate in layer.values())
    assert any(float(rate) != 0.5 for rate in layer.values())
    number = run(dataset, updates=20, algorithm="meta-sgd").rates
    assert number["net.tower.0.weight"].shape == (8, 8)
    assert len(number["net.tower.0.weight"].unique()) > 10


def test_a_run_that_was_broken_off_goes_on_as_it_would_have(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "checkpoint_every": 10,
        "updates": 30,
        "task_dropout": 0.1,
        "mixing": 0.2,
    }
    whole = run(dataset, **settings)
    steps = 0

    def broken(values: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 25:
            raise KeyboardInterrupt

    tasks = TaskSet(dataset.split("train"), "user", least_rows=8)
    config = MetaConfig.from_dict({**SETTINGS, **settings})
    with pytest.raises(KeyboardInterrupt):
        meta_train(small(dataset), tasks, config, checkpoints=tmp_path, on_progress=broken)
    with pytest.raises(TrainError, match="the checkpoint is of another run; start anew"):
        run(dataset, tmp_path, **{**settings, "rate": 0.3}, resume=True)
    again = run(dataset, tmp_path, **settings, resume=True)
    assert not any(tmp_path.iterdir()) if tmp_path.is_dir() else True
    for name, tensor in whole.recommender.to_tensors().items():
        assert torch.equal(again.recommender.to_tensors()[name], tensor)
    assert again.curve == whole.curve


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tasks_in_parts_move_the_start_as_all_at_once(dataset: Dataset, algorithm: str) -> None:
    settings: dict[str, Any] = {
        "algorithm": algorithm, "adapt": "auto", "updates": 3, "evaluate_every": 3, "mixing": 0.3,
        "optimiser": "sgd", "rate": 0.1, "lr": 0.5, "rows_lr": 0.5, "as_new": False,
    }  # fmt: skip
    whole = run(dataset, **settings)
    tensors = whole.recommender.to_tensors()
    start = small(dataset).to_tensors()
    assert any(float((tensors[name] - start[name]).abs().max()) > 1e-2 for name in tensors)
    for at_once in (8, 3):
        parts = run(dataset, at_once=at_once, **settings)
        for name, tensor in parts.recommender.to_tensors().items():
            # Float32, three updates.
            torch.testing.assert_close(tensor, tensors[name], rtol=1e-5, atol=1e-6)
        for name, rate in parts.rates.items():
            torch.testing.assert_close(rate, whole.rates[name], rtol=1e-5, atol=1e-6)


def test_a_checkpoint_of_an_earlier_layout_is_refused(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    tasks = TaskSet(dataset.split("train"), "user", least_rows=8)
    config = MetaConfig.from_dict({**SETTINGS, "checkpoint_every": 1, "updates": 3})
    with monkeypatch.context() as context:
        context.setattr("scalerec.meta.learning.VERSION", 1)
        context.setattr("scalerec.meta.learning._Run._evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            meta_train(small(dataset), tasks, config, checkpoints=tmp_path)
    with pytest.raises(TrainError, match="another version of scalerec wrote the checkpoint"):
        meta_train(small(dataset), tasks, config, checkpoints=tmp_path, resume=True)


def test_a_run_goes_on_to_fewer_updates_than_it_has(dataset: Dataset, tmp_path: Path) -> None:
    def stop(seen: Mapping[str, float]) -> None:
        if seen["step"] == 7:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"checkpoint_every": 3, "evaluate_every": 5, "patience": -1}
    tasks = TaskSet(dataset.split("train"), "user", least_rows=8)
    config = MetaConfig.from_dict({**SETTINGS, **settings})
    with pytest.raises(KeyboardInterrupt):
        meta_train(small(dataset), tasks, config, checkpoints=tmp_path, on_progress=stop)
    found = run(dataset, tmp_path, **settings, updates=4, resume=True)
    # The checkpoint is that of six updates; what is kept was measured.
    assert found.updates == 6
    assert [seen["step"] for seen in found.curve] == [5, 6]
    assert found.best == found.curve[-1]["valid/task_auc"]


def test_a_metric_that_held_out_tasks_do_not_have_is_an_error(dataset: Dataset) -> None:
    tasks = TaskSet(dataset.split("train"), "user", least_rows=8)
    config = MetaConfig.from_dict({**SETTINGS, "num_query": 1, "updates": 3})
    with pytest.raises(TrainError, match="no task_auc: none of 18 has query rows of both labels"):
        meta_train(small(dataset), tasks, config)
    by_loss = replace(config, metric="loss")
    assert meta_train(small(dataset), tasks, by_loss).metric == "loss"


def test_it_stops_when_held_out_tasks_gain_no_more(dataset: Dataset) -> None:
    found = run(dataset, lr=0.0, rows_lr=0.0, patience=2, updates=400)
    assert [seen["step"] for seen in found.curve] == [20, 40, 60, 80]
    assert found.updates == 20
    last = run(dataset, lr=0.0, rows_lr=0.0, patience=-1, updates=80)
    assert (last.updates, len(last.curve)) == (80, 4)


def test_sinks_are_told(dataset: Dataset) -> None:
    sink = MemorySink()
    tasks = TaskSet(dataset.split("train"), "user", least_rows=8)
    config = MetaConfig.from_dict({**SETTINGS, "updates": 4, "evaluate_every": 2, "metric": "loss"})
    meta_train(small(dataset), tasks, config, sinks=[sink])
    rows = {row["step"]: row for row in sink.rows()}
    assert "train/query_loss" in rows[1]
    assert "valid/loss" in rows[4]


def test_a_loss_that_is_not_finite_is_an_error(dataset: Dataset) -> None:
    with pytest.raises(TrainError, match=r"in update \d+; lower `rate` or `lr`"):
        run(dataset, rate=1e30, steps=5)


def test_rows_of_tasks_fill_a_rectangle() -> None:
    ragged = Ragged(torch.tensor([4, 7, 9]), torch.tensor([0, 2, 2, 3]))
    rows, counts = rectangle(ragged, torch.tensor([1, 2, 3]))
    assert rows.tolist() == [[4, 7], [2, 2], [9, 3]]
    assert counts.tolist() == [[True, True], [False, False], [True, False]]
    rows, counts = rectangle(ragged.keep(torch.zeros(3, dtype=torch.bool)), torch.tensor([1, 2, 3]))
    assert (rows.tolist(), counts.any().item()) == ([[1], [2], [3]], False)


def test_numbers_of_examples_are_drawn(generator: torch.Generator) -> None:
    rows = torch.arange(4000)
    ragged = Ragged(rows, torch.arange(0, 4001, 4))
    episode = Episode(torch.arange(1000), ragged, ragged)
    lengths = shorten(episode, 2, 0.5, generator).support.lengths
    counts = torch.bincount(lengths, minlength=5) / 1000
    assert counts[1] == 0
    # A half has none; the others 2, 3 or 4 alike. Five standard errors of a share are .08.
    torch.testing.assert_close(
        counts[[0, 2, 3, 4]], torch.tensor([3, 1, 1, 1]) / 6, atol=0.08, rtol=0
    )


def test_a_mixed_task_has_rows_of_its_partner(generator: torch.Generator) -> None:
    assert draw_mixing(5, 0.0, generator) is None
    assert draw_mixing(1, 0.5, generator) is None
    mixing = draw_mixing(2000, 0.3, generator)
    assert isinstance(mixing, Mixing)
    assert sorted(mixing.partners.tolist()) == list(range(2000))
    assert float((mixing.shares > 0).float().mean()) == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"algorithm": "mamal"}, "algorithm must be one of maml, fomaml, anil, reptile, meta-sgd"),
        ({"least_support": 9}, "least_support must be from 0 to num_support=5; got 9"),
        ({"task_dropout": 1.0}, r"task_dropout must be in \[0, 1\); got 1.0"),
        ({"metric": "hits"}, "metric must be one of auto, loss, ndcg, auc, task_auc; got 'hits'"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"at_once": -1}, "at_once must be at least 0; got -1"),
        ({"rate": 0.0}, r"rate must be above 0; got 0\.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MetaConfig.from_dict({**SETTINGS, **settings})

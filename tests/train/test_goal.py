"""The goal of a run: names of metrics, tasks' own ones, directions, words of errors."""

import pytest

from scalerec.data.schema import Task, TaskKind
from scalerec.errors import ConfigError, DataError
from scalerec.metrics import (
    BinaryMetrics,
    MulticlassMetrics,
    RankingMetrics,
    RegressionMetrics,
)
from scalerec.train.goal import OF_KIND, OF_LISTS, Goal

CLICK, STARS = Task(name="click"), Task(name="stars", kind=TaskKind.REGRESSION)
KIND = Task(name="kind", kind=TaskKind.MULTICLASS, num_classes=3)
FOUND = Task(name="found", kind=TaskKind.RETRIEVAL)


@pytest.mark.parametrize(
    ("tasks", "metric", "higher"),
    [
        ((CLICK,), "auc", True),
        ((STARS,), "rmse", False),
        ((KIND,), "accuracy", True),
        ((FOUND,), "ndcg@10", True),
        ((CLICK, Task(name="buy")), "auc", True),
        ((CLICK, STARS), "click.auc+stars.rmse", True),
    ],
)
def test_own_metric(tasks: tuple[Task, ...], metric: str, higher: bool) -> None:
    goal = Goal(tasks)
    assert (goal.metric, goal.higher_is_better) == (metric, higher)


def test_the_mean_over_tasks_and_one_task_alone() -> None:
    tasks = (CLICK, Task(name="buy"))
    found = {"click.auc": 0.5, "click.log_loss": 0.25, "buy.auc": 1.0, "buy.log_loss": 0.75}
    assert Goal(tasks).value(found) == 0.75
    assert Goal(tasks, "buy.auc").value(found) == 1.0
    losses = Goal(tasks, "log_loss")
    assert losses.value(found) == 0.5
    assert not losses.higher_is_better
    one = Goal(tasks, "click.log_loss")
    assert one.value(found) == 0.25
    assert not one.higher_is_better
    assert one.is_better(0.2, 0.3)
    assert not one.is_better(0.3, 0.3)
    assert one.is_better(9.0, None)


def test_an_error_beside_a_gain_counts_against_it() -> None:
    goal = Goal((CLICK, STARS))
    assert goal.value({"click.auc": 0.75, "stars.rmse": 0.25, "stars.mae": 7.0}) == 0.25


def test_what_is_measured() -> None:
    plain = Goal((CLICK,)).evaluation
    assert (plain.split, plain.ranking) == ("valid", "no")
    ranked = Goal((CLICK,), "ndcg@50+recall@7").evaluation
    assert (ranked.ranking, ranked.ks) == ("yes", (7, 50))


@pytest.mark.parametrize("metric", ["acu", "rmse", "click.auc", "ndcg@0", "ndcg@x", "auc@5", "@5"])
def test_an_unknown_metric_is_refused_at_once(metric: str) -> None:
    with pytest.raises(ConfigError, match=f"one of auc, log_loss, ne, .*, map@k; got '{metric}'"):
        Goal((CLICK,), metric)


def test_undefined_and_unmeasured() -> None:
    with pytest.raises(DataError, match="'auc' is undefined on the validation part"):
        Goal((CLICK,)).value({"auc": None})
    with pytest.raises(ConfigError, match="metric must be one of auc; got 'gauc'"):
        Goal((CLICK,), "gauc").value({"auc": 0.5})


def test_the_table_of_names_is_what_the_meters_give() -> None:
    binary = BinaryMetrics()
    binary.update([0, 1], [0.1, 0.9], groups=[0, 0])
    assert set(OF_KIND[TaskKind.BINARY]) == set(binary.compute())
    assert set(OF_KIND[TaskKind.MULTICLASS]) == set(MulticlassMetrics().compute())
    assert set(OF_KIND[TaskKind.REGRESSION]) == set(RegressionMetrics().compute())
    lists = {name.partition("@")[0] for name in RankingMetrics(ks=(3,)).compute()}
    assert set(OF_LISTS) == lists

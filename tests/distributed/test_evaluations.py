"""An evaluation that processes share is that of one, to the last bit, and all are told of it.

The batches of rows and the portions of users are the same ones whoever scores them, and their
numbers divide by neither 2 nor 4.
"""

from typing import Any

import pytest
from tests.distributed.workers import run
from tests.train.toys import LIKED, ratings

from scalerec.data.dataset import Dataset

WORLDS = (1, 2, 4)
SPREAD = {"optimiser": "rowwise_adagrad"}
WHOLE = {"optimiser": "adam"}
TASKS: list[dict[str, object]] = [
    LIKED,
    {"name": "stars", "kind": "regression"},
    {"name": "kind", "kind": "multiclass", "num_classes": 3},
]
NAMES = ("spread", "whole", "towers", "pairs", "tasks")


def case(data: Dataset, model: str, tables: dict[str, str], **more: Any) -> dict[str, Any]:
    found = {"split": "test", "ranking": "yes", "spoilt": False, **more}
    spec = {"model": model, "settings": {"dim": 4}, "init_std": 0.5}
    return {**found, "data": str(data.directory), "spec": spec, "config": {"tables": tables}}


@pytest.fixture(scope="module")
def found(
    rated: Dataset, simulated: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Any]:
    """Number of processes to what each was told."""
    folder = tmp_path_factory.mktemp("several")
    tasks = ratings(folder / "tasks", TASKS, weight="weight")
    cases = {
        "spread": case(rated, "deepfm", SPREAD),
        "whole": case(rated, "deepfm", WHOLE),
        "towers": case(rated, "two-tower", SPREAD),
        "pairs": case(simulated, "din", SPREAD),
        "tasks": case(tasks, "shared-bottom", SPREAD, split="train", ranking="auto"),
        "spoilt": case(rated, "deepfm", SPREAD, spoilt=True),
    }
    how: dict[str, Any] = {"module": "tests.distributed.steps", "cases": cases, "batch": 17}
    return {world: run(world, "evaluations", **how) for world in WORLDS}


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("name", NAMES)
def test_as_one_process(name: str, world: int, found: dict[int, Any]) -> None:
    (alone,) = (own["found"][name] for own in found[1])
    assert any(metric.endswith("auc") for metric in alone["metrics"])
    assert "ndcg@3" in alone["metrics"]
    for own in found[world]:
        assert own["found"][name] == alone


@pytest.mark.parametrize("world", WORLDS)
def test_scores_that_are_not_finite_are_told_to_all(world: int, found: dict[int, Any]) -> None:
    for own in found[world]:
        assert own["found"]["spoilt"]["error"].startswith("the model's scores are not finite")


def test_process_0_alone_gets_the_scores(found: dict[int, Any]) -> None:
    first, *others = found[4]
    for purpose in ("scores", "lists"):
        assert first["received"][purpose] == sum(own["sent"][purpose] for own in others)
        assert first["sent"][purpose] == 0
        assert all(own["received"][purpose] == 0 for own in others)

"""A step of several processes is that of one with the whole batch, also where rows meet each other.

That is in batch statistics, in negatives drawn beside them, and in the softmax over the items of a
batch. The last batch is short, so that of four processes one has nothing of it.
"""

from typing import Any

import numpy as np
import pytest
from tests.distributed.workers import run
from tests.train.toys import ratings

from scalerec.data.dataset import Dataset

WORLDS = (1, 2, 4)
ROWS = {"optimiser": "rowwise_adagrad", "lr": 0.05}
LAZY = {"optimiser": "lazy_adam", "lr": 0.01, "l2": 1e-3}
DENSE = {"optimiser": "sgd", "engine": "dense", "lr": 1.0}
NAMES = (
    "batch norm",
    "batch norm, small tables",
    "rows that wait",
    "dice",
    "negatives",
    "retrieval",
    "retrieval, small tables",
    "retrieval, nothing positive",
)
# Sums of float32 in another order: over 10 steps 1e-5 of the loss.
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-7}
NEAR: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def case(data: Dataset, model: str, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    distributed = more.pop("distributed", {})
    # 240 training rows: three batches of 79 and one of 3.
    config: dict[str, Any] = {"batch_size": 79, "epochs": 3, "precision": "fp32", "tables": ROWS}
    # Not Adam: where a gradient is zero but for rounding, as before a normalisation, it takes a
    # whole step by the rounding's sign.
    config |= {"dense": {"name": "sgd", "lr": 0.3}, **more}
    spec = {"model": model, "settings": {"dim": 4, **settings}, "init_std": 0.1}
    folder = str(data.directory)
    return {"data": folder, "spec": spec, "config": config, "distributed": distributed}


def cases(rated: Dataset, retrieved: Dataset) -> dict[str, Any]:
    deep = {"hidden": [8]}
    towers = {"hidden": [8], "vector_dim": 4}
    momentum: dict[str, Any] = {"dense": {"name": "sgd", "lr": 0.3, "momentum": 0.9}}
    shared = {"activation": "dice", "batch_norm": True, "hidden": [8], "attention_hidden": [8]}
    return {
        "batch norm": case(rated, "deepfm", {**deep, "batch_norm": True}),
        "batch norm, small tables": case(
            rated, "deepfm", {**deep, "batch_norm": True}, tables=DENSE
        ),
        "rows that wait": case(rated, "deepfm", deep, tables=LAZY),
        "dice": case(rated, "din", shared),
        "negatives": case(rated, "deepfm", deep, negatives=3, negatives_by="popularity"),
        "retrieval": case(retrieved, "two-tower", towers),
        "retrieval, small tables": case(retrieved, "two-tower", towers, tables=DENSE),
        # Two steps an epoch, the second of one row, which some processes have none of, and of which
        # some steps learn nothing.
        "retrieval, nothing positive": case(
            retrieved, "two-tower", towers, tables=LAZY, batch_size=239, epochs=6, **momentum
        ),
    }


@pytest.fixture(scope="module")
def found(rated: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Number of processes to what each gave."""
    task: dict[str, object] = {
        "name": "liked", "kind": "retrieval", "at_least": 1
    }  # fmt: skip
    retrieved = ratings(tmp_path_factory.mktemp("retrieved") / "data", [task])
    jobs = cases(rated, retrieved)
    module = "tests.distributed.steps"
    return {world: run(world, "steps", module=module, cases=jobs) for world in WORLDS}


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("name", NAMES)
def test_as_one_process(name: str, world: int, found: dict[int, Any]) -> None:
    (alone,) = (own[name] for own in found[1])
    for own in (process[name] for process in found[world]):
        assert len(own["losses"]) == 12
        np.testing.assert_allclose(own["losses"], alone["losses"], **CLOSE)
        if name == NAMES[-1]:
            assert 0.0 in own["losses"]
        np.testing.assert_allclose(own["scores"], alone["scores"], **NEAR)
        assert own["dense"].keys() == alone["dense"].keys()
        for key, values in own["dense"].items():
            np.testing.assert_allclose(values, alone["dense"][key], err_msg=key, **NEAR)

"""Settings of training: defaults, ranges, and which optimiser and engine they mean."""

from typing import Any

import pytest
import torch

from scalerec.errors import ConfigError
from scalerec.optim import Adagrad, LazyAdam, RowwiseAdagrad, Sgd
from scalerec.train import OneProcess, TableConfig, TrainConfig
from scalerec.train.config import DENSE_LIMIT
from scalerec.train.runtime import has_bf16


def test_round_trip_with_nested_settings() -> None:
    config = TrainConfig.from_dict(
        {"epochs": 3, "dense": {"lr": 0.1}, "tables": {"optimiser": "sgd"}, "ema": 0.9}
    )
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert config.replace(epochs=4).dense.lr == 0.1
    assert TrainConfig() == TrainConfig.from_dict({})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"patience": -2}, "patience must be at least -1; got -2"),
        ({"seed": -1}, "seed must be at least 0; got -1"),
        ({"clip_norm": -1.0}, "clip_norm must be at least 0; got -1.0"),
        ({"negatives": -1}, "negatives must be at least 0; got -1"),
        ({"evaluate_every": -1}, "evaluate_every must be at least 0; got -1"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds must be at least 0; got -1.0"),
        ({"checkpoint_steps": -1}, "checkpoint_steps must be at least 0; got -1"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\); got 1.0"),
        ({"precision": "fp16"}, "precision must be one of auto, fp32, bf16; got 'fp16'"),
        ({"negatives_by": "x"}, "negatives_by must be one of uniform, popularity; got 'x'"),
    ],
)
def test_what_is_out_of_range(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**values)
    with pytest.raises(ConfigError, match=words):
        TrainConfig.from_dict(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lr": 0.0}, "tables.lr must be above 0; got 0.0"),
        ({"l2": -0.1}, "tables.l2 must be at least 0; got -0.1"),
        ({"eps": 0.0}, "tables.eps must be above 0; got 0.0"),
        ({"betas": (0.9, 1.0)}, r"tables.betas must be in \[0, 1\); got \(0.9, 1.0\)"),
        (
            {"engine": "gpu"},
            "tables.engine must be one of auto, dense, numba, torch, fbgemm; got 'gpu'",
        ),
        ({"optimiser": "lamb"}, "tables.optimiser must be one of adam, .*; got 'lamb'"),
        (
            {"engine": "dense", "optimiser": "lazy_adam"},
            "engine 'dense' takes adam, adagrad or sgd; got 'lazy_adam'",
        ),
    ],
)
def test_tables_out_of_range(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TableConfig(**values)


def test_which_tables_are_dense() -> None:
    assert TableConfig().is_dense(DENSE_LIMIT)
    assert not TableConfig().is_dense(DENSE_LIMIT + 1)
    assert not TableConfig(optimiser="adagrad").is_dense(1)
    assert not TableConfig(engine="torch").is_dense(1)
    assert TableConfig(engine="dense", optimiser="sgd").is_dense(DENSE_LIMIT + 1)


def test_row_optimisers() -> None:
    """With L2, a row that was missed pays for the steps that it missed, as on a dense table."""
    shared: dict[str, Any] = {"l2": 0.5, "eps": 0.25}
    owed: dict[str, Any] = {"l2": 0.5, "l2_missed": True}
    lazy = ("lazy_adam", LazyAdam(eps=0.25, betas=(0.5, 0.6), decay_missed=False, **owed))
    assert TableConfig(betas=(0.5, 0.6), **shared).row_optimiser() == lazy
    rowwise = TableConfig(optimiser="rowwise_adagrad", **shared).row_optimiser()
    assert rowwise == ("rowwise_adagrad", RowwiseAdagrad(eps=0.25, **owed))
    assert TableConfig(optimiser="adagrad").row_optimiser() == ("adagrad", Adagrad())
    assert TableConfig(optimiser="sgd", l2=0.5).row_optimiser() == ("sgd", Sgd(**owed))
    dense = TableConfig(optimiser="adagrad", l2=0.5).dense_optimiser()
    assert (dense.name, dense.weight_decay) == ("adagrad", 0.5)


@pytest.mark.parametrize("kind", ["avx512_bf16", "amx_bf16", "neither"])
def test_bf16_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    found = {"avx512_bf16": False, "amx_bf16": False, kind: True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert has_bf16(torch.device("cpu")) == (kind != "neither")
    assert not has_bf16(torch.device("meta"))


def test_one_process() -> None:
    runtime = OneProcess()
    assert (runtime.rank, runtime.world, runtime.device) == (0, 1, torch.device("cpu"))
    value, module = torch.ones(2), torch.nn.Linear(1, 1)
    assert runtime.sum(value) is value
    assert runtime.wrap(module) is module

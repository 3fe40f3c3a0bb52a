"""The dense part's optimiser: it is torch's, with the settings that were asked for."""

from typing import Any

import pytest
import torch

from scalerec.errors import ConfigError
from scalerec.optim import OptimiserConfig, build_optimiser

PLAIN: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_as_torchs_own_loop_does(
    name: str, momentum: float, generator: torch.Generator
) -> None:
    weights = [torch.randn(3, 2, generator=generator), torch.randn(2, generator=generator)]
    ours, theirs = ([w.clone().requires_grad_() for w in weights] for _ in range(2))
    config = OptimiserConfig.from_dict(
        {"name": name, "lr": 0.05, "eps": 1e-6, "momentum": momentum, "weight_decay": 0.1}
    )
    kind: dict[str, Any] = {"momentum": momentum} if name == "sgd" else {"eps": 1e-6}
    pair = (
        build_optimiser(config, ours),
        PLAIN[name](theirs, lr=0.05, weight_decay=0.1, foreach=False, **kind),  # type: ignore[call-arg]
    )
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimiser in pair:
            optimiser.step()
    # The fused kernel orders float32 operations otherwise.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "lion"}, "name must be one of adam, adamw, adagrad, sgd; got 'lion'"),
        ({"lr": 0.0}, "lr must be above 0; got 0.0"),
        ({"betas": [0.9, 1.0]}, r"betas must be in \[0, 1\); got \(0.9, 1.0\)"),
        ({"eps": 0.0}, "eps must be above 0; got 0.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\); got 1.0"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0; got -1.0"),
    ],
)
def test_a_wrong_setting_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        OptimiserConfig.from_dict(settings)


def test_no_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one parameter; got none"):
        build_optimiser(OptimiserConfig(), [])

"""The dense part's optimiser in the training loop: a config that becomes one of torch's own."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from scalerec.config import Config, require

__all__ = ["OptimiserConfig", "build_optimiser"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig(Config):
    """Settings of the dense part's optimiser.

    Args:
        name: Which one.
        lr: Learning rate, above 0.
        betas: Decay of Adam's two moments, each in [0, 1); adam and adamw only.
        eps: Keeps the division away from zero, above 0; all but sgd.
        momentum: Share of the last move that is kept, in [0, 1); sgd only.
        weight_decay: Strength of L2, at least 0. It is added to the gradient; adamw shrinks the
            weights apart from it (Decoupled Weight Decay Regularization, Loshchilov and Hutter,
            2019, https://arxiv.org/abs/1711.05101).
    """

    name: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        names = ("adam", "adamw", "adagrad", "sgd")
        require(self.name in names, f"name must be one of {', '.join(names)}; got {self.name!r}")
        require(self.lr > 0, f"lr must be above 0; got {self.lr}")
        fits = all(0 <= beta < 1 for beta in self.betas)
        require(fits, f"betas must be in [0, 1); got {self.betas}")
        require(self.eps > 0, f"eps must be above 0; got {self.eps}")
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1); got {self.momentum}")
        require(self.weight_decay >= 0, f"weight_decay must be at least 0; got {self.weight_decay}")


def build_optimiser(config: OptimiserConfig, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Build torch's optimiser for these parameters.

    Args:
        config: The settings.
        parameters: Leaf tensors that need gradients; at least one.

    Raises:
        ConfigError: If there are no parameters.
    """
    weights = list(parameters)
    require(bool(weights), "an optimiser needs at least one parameter; got none")
    fusable = all(w.device.type in ("cpu", "cuda") and w.is_floating_point() for w in weights)
    # One kernel for all tensors is 2 to 4 times as fast, on the CPU too; but not for plain SGD.
    fused = fusable and (config.name != "sgd" or config.momentum > 0)
    shared: dict[str, Any] = {
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "fused": fused,
    }
    if config.name == "adam":
        return torch.optim.Adam(weights, betas=config.betas, eps=config.eps, **shared)
    if config.name == "adamw":
        return torch.optim.AdamW(weights, betas=config.betas, eps=config.eps, **shared)
    if config.name == "adagrad":
        return torch.optim.Adagrad(weights, eps=config.eps, **shared)
    return torch.optim.SGD(weights, momentum=config.momentum, **shared)

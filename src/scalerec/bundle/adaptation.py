"""How a bundle adapts to a task: a part of it beside the model, under `adaptation` in its spec.

Rates that are one number for each parameter stand in the spec; those with a number for each number
of a parameter are tensors, named `adaptation.rates.PARAMETER`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalerec.bundle.bundle import Bundle
from scalerec.config import Config, require

__all__ = [
    "ADAPTATION",
    "Adaptation",
    "adaptation_of",
    "model_settings",
    "model_tensors",
    "pack_rates",
    "rates_of",
]

ADAPTATION = "adaptation"
RATES = "adaptation.rates."


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptation(Config):
    """Steps of gradient descent that a start was learned for.

    Args:
        by: What a task is: `user`, `item`, or an id field's name.
        parts: Parameters outside the tables that adapt.
        key: The id field that holds a task's key; empty for none.
        own: Whether the row that this field reads adapts.
        as_new: Whether this field is read as one never seen.
        steps: At least 0.
        prior: Examples that the start is worth, at least 0.
        rates: Of each adapted parameter; `own` for the row.
    """

    by: str
    parts: tuple[str, ...]
    key: str = ""
    own: bool = False
    as_new: bool = True
    steps: int
    prior: float = 0.0
    rates: dict[str, float]

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"steps must be at least 0; got {self.steps}")
        require(self.prior >= 0, f"prior must be at least 0; got {self.prior}")
        require(bool(self.key) or not self.own, "own needs a key")


def model_settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a recommender's spec says of its model."""
    return {name: value for name, value in spec.items() if name not in ("kind", ADAPTATION)}


def model_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the model alone."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(RATES)}


def adaptation_of(bundle: Bundle) -> Adaptation | None:
    """How a bundle adapts; None where nobody learned it.

    Raises:
        ConfigError: If its part is malformed.
    """
    held = bundle.spec.get(ADAPTATION)
    if not isinstance(held, Mapping):
        return None
    return Adaptation.from_dict(held, ADAPTATION)


def rates_of(adaptation: Adaptation, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rate of each adapted parameter.

    Args:
        adaptation: Of a bundle.
        tensors: All of the bundle's.
    """
    rates = {name: torch.tensor(rate) for name, rate in adaptation.rates.items()}
    own = {n.removeprefix(RATES): tensor for n, tensor in tensors.items() if n.startswith(RATES)}
    return {**rates, **own}


def pack_rates(rates: Mapping[str, Tensor]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Rates as the spec holds them, and the tensors of those that it does not.

    Args:
        rates: By the adapted parameter's name.
    """
    numbers = {name: float(rate) for name, rate in rates.items() if rate.ndim == 0}
    return numbers, {f"{RATES}{n}": rate for n, rate in rates.items() if rate.ndim}

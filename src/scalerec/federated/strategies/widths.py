"""Narrower models within a wide one: the leading units of every hidden layer.

What goes in and what comes out stays whole: embeddings, numbers and vectors, so that rows of tables
mean the same to everybody, and logits, as well as the vectors of two towers, cross layers and
attention over fields. A net is allowed if its leading units are a net of the same kind: with all
other units at zero, the wide net gives what the narrow one gives. A tensor of the narrow net is
then the leading part of the wide net's in each dimension.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import ConfigError
from scalerec.models.recommender import ModelSpec, Recommender
from scalerec.train.cohort.models import PartyModel, RecommenderModel

__all__ = ["WIDTHS", "Submodel", "narrowed"]

Tensors = Mapping[str, Tensor]
Slices = tuple[slice, ...]

# The settings of each net that hold sizes of hidden layers.
WIDTHS: dict[str, tuple[str, ...]] = {
    "autoint": ("hidden",),
    "dcn-v2": ("hidden",),
    "deepfm": ("hidden",),
    "din": ("hidden", "attention_hidden"),
    "esmm": ("hidden",),
    "finalmlp": ("hidden_one", "hidden_two", "gate_hidden"),
    "mmoe": ("expert_hidden", "tower_hidden"),
    "ple": ("expert_hidden", "tower_hidden"),
    "shared-bottom": ("hidden", "tower_hidden"),
    "two-tower": ("hidden",),
    "wide-deep": ("hidden",),
}


@dataclass(frozen=True, slots=True)
class Submodel:
    """The leading units of a model's hidden layers.

    Args:
        rate: Its width, as a share of the whole one.
        places: Where each of its tensors lies in the whole model's, by name.
        model: It, with the examples of the whole model.
        num_dense: Numbers in its dense parameters.
    """

    rate: float
    places: Mapping[str, Slices]
    model: "_Narrow"
    num_dense: int

    def of(self, model: PartyModel) -> PartyModel:
        """The submodel with another model's examples."""
        assert isinstance(model, RecommenderModel), "submodels are of recommenders"
        return self.model.with_examples(model.local)


class _Narrow(RecommenderModel):
    """A narrow model whose hidden layers' products are divided by a rate while it trains."""

    factors: dict[str, float]

    def losses(
        self, dense: Tensors, rows_kw: Tensor, batch: Any, num_parties: int, **moving: Any
    ) -> Tensor:
        """Each party's mean loss."""
        # What is scaled is a copy, and to move that would move nothing.
        moving = {} if self.factors else moving
        return super().losses(self._scaled(dense), rows_kw, batch, num_parties, **moving)

    def loss_of_one(self, dense: Tensors, rows_kw: Tensor, batch: Any) -> Tensor:
        """The mean loss of one party."""
        return super().loss_of_one(self._scaled(dense), rows_kw, batch)

    def _scaled(self, dense: Tensors) -> dict[str, Tensor]:
        # To divide what a layer gives is to divide its weights and its bias.
        return {
            name: tensor * self.factors[name] if name in self.factors else tensor
            for name, tensor in dense.items()
        }


def narrowed(model: PartyModel, rate: float, *, scale: bool) -> Submodel:
    """A model with so many of the units of its hidden layers, rounded up.

    Args:
        model: A recommender.
        rate: The share of units, in (0, 1].
        scale: Whether what hidden layers give before they are bent is divided by the rate while it
            trains.

    Raises:
        ConfigError: If the model's leading units are no model of the same kind, or it has no hidden
            layer.
    """
    allowed = f"narrower models are there of {', '.join(sorted(WIDTHS))}"
    if not isinstance(model, RecommenderModel):
        raise ConfigError(f"{allowed}; got {type(model).__name__}")
    spec = model.recommender.spec
    require(spec.model in WIDTHS, f"{allowed}, which have hidden layers; got {spec.model}")
    settings = spec.net_config().to_dict()
    heads = settings["num_heads"] if spec.model == "finalmlp" else 1
    words = f"finalmlp cuts its streams into heads: a narrower one needs num_heads=1; got {heads}"
    require(heads == 1, words)
    names = WIDTHS[spec.model]
    words = (
        f"{spec.model} has no hidden layer to be narrower in; give sizes for {' or '.join(names)}"
    )
    require(any(settings[name] for name in names), words)
    for name in names:
        settings[name] = [math.ceil(rate * size) for size in settings[name]]
    narrow = _Narrow(_without_tables(model.recommender, settings), model.local)
    places = {
        name: tuple(slice(0, size) for size in tensor.shape)
        for name, tensor in narrow.dense.items()
    }
    narrow.factors = {}
    if scale and rate < 1:
        own = [name for name, t in narrow.dense.items() if _gives_hidden(t, model.dense[name])]
        narrow.factors = dict.fromkeys(own, 1 / rate)
    num_dense = sum(tensor.numel() for tensor in narrow.dense.values())
    return Submodel(rate, places, narrow, num_dense)


def _without_tables(whole: Recommender, settings: dict[str, Any]) -> Recommender:
    """A recommender with other settings; its tables are not meant to be read."""
    spec = ModelSpec(model=whole.spec.model, settings=settings, init_std=whole.spec.init_std)
    layout = whole.layout.replace(tables=dict.fromkeys(whole.layout.tables, 2))
    return Recommender(layout, spec, torch.Generator().manual_seed(0), draw_tables=False)


def _gives_hidden(narrow: Tensor, whole: Tensor) -> bool:
    """Whether a parameter's output is a hidden layer: then that dimension is narrower.

    It is the first one of a linear layer's weight and bias, and the last of stacked layers', which
    have three; a fusion, with four, has none.
    """
    if narrow.ndim > 3:
        return False
    output = -1 if narrow.ndim == 3 else 0
    return narrow.shape[output] < whole.shape[output]

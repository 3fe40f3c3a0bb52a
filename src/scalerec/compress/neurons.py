"""Structured pruning: whole units (neurons, channels) go, so that a net has fewer of everything.

Shapes: U units of a layer, I inputs of the layer that reads them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from scalerec.compress.joints import Joint, find_joints, num_units, shrink_units, unit_columns
from scalerec.config import Config, require
from scalerec.errors import ConfigError

__all__ = [
    "Activations",
    "NeuronConfig",
    "choose_units",
    "compensate_units",
    "measure_units",
    "prune_units",
    "unit_importance",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuronConfig(Config):
    """Which units go.

    Args:
        ratio: Share of the units that go, in [0, 1).
        ratios: Another share for a layer, by its name, in [0, 1); scope `layer` only.
        scope: `layer`: every layer loses that share. `global`: the least important units of all
            layers go, after importances were divided by the norm of their layer's (Molchanov et
            al.: Pruning Convolutional Neural Networks for Resource Efficient Inference, 2017,
            https://arxiv.org/abs/1611.06440, section 2.2).
        weights: What a unit's importance is made of: the sum of the magnitudes of its `incoming`
            weights (Li et al.: Pruning Filters for Efficient ConvNets, 2017,
            https://arxiv.org/abs/1608.08710, section 3.1), of its `outgoing` ones, or the product
            of `both`. A batch normalisation's scale counts with the incoming ones.
        multiple: The number of units that stay is rounded up to a multiple of it where the layer
            has as many, at least 1: products are fastest on multiples of 8 or 16.
        compensate: Whether the mean of what went is added to the bias of the layer that read it;
            needs activations.
    """

    ratio: float = 0.5
    ratios: dict[str, float] = field(default_factory=dict)
    scope: Literal["layer", "global"] = "layer"
    weights: Literal["incoming", "outgoing", "both"] = "both"
    multiple: int = 1
    compensate: bool = False

    def __post_init__(self) -> None:
        for name, ratio in {"ratio": self.ratio, **self.ratios}.items():
            place = "ratio" if name == "ratio" else f"ratios.{name}"
            require(0 <= ratio < 1, f"{place} must be in [0, 1); got {ratio}")
        scopes, weights = ("layer", "global"), ("incoming", "outgoing", "both")
        known = self.scope in scopes
        require(known, f"scope must be one of {', '.join(scopes)}; got {self.scope!r}")
        known = self.weights in weights
        require(known, f"weights must be one of {', '.join(weights)}; got {self.weights!r}")
        alone = self.scope == "layer" or not self.ratios
        require(alone, f"ratios by layer need scope 'layer'; got {self.scope!r}")
        require(self.multiple >= 1, f"multiple must be at least 1; got {self.multiple}")


class Activations(NamedTuple):
    """What units gave on some rows, by the name of their layer.

    Args:
        magnitude: The mean magnitude of each unit, ``[U]``, after what stands behind the layer.
        mean: The mean of each input of the layer that reads them, ``[I]``.
    """

    magnitude: dict[str, Tensor]
    mean: dict[str, Tensor]


class _Spy(nn.Module):
    """Stands in the place of a layer, and sums what the layer is given."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.rows = 0
        self.total: Tensor | float = 0.0
        self.magnitude: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives."""
        last = x if isinstance(self.layer, nn.Linear) else x.movedim(1, -1)
        flat = last.detach().flatten(0, -2).double()
        self.rows += len(flat)
        self.total = self.total + flat.sum(0)
        self.magnitude = self.magnitude + flat.abs().sum(0)
        return self.layer(x)  # type: ignore[no-any-return]


@contextmanager
def _spies(module: nn.Module, joints: Sequence[Joint]) -> Iterator[dict[str, _Spy]]:
    """Put spies before the second layer of every joint; the module is as it was afterwards."""
    spies = {joint.producer: _Spy(module.get_submodule(joint.consumer)) for joint in joints}
    places = {}
    for joint in joints:
        parent, _, key = joint.consumer.rpartition(".")
        places[joint.producer] = module.get_submodule(parent), key
    try:
        for name, (parent_module, key) in places.items():
            setattr(parent_module, key, spies[name])
        yield spies
    finally:
        for name, (parent_module, key) in places.items():
            setattr(parent_module, key, spies[name].layer)


@torch.no_grad()
def measure_units(
    module: nn.Module, run: Callable[[], object], leave: Sequence[str] = ()
) -> Activations:
    """Measure what the units that may go give.

    Args:
        module: Any; it is in evaluation mode meanwhile.
        run: Lets the module compute on some rows.
        leave: As for `find_joints`.
    """
    joints = find_joints(module, leave)
    training = module.training
    module.eval()
    try:
        with _spies(module, joints) as spies:
            run()
    finally:
        module.train(training)
    magnitude, mean = {}, {}
    for joint in joints:
        spy = spies[joint.producer]
        require(spy.rows > 0, f"layer {joint.consumer!r} was given no rows")
        own = torch.as_tensor(spy.magnitude).unflatten(0, (-1, joint.repeats)).mean(1)
        magnitude[joint.producer] = (own / spy.rows).float()
        mean[joint.producer] = (torch.as_tensor(spy.total) / spy.rows).float()
    return Activations(magnitude, mean)


@torch.no_grad()
def unit_importance(
    module: nn.Module,
    weights: Literal["incoming", "outgoing", "both"] = "both",
    activations: Activations | None = None,
    leave: Sequence[str] = (),
) -> dict[str, Tensor]:
    """How much each unit that may go matters, by layer ``[U]``, at least 0.

    Args:
        module: Any.
        weights: As `NeuronConfig` has it.
        activations: Their mean magnitude is multiplied in, if they are given.
        leave: As for `find_joints`.
    """
    found = {}
    for joint in find_joints(module, leave):
        layer = module.get_submodule(joint.producer)
        score = torch.ones(num_units(layer))
        if weights != "outgoing":
            own = layer.get_parameter("weight").flatten(1).abs().sum(1)
            score = score * (own * _gain(module, joint)).cpu().float()
        if weights != "incoming":
            reader = module.get_submodule(joint.consumer).get_parameter("weight")
            columns = reader.transpose(0, 1).flatten(1).abs().sum(1)
            score = score * columns.unflatten(0, (-1, joint.repeats)).sum(1).cpu().float()
        if activations is not None:
            score = score * activations.magnitude[joint.producer].cpu()
        found[joint.producer] = score
    return found


def _gain(module: nn.Module, joint: Joint) -> Tensor | float:
    """What normalisations between two layers multiply a unit by."""
    gain: Tensor | float = 1.0
    for name in joint.between:
        norm = module.get_submodule(name)
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            if norm.running_var is not None:
                gain = gain * torch.rsqrt(norm.running_var + norm.eps)
            if norm.affine:
                gain = gain * norm.weight.abs()
    return gain


def choose_units(importance: Mapping[str, Tensor], config: NeuronConfig) -> dict[str, Tensor]:
    """Choose the units that stay, at least one a layer; among equals the first stay.

    Args:
        importance: By layer ``[U]``.
        config: Which go.

    Returns:
        By layer the numbers of its units that stay, rising, ``[n]`` int64.

    Raises:
        ConfigError: If a ratio is given for a layer that is not there.
    """
    for name in config.ratios:
        require(name in importance, f"ratios.{name}: there is no such layer in {list(importance)}")
    if config.scope == "layer":
        sizes = {
            name: len(score) - round(config.ratios.get(name, config.ratio) * len(score))
            for name, score in importance.items()
        }
    else:
        sizes = _share_out(importance, config.ratio)
    kept = {}
    for name, score in importance.items():
        rounded = -(-max(1, sizes[name]) // config.multiple) * config.multiple
        best = score.argsort(descending=True, stable=True)[: min(rounded, len(score))]
        kept[name] = best.sort().values
    return kept


def _share_out(importance: Mapping[str, Tensor], ratio: float) -> dict[str, int]:
    """How many units of each layer are among the most important of all."""
    if not importance:
        return {}
    scaled = []
    for score in importance.values():
        own = score / score.norm().clamp(min=1e-30)
        own[int(own.argmax())] = torch.inf  # one of each layer stays
        scaled.append(own)
    owner = torch.repeat_interleave(torch.tensor([len(score) for score in scaled]))
    number = max(len(scaled), len(owner) - round(ratio * len(owner)))
    best = torch.cat(scaled).argsort(descending=True, stable=True)[:number]
    counts = torch.bincount(owner[best], minlength=len(scaled)).tolist()
    return dict(zip(importance, counts, strict=True))


def prune_units(
    module: nn.Module,
    config: NeuronConfig,
    activations: Activations | None = None,
    leave: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Take the least important units out of a module, in place.

    Args:
        module: Any; `copy.deepcopy` it first to keep it.
        config: Which go.
        activations: From `measure_units`, with the same `leave`.
        leave: As for `find_joints`.

    Returns:
        By layer the numbers of its units that stayed.

    Raises:
        ConfigError: If it has no units that may go, or the config does not fit.
    """
    importance = unit_importance(module, config.weights, activations, leave)
    require(
        len(importance) > 0,
        "no units can go: the model has no two layers of float32, not factored, one behind the "
        "other in a chain",
    )
    kept = choose_units(importance, config)
    if config.compensate:
        if activations is None:
            raise ConfigError("compensate needs activations, which measure_units gives")
        compensate_units(module, kept, activations)
    shrink_units(module, kept)
    return kept


@torch.no_grad()
def compensate_units(
    module: nn.Module, kept: Mapping[str, Tensor], activations: Activations
) -> None:
    """Add the mean of what units give that will go to the bias of the layer that reads them.

    A layer without a bias gets one.

    Args:
        module: Before `shrink_units`; it is changed.
        kept: As for `shrink_units`.
        activations: From `measure_units`.
    """
    for joint in find_joints(module):
        if joint.producer not in kept:
            continue
        layer = module.get_submodule(joint.consumer)
        mean = activations.mean[joint.producer].clone()
        mean[unit_columns(kept[joint.producer], joint.repeats)] = 0.0
        # Of a convolution all places of a kernel read the mean, but for those beyond an edge.
        weight_oi = layer.get_parameter("weight").unsqueeze(-1).flatten(2).sum(2)
        shift = weight_oi @ mean.to(weight_oi)
        if layer.bias is None:
            layer.bias = nn.Parameter(shift)
        else:
            layer.get_parameter("bias").add_(shift)

"""Chains of layers whose units can be taken out, so that a net gets smaller.

A chain is an `nn.Sequential`, or an `Mlp`. Where two of its layers follow each other with nothing
between them that mixes units (a normalisation, an activation, dropout, pooling, a flatten), no one
but the second reads what the first gives: a unit of the first may go, with its row in the first
and its columns in the second. What a chain ends with is read by the net around it, and stays.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.models.dropout import Dropout
from scalerec.models.heads import Mlp

__all__ = ["Joint", "find_joints", "num_units", "shrink_units", "unit_columns"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
# What treats each number alike, and so each unit.
ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
    nn.Identity, nn.Dropout, Dropout,
)  # fmt: skip
# What treats each channel alike, after a convolution of so many dimensions.
POOLS: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    nn.Linear: (),
    nn.Conv1d: (
        nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d, nn.Dropout1d,
    ),
    nn.Conv2d: (
        nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout2d,
    ),
}  # fmt: skip
NORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: nn.BatchNorm1d,
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
}
PER_UNIT = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class Joint:
    """Two layers of a chain, the second of which alone reads the first.

    Args:
        producer: Name of the first layer.
        consumer: Name of the second.
        between: Names of the modules between them that hold a number a unit.
        repeats: Inputs of the second layer that come from one unit of the first: the places of a
            channel where a flatten is between them, else 1.
    """

    producer: str
    consumer: str
    between: tuple[str, ...] = ()
    repeats: int = 1


Step = tuple[str, nn.Module]


def find_joints(module: nn.Module, leave: Collection[str] = ()) -> list[Joint]:
    """Find every joint of a module, in the order of its modules.

    Layers whose weights are used in two places are left alone, and so are groups of channels, and
    whatever is not known to treat units alike. What a module's own code reads from within one of
    its chains cannot be seen from outside: name it in `leave`.

    Args:
        module: Any.
        leave: Names of layers whose units all stay.
    """
    uses = Counter(id(own) for _, own in module.named_parameters(remove_duplicate=False))
    seen: set[str] = set()
    found: list[Joint] = []
    for name, chain in module.named_modules():
        if name in seen or not _is_chain(chain):
            continue
        steps = list(_steps(name, chain, seen))
        found += _joints_of(steps)
    named = dict(module.named_modules())

    def alone(joint: Joint) -> bool:
        own = (named[name] for name in (joint.producer, joint.consumer, *joint.between))
        return all(uses[id(p)] == 1 for layer in own for p in layer.parameters())

    return [joint for joint in found if joint.producer not in leave and alone(joint)]


def _is_chain(module: nn.Module) -> bool:
    """Whether a module is its children one after the other, whatever its class is."""
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return plain or type(module) is Mlp


def _steps(name: str, chain: nn.Module, seen: set[str]) -> Iterator[Step]:
    """The modules of a chain, those of chains within it in their places."""
    seen.add(name)
    for key, child in chain.named_children():
        full = f"{name}.{key}" if name else key
        if _is_chain(child):
            yield from _steps(full, child, seen)
        else:
            yield full, child


def _joints_of(steps: list[Step]) -> list[Joint]:
    joints: list[Joint] = []
    last: Step | None = None
    between: list[str] = []
    flat = False
    for step in steps:
        name, module = step
        if type(module) in LAYERS and "weight" in dict(module.named_parameters()):
            repeats = 0 if last is None else _repeats(last[1], module, flat=flat)
            if last is not None and repeats:
                joints.append(Joint(last[0], name, tuple(between), repeats))
            last, between, flat = step, [], False
        elif last is None or not _passes(last[1], module, flat=flat):
            last = None
        elif type(module) is nn.Flatten:
            flat = True
        elif _holds_units(module):
            between.append(name)
    return joints


def _passes(layer: nn.Module, module: nn.Module, *, flat: bool) -> bool:
    """Whether a module behind a layer keeps its units apart."""
    kind = type(module)
    if isinstance(module, nn.Flatten):
        return kind is nn.Flatten and module.start_dim == 1 and module.end_dim == -1
    if kind in ELEMENTWISE:
        return True
    if flat:
        return False
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return kind is NORMS[type(layer)] and module.num_features == num_units(layer)
    if isinstance(module, nn.PReLU):
        return kind is nn.PReLU and module.num_parameters in (1, num_units(layer))
    return kind in POOLS[type(layer)]


def _holds_units(module: nn.Module) -> bool:
    norm = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    return norm or (isinstance(module, nn.PReLU) and module.num_parameters > 1)


def _repeats(first: nn.Module, second: nn.Module, *, flat: bool) -> int:
    """Inputs of the second layer a unit of the first; 0 where they do not fit each other."""
    if any(getattr(layer, "groups", 1) != 1 for layer in (first, second)):
        return 0
    units, inputs = num_units(first), _num_inputs(second)
    if type(first) is type(second):
        fits = units == inputs and (not flat or type(first) is nn.Linear)
        return int(fits)
    if isinstance(second, nn.Linear) and flat and inputs % units == 0:
        return inputs // units
    return 0


def num_units(layer: nn.Module) -> int:
    """Outputs of a linear layer, channels that a convolution gives."""
    return int(getattr(layer, "out_features", 0) or getattr(layer, "out_channels", 0))


def _num_inputs(layer: nn.Module) -> int:
    return int(getattr(layer, "in_features", 0) or getattr(layer, "in_channels", 0))


def unit_columns(units: Tensor, repeats: int) -> Tensor:
    """The inputs of the second layer that come from these units of the first.

    Args:
        units: ``[n]`` int64.
        repeats: As `Joint` has it.

    Example:
        >>> unit_columns(torch.tensor([0, 2]), 2)
        tensor([0, 1, 4, 5])
    """
    return (units.unsqueeze(1) * repeats + torch.arange(repeats, device=units.device)).flatten()


@torch.no_grad()
def shrink_units(module: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Take units out of a module, in place: its tensors get smaller.

    Args:
        module: Any.
        kept: By name of a joint's first layer, the numbers of the units that stay, ``[n]`` int64,
            at least one each.

    Raises:
        ConfigError: If units of such a layer cannot go, or none or an unknown one would stay.
    """
    joints = {joint.producer: joint for joint in find_joints(module)}
    for name, units in kept.items():
        can = name in joints
        require(can, f"units of layer {name!r} cannot go; those of {list(joints)} can")
        size = num_units(module.get_submodule(name))
        inside = len(units) > 0 and int(units.min()) >= 0 and int(units.max()) < size
        require(inside, f"units of {name!r} that stay must be some from 0 to {size - 1}")
    for name, units in kept.items():
        joint = joints[name]
        for inner in (joint.producer, *joint.between):
            _take_units(module.get_submodule(inner), units)
        columns = unit_columns(units, joint.repeats)
        _take_inputs(module.get_submodule(joint.consumer), columns)


def _take_units(layer: nn.Module, units: Tensor) -> None:
    for name in PER_UNIT:
        if getattr(layer, name, None) is not None:
            _take(layer, name, units, 0)
    for name in ("out_features", "out_channels", "num_features", "num_parameters"):
        if hasattr(layer, name):
            setattr(layer, name, len(units))


def _take_inputs(layer: nn.Module, columns: Tensor) -> None:
    _take(layer, "weight", columns, 1)
    for name in ("in_features", "in_channels"):
        if hasattr(layer, name):
            setattr(layer, name, len(columns))


def _take(layer: nn.Module, name: str, index: Tensor, axis: int) -> None:
    own: Tensor = getattr(layer, name)
    taken = own.detach().index_select(axis, index.to(own.device))
    if isinstance(own, nn.Parameter):
        setattr(layer, name, nn.Parameter(taken, requires_grad=own.requires_grad))
    else:
        setattr(layer, name, taken)

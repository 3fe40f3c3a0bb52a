"""Pure optimisers: functions of parameters, gradients and state that change nothing in place.

They run under `torch.func.vmap` (one client, task or user per entry) and may be differentiated
through, as MAML does. Parameters, gradients and state are flat dicts from name to tensor, so that a
state is stored and sent like any other tensors.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError

__all__ = [
    "OPTIMISERS",
    "Optimiser",
    "Transform",
    "adagrad",
    "adam",
    "add_l2",
    "by_group",
    "chain",
    "clip_by_global_norm",
    "safe_sqrt",
    "sgd",
]

Tensors = Mapping[str, Tensor]
Changed = tuple[dict[str, Tensor], dict[str, Tensor]]


class Optimiser(NamedTuple):
    """Two pure functions that move parameters against their gradients.

    Args:
        init: Parameters -> the first state, a flat dict of tensors; empty where none is needed.
        apply: Parameters, gradients of the same names and shapes, state -> new parameters, state.
    """

    init: Callable[[Tensors], dict[str, Tensor]]
    apply: Callable[[Tensors, Tensors, Tensors], Changed]


class Transform(NamedTuple):
    """Two pure functions that change gradients before an optimiser sees them.

    Args:
        init: Parameters -> the first state, a flat dict of tensors.
        apply: Parameters, gradients, state -> new gradients, new state.
    """

    init: Callable[[Tensors], dict[str, Tensor]]
    apply: Callable[[Tensors, Tensors, Tensors], Changed]


def sgd(lr: float | Tensor, momentum: float = 0.0, *, nesterov: bool = False) -> Optimiser:
    """Gradient descent: ``m = momentum * m + g; w = w - lr * m``.

    Args:
        lr: Learning rate, at least 0; a tensor may be learned by differentiating through the steps.
        momentum: Share of the last move that is kept, in [0, 1).
        nesterov: Whether to look ahead, as torch has it: ``w = w - lr * (g + momentum * m)``.

    Raises:
        ConfigError: If a setting is outside its range.
    """
    _check_lr(lr)
    require(0 <= momentum < 1, f"momentum must be in [0, 1); got {momentum}")
    require(momentum > 0 or not nesterov, "nesterov needs a momentum above 0")

    def init(parameters: Tensors) -> dict[str, Tensor]:
        return _zeros(parameters, "momentum") if momentum else {}

    def apply(parameters: Tensors, gradients: Tensors, state: Tensors) -> Changed:
        _check_names(parameters, gradients)
        if not momentum:
            return {n: w - lr * gradients[n] for n, w in parameters.items()}, {}
        moved = {n: momentum * state[f"momentum/{n}"] + gradients[n] for n in parameters}
        steps = {n: gradients[n] + momentum * m for n, m in moved.items()} if nesterov else moved
        new = {n: w - lr * steps[n] for n, w in parameters.items()}
        return new, {f"momentum/{n}": m for n, m in moved.items()}

    return Optimiser(init, apply)


def adagrad(lr: float | Tensor, eps: float = 1e-10) -> Optimiser:
    """Adagrad: ``s = s + g^2; w = w - lr * g / (sqrt(s) + eps)``.

    Paper: Adaptive Subgradient Methods, Duchi et al., 2011, https://jmlr.org/papers/v12/duchi11a.html

    Args:
        lr: Learning rate, at least 0.
        eps: Keeps the division away from zero, above 0.

    Raises:
        ConfigError: If a setting is outside its range.
    """
    _check_lr(lr)
    require(eps > 0, f"eps must be above 0; got {eps}")

    def init(parameters: Tensors) -> dict[str, Tensor]:
        return _zeros(parameters, "sum")

    def apply(parameters: Tensors, gradients: Tensors, state: Tensors) -> Changed:
        _check_names(parameters, gradients)
        sums = {n: state[f"sum/{n}"] + gradients[n].square() for n in parameters}
        new = {n: w - lr * gradients[n] / (safe_sqrt(sums[n]) + eps) for n, w in parameters.items()}
        return new, {f"sum/{n}": s for n, s in sums.items()}

    return Optimiser(init, apply)


def adam(
    lr: float | Tensor, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Optimiser:
    """Adam, as algorithm 1 of the paper.

    Paper: Adam, Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980

    Args:
        lr: Learning rate, at least 0.
        betas: Decay of the mean and of the mean square, each in [0, 1).
        eps: Keeps the division away from zero, above 0.

    Raises:
        ConfigError: If a setting is outside its range.
    """
    _check_lr(lr)
    beta1, beta2 = betas
    require(0 <= beta1 < 1 and 0 <= beta2 < 1, f"betas must be in [0, 1); got {betas}")
    require(eps > 0, f"eps must be above 0; got {eps}")

    def init(parameters: Tensors) -> dict[str, Tensor]:
        zeros = {**_zeros(parameters, "mean"), **_zeros(parameters, "square")}
        device = next((w.device for w in parameters.values()), None)
        return {"step": torch.zeros((), dtype=torch.int64, device=device), **zeros}

    def apply(parameters: Tensors, gradients: Tensors, state: Tensors) -> Changed:
        _check_names(parameters, gradients)
        step = state["step"] + 1
        # In float64: 1 - .999 has a relative error of 1e-5 in float32.
        scale1 = 1 - beta1 ** step.double()
        scale2 = 1 - beta2 ** step.double()
        new, after = {}, {"step": step}
        for name, weight in parameters.items():
            gradient = gradients[name]
            mean = beta1 * state[f"mean/{name}"] + (1 - beta1) * gradient
            square = beta2 * state[f"square/{name}"] + (1 - beta2) * gradient.square()
            root = safe_sqrt(square / scale2.to(square.dtype))
            new[name] = weight - lr * (mean / scale1.to(mean.dtype)) / (root + eps)
            after[f"mean/{name}"], after[f"square/{name}"] = mean, square
        return new, after

    return Optimiser(init, apply)


def clip_by_global_norm(max_norm: float) -> Transform:
    """Shrink all gradients by one factor where their joint L2 norm is above `max_norm`.

    Args:
        max_norm: The largest norm that passes unchanged, above 0.

    Raises:
        ConfigError: If `max_norm` is not above 0.
    """
    require(max_norm > 0, f"max_norm must be above 0; got {max_norm}")

    def apply(parameters: Tensors, gradients: Tensors, _: Tensors) -> Changed:
        _check_names(parameters, gradients)
        if not gradients:
            return {}, {}
        norm = safe_sqrt(torch.stack([g.square().sum() for g in gradients.values()]).sum())
        factor = max_norm / norm.clamp(min=max_norm)
        return {name: g * factor.to(g.dtype) for name, g in gradients.items()}, {}

    return Transform(_no_state, apply)


def add_l2(l2: float) -> Transform:
    """Add ``l2 * w`` to each gradient: coupled L2, which the optimiser scales like the gradient.

    Args:
        l2: Strength, at least 0.

    Raises:
        ConfigError: If `l2` is below 0.
    """
    require(l2 >= 0, f"l2 must be at least 0; got {l2}")

    def apply(parameters: Tensors, gradients: Tensors, _: Tensors) -> Changed:
        _check_names(parameters, gradients)
        return {n: gradients[n] + l2 * w for n, w in parameters.items()}, {}

    return Transform(_no_state, apply)


def chain(*transforms: Transform, then: Optimiser) -> Optimiser:
    """One optimiser that passes the gradients through the transforms, in order, and then steps.

    Args:
        transforms: What happens to the gradients, first to last.
        then: The optimiser at the end.

    Example:
        >>> optimiser = chain(clip_by_global_norm(1.0), then=sgd(lr=0.5))
        >>> w, g = {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([30.0, 40.0])}
        >>> optimiser.apply(w, g, optimiser.init(w))[0]["w"]
        tensor([0.7000, 0.6000])
    """
    members: list[Transform | Optimiser] = [*transforms, then]

    def init(parameters: Tensors) -> dict[str, Tensor]:
        states = [member.init(parameters) for member in members]
        return {f"{i}/{k}": v for i, state in enumerate(states) for k, v in state.items()}

    def apply(parameters: Tensors, gradients: Tensors, state: Tensors) -> Changed:
        values, after = dict(gradients), {}
        for i, member in enumerate(members):
            head = f"{i}/"
            own = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
            values, changed = member.apply(parameters, values, own)
            after.update({head + k: v for k, v in changed.items()})
        return values, after

    return Optimiser(init, apply)


def by_group(group: Callable[[str], str], optimisers: Mapping[str, Optimiser]) -> Optimiser:
    """One optimiser that leaves each group of parameters to an optimiser of its own.

    Args:
        group: A parameter's name -> that of its group.
        optimisers: Each group's, by its name; a group may have no parameter.

    Example:
        >>> optimiser = by_group(lambda name: name[0], {"a": sgd(lr=1.0), "b": sgd(lr=0.1)})
        >>> w, g = ({"a1": torch.tensor(n), "b1": torch.tensor(n)} for n in (2.0, 1.0))
        >>> optimiser.apply(w, g, optimiser.init(w))[0]
        {'a1': tensor(1.), 'b1': tensor(1.9000)}
    """

    def parted(tensors: Tensors) -> dict[str, dict[str, Tensor]]:
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in optimisers}
        for name, tensor in tensors.items():
            parts[group(name)][name] = tensor
        return parts

    def init(parameters: Tensors) -> dict[str, Tensor]:
        own = {name: optimisers[name].init(part) for name, part in parted(parameters).items()}
        return {f"{name}/{k}": v for name, state in own.items() for k, v in state.items()}

    def apply(parameters: Tensors, gradients: Tensors, state: Tensors) -> Changed:
        _check_names(parameters, gradients)
        weights, slopes = parted(parameters), parted(gradients)
        moved: dict[str, Tensor] = {}
        after: dict[str, Tensor] = {}
        for name, optimiser in optimisers.items():
            head = f"{name}/"
            own = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
            found, changed = optimiser.apply(weights[name], slopes[name], own)
            moved |= found
            after |= {head + k: v for k, v in changed.items()}
        return {name: moved[name] for name in parameters}, after

    return Optimiser(init, apply)


def safe_sqrt(x: Tensor) -> Tensor:
    """The square root, with gradient 0 instead of infinity at 0.

    A padded row or a dead unit has an exact zero gradient; without this, differentiating through
    its step gives NaN.

    Args:
        x: Any shape, at least 0.
    """
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


OPTIMISERS: dict[str, Callable[[float], Optimiser]] = {
    "adagrad": adagrad,
    "adam": adam,
    "sgd": sgd,
}


def _no_state(_: Tensors) -> dict[str, Tensor]:
    return {}


def _zeros(parameters: Tensors, kind: str) -> dict[str, Tensor]:
    return {f"{kind}/{name}": torch.zeros_like(w) for name, w in parameters.items()}


def _check_lr(lr: float | Tensor) -> None:
    # A tensor's value may be hidden by a transform of torch.func, so only numbers are checked.
    require(isinstance(lr, Tensor) or lr >= 0, f"lr must be at least 0; got {lr}")


def _check_names(parameters: Tensors, gradients: Tensors) -> None:
    if parameters.keys() != gradients.keys():
        raise RoundError(
            f"gradients must have the names of the parameters, {sorted(parameters)}; "
            f"got {sorted(gradients)}"
        )

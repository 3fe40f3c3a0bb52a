"""Pure optimisers for rows of embedding tables.

A step touches few rows of a table. They are gathered with their state, stepped by one of these
members and written back; a row that no id reached costs nothing. The formulas are those of FBGEMM's
fused optimisers, so that every engine gives the same numbers; its CPU kernels know no L2.

Shapes: K gathered rows, each row once, W the table's width. Dimensions before K (clients under
`vmap`) may come as well. A row with zero weight, gradient and state (padding) stays zero under
every member.

State that holds a step number is exact up to step 2^24 in float32; then missed steps are rounded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from scalerec.config import Config, require
from scalerec.optim.pure import safe_sqrt

__all__ = [
    "ROW_OPTIMISERS",
    "Adagrad",
    "LazyAdam",
    "RowOptimiser",
    "RowwiseAdagrad",
    "Sgd",
]

RowState = Mapping[str, Tensor]
Stepped = tuple[Tensor, dict[str, Tensor]]


@runtime_checkable
class RowOptimiser(Protocol):
    """How rows move, and what they remember."""

    def state_widths(self, width: int) -> dict[str, int]:
        """Name each part of a row's state with the numbers it holds; all start at zero.

        Args:
            width: W, the table's width.
        """
        ...

    def apply(
        self, weight_kw: Tensor, grad_kw: Tensor, state_k: RowState, step: int, lr: float
    ) -> Stepped:
        """Give the rows and their state after one step; the inputs stay as they are.

        Args:
            weight_kw: The rows, ``[..., K, W]``, floating point.
            grad_kw: Their gradients, summed over all places that looked a row up, ``[..., K, W]``.
            state_k: The parts that `state_widths` names, ``[..., K, width of the part]``.
            step: Number of this step of the table, from 1.
            lr: Learning rate, at least 0.

        Returns:
            The new rows and the new state, in the shapes of the old ones.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Sgd(Config):
    """``w = w - lr * g``.

    Args:
        l2: ``l2 * w`` is added to the gradient of a touched row; at least 0.
        l2_missed: Also add it for each step in which the row was not touched, in one go.
    """

    l2: float = 0.0
    l2_missed: bool = False

    def __post_init__(self) -> None:
        _check_l2(self.l2)

    def state_widths(self, width: int) -> dict[str, int]:  # noqa: ARG002
        """Nothing, or the last step where missed steps count."""
        return _last_width(self)

    def apply(
        self, weight_kw: Tensor, grad_kw: Tensor, state_k: RowState, step: int, lr: float
    ) -> Stepped:
        """Step the rows; see `RowOptimiser.apply`."""
        grad_kw = _add_l2(self, weight_kw, grad_kw, state_k, step)
        return weight_kw - lr * grad_kw, _last_state(self, state_k, step)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adagrad(Config):
    """``s = s + g^2; w = w - lr * g / (sqrt(s) + eps)``, for each number of a row.

    FBGEMM's EXACT_ADAGRAD. Paper: Adaptive Subgradient Methods, Duchi et al., 2011,
    https://jmlr.org/papers/v12/duchi11a.html

    Args:
        eps: Keeps the division away from zero, above 0.
        l2: ``l2 * w`` is added to the gradient of a touched row; at least 0.
        l2_missed: Also add it for each step in which the row was not touched, in one go.
    """

    eps: float = 1e-8
    l2: float = 0.0
    l2_missed: bool = False

    def __post_init__(self) -> None:
        _check_eps(self.eps)
        _check_l2(self.l2)

    def state_widths(self, width: int) -> dict[str, int]:
        """The sum of squares of each number."""
        return {"sum": width, **_last_width(self)}

    def apply(
        self, weight_kw: Tensor, grad_kw: Tensor, state_k: RowState, step: int, lr: float
    ) -> Stepped:
        """Step the rows; see `RowOptimiser.apply`."""
        grad_kw = _add_l2(self, weight_kw, grad_kw, state_k, step)
        sum_kw = state_k["sum"] + grad_kw.square()
        moved = weight_kw - lr * grad_kw / (safe_sqrt(sum_kw) + self.eps)
        return moved, {"sum": sum_kw, **_last_state(self, state_k, step)}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowwiseAdagrad(Config):
    """Adagrad with one number per row: ``s = s + mean(g^2); w = w - lr * g / (sqrt(s) + eps)``.

    FBGEMM's EXACT_ROWWISE_ADAGRAD; described in Deep Learning Recommendation Model for
    Personalization and Recommendation Systems, Naumov et al., 2019, https://arxiv.org/abs/1906.00091

    Args:
        eps: Keeps the division away from zero, above 0.
        l2: ``l2 * w`` is added to the gradient of a touched row; at least 0.
        l2_missed: Also add it for each step in which the row was not touched, in one go.
    """

    eps: float = 1e-8
    l2: float = 0.0
    l2_missed: bool = False

    def __post_init__(self) -> None:
        _check_eps(self.eps)
        _check_l2(self.l2)

    def state_widths(self, width: int) -> dict[str, int]:  # noqa: ARG002
        """The sum of the row's mean squares."""
        return {"sum": 1, **_last_width(self)}

    def apply(
        self, weight_kw: Tensor, grad_kw: Tensor, state_k: RowState, step: int, lr: float
    ) -> Stepped:
        """Step the rows; see `RowOptimiser.apply`."""
        grad_kw = _add_l2(self, weight_kw, grad_kw, state_k, step)
        sum_k1 = state_k["sum"] + self.mean_square(grad_kw)
        moved = weight_kw - lr * grad_kw / (safe_sqrt(sum_k1) + self.eps)
        return moved, {"sum": sum_k1, **_last_state(self, state_k, step)}

    def mean_square(self, grad_kw: Tensor) -> Tensor:
        """What a step adds to the row's sum, ``[..., K, 1]``."""
        return grad_kw.square().mean(dim=-1, keepdim=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class LazyAdam(Config):
    """Adam whose work is paid only for touched rows.

    When a row is touched at step t after n steps without it, its two moments are first multiplied
    by ``beta^n`` each, which is what dense Adam does on n zero gradients, so the moments are dense
    Adam's. Bias correction uses t, the table's step, as dense Adam does. What is left out are the
    moves that dense Adam would make during the n steps from momentum alone. A row touched at every
    step moves exactly as under dense Adam.

    Paper: Adam, Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980

    Args:
        betas: Decay of the mean and of the mean square, each in [0, 1).
        eps: Keeps the division away from zero, above 0; it is added after bias correction.
        decay_missed: Whether the moments decay over missed steps. Without it they wait, as in
            `torch.optim.SparseAdam` and FBGEMM's ADAM.
        l2: ``l2 * w`` is added to the gradient of a touched row; at least 0.
        l2_missed: Also add it for each step in which the row was not touched, in one go.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay_missed: bool = True
    l2: float = 0.0
    l2_missed: bool = False

    def __post_init__(self) -> None:
        fits = all(0 <= beta < 1 for beta in self.betas)
        require(fits, f"betas must be in [0, 1); got {self.betas}")
        _check_eps(self.eps)
        _check_l2(self.l2)

    def state_widths(self, width: int) -> dict[str, int]:
        """Both moments of each number, and the step at which the row was last touched."""
        last = {"last": 1} if self.decay_missed else _last_width(self)
        return {"mean": width, "square": width, **last}

    def apply(
        self, weight_kw: Tensor, grad_kw: Tensor, state_k: RowState, step: int, lr: float
    ) -> Stepped:
        """Step the rows; see `RowOptimiser.apply`."""
        beta1, beta2 = self.betas
        grad_kw = _add_l2(self, weight_kw, grad_kw, state_k, step)
        mean_kw, square_kw = state_k["mean"], state_k["square"]
        if self.decay_missed:
            missed_k1 = _missed(state_k, step)
            mean_kw = mean_kw * torch.pow(beta1, missed_k1)
            square_kw = square_kw * torch.pow(beta2, missed_k1)
        mean_kw = beta1 * mean_kw + (1 - beta1) * grad_kw
        square_kw = beta2 * square_kw + (1 - beta2) * grad_kw.square()
        root_kw = safe_sqrt(square_kw / (1 - beta2**step))
        moved = weight_kw - lr * (mean_kw / (1 - beta1**step)) / (root_kw + self.eps)
        state = {"mean": mean_kw, "square": square_kw}
        if "last" in state_k:
            state["last"] = torch.full_like(state_k["last"], step)
        return moved, state


ROW_OPTIMISERS: dict[str, type[Sgd] | type[Adagrad] | type[RowwiseAdagrad] | type[LazyAdam]] = {
    "adagrad": Adagrad,
    "lazy_adam": LazyAdam,
    "rowwise_adagrad": RowwiseAdagrad,
    "sgd": Sgd,
}


class _WithL2(Protocol):
    @property
    def l2(self) -> float: ...
    @property
    def l2_missed(self) -> bool: ...


def _check_eps(eps: float) -> None:
    require(eps > 0, f"eps must be above 0; got {eps}")


def _check_l2(l2: float) -> None:
    require(l2 >= 0, f"l2 must be at least 0; got {l2}")


def _last_width(member: _WithL2) -> dict[str, int]:
    return {"last": 1} if member.l2 and member.l2_missed else {}


def _last_state(member: _WithL2, state_k: RowState, step: int) -> dict[str, Tensor]:
    return {name: torch.full_like(state_k[name], step) for name in _last_width(member)}


def _missed(state_k: RowState, step: int) -> Tensor:
    """Steps since the row's last, this one not counted, ``[..., K, 1]``; all if it had none."""
    return step - 1 - state_k["last"]


def _add_l2(
    member: _WithL2, weight_kw: Tensor, grad_kw: Tensor, state_k: RowState, step: int
) -> Tensor:
    if not member.l2:
        return grad_kw
    if not member.l2_missed:
        return grad_kw + member.l2 * weight_kw
    return grad_kw + member.l2 * (1 + _missed(state_k, step)) * weight_kw

"""A module computed for many parties at once, by its own code and without `vmap`.

The examples of all parties stand one after the other, as one batch that the module was written for.
What differs between parties are parameters. Where a linear layer reads them, its product becomes a
batched one; every other parameter is repeated for each example, which fits what adds or multiplies
it row by row. A module that does something else with its parameters gives other numbers this way,
or an error; `fits` tells, and such a module is left to `torch.func.vmap`, which is right for all.

`vmap` costs some 50 microseconds an operation, in Python; that is a third of a step of small
nets, and threads wait for each other over it.

Shapes: P parties, B examples of each, E = P B, I inputs, O outputs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from scalerec.train.cohort.moves import Moves, moving_linear
from scalerec.train.cohort.products import LinearMode

__all__ = [
    "TRIED",
    "call_stacked",
    "fits",
    "linear_parameters",
    "spread_examples",
    "tried_parameters",
]

Tensors = Mapping[str, Tensor]
# Parties, of two examples each, with which ways to compute a module are compared.
TRIED = 3
# Sums in another order.
CLOSE = 1e-4


def linear_parameters(module: nn.Module) -> dict[str, str]:
    """The weights of its linear layers, each with the name of its bias, or none."""
    found = {}
    for name, part in module.named_modules():
        if type(part) is nn.Linear:
            head = f"{name}." if name else ""
            found[f"{head}weight"] = f"{head}bias" if part.bias is not None else ""
    return found


def call_stacked(
    module: nn.Module,
    dense: Tensors,
    args: tuple[Any, ...],
    num_parties: int,
    size: int,
    moves: Moves | None = None,
    linear: Mapping[str, str] | None = None,
) -> Tensor:
    """What a module gives for the examples of all parties.

    Args:
        module: One for which `fits` holds.
        dense: Each party's parameters, ``[P, ...]``.
        args: What the module takes, its batches ``[E, ...]``, party after party.
        num_parties: P.
        size: B.
        moves: Moves weights of linear layers on the way back; None for plain gradients.
        linear: What `linear_parameters` gives, if it is at hand.
    """
    linear = linear_parameters(module) if linear is None else linear
    own = {*linear, *linear.values()}
    used = {
        name: tensor if name in own else tensor.repeat_interleave(size, 0)
        for name, tensor in dense.items()
    }
    with _Stacked(used, linear, num_parties, moves):
        out: Tensor = functional_call(module, used, args)
    return out


def fits(alone: Callable[[], Tensor], stacked: Callable[[], Tensor]) -> bool:
    """Whether a module gives the same both ways.

    Args:
        alone: Computes some examples of several parties in the way that is right for all modules.
        stacked: Computes the same by `call_stacked`.
    """
    with torch.no_grad():
        wanted = alone()
        try:
            found = stacked()
        except (RuntimeError, IndexError, ValueError):
            return False
    same = found.shape == wanted.shape
    return same and torch.allclose(found, wanted, rtol=CLOSE, atol=CLOSE)


def spread_examples(num: int) -> Tensor:
    """The numbers of a few examples of so many, two for each of `TRIED` parties, from all over."""
    return torch.arange(2 * TRIED) * num // (2 * TRIED)


def tried_parameters(dense: Tensors, num_parties: int = TRIED) -> dict[str, Tensor]:
    """Parameters of a few parties, all different, ``[P, ...]``.

    Args:
        dense: Of the shapes of one party's.
        num_parties: P.
    """
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(num_parties, *tensor.shape, generator=generator)
        for name, tensor in dense.items()
    }


class _Stacked(LinearMode):
    """Makes products of linear layers batched ones, and moves their weights on the way back."""

    def __init__(
        self, used: Tensors, linear: Mapping[str, str], num_parties: int, moves: Moves | None
    ) -> None:
        super().__init__(((name, used[name]) for name in linear if name in used), num_parties)
        self.moves = moves

    def product(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        moves = self.moves
        if moves is None:
            return super().product(name, x, weight, bias)
        moves.count(name)
        if not weight.is_leaf:
            # Made of a parameter: to move it would move nothing.
            moves.count(name)
        return moving_linear(self.parted(x), weight, bias, moves, name)

    def other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Whatever else reads a weight, it is not moved."""
        if self.moves is not None:
            for value in (*args, *kwargs.values()):
                for leaf in value if isinstance(value, (list, tuple)) else (value,):
                    name = self.names.get(id(leaf))
                    if name is not None:
                        self.moves.count(name)
                        self.moves.count(name)
        return func(*args, **kwargs)

"""Linear layers whose weights differ between parties, met while a module's own code runs.

Shapes: P parties, B examples of each, E = P B, I inputs, O outputs.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["LinearMode", "batched_linear"]


def batched_linear(x_pbi: Tensor, weight_poi: Tensor, bias_po: Tensor | None) -> Tensor:
    """Each party's linear layer, ``[P, B, O]``.

    Args:
        x_pbi: Inputs, ``[P, B, I]``.
        weight_poi: Weights, ``[P, O, I]``.
        bias_po: Biases, ``[P, O]``.
    """
    if bias_po is None:
        return x_pbi @ weight_poi.mT
    return torch.baddbmm(bias_po.unsqueeze(1), x_pbi, weight_poi.mT)


class LinearMode(TorchFunctionMode):
    """While it is on, products of some linear layers are batched ones.

    Layers are known by the tensors that a module is called with, so these must be the very objects.

    Args:
        weights: Of these layers, by name.
        num_parties: P.
    """

    def __init__(self, weights: Iterable[tuple[str, Tensor]], num_parties: int) -> None:
        super().__init__()
        # The tensors are kept, so that no other object gets the place of one.
        self._weights = dict(weights)
        self.names = {id(weight): name for name, weight in self._weights.items()}
        self.num_parties = num_parties

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Compute one call."""
        del types
        if func is nn.functional.linear and len(args) == 3 and id(args[1]) in self.names:
            x, weight, bias = args
            out = self.product(self.names[id(weight)], x, weight, bias)
            return self.after(out.reshape(*x.shape[:-1], out.shape[-1]))
        return self.other(func, args, kwargs or {})

    def parted(self, x: Tensor) -> Tensor:
        """What a layer reads, ``[E, I]`` or with more dimensions between, as ``[P, B, I]``."""
        return x.reshape(self.num_parties, -1, x.shape[-1])

    def product(self, name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG002
        """What one of the layers gives, ``[P, B, O]``.

        Args:
            name: Of its weight.
            x: What it reads; see `parted`.
            weight: ``[P, O, I]``.
            bias: ``[P, O]``.
        """
        return batched_linear(self.parted(x), weight, bias)

    def after(self, out: Tensor) -> Tensor:
        """Is told what one of the layers gives, in the shape that the module wants."""
        return out

    def other(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Every other call."""
        return func(*args, **kwargs)

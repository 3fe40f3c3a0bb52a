"""Low-rank adapters: weights of linear layers that move by the product of two thin factors.

``W = W_0 + scale * L R`` with `L` zero at first, so that no score changes before the first step
(Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen: LoRA: Low-Rank Adaptation of Large Language
Models, 2021, https://arxiv.org/abs/2106.09685, section 4.1). Of a layer that computes ``W x``, `L`
is the paper's B and `R` its A. The weight itself holds the sum at all times: layers, kernels and
bundles know nothing of adapters, and what is adapted is as fast as before. The gradients of the
factors follow from that of the weight by the chain rule; so a step computes one gradient of the
weight's size, which the paper saves, and no state of an optimiser has that size.

Shapes: R rows and C columns of a matrix, K rank; several matrices may be stacked before these.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.models.heads import ExpertGate, Experts, TaskTowers

__all__ = ["LowRankShifts", "linear_weights"]


class LowRankShifts(nn.Module):
    """What is added to some weights, as two factors each.

    Its parameters are the factors. A step goes so: a backward pass through the weights, `pull`, an
    optimiser that moves the factors, `put`.

    Args:
        weights: By name, ``[..., R, C]``; they are changed in place.
        rank: K, from 1 to the smaller side of each.
        scale: Of the product, above 0; the paper's alpha / rank.
        generator: Draws the second factors, normal with variance 1 / C.

    Raises:
        ConfigError: If the rank is below 1 or above a smaller side, or the scale not above 0.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        rank: int,
        scale: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        require(scale > 0, f"scale must be above 0; got {scale}")
        self.rank, self.scale = rank, scale
        self._weights = dict(weights)
        self._starts = {name: weight.detach().clone() for name, weight in weights.items()}
        self.left, self.right = nn.ParameterList(), nn.ParameterList()
        for name, weight in weights.items():
            *stacked, rows, columns = weight.shape
            most = min(rows, columns)
            require(1 <= rank <= most, f"rank of {name} must be from 1 to {most}; got {rank}")
            drawn = torch.randn(*stacked, rank, columns, generator=generator) / columns**0.5
            self.left.append(torch.zeros(*stacked, rows, rank).to(weight))
            self.right.append(drawn.to(weight))

    def shift(self, name: str) -> Tensor:
        """What is added to a weight, ``[..., R, C]``, tied to the factors."""
        place = list(self._weights).index(name)
        product: Tensor = self.left[place] @ self.right[place]
        return self.scale * product

    def pull(self) -> None:
        """Turn the gradients of weights into those of their factors; the weights keep none."""
        for name, weight in self._weights.items():
            if weight.grad is not None:
                self.shift(name).backward(weight.grad)
                weight.grad = None

    @torch.no_grad()
    def put(self) -> None:
        """Write the sums into the weights."""
        for name, weight in self._weights.items():
            weight.copy_(self._starts[name] + self.shift(name))


def linear_weights(module: nn.Module) -> list[str]:
    """Names of the matrices by which a module's linear layers multiply, in the module's order.

    They are those of `nn.Linear`, ``[O, I]``, and the stacked ones of experts, gates and towers,
    ``[E, I, O]``.
    """
    found = []
    for name, part in module.named_modules():
        head = f"{name}." if name else ""
        if isinstance(part, Experts):
            found += [f"{head}weights.{number}" for number in range(len(part.weights))]
        elif isinstance(part, nn.Linear | ExpertGate | TaskTowers):
            found.append(f"{head}weight")
    return found

"""Two-tower: a user's and an item's vector, whose dot product is the score.

Yi et al.: Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations, 2019,
https://doi.org/10.1145/3298689.3346996. Section 3: ``s(x, y) = <u(x), v(y)>``, normalised and
divided by a temperature if so set. The correction for sampling belongs to the loss.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scalerec.config import require
from scalerec.data.layout import Layout
from scalerec.data.schema import Role
from scalerec.models.heads import Mlp, pick_fields
from scalerec.models.inputs import Inputs
from scalerec.models.net import NetConfig, check_count, check_hidden, check_rate

__all__ = ["TwoTower", "TwoTowerConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoTowerConfig(NetConfig):
    """Settings of two-tower.

    Args:
        hidden: Sizes of both towers' hidden layers.
        vector_dim: E, the size of the vectors.
        normalise: Whether both vectors have length 1. The paper's retrieval loss wants it, with a
            low temperature; binary tasks do better without, so that is the default.
        temperature: What the scores are divided by; on unit vectors, well below 1.
        dropout: Of the towers, in [0, 1).
    """

    hidden: tuple[int, ...] = (256, 128)
    vector_dim: int = 64
    normalise: bool = False
    temperature: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        NetConfig.__post_init__(self)
        check_hidden("hidden", self.hidden)
        check_count("vector_dim", self.vector_dim)
        warm = self.temperature > 0
        require(warm, f"temperature must be positive; got {self.temperature}")
        check_rate("dropout", self.dropout)


class TwoTower(nn.Module):
    """A tower over the user's and the context's fields, and one over the item's.

    All outputs share the item's vector; each has a user's vector of its own, so that one index of
    items serves every task.

    Raises:
        ConfigError: If the layout has no item's field, or nothing but item's fields.
    """

    def __init__(self, layout: Layout, config: TwoTowerConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.asking = layout.fields_of(Role.USER, Role.CONTEXT)
        self.asked = layout.fields_of(Role.ITEM)
        sides = (("item", self.asked), ("user or context", self.asking))
        for side, found in sides:
            require(
                len(found) > 0, f"two-tower needs a feature of role {side}; the layout has none"
            )
        self.vector_dim = config.vector_dim
        self.normalise = config.normalise
        self.temperature = config.temperature
        self.user, self.item = (
            Mlp(
                len(fields) * config.dim,
                config.hidden,
                generator,
                out_dim=num * config.vector_dim,
                dropout=config.dropout,
            )
            for fields, num in ((self.asking, layout.num_outputs), (self.asked, 1))
        )

    def towers(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The users' and items' vectors ``[B, E]``; their dot product is the first task's logit."""
        return self.user_vectors(inputs)[:, 0], self.item_vectors(inputs)

    def user_vectors(self, inputs: Inputs) -> Tensor:
        """The users' vectors, one an output, ``[B, C, E]``; the temperature is part of them."""
        flat = self.user(pick_fields(inputs.fields, self.asking))
        return self._scaled(flat.unflatten(-1, (-1, self.vector_dim))) / self.temperature

    def item_vectors(self, inputs: Inputs) -> Tensor:
        """The items' vectors, ``[B, E]``."""
        return self._scaled(self.item(pick_fields(inputs.fields, self.asked)))

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``[B, C]``."""
        users_bce, items_be = self.user_vectors(inputs), self.item_vectors(inputs)
        return torch.einsum("bce,be->bc", users_bce, items_be)

    def _scaled(self, vectors: Tensor) -> Tensor:
        if not self.normalise:
            return vectors
        # The small number keeps the gradient of a zero vector (an absent item's) within bounds.
        return vectors * torch.rsqrt(vectors.square().sum(-1, keepdim=True) + 1e-6)

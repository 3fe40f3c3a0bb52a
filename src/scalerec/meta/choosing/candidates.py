"""What a choice chooses from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scalerec.config import require

__all__ = ["Candidates", "check_budget"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Examples of which a few are to be chosen.

    Args:
        embeddings: Where each example lies, ``[n, D]`` floats; D may be 0 where places do not
            matter.
        classes: The class of each, ``[n]`` int64, such as its label.
        domains: The domain of each, ``[n]`` int64.

    Raises:
        ConfigError: If shapes or types do not fit, or a number is not finite.
    """

    embeddings: Tensor
    classes: Tensor | None = None
    domains: Tensor | None = None

    def __post_init__(self) -> None:
        points = self.embeddings
        good = points.ndim == 2 and points.is_floating_point()
        require(good, f"embeddings must be floats [n, D]; got {points.dtype} {list(points.shape)}")
        require(bool(points.isfinite().all()), "embeddings must be finite; got NaN or infinity")
        for name in ("classes", "domains"):
            own: Tensor | None = getattr(self, name)
            if own is None:
                continue
            fits = own.dtype is torch.int64 and list(own.shape) == [len(points)]
            require(
                fits, f"{name} must be int64 [{len(points)}]; got {own.dtype} {list(own.shape)}"
            )

    def __len__(self) -> int:
        return len(self.embeddings)

    def take(self, index: Tensor) -> "Candidates":
        """The candidates ``[k]`` in that order."""
        return Candidates(
            self.embeddings[index],
            None if self.classes is None else self.classes[index],
            None if self.domains is None else self.domains[index],
        )


def check_budget(budget: int, num: int) -> int:
    """How many can be chosen: the budget, or all where there are fewer.

    Raises:
        ConfigError: If the budget is negative.
    """
    require(budget >= 0, f"the budget of examples must be at least 0; got {budget}")
    return min(budget, num)

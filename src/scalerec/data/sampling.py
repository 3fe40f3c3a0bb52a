"""Negatives: items that a user did not choose."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.errors import DataError

__all__ = ["NegativeSampler", "draw_unmet"]

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NegativeSampler:
    """Draws items for training, uniformly or by popularity.

    Args:
        weights: How likely each item is, ``[I]``; need not add up to one.
    """

    weights: Tensor

    @classmethod
    def build(cls, by: Literal["uniform", "popularity"], counts: Numbers) -> "NegativeSampler":
        """A sampler over the items that were met in training.

        Args:
            by: `uniform`, or `popularity` (counts to the power 0.75, as in word2vec, Mikolov et al.,
                2013, https://arxiv.org/abs/1310.4546).
            counts: How often each item was met in training, ``[I]``.
        """
        met = torch.from_numpy(np.asarray(counts, np.float64))
        return cls((met > 0).double() if by == "uniform" else met**0.75)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Numbers of items, `shape` int64, with repetition."""
        cumulative = self.weights.cumsum(0)
        draws = torch.rand(shape, dtype=torch.float64, generator=generator) * cumulative[-1]
        return torch.searchsorted(cumulative, draws, right=True).clamp_(max=len(self.weights) - 1)


def draw_unmet(
    users: Numbers,
    met: tuple[Numbers, Numbers],
    num_items: int,
    count: int,
    generator: np.random.Generator,
) -> NDArray[np.int32]:
    """Draw, for each row, items that its user never met, without repetition within a row.

    Args:
        users: The rows' users, ``[n]``.
        met: All events: their users and items, ``[N]`` each.
        num_items: I.
        count: Items to draw for each row.
        generator: Of the draws.

    Returns:
        ``[n, count]`` int32.

    Raises:
        DataError: If a user has met so many items that fewer than `count` are left.
    """
    pairs = np.unique(met[0] * num_items + met[1])
    num_met = np.bincount(pairs // num_items, minlength=int(users.max(initial=-1)) + 1)
    most = int(num_met[users].max(initial=0))
    if num_items - most < count:
        raise DataError(
            f"{count} negatives asked for, but a user has met {most} of {num_items} items"
        )
    drawn = np.full((len(users), count), -1, np.int64)
    open_ = np.ones((len(users), count), bool)
    while open_.any():
        drawn[open_] = generator.integers(num_items, size=int(open_.sum()))
        ordered = np.sort(drawn, axis=1)
        codes = users[:, None] * num_items + drawn
        open_ = np.isin(codes, pairs)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            order = np.argsort(drawn, axis=1, kind="stable")
            again = np.zeros_like(open_)
            again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
            repeated = np.zeros_like(open_)
            np.put_along_axis(repeated, order, again, axis=1)
            open_ |= repeated
    return drawn.astype(np.int32)

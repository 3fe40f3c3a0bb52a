"""Negatives: items that a user did not choose."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import require
from scalerec.errors import DataError

__all__ = ["NegativeSampler", "draw_unmet"]

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NegativeSampler:
    """Draws items for training, uniformly or by popularity.

    Args:
        cumulative: Sum of the items' weights up to each one, ``[I]`` float64.
    """

    cumulative: Tensor

    @classmethod
    def build(cls, by: Literal["uniform", "popularity"], counts: Numbers) -> "NegativeSampler":
        """Give a sampler over the items that were met in training.

        Args:
            by: `uniform`, or `popularity`: counts to the power 0.75, as in Distributed
                Representations of Words and Phrases and their Compositionality (Mikolov et al.,
                2013, https://arxiv.org/abs/1310.4546), section 2.2.
            counts: How often each item was met in training, ``[I]``.

        Raises:
            ConfigError: If `by` is another word.
            DataError: If no item was met.
        """
        words = ("uniform", "popularity")
        require(by in words, f"negatives must be drawn by one of {', '.join(words)}; got {by!r}")
        met = torch.from_numpy(np.asarray(counts, np.float64))
        if not (met > 0).any():
            raise DataError("no item was met in training, so there is none to draw")
        return cls(((met > 0).double() if by == "uniform" else met**0.75).cumsum(0))

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Numbers of items, `shape` int64, with repetition."""
        # Below 1 - 2**-53, so that rounding never passes the last item with a weight.
        draws = torch.rand(shape, dtype=torch.float64, generator=generator) * (1 - 2**-52)
        return torch.searchsorted(self.cumulative, draws * self.cumulative[-1], right=True)


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
    num_users = int(max(users.max(initial=-1), met[0].max(initial=-1))) + 1
    num_met = np.bincount(pairs // num_items, minlength=num_users)
    most = int(num_met[users].max(initial=0))
    if num_items - most < count:
        raise DataError(
            f"{count} negatives asked for, but a user has met {most} of {num_items} items"
        )
    drawn = np.full((len(users), count), -1, np.int64)
    crowded = num_met[users] + count > num_items / 2
    ends = np.cumsum(num_met)
    for row in np.flatnonzero(crowded):
        user = users[row]
        own = pairs[ends[user] - num_met[user] : ends[user]] - user * num_items
        left = np.setdiff1d(np.arange(num_items), own, assume_unique=True)
        drawn[row] = generator.choice(left, count, replace=False)
    _fill(drawn, np.flatnonzero(~crowded), users, pairs, num_items, generator)
    return drawn.astype(np.int32)


def _fill(
    drawn: Numbers,
    rows: Numbers,
    users: Numbers,
    pairs: Numbers,
    num_items: int,
    generator: np.random.Generator,
) -> None:
    """Draw for rows whose user met little, again and again until every item is good."""
    met = np.append(pairs, np.iinfo(np.int64).max)
    while len(rows):
        items = drawn[rows]
        fresh = items < 0
        items[fresh] = generator.integers(num_items, size=int(fresh.sum()))
        codes = users[rows][:, None] * num_items + items
        items[_repeated(items) | (met[np.searchsorted(met, codes)] == codes)] = -1
        drawn[rows] = items
        rows = rows[(items < 0).any(axis=1)]


def _repeated(items: Numbers) -> NDArray[np.bool_]:
    """Where an item came before in its row, ``[n, count]``."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    again = np.zeros(items.shape, bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.zeros_like(again)
    np.put_along_axis(repeated, order, again, axis=1)
    return repeated

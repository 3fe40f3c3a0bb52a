"""The parties of a round, and what they hold, laid out so that they can train at once.

Shapes: P parties, K rows that all of them read.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.train.cohort.holdings import Holdings
from scalerec.train.cohort.models import PartyModel

__all__ = ["Cohort", "gather_cohort"]


@dataclass(frozen=True, slots=True)
class Cohort:
    """Some parties and what they hold, largest first.

    Args:
        parties: Their numbers, ``[P]``.
        sizes: Their examples, ``[P]``, falling.
        starts: Where each one's examples start in `order`, ``[P]``.
        rows: Rows of the matrix that they read, ``[K]``, party after party.
        offsets: Where each one's rows start, ``[P + 1]``.
        still: Whether a row is padding, which stays as it is, ``[K]`` bool.
        order: Numbers of examples, those of each party in turn.
        model: The model, with these examples.
        coins: What the batches of each step are drawn by, each example by a coin of its own; None
            where parties go through all of their examples.
    """

    parties: NDArray[np.int64]
    sizes: NDArray[np.int64]
    starts: NDArray[np.int64]
    rows: Tensor
    offsets: Tensor
    still: Tensor
    order: NDArray[np.int64]
    model: PartyModel
    coins: str | None = None

    def __len__(self) -> int:
        return len(self.parties)

    def part(self, first: int, last: int) -> "Cohort":
        """The parties `first` .. `last`."""
        low, high = int(self.offsets[first]), int(self.offsets[last])
        return Cohort(
            self.parties[first:last],
            self.sizes[first:last],
            self.starts[first:last],
            self.rows[low:high],
            self.offsets[first : last + 1] - low,
            self.still[low:high],
            self.order,
            self.model,
            self.coins,
        )


def gather_cohort(
    model: PartyModel,
    holdings: Holdings,
    parties: NDArray[np.int64],
    names: NDArray[np.int64] | None = None,
) -> Cohort:
    """Put parties in the order of their sizes, and their rows one after the other.

    Args:
        model: The model, with the examples that are held.
        holdings: Of all parties.
        parties: Numbers of some of them, each once.
        names: The numbers by which draws know them; the same by default.
    """
    sizes = holdings.sizes[parties]
    order = np.argsort(-sizes, kind="stable")
    own = parties[order]
    bounds = holdings.row_offsets.numpy()
    lengths = bounds[own + 1] - bounds[own]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    places = np.arange(offsets[-1]) + np.repeat(bounds[own] - offsets[:-1], lengths)
    taken = torch.from_numpy(places)
    rows, still = holdings.rows[taken], holdings.still[taken]
    numbers = own if names is None else names[order]
    held = holdings.offsets[own], rows, torch.from_numpy(offsets), still, holdings.order
    return Cohort(numbers, sizes[order], *held, model)

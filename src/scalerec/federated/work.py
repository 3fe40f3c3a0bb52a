"""What a cohort's training takes, to be had in parts.

Shapes: P parties, K rows of all of them, W a row's width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from scalerec.federated.cohorts import Cohort
from scalerec.federated.local import LocalConfig, Pull
from scalerec.train.cohort.models import PartyModel

__all__ = ["Part", "Work"]

Part = tuple[Cohort, dict[str, Tensor], Tensor, LocalConfig, tuple[int, ...], Pull | None]


@dataclass(frozen=True, slots=True)
class Work:
    """What `train_cohort` takes for a whole cohort.

    Args:
        cohort: Who trains.
        starts: Where their dense parts start, ``[P, ...]``, or ``[1, ...]`` where all alike.
        rows_kw: Where their rows start.
        config: How they train.
        key: The run's seed and the round.
        pull: What is added to their gradients.
    """

    cohort: Cohort
    starts: Mapping[str, Tensor]
    rows_kw: Tensor
    config: LocalConfig
    key: tuple[int, ...]
    pull: Pull | None

    def rows_of(self, first: int, last: int) -> slice:
        """The places of the rows of the parties `first` .. `last`."""
        offsets = self.cohort.offsets
        return slice(int(offsets[first]), int(offsets[last]))

    def part(self, first: int, last: int, model: PartyModel | None = None) -> Part:
        """What it takes for the parties `first` .. `last`.

        Args:
            first: The first of them.
            last: The one after the last.
            model: To be used instead of the cohort's.
        """
        held = self.rows_of(first, last)
        cohort = self.cohort.part(first, last)
        if model is not None:
            cohort = replace(cohort, model=model)
        begin = {n: t if len(t) == 1 else t[first:last] for n, t in self.starts.items()}
        pull = self.pull.part(first, last, held) if self.pull else None
        return cohort, begin, self.rows_kw[held], self.config, self.key, pull

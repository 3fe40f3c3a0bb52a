"""What a transfer goes from and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from scalerec.bundle import Step, read_bundle
from scalerec.bundle.adaptation import Adaptation, adaptation_of, rates_of
from scalerec.data.dataset import Dataset
from scalerec.errors import BundleError
from scalerec.models.recommender import Recommender
from scalerec.train.start import Start, open_start

__all__ = ["Source", "Transferred", "open_transfer"]


@dataclass(frozen=True, slots=True)
class Source:
    """A recommender that has learned other domains, with the layout of a target's data set.

    Args:
        start: Its weights, grown to the target's ids and fields.
        adaptation: How it adapts, if somebody taught it.
        rates: Of adapting, by the adapted parameter's name.
        lineage: Every step that led to it.
    """

    start: Start
    adaptation: Adaptation | None = None
    rates: Mapping[str, Tensor] = field(default_factory=dict)
    lineage: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Transferred:
    """A target's recommender.

    Args:
        recommender: In evaluation mode.
        method: How it was made.
        moved: What of it moved, as JSON; see `scalerec.train.moving.Moving.identity`.
        examples: Training rows of the target that it has seen.
        num_steps: Steps taken.
        metric: Name of what the validation rows are judged by.
        best: Its best value, if there are such rows.
        curve: What was measured on the way; as `scalerec.train.Trained.curve`.
        seconds: Time taken.
    """

    recommender: Recommender
    method: str
    moved: dict[str, Any]
    examples: int
    num_steps: int
    metric: str
    best: float | None
    curve: list[dict[str, float]]
    seconds: float


def open_transfer(path: str | Path, dataset: Dataset) -> Source:
    """Read a bundle as the source of a transfer.

    What optimisers remember is left out: it is of other data, and of parameters that may not move.

    Args:
        path: The bundle.
        dataset: The target's, encoded to go on from the bundle; see `scalerec.data.prepare`.

    Raises:
        BundleError: If the bundle is not whole, holds no recommender, or is frozen, or if the data
            set does not go on from it.
    """
    bundle = read_bundle(path)
    if not bundle.adaptable:
        raise BundleError(f"{path}: is frozen: none of its parameters may be adapted")
    start = replace(open_start(path, dataset), state={}, optimisers={})
    how = adaptation_of(bundle)
    rates = {} if how is None else rates_of(how, bundle.tensors())
    return Source(start, how, rates, bundle.lineage)

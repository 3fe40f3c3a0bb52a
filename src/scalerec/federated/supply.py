"""What a cohort trains on: the rows that its parties hold, and negatives that they draw.

Shapes: P parties of a cohort, n training rows, I items.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.pairing import pair
from scalerec.data.sampling import NegativeSampler
from scalerec.errors import DataError
from scalerec.federated.cohorts import Cohort, gather_cohort
from scalerec.federated.draws import uniforms
from scalerec.federated.splitting import Parties
from scalerec.federated.splitting_vectors import keep_vectors
from scalerec.models.recommender import Recommender
from scalerec.train.cohort.holdings import hold
from scalerec.train.cohort.models import RecommenderModel

__all__ = ["Negatives", "Supply", "open_supply"]

Numbers = NDArray[np.int64]
# So often a negative that the party has met is drawn again.
TRIES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Negatives:
    """Items that a party draws beside those that it chose; anew in every round.

    Args:
        count: For each of its positive rows.
        by: `uniform` over the items met in training, or `popularity`.
    """

    count: int
    by: Literal["uniform", "popularity"] = "uniform"


class Supply:
    """Gives cohorts their examples.

    Args:
        recommender: The model; its tables say which row an id reads.
        batch: All training rows.
        parties: Who holds which.
        seed: Of the negatives.
        negatives: What is drawn beside; None for nothing.
        items: The catalogue, where negatives are drawn.
        counts: How often each item was met in training, ``[I]``.
    """

    def __init__(
        self,
        recommender: Recommender,
        batch: Batch,
        parties: Parties,
        seed: int,
        negatives: Negatives | None = None,
        items: Batch | None = None,
        counts: Numbers | None = None,
    ) -> None:
        self._tables, self._layout = recommender.tables, recommender.layout
        self.holdings, local = hold(batch, recommender.tables, parties.order, parties.offsets)
        self.model = RecommenderModel(recommender, local)
        self._parties, self._seed = parties, seed
        self._negatives, self._items = negatives, items
        if negatives is None:
            return
        assert items is not None, "negatives come from a catalogue"
        assert counts is not None, "and from what was met"
        self._batch = batch
        self._sampler = NegativeSampler.build(negatives.by, counts).cumulative.numpy()
        met = parties.owners * len(counts) + batch.items.numpy()[parties.order]
        self._met = np.append(np.unique(met), np.iinfo(np.int64).max)

    @property
    def holdings_vary(self) -> bool:
        """Whether the rows that a party reads differ from round to round."""
        return self._negatives is not None

    def gather(self, parties: Numbers, number: int) -> Cohort:
        """A cohort with what it trains on.

        Args:
            parties: Their numbers, each once.
            number: Of the round.
        """
        if self._negatives is None:
            return gather_cohort(self.model, self.holdings, parties)
        rows, offsets = self._parties.rows_of(parties)
        owners = np.repeat(np.arange(len(parties)), np.diff(offsets))
        batch = self._batch.take(torch.from_numpy(rows))
        positive = (batch.label_mask[:, 0] & (batch.labels[:, 0] > 0)).numpy().nonzero()[0]
        drawn = self._draw(parties, owners[positive], number)
        assert self._items is not None, "negatives come from a catalogue"
        chosen = batch.take(torch.from_numpy(positive))
        beside = pair(self._layout, chosen, self._items, drawn)
        known = torch.zeros_like(beside.label_mask)
        known[:, 0] = True
        beside = replace(beside, labels=torch.zeros_like(beside.labels), label_mask=known)
        owners = np.concatenate([owners, np.repeat(owners[positive], self._negatives.count)])
        order = np.argsort(owners, kind="stable")
        ends = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(parties)))])
        holdings, local = hold(Batch.concat([batch, beside]), self._tables, order, ends)
        return gather_cohort(
            self.model.with_examples(local), holdings, np.arange(len(parties)), parties
        )

    def _draw(self, parties: Numbers, owners: Numbers, number: int) -> Tensor:
        """Items that parties have not met, but for chance, ``[positives, count]``."""
        assert self._negatives is not None, "some are drawn"
        count, num_items = self._negatives.count, len(self._sampler)
        most = int(np.bincount(owners, minlength=1).max(initial=0)) * count
        places = np.arange(len(owners)) - np.searchsorted(owners, owners)
        items = np.full((len(owners), count), -1, np.int64)
        own = parties[owners][:, None] * num_items
        for turn in range(TRIES):
            missing = items < 0
            if not missing.any():
                break
            draws = uniforms((self._seed, number, 7 + turn), parties, most)
            flat = draws[owners[:, None], places[:, None] * count + np.arange(count)]
            fresh = np.searchsorted(self._sampler, flat * self._sampler[-1], side="right")
            codes = own + fresh
            met = self._met[np.searchsorted(self._met, codes)] == codes
            good = missing & (~met if turn < TRIES - 1 else True)
            items[good] = fresh[good]
        return torch.from_numpy(items)


def open_supply(
    recommender: Recommender,
    dataset: Dataset,
    parties: Parties,
    seed: int,
    negatives: Negatives | None = None,
) -> Supply:
    """What the parties of a data set train on.

    Args:
        recommender: The model.
        dataset: Its training rows, all of which are read into memory.
        parties: Who holds which.
        seed: Of the negatives.
        negatives: What is drawn beside; None for nothing.

    Raises:
        ConfigError: If the schema has no item to draw.
        DataError: If parties hold rows that the data set does not have.
    """
    events = dataset.split("train")
    if int(parties.order.max(initial=-1)) >= len(events):
        raise DataError(
            f"parties hold row {int(parties.order.max())}; {dataset.directory} has {len(events)}"
        )
    batch = events.read(0, len(events))
    if parties.vectors is not None:
        held = np.ones((len(batch), parties.vectors.shape[1]), np.bool_)
        held[parties.order] = parties.vectors[parties.owners]
        batch = keep_vectors(batch, torch.from_numpy(held))
    if negatives is None:
        return Supply(recommender, batch, parties, seed)
    require(bool(dataset.schema.item), "negatives need an item; name one in the schema")
    return Supply(recommender, batch, parties, seed, negatives, dataset.items, dataset.item_counts)

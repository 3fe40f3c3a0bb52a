"""Which rows of the tables a party asks for and sends, so that those that it read do not show.

Who serves a party rows and takes changes of rows sees their numbers, and the rows of films are the
films that a user saw. A party may ask for and send more rows than it read: *decoys*, whose change
is zero. What the server learns from the numbers of the rows alone, for each table:

```text
                      which rows                 how many               over many rounds
touched               those that were read       exactly                the same again; where
                                                                        negatives are drawn anew,
                                                                        rows that always come back
                                                                        are the true ones
touched+decoys:TIMES  a set that holds them,     a power of two: at     the same set again, so
                      a share of 1 / TIMES at    least TIMES times the  nothing more; rows that
                      most (unless the table     rows that were read,   come and go are negatives,
                      is too small for that)     1 at least; or all     or decoys for them
                                                 rows of a small table
all                   nothing                    nothing                nothing
```

What decoys do not hide:

- *Values.* A change of zero is a decoy, and so is a row without the flag that it was held. Decoys
  hide what was read from who sees row numbers or sizes of messages alone (a store that serves
  rows, a watcher of encrypted traffic), and from who sees values only if something covers those:
  noise on every row that is sent, or encryption. Sums under masks are of one list of rows for all,
  so `scalerec.federated.summing` asks for `all`.
- *Likely rows.* They are drawn alike over a table. Who knows which rows are popular, or which go
  together, guesses better than 1 in TIMES. What the catalogue says goes together does: the features
  of an item are sent with it (`hiding_links`), so of their tables there are as many rows as the
  items have, and they tell what the items' rows tell.
- *New data.* The set follows from the rows that a party's examples read. Where these grow, the
  server can compare the old set with the new one. The simulation's parties do not grow.

Decoys follow from a secret of the party and from its rows, never from the round: of decoys drawn
anew, the rows that come back in every round would be the true ones. Only where parties draw
negatives anew are more rows needed that come and go: those that were drawn and are not in the
set, padded with others drawn anew to a power of two altogether. In this simulation the secrets
are hashes of the run's seed, which a real server must not know.

Means stay what they were. A flag of one bit a row says whether the party held it, and what has
none is left out before anything is combined; its row would otherwise count as one that a party
held and did not move. Under sums the flags are summed with the rows (`secure.FlatLayout`). The
price is traffic, and it is counted.

Shapes: P parties, K rows of all of them, R rows of all tables.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.data.dataset import Dataset
from scalerec.errors import RoundError
from scalerec.federated.draws import bits_of, uniforms
from scalerec.federated.hiding_links import Links, link_items
from scalerec.federated.hiding_settings import Hiding
from scalerec.federated.strategies.base import TABLE
from scalerec.models.recommender import Recommender
from scalerec.rounds.cohort import CohortRows, CohortUpdate
from scalerec.train.cohort.holdings import Holdings

__all__ = ["Hider", "Hiding", "RowBytes", "SentRows", "narrow", "open_hider", "table_blocks"]

Numbers = NDArray[np.int64]
NONE = np.zeros(0, np.int64)

DECOY_DRAWS = 113
# In a table of so many rows at most, a whole random order is made; else few places are drawn.
SMALL_TABLE = 4096
NUMBER_BYTES, ROW_BYTES = 4, 8


class RowBytes(NamedTuple):
    """Bytes of rows that travel, in the clear and whole.

    Args:
        down: Of the values that each party gets, ``[P]`` int64.
        up: Of what each sends: values, row numbers where not all rows travel, and flags.
        flags: Of these, the flags that say which rows were held; ``[P]`` int64.
    """

    down: Tensor
    up: Tensor
    flags: Tensor


class SentRows(NamedTuple):
    """The rows that parties ask for and send.

    Args:
        rows: Row numbers, those of each party in turn, sorted, each once, ``[K]`` int64.
        offsets: Where each party's start, ``[P + 1]`` int64.
    """

    rows: Tensor
    offsets: Tensor


def table_blocks(
    starts: Mapping[str, int], sizes: Mapping[str, int], shared: Tensor
) -> dict[str, Numbers]:
    """The rows of each table that parties share, sorted.

    Args:
        starts: Table to its first row in the matrix of all tables.
        sizes: Table to its number of rows.
        shared: Whether a row may leave its party and moves, ``[R]`` bool.

    Returns:
        Table to row numbers, of each table that has any.
    """
    whole = shared.numpy()
    blocks = {
        name: start + whole[start : start + sizes[name]].nonzero()[0]
        for name, start in starts.items()
    }
    return {name: block for name, block in blocks.items() if len(block)}


class Hider:
    """Hides the rows that parties read among others, as `Hiding` says.

    It remembers nothing that a checkpoint must keep: what it caches follows from the seed.

    Args:
        hiding: How.
        blocks: The shared rows of each table, as `table_blocks` gives.
        holdings: Which rows each party's own examples read.
        seed: Stands for the parties' secrets.
        links: Which rows go together; None if none do.
    """

    def __init__(
        self,
        hiding: Hiding,
        blocks: Mapping[str, Numbers],
        holdings: Holdings,
        seed: int,
        links: Links | None = None,
    ) -> None:
        self.hiding, self._seed, self._links = hiding, seed, links
        # What goes with ids is known after them.
        first = links.table if links is not None else ""
        self._blocks = dict(sorted(blocks.items(), key=lambda block: block[0] != first))
        self._rows, self._offsets = holdings.rows.numpy(), holdings.row_offsets.numpy()
        joined = np.concatenate([*blocks.values(), NONE])
        self.shared = torch.from_numpy(np.sort(joined))
        """All rows that parties share, sorted."""
        self._covers: dict[int, dict[str, Numbers]] = {}
        self._joined: dict[int, Numbers] = {}

    def cover(self, party: int) -> Numbers:
        """The rows that a party sends in every round, sorted.

        Args:
            party: Its number.
        """
        if party not in self._joined:
            self._joined[party] = np.sort(np.concatenate([*self._cover(party).values(), NONE]))
        return self._joined[party]

    def sent(self, update: CohortUpdate, parties: Numbers, number: int) -> SentRows:
        """The rows that the parties of a cohort ask for and send.

        Args:
            update: Its rows are those that the parties read in this round.
            parties: Their numbers, ``[P]``.
            number: Of the round, from 0. It decides only what comes and goes with negatives.

        Raises:
            RoundError: If a party read a row that is not shared.
        """
        part = update.tables[TABLE]
        if self.hiding.kind == "touched":
            return SentRows(part.rows, part.offsets)
        if self.hiding.kind == "all":
            offsets = torch.arange(len(parties) + 1) * len(self.shared)
            return SentRows(self.shared.repeat(len(parties)), offsets)
        rows, bounds, found = part.rows.numpy(), part.offsets.tolist(), []
        for place, party in enumerate(parties.tolist()):
            touched = rows[bounds[place] : bounds[place + 1]]
            found.append(self._padded(party, touched, number))
        sizes = torch.tensor([0, *map(len, found)])
        joined = np.concatenate([*found, NONE])
        return SentRows(torch.from_numpy(joined), sizes.cumsum(0))

    def counts(self, update: CohortUpdate, parties: Numbers, number: int) -> Tensor:
        """How many rows each party asks for and sends, ``[P]`` int64; see `sent`."""
        if TABLE not in update.tables:
            return torch.zeros(len(parties), dtype=torch.int64)
        if self.hiding.kind == "all":
            return torch.full((len(parties),), len(self.shared))
        return self.sent(update, parties, number).offsets.diff()

    def sizes(self, update: CohortUpdate, parties: Numbers, number: int) -> RowBytes:
        """The bytes of these rows.

        Args:
            update: As in `sent`; its rows' width is what travels both ways.
            parties: As in `sent`.
            number: As in `sent`.
        """
        counts = self.counts(update, parties, number)
        width = update.tables[TABLE].values.shape[1] if TABLE in update.tables else 0
        values, kind = NUMBER_BYTES * width * counts, self.hiding.kind
        flags = torch.zeros_like(counts) if kind == "touched" else -(-counts // 8)
        names = torch.zeros_like(counts) if kind == "all" else ROW_BYTES * counts
        return RowBytes(values, values + names + flags, flags)

    def widen(
        self, update: CohortUpdate, parties: Numbers, number: int
    ) -> tuple[CohortUpdate, Tensor]:
        """What parties send: decoys are rows of zeros.

        Args:
            update: What they moved.
            parties: As in `sent`.
            number: As in `sent`.

        Returns:
            The update, and whether each row is held by its party, ``[K]`` bool.

        Raises:
            RoundError: As `sent`, and if the cover lacks a row.
        """
        part = update.tables[TABLE]
        sent = self.sent(update, parties, number)
        owners = torch.repeat_interleave(sent.offsets.diff())
        most = 1 + int(max(part.rows.max(), sent.rows.max())) if len(part.rows) else 1
        keys, own = owners * most + sent.rows, part.owners * most + part.rows
        places = torch.searchsorted(keys, own)
        if not torch.equal(keys[places.clamp(max=max(0, len(keys) - 1))], own):
            raise RoundError("a party moved a row that is not shared, so it cannot be sent")
        values = part.values.new_zeros(len(keys), part.values.shape[1])
        values[places] = part.values
        held = torch.zeros(len(keys), dtype=torch.bool)
        held[places] = True
        rows = CohortRows(rows=sent.rows, offsets=sent.offsets, values=values)
        return replace(update, tables={**update.tables, TABLE: rows}), held

    def _cover(self, party: int) -> dict[str, Numbers]:
        """Those of each table."""
        if party not in self._covers:
            own = self._rows[self._offsets[party] : self._offsets[party + 1]]
            self._covers[party] = self._fill(party, 0, own, {})
        return self._covers[party]

    def _padded(self, party: int, touched: Numbers, number: int) -> Numbers:
        """A party's cover, and what comes and goes."""
        cover = self.cover(party)
        places = np.minimum(np.searchsorted(cover, touched), len(cover) - 1)
        if not len(touched) or (len(cover) and bool((cover[places] == touched).all())):
            return cover
        found = self._fill(party, number + 1, touched, self._cover(party))
        joined = np.sort(np.concatenate([*found.values(), NONE]))
        odd = int((~np.isin(touched, joined, assume_unique=True)).sum())
        if odd:
            raise RoundError(f"party {party} moved {odd} rows that are not shared")
        return joined

    def _fill(
        self, party: int, turn: int, own: Numbers, known: Mapping[str, Numbers]
    ) -> dict[str, Numbers]:
        """What a party sends of each table: what it must, what goes with that, and decoys.

        Args:
            party: Its number.
            turn: 0 for the cover, else what the round's draws are called.
            own: Rows that it read.
            known: Its cover; empty before it has one.
        """
        found: dict[str, Numbers] = {}
        links, beside = self._links, NONE
        for place, (name, block) in enumerate(self._blocks.items()):
            cover = known.get(name, NONE)
            taken = np.union1d(cover, own[np.isin(own, block, assume_unique=True)])
            if links is not None and name in links.features:
                taken = np.union1d(taken, beside[np.isin(beside, block, assume_unique=True)])
            free = links is None or name not in links.alone
            if free and (not known or len(taken) > len(cover)):
                least = len(taken) if known else self.hiding.times * max(1, len(taken))
                size = _padded_size(least, len(block))
                decoys = self._draw(party, place, turn, taken, size - len(taken))
                taken = np.sort(np.concatenate([taken, decoys]))
            found[name] = taken
            if links is not None and name == links.table:
                beside = links.of(taken)
        return found

    def _draw(self, party: int, place: int, turn: int, taken: Numbers, num: int) -> Numbers:
        """Rows of a table beside those taken, by the party's secret."""
        block = list(self._blocks.values())[place]
        key, who = (self._seed, DECOY_DRAWS, place, turn), np.array([party])
        if len(block) <= SMALL_TABLE or 4 * num > len(block) - len(taken):
            left = np.setdiff1d(block, taken, assume_unique=True)
            return left[np.argsort(bits_of(key, who, len(left))[0], kind="stable")[:num]]
        draws, found = 2 * num + 16, np.zeros(0, np.int64)
        while len(found) < num:
            drawn = block[(uniforms(key, who, draws)[0] * len(block)).astype(np.int64)]
            drawn = drawn[~np.isin(drawn, taken)]
            _, first = np.unique(drawn, return_index=True)
            found = drawn[np.sort(first)]
            draws *= 2
        return found[:num]


def narrow(update: CohortUpdate, held: Tensor) -> CohortUpdate:
    """Leave out the rows that their parties did not hold; what the server does by the flags.

    Args:
        update: As `Hider.widen` gave it; a codec may have changed its numbers.
        held: The flags, ``[K]`` bool.
    """
    part = update.tables[TABLE]
    before = torch.cat([torch.zeros(1, dtype=torch.int64), held.cumsum(0)])
    rows = CohortRows(rows=part.rows[held], offsets=before[part.offsets], values=part.values[held])
    return replace(update, tables={**update.tables, TABLE: rows})


def _padded_size(least: int, most: int) -> int:
    """The smallest power of two that is not below `least`; `most` at most."""
    return min(most, 1 << (least - 1).bit_length())


def open_hider(
    text: str,
    dataset: Dataset,
    recommender: Recommender,
    holdings: Holdings,
    private: Tensor,
    seed: int,
) -> Hider:
    """Hides the rows that the parties of a run read.

    Args:
        text: How; see `Hiding.parse`.
        dataset: Its catalogue says which rows go together.
        recommender: Its tables.
        holdings: Which rows each party's own examples read.
        private: Whether a row never leaves its party, ``[R]`` bool.
        seed: Stands for the parties' secrets.
    """
    hiding, tables, links = Hiding.parse(text), recommender.tables, None
    shared = ~private
    shared[tables.get_buffer("padding")] = False
    if hiding.kind == "decoys" and dataset.schema.item:
        links = link_items(dataset.layout, dataset.schema.item, tables, dataset.items)
    blocks = table_blocks(tables.start, tables.num_rows, shared)
    return Hider(hiding, blocks, holdings, seed, links)

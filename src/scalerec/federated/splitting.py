"""Who holds which training rows: parties, by the numbers of their rows.

Shapes: n training rows, P parties, c parties of a cohort, V vector fields of the layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.config import require
from scalerec.errors import RoundError

__all__ = ["Names", "Parties", "group_rows"]

Index = NDArray[np.int64]


class Names(Sequence[str]):
    """Names of parties, held in a few bytes each and made into text when asked for.

    Args:
        keys: What tells the parties apart: text or numbers, ``[P]``.
        head: Stands before each.

    Example:
        >>> list(Names(np.arange(2), "party "))
        ['party 0', 'party 1']
    """

    __slots__ = ("_head", "_keys")

    def __init__(self, keys: Any, head: str = "") -> None:
        self._keys = keys if isinstance(keys, pa.Array) else pa.array(keys)
        self._head = head

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> "Names": ...

    def __getitem__(self, index: int | slice) -> "str | Names":
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return f"{self._head}{self._keys[int(index)].as_py()}"

    def take(self, parties: Index) -> "Names":
        """The names of some parties, in this order."""
        return Names(self._keys.take(pa.array(parties)), self._head)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parties:
    """Who holds which training rows; no row has two holders.

    Args:
        names: One a party.
        order: Row numbers of the training split, those of each party in turn and in rising order,
            ``[n]`` int64.
        offsets: Where each party's start; the last entry is n; ``[P + 1]`` int64.
        by: How they were divided, as `--by` says it.
        users: The user that each party is, by its number in the data set, ``[P]`` int64; None if
            parties are not users.
        domains: Each party's domain, by its number in their order, ``[P]`` int64; None if there
            are none.
        vectors: Which vector fields each party has, ``[P, V]`` bool; None if all have all.
        num_left_out: Parties that had too few rows.
        num_rows_left_out: Rows that those had.

    Raises:
        RoundError: If the shapes do not fit.
    """

    names: Sequence[str]
    order: Index
    offsets: Index
    by: str = ""
    users: Index | None = None
    domains: Index | None = None
    vectors: NDArray[np.bool_] | None = None
    num_left_out: int = 0
    num_rows_left_out: int = 0

    def __post_init__(self) -> None:
        size = len(self.offsets) - 1
        if len(self.names) != size or int(self.offsets[-1]) != len(self.order):
            raise RoundError(
                f"{len(self.names)} parties need {len(self.names) + 1} offsets that end with the "
                f"number of rows, {len(self.order)}; got {size + 1} that end with "
                f"{int(self.offsets[-1])}"
            )
        for name in ("users", "domains", "vectors"):
            facts = getattr(self, name)
            if facts is not None and len(facts) != size:
                raise RoundError(f"{name} must be of {size} parties; got {len(facts)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_rows(self) -> int:
        """n, the rows of all parties together."""
        return len(self.order)

    @property
    def sizes(self) -> Index:
        """How many rows each party has, ``[P]`` int64."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Index:
        """Whose each entry of `order` is, ``[n]`` int64."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def rows(self, party: int) -> Index:
        """The row numbers of one party, in rising order; a view.

        Raises:
            IndexError: If there is no such party.
        """
        if not 0 <= party < len(self):
            raise IndexError(f"party must be from 0 to {len(self) - 1}; got {party}")
        return self.order[self.offsets[party] : self.offsets[party + 1]]

    def rows_of(self, parties: Index) -> tuple[Index, Index]:
        """The rows of some parties, one after the other.

        Args:
            parties: Party numbers, ``[c]`` int64.

        Returns:
            Row numbers ``[k]``, and where each party's start, the end included, ``[c + 1]``.
        """
        starts = self.offsets[parties]
        lengths = self.offsets[np.asarray(parties) + 1] - starts
        offsets = _offsets_of(lengths)
        return self.order[
            np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        ], offsets

    def take(self, parties: Index) -> "Parties":
        """Some parties, in this order, each at most once; what is left out is not counted."""
        order, offsets = self.rows_of(parties)
        return replace(
            self,
            names=_take_names(self.names, parties),
            order=order,
            offsets=offsets,
            **{
                name: facts[parties]
                for name in ("users", "domains", "vectors")
                if (facts := getattr(self, name)) is not None
            },
        )

    def keep(self, min_examples: int) -> "Parties":
        """Only the parties that have enough rows; the others are counted.

        Args:
            min_examples: At least 1.

        Raises:
            ConfigError: If it is less than 1, or no party has so many rows.
        """
        require(min_examples >= 1, f"min_examples must be at least 1; got {min_examples}")
        sizes = self.sizes
        enough = sizes >= min_examples
        if enough.all():
            return self
        require(
            bool(enough.any()),
            f"min_examples must be at most {sizes.max()}, the rows of the largest party; "
            f"got {min_examples}",
        )
        return replace(
            self.take(np.flatnonzero(enough)),
            num_left_out=self.num_left_out + int((~enough).sum()),
            num_rows_left_out=self.num_rows_left_out + int(sizes[~enough].sum()),
        )


def group_rows(party_of: NDArray[np.integer[Any]], num_parties: int) -> tuple[Index, Index]:
    """Put the rows of each party side by side.

    Args:
        party_of: The party of each row, ``[n]``, from 0 to P - 1.
        num_parties: P.

    Returns:
        `order` and `offsets` of `Parties`.

    Example:
        >>> group_rows(np.array([1, 0, 1]), 3)
        (array([1, 0, 2]), array([0, 1, 3, 3]))
    """
    order = np.arange(len(party_of))
    # Numpy sorts 16-bit numbers by counting; digit by digit that is many times as fast.
    for shift in range(0, max(1, num_parties - 1).bit_length(), 16):
        digits = (party_of[order] >> shift).astype(np.uint16)
        order = order[np.argsort(digits, kind="stable")]
    return order, _offsets_of(np.bincount(party_of, minlength=num_parties))


def _offsets_of(lengths: Index) -> Index:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _take_names(names: Sequence[str], parties: Index) -> Sequence[str]:
    if isinstance(names, Names):
        return names.take(parties)
    return [names[party] for party in parties.tolist()]

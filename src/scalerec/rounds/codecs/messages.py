"""Messages of a whole cohort: what a message is for one party, for all of them side by side.

A tensor whose name starts with ``tables/`` or ``packed/`` has another length for every party, so
the parties' lie one after the other; every other tensor has the same shape for all and is stacked.

Shapes: P parties, K entries of all of them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scalerec.errors import RoundError
from scalerec.rounds.cohort import CohortRows, CohortUpdate

__all__ = [
    "CohortMessage",
    "Part",
    "cohort_bytes",
    "gather_messages",
    "is_ragged",
    "offsets_of",
    "pack_cohort",
    "party_message",
    "unpack_cohort",
]

TABLES, PACKED = "tables/", "packed/"
ROWS, VALUES = "/rows", "/values"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One named tensor of the messages of all parties.

    Args:
        values: Stacked, ``[P, ...]``, or one party after the other, ``[K, ...]``.
        offsets: Where each party's start, and K, ``[P + 1]`` int64; None if they are stacked.
    """

    values: Tensor
    offsets: Tensor | None = None

    @property
    def num_parties(self) -> int:
        """P."""
        return len(self.values) if self.offsets is None else len(self.offsets) - 1

    @property
    def shape(self) -> torch.Size:
        """The shape of one party's; of a ragged one without its first size."""
        return self.values.shape[1:]

    @property
    def lengths(self) -> Tensor:
        """How many entries, or stacked tensors, each party has, ``[P]`` int64."""
        if self.offsets is None:
            return torch.ones(len(self.values), dtype=torch.int64)
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def counts(self) -> Tensor:
        """How many numbers each party has, ``[P]`` int64."""
        return self.lengths * self.shape.numel()

    @property
    def owners(self) -> Tensor:
        """Whose each entry is, ``[K]`` int64."""
        return torch.repeat_interleave(self.lengths)

    def of(self, party: int) -> Tensor:
        """One party's tensor, a view."""
        if self.offsets is None:
            return self.values[party]
        return self.values[int(self.offsets[party]) : int(self.offsets[party + 1])]

    def like(self, values: Tensor) -> "Part":
        """Other values for the same entries, ``[P, ...]`` or ``[K, ...]``."""
        return Part(values=values, offsets=self.offsets)


CohortMessage = Mapping[str, Part]


def is_ragged(name: str) -> bool:
    """Whether the tensors of this name differ in length from party to party."""
    return name.startswith((TABLES, PACKED))


def offsets_of(lengths: Tensor) -> Tensor:
    """Where each party's entries start, and their number, ``[P + 1]`` int64.

    Args:
        lengths: How many each has, ``[P]`` int64.
    """
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def gather_messages(messages: Sequence[Mapping[str, Tensor]]) -> dict[str, Part]:
    """Put the messages, or the states, of parties side by side.

    Args:
        messages: At least one. A name that some of them lack counts as empty or as zeros there.

    Raises:
        RoundError: If shapes of one name differ.
    """
    names = dict.fromkeys(name for message in messages for name in message)
    return {name: _gather(name, [m.get(name) for m in messages]) for name in names}


def _gather(name: str, tensors: list[Tensor | None]) -> Part:
    first = next(tensor for tensor in tensors if tensor is not None)
    ragged = is_ragged(name)
    like = first[:0] if ragged else torch.zeros_like(first)
    full = [like if tensor is None else tensor for tensor in tensors]
    for tensor in full:
        found, wanted = (t.shape[1:] if ragged else t.shape for t in (tensor, first))
        if found != wanted or tensor.dtype != first.dtype:
            raise RoundError(
                f"{name!r} must be {list(wanted)} of {first.dtype} for all parties; "
                f"got {list(found)} of {tensor.dtype}"
            )
    if not ragged:
        return Part(values=torch.stack(full))
    lengths = torch.tensor([len(tensor) for tensor in full], dtype=torch.int64)
    return Part(values=torch.cat(full), offsets=offsets_of(lengths))


def party_message(message: CohortMessage, party: int) -> dict[str, Tensor]:
    """The message of one party, as views."""
    return {name: part.of(party) for name, part in message.items()}


def pack_cohort(cohort: CohortUpdate) -> dict[str, Part]:
    """The message that holds the updates of a cohort; no tensor is copied."""
    message = {"weight": Part(values=cohort.weights)}
    message |= {f"dense/{name}": Part(values=tensor) for name, tensor in cohort.dense.items()}
    for name, rows in cohort.tables.items():
        message[TABLES + name + ROWS] = Part(values=rows.rows, offsets=rows.offsets)
        message[TABLES + name + VALUES] = Part(values=rows.values, offsets=rows.offsets)
    return message


def unpack_cohort(message: CohortMessage) -> CohortUpdate:
    """The updates that the messages of a cohort hold, after all codecs were undone.

    Raises:
        RoundError: If a name is unknown or missing, or shapes do not fit.
    """
    dense = {n.removeprefix("dense/"): p.values for n, p in message.items() if _is_dense(n)}
    tables = {}
    for name, part in message.items():
        if name.startswith(TABLES) and name.endswith(VALUES):
            rows = message.get(name.removesuffix(VALUES) + ROWS)
            if rows is None or rows.offsets is None or part.offsets is None:
                raise RoundError(f"{name!r} needs its row numbers beside it; got none")
            if not torch.equal(rows.offsets, part.offsets):
                raise RoundError(f"{name!r} must have as many rows as there are row numbers")
            tables[name.removeprefix(TABLES).removesuffix(VALUES)] = CohortRows(
                rows=rows.values, offsets=rows.offsets, values=part.values
            )
    wrong = [n for n in message if not (_is_dense(n) or n == "weight" or _is_table(n, tables))]
    if wrong or "weight" not in message:
        raise RoundError(
            "a message holds weight, dense/NAME, tables/NAME/rows and tables/NAME/values; "
            f"got {', '.join(sorted(message)) or 'nothing'}"
        )
    return CohortUpdate(dense=dense, tables=tables, weights=message["weight"].values)


def _is_dense(name: str) -> bool:
    return name.startswith("dense/") and name != "dense/"


def _is_table(name: str, tables: Mapping[str, CohortRows]) -> bool:
    return name.removeprefix(TABLES).removesuffix(VALUES).removesuffix(ROWS) in tables


def cohort_bytes(message: CohortMessage) -> Tensor:
    """The bytes of each party's tensors, names not counted, ``[P]`` int64."""
    total = torch.zeros(next(iter(message.values())).num_parties, dtype=torch.int64)
    for part in message.values():
        total += part.counts * part.values.element_size()
    return total

"""What a round works on: parameters, and the parties that hold data.

Shapes: K rows that a party touches, W a table's width, R a table's rows, N a party's examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scalerec.errors import RoundError

__all__ = ["Parameters", "Party", "localise", "party_generators"]

_DENSE = "dense/"
_TABLES = "tables/"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """A model's trained numbers: dense tensors beside embedding tables.

    The server's tables are whole, ``[R, W]``; a party's hold the rows it touches, ``[K, W]``.

    Args:
        dense: Name to tensor, any shape.
        tables: Name to table, two dimensions.
    """

    dense: Mapping[str, Tensor]
    tables: Mapping[str, Tensor]

    def flat(self) -> dict[str, Tensor]:
        """All tensors in one dict, as pure optimisers want them; `from_flat` turns it back."""
        dense = {_DENSE + name: tensor for name, tensor in self.dense.items()}
        return dense | {_TABLES + name: table for name, table in self.tables.items()}

    @staticmethod
    def from_flat(tensors: Mapping[str, Tensor]) -> "Parameters":
        """The parameters whose `flat` this is."""
        return Parameters(
            dense={n.removeprefix(_DENSE): t for n, t in tensors.items() if n.startswith(_DENSE)},
            tables={
                n.removeprefix(_TABLES): t for n, t in tensors.items() if n.startswith(_TABLES)
            },
        )

    def gather(self, rows: Mapping[str, Tensor]) -> "Parameters":
        """What a party gets: the dense part, and of each table the rows it asks for.

        Args:
            rows: Table to row numbers, ``[K]`` int64; a table left out is not given.

        Raises:
            RoundError: If a table does not exist or a row lies outside it.
        """
        for name, wanted in rows.items():
            if name not in self.tables:
                raise RoundError(f"there is no table {name!r}; allowed: {sorted(self.tables)}")
            size = self.tables[name].shape[0]
            if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < size:
                raise RoundError(
                    f"rows of table {name!r} must be in [0, {size}); "
                    f"got {int(wanted.min())} to {int(wanted.max())}"
                )
        tables = {name: self.tables[name].index_select(0, wanted) for name, wanted in rows.items()}
        return Parameters(dense=self.dense, tables=tables)


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    """One holder of data: a shard, a user, an organisation, a task.

    Args:
        name: Its name, unlike any other's in a round.
        rows: Table to the numbers of the rows it touches, sorted, each once, ``[K]`` int64.
        data: Name to tensor with one entry per example, ``[N, ...]``; ids in it are positions in
            `rows`, as `localise` gives them.
        weight: What it counts for in a mean, its number of examples as a rule; at least 0.
    """

    name: str
    rows: Mapping[str, Tensor]
    data: Mapping[str, Tensor]
    weight: float

    @property
    def num_examples(self) -> int:
        """N, the first size of its data; 0 if it has none."""
        return next((tensor.shape[0] for tensor in self.data.values()), 0)


def localise(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Give the rows that ids touch, and the ids as positions in them.

    Args:
        ids: Row numbers of one table, any shape, int64.

    Returns:
        The rows, sorted, each once, ``[K]`` int64, and the positions, in the shape of `ids`.

    Example:
        >>> localise(torch.tensor([7, 3, 3, 9]))
        (tensor([3, 7, 9]), tensor([1, 0, 0, 2]))
    """
    rows, positions = torch.unique(ids, return_inverse=True)
    return rows, positions


def party_generators(generator: torch.Generator, parties: Sequence[Party]) -> list[torch.Generator]:
    """Give each party its own source of randomness.

    The seeds are drawn before any work starts, so a party's draws do not depend on who works first,
    in which process, or on how much the others draw.

    Args:
        generator: The round's source.
        parties: In their order in the round.
    """
    seeds = torch.randint(2**62, (len(parties),), generator=generator).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]

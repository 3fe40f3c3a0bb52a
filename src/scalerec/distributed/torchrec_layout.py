"""How TorchRec cuts the tables of a plan, so that each process keeps what the plan gives it.

Up to three of TorchRec's embedding collections hold the tables: one those kept by rows or whole,
one those kept by columns, one the copies. TorchRec cuts rows into consecutive blocks, one a
process, so rows are renumbered on their way: block p is what the plan gives process p, and the
frequent first rows of a table are spread as ever. FBGEMM wants widths that are a multiple of 4, and
TorchRec columns that are cut evenly, so there are some columns that nobody uses, and stay zero.

All copies are one table to TorchRec, read as bags of one: its kernel for them gives one row a bag.

Shapes: N looked-up rows, W columns, P processes.
"""

import torch
from torch import Tensor

from scalerec.distributed.placement import TablePlan

__all__ = ["COPIES", "Collection", "Piece", "aligned", "collections_of"]

ALIGNMENT = 4
GROUPS = (("row", "table"), ("column",), ("replicated",))
COPIES = "copies"
# Process, rows and columns, first row and first column.
Piece = tuple[int, list[int], list[int]]


def aligned(width: int) -> int:
    """The next multiple of what FBGEMM takes.

    Example:
        >>> aligned(17)
        20
    """
    return -(-width // ALIGNMENT) * ALIGNMENT


class Collection:
    """Tables that one of TorchRec's collections holds.

    Args:
        plan: Where all tables are kept.
        numbers: Which are held here: kept by rows or whole, all by columns, or all as copies.
    """

    def __init__(self, plan: TablePlan, numbers: list[int]) -> None:
        kinds, sizes = plan.kinds, list(plan.num_rows.values())
        self.plan, self.world = plan, plan.world
        self.numbers = sorted(numbers, key=lambda number: kinds[number] != "row")
        self.kind = kinds[numbers[0]]
        # TorchRec's names of the tables: the layout's may hold signs that it does not take.
        self.keys = [f"t{number}" for number in self.numbers]
        self.num_by_rows = sum(kinds[number] == "row" for number in numbers)
        # Rows of a table kept by rows that TorchRec gives each process: as many for all.
        self.blocks = [-(-sizes[number] // self.world) for number in self.numbers]
        self.sizes = [
            self.blocks[i] * self.world if i < self.num_by_rows else sizes[number]
            for i, number in enumerate(self.numbers)
        ]
        # Where each copy begins among all.
        self.starts = torch.tensor([0, *self.sizes[:-1]]).cumsum(0)
        if self.kind == "replicated":
            self.keys, self.sizes = [COPIES], [sum(self.sizes)]
        parts = [plan.part(numbers[0], process) for process in range(self.world)]
        cuts = [part.high - part.low for part in parts]
        self.cut = aligned(max(cuts))
        self.width = self.cut * (self.world if self.kind == "column" else 1)
        # Where the tables' columns stand among TorchRec's.
        self.columns: Tensor | None = None
        if self.kind == "column":
            own = [p * self.cut + column for p, cut in enumerate(cuts) for column in range(cut)]
            self.columns = torch.tensor(own)

    def pieces(self, place: int) -> list[Piece]:
        """How a table is cut: the pieces, by process.

        Args:
            place: The table's place in `keys`.
        """
        number, size = self.numbers[place], self.sizes[place]
        kind, every = self.plan.kinds[number], range(self.world)
        if kind == "row":
            block = self.blocks[place]
            return [(p, [block, self.width], [p * block, 0]) for p in every]
        if kind == "column":
            return [(p, [size, self.cut], [0, p * self.cut]) for p in every]
        if kind == "replicated":
            return [(p, [size, self.width], [0, 0]) for p in every]
        return [(int(self.plan.homes[number]), [size, self.width], [0, 0])]

    def renumber(self, wanted: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows as TorchRec numbers them, ``[N]``, their lengths, and how many of each process.

        Args:
            wanted: Numbers of the rows in their tables, ``[N]`` int64, by table.
            counts: How many of each table, int64.
        """
        asked = torch.zeros(self.world, dtype=torch.int64)
        if self.kind == "column":
            return wanted, counts, asked + len(wanted)
        if self.kind == "replicated":
            # One more, a padding row, so that there is one.
            rows = torch.cat([wanted + self.starts.repeat_interleave(counts), wanted.new_zeros(1)])
            return rows, torch.ones_like(rows), asked
        for place in range(self.num_by_rows, len(self.numbers)):
            asked[self.pieces(place)[0][0]] += counts[place]
        by_rows = counts[: self.num_by_rows]
        num = int(by_rows.sum())
        own = torch.tensor([self.numbers, self.blocks])[:, : self.num_by_rows]
        table, block = own.repeat_interleave(by_rows, dim=1)
        process = (wanted[:num] + table) % self.world
        asked += process.bincount(minlength=self.world)
        row = torch.div(wanted[:num], self.world, rounding_mode="floor")
        return torch.cat([row + process * block, wanted[num:]]), counts, asked


def collections_of(plan: TablePlan) -> list[Collection]:
    """The collections that hold the tables of a plan."""
    found = [plan.tables_of(*kinds) for kinds in GROUPS]
    return [Collection(plan, numbers) for numbers in found if numbers]

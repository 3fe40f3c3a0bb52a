"""Which process keeps which part of which table."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.data.layout import Layout
from scalerec.distributed.config import DistributedConfig
from scalerec.distributed.planning.placing import choose_placements
from scalerec.distributed.planning.reads import layout_reads
from scalerec.errors import ConfigError

__all__ = ["KINDS", "Part", "Placement", "TablePlan", "place_tables"]

Kind = Literal["row", "table", "column", "replicated"]
KINDS = ("row", "table", "column", "replicated")
# Who keeps a table that no single process keeps, as `scalerec.models.kernels.route` reads it.
# Examples of a step on one process, for a choice of places: the choice hardly depends on them.
EXAMPLES = 1024
CODES = {"row": -1, "column": -2, "replicated": -3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement(Config):
    """Where one table is kept.

    Args:
        kind: `row`: row r is kept by process ``(r + number of the table) % P``; `table`: all of it
            by one process; `column`: every process keeps some columns of all rows; `replicated`:
            every process keeps all of it.
        process: Which one, for `table`.
    """

    kind: Kind = "row"
    process: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What a process keeps of a table: some rows of it, and of each some columns.

    Args:
        first: Number of the first row.
        step: Distance to the next.
        size: How many rows.
        low: The first column.
        high: The last column + 1.
    """

    first: int
    step: int
    size: int
    low: int
    high: int

    @property
    def rows(self) -> slice:
        """The rows, as a slice of the whole table."""
        return slice(self.first, self.first + self.step * self.size, self.step)

    def rows_between(self, first: int, last: int) -> tuple[int, int]:
        """Where, within this part, the table's rows from `first` to `last` - 1 begin and end."""
        low, high = (-(-(bound - self.first) // self.step) for bound in (first, last))
        return min(self.size, max(0, low)), min(self.size, max(0, high))


@dataclass(frozen=True, kw_only=True, slots=True)
class TablePlan(Config):
    """Where all tables are kept.

    Args:
        num_rows: Table to its number of rows, in the order of the layout.
        placements: Table to its placement.
        world: P, the number of processes.
        width: W, the columns of a row.

    Raises:
        ConfigError: If a table is to be kept by a process that there is not.
    """

    num_rows: dict[str, int]
    placements: dict[str, Placement]
    world: int
    width: int

    def __post_init__(self) -> None:
        for name, placement in self.placements.items():
            inside = 0 <= placement.process < self.world
            require(
                inside,
                f"table {name!r} must be kept by a process from 0 to {self.world - 1}; "
                f"got {placement.process}",
            )

    @property
    def kinds(self) -> list[Kind]:
        """How each table is kept, ``T`` of them."""
        return [self.placements[name].kind for name in self.num_rows]

    @property
    def homes(self) -> NDArray[np.int64]:
        """The process that keeps each table, or a code below 0 where several do, ``[T]``."""
        placements = map(self.placements.__getitem__, self.num_rows)
        return np.array([CODES.get(own.kind, own.process) for own in placements], np.int64)

    def part(self, table: int, process: int) -> Part:
        """What a process keeps of a table."""
        name, size = list(self.num_rows.items())[table]
        placement, whole = self.placements[name], self.width
        if placement.kind == "row":
            first = (process - table) % self.world
            kept = max(0, -(-(size - first) // self.world))
            return Part(first=first, step=self.world, size=kept, low=0, high=whole)
        if placement.kind == "table":
            kept = size if placement.process == process else 0
            return Part(first=0, step=1, size=kept, low=0, high=whole)
        if placement.kind == "replicated":
            return Part(first=0, step=1, size=size, low=0, high=whole)
        low, high = (whole * bound // self.world for bound in (process, process + 1))
        return Part(first=0, step=1, size=size, low=low, high=high)

    def writers(self, table: int) -> list[int]:
        """The processes whose parts make up a table, each number of it once."""
        placement = self.placements[list(self.num_rows)[table]]
        if placement.kind == "table":
            return [placement.process]
        return [0] if placement.kind == "replicated" else list(range(self.world))

    def tables_of(self, *kinds: str) -> list[int]:
        """Numbers of the tables that are kept in one of these ways."""
        return [number for number, kind in enumerate(self.kinds) if kind in kinds]

    def bases(self) -> NDArray[np.int64]:
        """Where each table begins among what a process keeps in the same way, ``[T, P]``."""
        found = np.zeros((len(self.num_rows), self.world), np.int64)
        for group in (("row", "table"), ("column",), ("replicated",)):
            own = self.tables_of(*group)
            if own:
                sizes = [[self.part(t, p).size for p in range(self.world)] for t in own]
                found[own] = np.cumsum(sizes, axis=0) - sizes
        return found

    def num_kept(self, process: int) -> int:
        """Numbers that a process keeps of all tables."""
        parts = [self.part(table, process) for table in range(len(self.num_rows))]
        return sum(part.size * (part.high - part.low) for part in parts)


def place_tables(
    layout: Layout, width: int, config: DistributedConfig, world: int
) -> dict[str, Placement]:
    """Where each table of a layout is kept; see `scalerec.distributed.planning` for `auto`.

    Args:
        layout: Names the tables and their sizes.
        width: W, the columns of a row.
        config: What is asked for.
        world: P, the number of processes.

    Raises:
        ConfigError: If a placement is of no table, or of no kind, or there are fewer columns than
            processes.
    """
    for name in config.placements:
        if name not in layout.tables:
            known = ", ".join(layout.tables)
            raise ConfigError(f"placements: there is no table {name!r}; allowed: {known}")
    chosen = _choose(layout, width, world)
    found = {}
    for number, name in enumerate(layout.tables):
        text = config.placements.get(name, config.sharding)
        text = chosen[name] if text == "auto" else text
        kind, _, home = text.partition(":")
        if kind not in KINDS or (home and (kind != "table" or not home.isdecimal())):
            raise ConfigError(
                f"placements: table {name!r} must be auto, row, table, table:PROCESS, column or "
                f"replicated; got {text!r}"
            )
        require(
            kind != "column" or width >= world,
            f"table {name!r} has {width} columns, too few for {world} processes; keep it by row",
        )
        process = (int(home) if home else number % world) if kind == "table" else 0
        found[name] = Placement.from_dict({"kind": kind, "process": process})
    return found


def _choose(layout: Layout, width: int, world: int) -> dict[str, str]:
    """What `auto` means for each table."""
    reads = {name: own.distinct(EXAMPLES) for name, own in layout_reads(layout).items()}
    return choose_placements(layout.tables, reads, width, world)

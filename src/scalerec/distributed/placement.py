"""Which process keeps which rows of which table."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.data.layout import Layout
from scalerec.distributed.config import DistributedConfig
from scalerec.errors import ConfigError

__all__ = ["Placement", "RowPlan", "place_tables"]

Kind = Literal["row", "table"]
ROWS = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement(Config):
    """Where one table is kept.

    Args:
        kind: `row`: row r is kept by process ``(r + number of the table) % P``; `table`: all rows
            are kept by one process.
        process: Which one, for `table`.
    """

    kind: Kind = "row"
    process: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPlan(Config):
    """Where the rows of all tables are kept.

    Args:
        num_rows: Table to its number of rows, in the order of the layout.
        placements: Table to its placement.
        world: P, the number of processes.
    """

    num_rows: dict[str, int]
    placements: dict[str, Placement]
    world: int

    def __post_init__(self) -> None:
        for name, placement in self.placements.items():
            inside = 0 <= placement.process < self.world
            require(
                inside,
                f"table {name!r} must be kept by a process from 0 to {self.world - 1}; "
                f"got {placement.process}",
            )

    @property
    def homes(self) -> NDArray[np.int64]:
        """The process that keeps each table, or -1 where its rows are spread, ``[T]``."""
        found = [
            ROWS if placement.kind == "row" else placement.process
            for placement in map(self.placements.__getitem__, self.num_rows)
        ]
        return np.array(found, np.int64)

    def first_and_step(self, table: int, process: int) -> tuple[int, int]:
        """The first row of a table that a process keeps, and the distance to the next."""
        home = int(self.homes[table])
        return (0, 1) if home >= 0 else ((process - table) % self.world, self.world)

    def kept(self, table: int, process: int) -> int:
        """How many rows of a table a process keeps."""
        size = list(self.num_rows.values())[table]
        home = int(self.homes[table])
        if home >= 0:
            return size if home == process else 0
        first, step = self.first_and_step(table, process)
        return max(0, -(-(size - first) // step))

    def bases(self) -> NDArray[np.int64]:
        """Where each table begins within each process's own rows, ``[T, P]``."""
        sizes = np.array(
            [[self.kept(t, p) for p in range(self.world)] for t in range(len(self.num_rows))],
            np.int64,
        ).reshape(len(self.num_rows), self.world)
        return np.cumsum(sizes, axis=0) - sizes


def place_tables(
    layout: Layout,
    width: int,  # noqa: ARG001
    config: DistributedConfig,
    world: int,
) -> dict[str, Placement]:
    """Where each table of a layout is kept.

    Args:
        layout: Names the tables and their sizes.
        width: W, the columns of a row.
        config: What is asked for.
        world: P, the number of processes.

    Raises:
        ConfigError: If a placement is of no table, or of no kind.
    """
    for name in config.placements:
        if name not in layout.tables:
            known = ", ".join(layout.tables)
            raise ConfigError(f"placements: there is no table {name!r}; allowed: {known}")
    found = {}
    for number, name in enumerate(layout.tables):
        kind, _, home = config.placements.get(name, config.sharding).partition(":")
        kind = "row" if kind == "auto" else kind
        require(kind in ("row", "table"), f"placements: {name!r} must be row or table; got {kind}")
        process = int(home) if home else number % world
        found[name] = Placement.from_dict({"kind": kind, "process": process})
    return found

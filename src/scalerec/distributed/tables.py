"""Embedding tables of which each process holds what it keeps, and no more."""

from collections.abc import Mapping

import torch
from torch import Tensor

from scalerec.data.layout import Layout
from scalerec.distributed.config import DistributedConfig
from scalerec.distributed.exchange import ColumnKeeper, CopyKeeper, RowKeeper, ShardedEngine
from scalerec.distributed.group import Group
from scalerec.distributed.placement import TablePlan, place_tables
from scalerec.distributed.rowwise import spread_optimiser
from scalerec.distributed.wires import make_wire
from scalerec.errors import ConfigError
from scalerec.models.engines import DenseEngine, RowOptimiser, TableEngine
from scalerec.models.memory import use_large_pages
from scalerec.models.tables import Tables, draw_rows, make_engine

__all__ = ["ShardedTables"]

# Rows of which this process keeps some columns are drawn so many at a time.
CHUNK = 65_536


class ShardedTables(Tables):
    """Tables spread over the processes of a group; see `scalerec.distributed.exchange`.

    Args:
        layout: Names the tables, their sizes, and which field reads which.
        width: W, the columns of a row.
        generator: As in `Tables`; the same on all processes.
        init_std: As in `Tables`, whose rows these are.
        group: The processes.
        config: Where tables are kept, and how rows travel.
    """

    def __init__(
        self,
        layout: Layout,
        width: int,
        generator: torch.Generator | None,
        init_std: float,
        group: Group,
        config: DistributedConfig,
    ) -> None:
        placements = place_tables(layout, width, config, group.world)
        sizes = dict(layout.tables)
        self.plan = TablePlan(num_rows=sizes, placements=placements, world=group.world, width=width)
        self.group = group
        self._wire = make_wire(config.lookups, seed=group.rank)
        # Of the row optimiser's state, what is one number a row.
        self.row_state: frozenset[str] = frozenset()
        super().__init__(layout, width, generator, init_std)
        others = [self._others(kind, init_std) for kind in ("column", "replicated")]
        self.engine = self._join([self.engine, *map(DenseEngine, others)])
        for number, name in enumerate(self.num_rows):
            part = self.plan.part(number, group.rank)
            if part.first == 0 and part.size:
                self.table(name)[0] = 0.0

    def _kept(self, table: int) -> tuple[int, int, int]:
        part = self.plan.part(table, self.group.rank)
        is_rows = self.plan.kinds[table] in ("row", "table")
        return part.first, part.step, part.size if is_rows else 0

    def _others(self, kind: str, init_std: float) -> Tensor:
        """What is kept here of the tables that are not kept by whole rows, drawn."""
        parts = {t: self.plan.part(t, self.group.rank) for t in self.plan.tables_of(kind)}
        width = next((part.high - part.low for part in parts.values()), 0)
        matrix = torch.empty(sum(part.size for part in parts.values()), width)
        use_large_pages(matrix)
        start = 0
        for table, part in parts.items():
            for first in range(0, part.size, CHUNK):
                size = min(CHUNK, part.size - first)
                rows = torch.zeros(size, self.plan.width)
                if self.seed is not None:
                    draw_rows(rows, self.seed, table, init_std, first=first)
                matrix[start + first : start + first + size] = rows[:, part.low : part.high]
            start += part.size
        return matrix

    def _join(self, engines: list[TableEngine]) -> ShardedEngine:
        """One engine of those that hold rows, columns and copies."""
        rows, columns, copies = engines
        bounds = [self.plan.width * p // self.plan.world for p in range(self.plan.world + 1)]
        return ShardedEngine(
            self.plan,
            self.group,
            RowKeeper(rows, self.group, self._wire),
            ColumnKeeper(columns, self.group, self._wire, bounds)
            if self.plan.tables_of("column")
            else None,
            CopyKeeper(copies, self.group, self._wire)
            if self.plan.tables_of("replicated")
            else None,
        )

    def keep_padding_zero(self) -> None:
        """Nothing to do: padding starts as zero, and no process asks for it to be moved."""

    def use(self, engine: str, optimiser: RowOptimiser, name: str, *, half: bool = False) -> str:
        """Put what is kept here into another engine; see `Tables.use`.

        Raises:
            ConfigError: If it is none that moves rows by their gradients.
        """
        if engine in ("dense", "fbgemm"):
            raise ConfigError(
                f"tables spread over processes need engine auto, numba or torch; got {engine!r}"
            )
        assert isinstance(self.engine, ShardedEngine)
        before = self.engine
        widths = optimiser.state_widths(2)
        self.row_state = frozenset(part for part, width in widths.items() if width == 1)
        found, rows = make_engine(before.rows.own.matrix, engine, optimiser, name, half=half)
        engines: list[TableEngine] = [rows, before.rows.own, before.rows.own]
        if before.columns:
            own = spread_optimiser(optimiser, self.group, self.plan.width)
            # What needs the whole row asks the other processes, which no kernel can.
            kind = engine if own is optimiser else "torch"
            matrix = before.columns.own.matrix
            engines[1] = make_engine(matrix, kind, own, name, half=half and own is optimiser)[1]
        if before.copies:
            matrix = before.copies.own.matrix
            engines[2] = make_engine(matrix, engine, optimiser, name, half=half)[1]
        self.engine = self._join(engines)
        return found

    def table(self, name: str) -> Tensor:
        """What is kept here of a table, live, ``[rows, columns]``."""
        assert isinstance(self.engine, ShardedEngine)
        engine, rows = self.engine.part_of(list(self.num_rows).index(name))
        return engine.matrix[rows]

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy what is kept here, as `to_tensors` gave it on this process, back in.

        Raises:
            ConfigError: If a table is missing or has other rows.
        """
        for name in self.num_rows:
            own, found = self.table(name), tensors.get(f"tables.{name}.weight")
            if found is None or found.shape != own.shape:
                shape = "none" if found is None else list(found.shape)
                raise ConfigError(f"table {name!r} must have {list(own.shape)} here; got {shape}")
            own.copy_(found)

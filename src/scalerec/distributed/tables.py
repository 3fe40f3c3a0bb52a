"""Embedding tables whose rows are spread over the processes of a group.

For a step, each process finds the distinct rows that its part of the batch reads, asks those that
keep them, and gets them in one exchange; in the backward pass the summed gradients go the same way
back, and who keeps a row sums what all sent and moves it once. So a row moves exactly as it would
in one process that had the whole batch, up to the order of the sums.

Shapes: K looked-up rows, M distinct ones and a padding row, W columns, P processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scalerec.data.layout import Layout
from scalerec.distributed.group import Group
from scalerec.distributed.placement import Placement, RowPlan
from scalerec.errors import ConfigError
from scalerec.models.engines import Fetched, RemoteEngine, RowOptimiser, TableEngine
from scalerec.models.kernels.route import route
from scalerec.models.tables import Tables, make_engine

__all__ = ["ShardedTables"]

ROWS, IDS = "rows", "ids"


@dataclass(frozen=True, slots=True)
class _Ticket:
    """The way that fetched rows came.

    Args:
        asked: Rows asked of each process, ``P`` lengths.
        lent: Rows that each process asked of this one.
        numbers: Which of its own, ``[sum of lent]``, by process.
    """

    asked: list[int]
    lent: list[int]
    numbers: Tensor


class ShardedEngine(RemoteEngine):
    """Fetches rows from the processes that keep them, and moves the own ones.

    Args:
        own: Holds and moves the rows that this process keeps.
        plan: Who keeps which.
        group: The processes.
    """

    def __init__(self, own: TableEngine, plan: RowPlan, group: Group) -> None:
        super().__init__()
        self.own, self.plan, self.group = own, plan, group
        sizes = np.array(list(plan.num_rows.values()), np.int64)
        self._starts = np.cumsum(sizes) - sizes
        self._homes, self._bases = plan.homes, plan.bases()

    @property
    def matrix(self) -> Tensor:
        """The rows that this process keeps, live."""
        return self.own.matrix

    @property
    def state(self) -> dict[str, Tensor]:
        """What the row optimiser remembers of them, live."""
        return self.own.state

    def load_state(self, state: Mapping[str, Tensor], step: int) -> None:
        """Copy a state of the own rows back in."""
        self.own.load_state(state, step)
        self.step = step

    def fetch(self, rows: Tensor) -> Fetched:
        """Ask the processes that keep the rows ``[K]``; all of them must ask at once."""
        places, wanted = torch.empty_like(rows), torch.empty_like(rows)
        counts = torch.empty(self.group.world, dtype=torch.int64)
        maps = self._starts, self._homes, self._bases
        arrays = (tensor.numpy() for tensor in (places, wanted, counts))
        num = int(route(rows.numpy(), *maps, *arrays))
        asked = counts.tolist()
        lent = self.group.counts(counts)
        numbers = self.group.exchange(wanted[:num], asked, lent, IDS)
        given = self.matrix.index_select(0, numbers).float()
        matrix = given.new_zeros(num + 1, given.shape[1])
        matrix[1:] = self.group.exchange(given, lent, asked, ROWS)
        return Fetched(places, matrix, _Ticket(asked, lent, numbers))

    def push(self, fetched: Fetched, grad_mw: Tensor) -> None:
        """Send the gradients back, and move the own rows by what all processes sent."""
        way: _Ticket = fetched.ticket
        grads = self.group.exchange(grad_mw[1:], way.asked, way.lent, ROWS)
        self.own.lr = self.lr
        self.own.update(way.numbers, grads)
        self.step = self.own.step


class ShardedTables(Tables):
    """Tables of which this process holds the rows that it keeps, and no others.

    Args:
        layout: Names the tables, their sizes, and which field reads which.
        width: W, the columns of a row.
        generator: As in `Tables`; the same on all processes.
        init_std: As in `Tables`, whose rows these are.
        group: The processes.
        placements: Where each table is kept; by rows unless named.
    """

    def __init__(
        self,
        layout: Layout,
        width: int,
        generator: torch.Generator | None,
        init_std: float,
        group: Group,
        placements: Mapping[str, Placement],
    ) -> None:
        whole = {name: placements.get(name, Placement()) for name in layout.tables}
        self.plan = RowPlan(num_rows=dict(layout.tables), placements=whole, world=group.world)
        self.group = group
        super().__init__(layout, width, generator, init_std)
        self.engine = ShardedEngine(self.engine, self.plan, group)

    def _kept(self, table: int) -> tuple[int, int, int]:
        rank = self.group.rank
        return (*self.plan.first_and_step(table, rank), self.plan.kept(table, rank))

    def keep_padding_zero(self) -> None:
        """Nothing to do: no process asks for padding, so it is never moved."""

    def use(self, engine: str, optimiser: RowOptimiser, name: str, *, half: bool = False) -> str:
        """Put the own rows into another engine; see `Tables.use`.

        Raises:
            ConfigError: If it is none that moves rows by their gradients.
        """
        if engine in ("dense", "fbgemm"):
            raise ConfigError(
                f"tables spread over processes need engine auto, numba or torch; got {engine!r}"
            )
        found, own = make_engine(self.matrix, engine, optimiser, name, half=half)
        self.engine = ShardedEngine(own, self.plan, self.group)
        return found

    def table(self, name: str) -> Tensor:
        """The live rows of a table that are kept here, ``[rows, W]``."""
        number = list(self.num_rows).index(name)
        start = int(self.plan.bases()[number, self.group.rank])
        return self.matrix[start : start + self.plan.kept(number, self.group.rank)]

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the rows kept here, as `to_tensors` gave them on this process, back in.

        Raises:
            ConfigError: If a table is missing or has other rows.
        """
        for name in self.num_rows:
            own, found = self.table(name), tensors.get(f"tables.{name}.weight")
            if found is None or found.shape != own.shape:
                shape = "none" if found is None else list(found.shape)
                raise ConfigError(f"table {name!r} must have {list(own.shape)} here; got {shape}")
            own.copy_(found)

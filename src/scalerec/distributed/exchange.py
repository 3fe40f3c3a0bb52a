"""How a process gets the rows that others keep, and moves those that it keeps itself.

For a step, each process finds the distinct rows that its part of the batch reads, asks those that
keep them, and gets them in one exchange; in the backward pass the summed gradients go the same way
back, and who keeps a row sums what all sent and moves it once. So a row moves exactly as it would
in one process that had the whole batch, up to the order of the sums.

A table may be kept in three ways, each with a keeper: `RowKeeper`, whole rows by one process each;
`ColumnKeeper`, some columns of all rows by each process; `CopyKeeper`, all of it by each.

Shapes: K looked-up rows, M distinct ones and a padding row, N distinct rows of one keeper, W
columns, P processes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scalerec.distributed.group import Group
from scalerec.distributed.placement import TablePlan
from scalerec.distributed.wires import Wire
from scalerec.models.engines import Fetched, RemoteEngine, TableEngine
from scalerec.models.kernels.route import route

__all__ = ["ColumnKeeper", "CopyKeeper", "Keeper", "RowKeeper", "ShardedEngine"]

ROWS, IDS, GRADIENTS = "rows", "ids", "gradients of rows"


class Keeper(Protocol):
    """What a process keeps of the tables that are kept in one way."""

    own: TableEngine

    def fetch(self, wanted: Tensor, counts: list[int], out: Tensor) -> Any:
        """Bring rows here; all processes must ask at once.

        Args:
            wanted: Numbers of the rows among what is kept, ``[N]`` int64, by process.
            counts: How many of each process.
            out: To be filled with them, ``[N, W]`` float32.

        Returns:
            What `push` needs to know of the way they came.
        """
        ...

    def push(self, way: Any, grads_nw: Tensor) -> None:
        """Bring gradients ``[N, W]`` to where rows are kept, and move the own ones."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """The way that fetched rows came.

    Args:
        asked: Rows asked of each process, ``P`` lengths.
        lent: Rows that each process asked of this one.
        numbers: Which of its own, ``[sum of lent]``, by process.
    """

    asked: list[int]
    lent: list[int]
    numbers: Tensor


class RowKeeper:
    """Whole rows, each kept by one process.

    Args:
        own: Holds and moves those kept here.
        group: The processes.
        wire: How rows and gradients travel.
    """

    def __init__(self, own: TableEngine, group: Group, wire: Wire) -> None:
        self.own, self.group, self.wire = own, group, wire

    def fetch(self, wanted: Tensor, counts: list[int], out: Tensor) -> Way:
        """Ask those who keep the rows; see `Keeper`."""
        numbers, lent = self.group.ask(wanted, counts, IDS)
        matrix = self.own.matrix
        if self.wire.is_plain and matrix.dtype is out.dtype:
            self.group.lend(matrix, numbers, lent, counts, ROWS, out)
        else:
            given = self.wire.pack(matrix.index_select(0, numbers), is_gradient=False)
            out.copy_(self.wire.unpack(self.group.exchange(given, lent, counts, ROWS)))
        return Way(counts, lent, numbers)

    def push(self, way: Way, grads_nw: Tensor) -> None:
        """Send gradients back the way the rows came; see `Keeper`."""
        sent = self.wire.pack(grads_nw, is_gradient=True)
        grads = self.group.exchange(sent, way.asked, way.lent, GRADIENTS)
        self.own.update(way.numbers, self.wire.unpack(grads))


class ColumnKeeper:
    """Some columns of all rows, kept by each process.

    Args:
        own: Holds and moves the columns kept here.
        group: The processes.
        wire: How rows and gradients travel.
        bounds: The first column that each process keeps, and the last one's end, ``P + 1``.
    """

    def __init__(self, own: TableEngine, group: Group, wire: Wire, bounds: list[int]) -> None:
        self.own, self.group, self.wire, self.bounds = own, group, wire, bounds

    def fetch(self, wanted: Tensor, counts: list[int], out: Tensor) -> Way:  # noqa: ARG002
        """Ask everybody for their columns of the rows; see `Keeper`."""
        parts = self.group.gather(wanted, IDS)
        numbers, lent = torch.cat(parts), [len(part) for part in parts]
        given = self.wire.pack(self.own.matrix.index_select(0, numbers), is_gradient=False)
        asked = [len(wanted)] * self.group.world
        rank, own_columns = self.group.rank, given.shape[1]
        sizes = self._packed_columns(own_columns, self.bounds[rank + 1] - self.bounds[rank])
        flat = self.group.exchange(
            given.flatten(),
            [size * own_columns for size in lent],
            [len(wanted) * size for size in sizes],
            ROWS,
        )
        pieces = flat.split([len(wanted) * size for size in sizes])
        shaped = [piece.view(len(wanted), size) for piece, size in zip(pieces, sizes, strict=True)]
        torch.cat([self.wire.unpack(part) for part in shaped], 1, out=out)
        return Way(asked, lent, numbers)

    def push(self, way: Way, grads_nw: Tensor) -> None:
        """Send everybody the gradients of their columns; see `Keeper`."""
        widths = [high - low for low, high in zip(self.bounds, self.bounds[1:], strict=False)]
        parts = [self.wire.pack(part, is_gradient=True) for part in grads_nw.split(widths, 1)]
        own = parts[self.group.rank].shape[1]
        flat = self.group.exchange(
            torch.cat([part.flatten() for part in parts]),
            [part.numel() for part in parts],
            [size * own for size in way.lent],
            GRADIENTS,
        )
        self.own.update(way.numbers, self.wire.unpack(flat.view(-1, own)))

    def _packed_columns(self, packed: int, plain: int) -> list[int]:
        """Columns of what each process sends, which may be more than it keeps."""
        return [
            high - low + packed - plain
            for low, high in zip(self.bounds, self.bounds[1:], strict=False)
        ]


class CopyKeeper:
    """Whole tables, kept by each process, which all move them alike.

    Args:
        own: Holds and moves them.
        group: The processes.
        wire: How gradients travel.
    """

    def __init__(self, own: TableEngine, group: Group, wire: Wire) -> None:
        self.own, self.group, self.wire = own, group, wire

    def fetch(self, wanted: Tensor, counts: list[int], out: Tensor) -> Tensor:  # noqa: ARG002
        """Read the rows here; see `Keeper`."""
        out.copy_(self.own.matrix.index_select(0, wanted))
        return wanted

    def push(self, way: Tensor, grads_nw: Tensor) -> None:
        """Tell everybody the gradients; see `Keeper`."""
        numbers = torch.cat(self.group.gather(way, IDS))
        sent = self.wire.pack(grads_nw, is_gradient=True)
        parts = [self.wire.unpack(part) for part in self.group.gather(sent, GRADIENTS)]
        # In the order of ranks on all, so that the copies stay the same to the last bit.
        self.own.update(numbers, torch.cat(parts))


class ShardedEngine(RemoteEngine):
    """Fetches rows from the processes that keep them, and moves the own ones.

    Args:
        plan: Who keeps which.
        group: The processes.
        rows: Keeps whole rows.
        columns: Keeps columns; none if no table is kept so.
        copies: Keeps copies; none if no table is kept so.
    """

    def __init__(
        self,
        plan: TablePlan,
        group: Group,
        rows: RowKeeper,
        columns: ColumnKeeper | None = None,
        copies: CopyKeeper | None = None,
    ) -> None:
        super().__init__()
        self.plan, self.group = plan, group
        self.rows, self.columns, self.copies = rows, columns, copies
        self._spreads_rows = bool(plan.tables_of("row", "table")) or not (columns or copies)
        # As modules, so that they follow this one to another device.
        self.held = torch.nn.ModuleList(
            [keeper.own for keeper in (rows, columns, copies) if keeper]
        )
        sizes = np.array(list(plan.num_rows.values()), np.int64)
        self._starts = np.cumsum(sizes) - sizes
        self._homes, self._bases = plan.homes, plan.bases()

    def keepers(self) -> Iterator[Keeper]:
        """Those that keep something anywhere: of rows, of columns, of copies."""
        if self._spreads_rows:
            yield self.rows
        if self.columns:
            yield self.columns
        if self.copies:
            yield self.copies

    @property
    def matrix(self) -> Tensor:
        """The whole rows that this process keeps, live."""
        return self.rows.own.matrix

    def part_of(self, number: int) -> tuple[TableEngine, slice]:
        """Where a table's part that is kept here lies: the engine, and its rows there."""
        kind, rank = self.plan.kinds[number], self.group.rank
        keeper: Keeper | None = self.rows
        if kind in ("column", "replicated"):
            keeper = self.columns if kind == "column" else self.copies
        assert keeper is not None, "a keeper for each kind"
        start = int(self._bases[number, rank])
        return keeper.own, slice(start, start + self.plan.part(number, rank).size)

    @property
    def state(self) -> dict[str, Tensor]:
        """What the row optimiser remembers, by table, live: ``TABLE.NAME`` to ``[rows, k]``."""
        found: dict[str, Tensor] = {}
        for number, name in enumerate(self.plan.num_rows):
            engine, rows = self.part_of(number)
            found |= {f"{name}.{part}": tensor[rows] for part, tensor in engine.state.items()}
        return found

    def load_state(self, state: Mapping[str, Tensor], step: int) -> None:
        """Copy a state of what is kept here back in."""
        super().load_state(state, step)
        for keeper in self.keepers():
            keeper.own.step = step

    def fetch(self, rows: Tensor) -> Fetched:
        """Ask the processes that keep the rows ``[K]``; all of them must ask at once."""
        places, wanted, counts = self._route(rows)
        *asked, num_columns, num_copies = counts
        known = self._spreads_rows, bool(self.columns), bool(self.copies)
        counted = zip(known, (sum(asked), num_columns, num_copies), strict=True)
        sizes = [size for is_known, size in counted if is_known]
        matrix = torch.empty(1 + len(wanted), self.plan.width, device=rows.device)
        matrix[0] = 0.0
        parts = zip(self.keepers(), wanted.split(sizes), matrix[1:].split(sizes), strict=True)
        ways = [keeper.fetch(own, asked, out) for keeper, own, out in parts]
        return Fetched(places, matrix, (sizes, ways))

    def push(self, fetched: Fetched, grad_mw: Tensor) -> None:
        """Send the gradients back, and move the own rows by what all processes sent."""
        sizes, ways = fetched.ticket
        parts = grad_mw[1:].split(sizes)
        for keeper, way, part in zip(self.keepers(), ways, parts, strict=True):
            keeper.own.lr = self.lr
            keeper.push(way, part)
        self.step = next(self.keepers()).own.step

    def _route(self, rows: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Place of each row ``[K]``, the distinct ones by keeper ``[M - 1]``, how many of each."""
        device, on_cpu = rows.device, rows.cpu()
        places, wanted = torch.empty_like(on_cpu), torch.empty_like(on_cpu)
        counts = torch.empty(self.group.world + 2, dtype=torch.int64)
        maps = self._starts, self._homes, self._bases
        arrays = (tensor.numpy() for tensor in (places, wanted, counts))
        num = int(route(on_cpu.numpy(), *maps, *arrays))
        return places.to(device), wanted[:num].to(device), counts.tolist()

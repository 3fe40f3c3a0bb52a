"""Rows of spread tables that are brought to a process for a whole round of local steps.

At the round's begin each process asks once for all rows that its steps will read, with what the row
optimiser remembers of them. Its steps move the copies. At the end it sends what has changed, and
who keeps a row moves it, and its optimiser's numbers, by the weighted mean over the processes that
held it: `weighted_mean(over="holders")` of `scalerec.rounds`.

Shapes: K looked-up rows, M distinct ones and a padding row, N distinct rows of one keeper, W
columns, S numbers of a row's state, P processes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalerec.data.batches import Batch
from scalerec.distributed.exchange import ColumnKeeper, CopyKeeper, Keeper, RowKeeper, ShardedEngine
from scalerec.distributed.group import Group
from scalerec.distributed.tables import ShardedTables
from scalerec.errors import ConfigError
from scalerec.models.compiled import CompiledEngine
from scalerec.models.engines import Fetched, FusedEngine, RemoteEngine, TableEngine
from scalerec.models.kernels import move
from scalerec.models.kernels.find import enter, find, table_size
from scalerec.rounds import TableRows, Update, weighted_mean

__all__ = ["Cache", "CachedEngine"]

STATE, ROWS = "states of rows", "displaced rows"
# The step at which a row was last touched: of several, the latest holds.
LATEST = "last"


class CachedEngine(RemoteEngine):
    """Looks rows up in a cache, and moves them there.

    Args:
        near: Holds and moves the cached rows, ``[M, W]``; the first is padding.
        far: The engine in whose place this one stands for a round.
        rows: Of the whole matrix, ``[K]`` int64.
        places: Where each is cached, ``[K]`` int64.
    """

    def __init__(self, near: TableEngine, far: ShardedEngine, rows: Tensor, places: Tensor) -> None:
        super().__init__()
        self.near, self.lr, self.step = near, far.lr, far.step
        # Not as a module: it would be a second parent.
        self._far = (far,)
        size = table_size(len(near.matrix))
        self._keys, self._values = np.full(size, -1, np.int64), np.empty(size, np.int32)
        enter(rows.cpu().numpy(), places.cpu().numpy(), self._keys, self._values)

    @property
    def matrix(self) -> Tensor:
        """The cached rows, live."""
        return self.near.matrix

    @property
    def state(self) -> dict[str, Tensor]:
        """What the row optimiser remembers of them, live."""
        return self.near.state

    def part_of(self, number: int) -> tuple[TableEngine, slice]:
        """As the engine's in whose place this one stands."""
        return self._far[0].part_of(number)

    def fetch(self, rows: Tensor) -> Fetched:
        """Find the rows ``[K]`` in the cache.

        Raises:
            KeyError: If one is not there.
        """
        on_cpu = rows.cpu()
        places = torch.empty_like(on_cpu)
        missing = int(find(on_cpu.numpy(), self._keys, self._values, places.numpy()))
        if missing >= 0:
            raise KeyError(f"row {missing} of the tables was not brought here for this round")
        self.near.lr = self.lr
        # An engine that does not know padding may have moved it.
        self.near.matrix[0] = 0.0
        return Fetched(places.to(rows.device), self.near.matrix, None, self.near)

    def push(self, fetched: Fetched, grad_mw: Tensor) -> None:
        """Move the cached rows that were looked up."""
        touched = torch.unique(fetched.places)
        touched = touched[touched > 0]
        self.near.update(touched, grad_mw[touched])

    def lookup(self, rows: Tensor) -> Tensor:
        """The rows; their gradient moves the cached ones within the backward pass."""
        return self.near.lookup(self.fetch(rows).places)


class Cache:
    """The rows of one round, in the place of the tables' engine until `give_back`.

    All processes must make theirs, and give them back, at once.

    Args:
        tables: Spread over the processes.
        batches: All that this process will read in the round.

    Raises:
        ConfigError: If a table is kept by columns.
    """

    def __init__(self, tables: ShardedTables, batches: Sequence[Batch]) -> None:
        far = tables.engine
        assert isinstance(far, ShardedEngine), "rounds do not overlap"
        if far.columns:
            name = list(tables.num_rows)[list(tables.plan.kinds).index("column")]
            raise ConfigError(
                "aggregate 'local' needs tables kept by row, by table or replicated; table "
                f"{name!r} is kept by column; set its placement, or sharding = 'row'"
            )
        self.tables, self.far, self.group = tables, far, tables.group
        device = self.group.device
        rows = torch.cat([tables.rows_of(batch.to(device)) for batch in batches])
        fetched = far.fetch(rows)
        sizes, ways = fetched.ticket
        self._ways = list(zip(far.keepers(), ways, sizes, strict=True))
        self._widths = {n: t.shape[1] for n, t in far.rows.own.state.items()}
        self._start = fetched.rows_mw
        self._state = self._bring_state(fetched.rows_mw)
        self.near = _engine_like(far.rows.own, fetched.rows_mw.clone())
        self.near.load_state(self._by_name(self._state), far.step)
        tables.engine = CachedEngine(self.near, far, rows, fetched.places)

    def give_back(self, weights: Sequence[float], scale: float = 1.0) -> None:
        """Move the kept rows by what all processes changed, and put the engine back.

        Args:
            weights: What each process counts for.
            scale: Share of a row's mean displacement that is taken.
        """
        far = self.tables.engine = self.far
        if sum(weights) > 0:
            moves = (self.near.matrix - self._start)[1:]
            states = _join(self.near.state, self.near.matrix)
            before = self._by_name(self._state)
            for name, part in self._by_name(states).items():
                if name != LATEST:
                    part.sub_(before[name])
            num_first = 0
            for keeper, way, size in self._ways:
                own = slice(num_first, num_first + size)
                num_first += size
                self._move(keeper, way, (moves[own], states[1:][own]), weights, scale)
        own_step = torch.tensor([self.near.step], device=self.group.device)
        steps = self.group.gather(own_step, "steps")
        far.step = max(int(step) for step in steps)
        for keeper in far.keepers():
            keeper.own.step = far.step

    def _bring_state(self, rows_mw: Tensor) -> Tensor:
        """What the row optimiser remembers of the cached rows, ``[M, S]``."""
        parts = [rows_mw.new_zeros(1, sum(self._widths.values()))]
        for keeper, way, _ in self._ways:
            if isinstance(keeper, RowKeeper):
                given = _join(keeper.own.state, keeper.own.matrix, way.numbers)
                parts.append(_exchange(given, way.lent, way.asked, self.group))
            else:
                parts.append(_join(keeper.own.state, keeper.own.matrix, way))
        return torch.cat(parts)

    def _by_name(self, joined: Tensor) -> dict[str, Tensor]:
        parts = joined.split(list(self._widths.values()), 1) if self._widths else ()
        return dict(zip(self._widths, parts, strict=True))

    def _move(
        self,
        keeper: Keeper,
        way: Any,
        changed: tuple[Tensor, Tensor],
        weights: Sequence[float],
        scale: float,
    ) -> None:
        """Move what one keeper keeps by the mean over the processes that held each row."""
        assert not isinstance(keeper, ColumnKeeper), "refused above"
        numbers, moves, states = _arrived(keeper, way, changed, self.group)
        mean = _mean(numbers, moves, weights)
        matrix = keeper.own.matrix
        moved = matrix[mean.rows].float() + scale * mean.values
        matrix[mean.rows] = moved.to(matrix.dtype)
        mean = _mean(numbers, states, weights)
        live = keeper.own.state
        for name, part in self._by_name(mean.values).items():
            if name != LATEST:
                live[name][mean.rows] += part
        if LATEST in live:
            for rows, found in zip(numbers, states, strict=True):
                latest = self._by_name(found)[LATEST]
                live[LATEST][rows] = torch.maximum(live[LATEST][rows], latest)


def _arrived(
    keeper: Keeper, way: Any, changed: tuple[Tensor, Tensor], group: Group
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Of every process: the rows that it held, their displacements, and their states'."""
    moves, states = changed
    if isinstance(keeper, CopyKeeper):
        numbers = group.gather(way, "ids")
        sent = keeper.wire.pack(moves, is_gradient=True)
        arrived = [keeper.wire.unpack(part) for part in group.gather(sent, ROWS)]
        return numbers, arrived, group.gather(states, STATE)
    assert isinstance(keeper, RowKeeper), "one of the two"
    sent = keeper.wire.pack(moves, is_gradient=True)
    together = keeper.wire.unpack(group.exchange(sent, way.asked, way.lent, ROWS))
    found = _exchange(states, way.asked, way.lent, group)
    split = (tensor.split(way.lent) for tensor in (way.numbers, together, found))
    numbers, arrived, given = (list(parts) for parts in split)
    return numbers, arrived, given


def _exchange(states: Tensor, sent: list[int], received: list[int], group: Group) -> Tensor:
    """Bring states of rows; some optimisers remember nothing."""
    if not states.shape[1]:
        return states.new_zeros(sum(received), 0)
    return group.exchange(states, sent, received, STATE)


def _mean(numbers: list[Tensor], values: list[Tensor], weights: Sequence[float]) -> TableRows:
    updates = [
        Update(dense={}, tables={"rows": TableRows(rows=rows, values=part)}, weight=weight)
        for rows, part, weight in zip(numbers, values, weights, strict=True)
    ]
    return weighted_mean(updates, over="holders").tables["rows"]


def _join(state: Mapping[str, Tensor], matrix: Tensor, rows: Tensor | None = None) -> Tensor:
    """A state's parts side by side, ``[N, S]``; of all rows, or of some."""
    size = len(matrix) if rows is None else len(rows)
    parts = [tensor if rows is None else tensor[rows] for tensor in state.values()]
    return torch.cat([matrix.new_zeros(size, 0, dtype=torch.float32), *parts], 1)


def _engine_like(own: TableEngine, matrix: Tensor) -> TableEngine:
    """An engine that moves other rows in the same way."""
    if isinstance(own, CompiledEngine):
        name = next(name for name, kind in move.KINDS.items() if kind == own.kind)
        return CompiledEngine(matrix, own.optimiser, name, own.seed)
    assert isinstance(own, FusedEngine), "an engine that spread tables take"
    return FusedEngine(matrix, own.optimiser)

"""Tables that are spread over processes on their way into a bundle, a few rows at a time.

Process 0 writes. It asks for a stretch of a table, those who keep it send what they keep of it, and
it goes to the file before the next is asked for: nobody ever holds a table that is not its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from scalerec.bundle.pieces import Pieces
from scalerec.distributed.group import Group
from scalerec.distributed.tables import ShardedTables
from scalerec.models.recommender import Recommender

__all__ = ["lend_tables"]

# Bytes that travel at a time, about.
PIECE_BYTES = 1 << 22
PURPOSE = "whole tables"
DONE = -1


@contextmanager
def lend_tables(recommender: Recommender, group: Group) -> Iterator[dict[str, Pieces]]:
    """Let process 0 read whole tables, piece by piece, while the block runs.

    All processes must enter at once. The others send what they are asked for, and enter the block
    when process 0 has left it, whether well or not.

    Args:
        recommender: This process's.
        group: The processes.

    Yields:
        By the name that a bundle has for it, each table that no process holds whole; nothing on
        processes other than 0.
    """
    tables = recommender.tables
    if not isinstance(tables, ShardedTables):
        yield {}
        return
    names = list(tables.num_rows)
    if group.rank:
        while (stretch := _tell(group, None))[0] != DONE:
            _bring(tables, stretch, group)
        yield {}
        return
    try:
        yield {f"tables.{name}.weight": _pieces(tables, names.index(name), group) for name in names}
    finally:
        _tell(group, (DONE, 0, 0))


def _pieces(tables: ShardedTables, table: int, group: Group) -> Pieces:
    """One table, as process 0 reads it."""
    size, width = list(tables.num_rows.values())[table], tables.plan.width
    dtype = tables.table(list(tables.num_rows)[table]).dtype
    rows = max(1, PIECE_BYTES // (width * dtype.itemsize))

    def read() -> Iterator[Tensor]:
        for first in range(0, size, rows):
            stretch = table, first, min(first + rows, size)
            _tell(group, stretch)
            yield _bring(tables, stretch, group)

    return Pieces(dtype, (size, width), read)


def _tell(group: Group, stretch: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """What process 0 asks for next: a table and its rows from the first to the last + 1."""
    told = torch.tensor(stretch or (0, 0, 0), device=group.device)
    table, first, last = group.sum(told, PURPOSE).tolist()
    return table, first, last


def _bring(tables: ShardedTables, stretch: tuple[int, int, int], group: Group) -> Tensor:
    """Send what is kept here of a stretch to process 0; there, give it whole ``[rows, W]``."""
    table, first, last = stretch
    plan, name = tables.plan, list(tables.num_rows)[table]
    lengths = [0] * group.world
    places = [(slice(0), slice(0))] * group.world
    mine = tables.table(name)[:0].flatten()
    for process in plan.writers(table):
        part = plan.part(table, process)
        low, high = part.rows_between(first, last)
        lengths[process] = (high - low) * (part.high - part.low)
        start = part.first + low * part.step - first
        rows = slice(start, start + (high - low) * part.step, part.step)
        places[process] = rows, slice(part.low, part.high)
        if process == group.rank:
            mine = tables.table(name)[low:high].flatten()
    here = group.rank == 0
    sent = [len(mine), *[0] * (group.world - 1)]
    received = lengths if here else [0] * group.world
    arrived = group.exchange(mine, sent, received, PURPOSE)
    whole = mine.new_empty(last - first if here else 0, plan.width)
    for piece, (rows, columns) in zip(arrived.split(received), places, strict=True):
        if here and len(piece):
            whole[rows, columns] = piece.view(-1, columns.stop - columns.start)
    return whole

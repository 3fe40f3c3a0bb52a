"""A model whose tables are spread over processes, put together for a bundle."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from scalerec.distributed.group import Group
from scalerec.distributed.placement import RowPlan
from scalerec.distributed.tables import ShardedTables
from scalerec.models.recommender import Recommender

__all__ = ["collect"]

# Rows that travel at a time, so that nobody holds more of the others' than these.
CHUNK = 65_536


def collect(recommender: Recommender, group: Group) -> Recommender | None:
    """Put the whole model together on process 0; the others get none.

    Its tables lie in a file that is mapped into memory and goes when the model does: the process
    holds the rows that it keeps, some that arrive, and what the system caches of the file.

    Args:
        recommender: This process's; all must call at once.
        group: The processes.
    """
    tables = recommender.tables
    if not isinstance(tables, ShardedTables):
        return recommender if group.rank == 0 else None
    size, width = sum(tables.num_rows.values()), tables.matrix.shape[1]
    whole = _mapped(size, width) if group.rank == 0 else torch.empty(0, width)
    start = 0
    for number, (name, num_rows) in enumerate(tables.num_rows.items()):
        own = tables.table(name).float()
        for first in range(0, num_rows, CHUNK):
            last = min(first + CHUNK, num_rows)
            _bring(own, (number, first, last), tables.plan, group, whole[start + first :])
        start += num_rows
    if group.rank:
        return None
    generator = torch.Generator()
    found = Recommender(recommender.layout, recommender.spec, generator, draw_tables=False)
    found.tables.take_over(whole, tables.num_rows, dict.fromkeys(tables.maps))
    found.load_dense(recommender.to_tensors())
    return found.eval()


def _bring(
    own: Tensor, stretch: tuple[int, int, int], plan: RowPlan, group: Group, target: Tensor
) -> None:
    """Bring a stretch of one table's rows to process 0, into the start of `target`."""
    table, first, last = stretch
    lengths, places = [], []
    for process in range(group.world):
        start, step = plan.first_and_step(table, process)
        num = plan.kept(table, process)
        low, high = (min(num, max(0, -(-(bound - start) // step))) for bound in (first, last))
        lengths.append(high - low)
        places.append((start + low * step - first, step))
        if process == group.rank:
            mine = own[low:high]
    none = [0] * group.world
    sent = [len(mine), *none[1:]]
    arrived = group.exchange(mine, sent, lengths if group.rank == 0 else none, "whole tables")
    if group.rank == 0:
        for part, (place, step) in zip(arrived.split(lengths), places, strict=True):
            if len(part):
                target[place : place + (len(part) - 1) * step + 1 : step] = part


def _mapped(size: int, width: int) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        # The file has no name any more once the folder is gone, and no bytes once nobody maps it.
        path = Path(folder) / "rows"
        return torch.from_file(str(path), shared=True, size=size * width).view(size, width)

"""Tasks of an update divided among processes, and what all of them found put together.

Every process draws the same tasks, adapts its part of them, and then moves the same start by the
same mean; nothing else is sent. Tables are whole on each.

Shapes: T tasks of all processes, K rows of one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from scalerec.meta.algorithms import OWN_ROWS, ROWS, Learned
from scalerec.meta.episodes import Laid
from scalerec.rounds import Parameters, TableRows, Update, sum_rows, weighted_mean
from scalerec.train.runtime import Runtime

__all__ = ["part_of", "put_together"]

PURPOSE = "updates of tasks"


def part_of(laid: Laid, runtime: Runtime) -> Laid:
    """The tasks of this process, a run of them; there may be none."""
    if runtime.world == 1:
        return laid
    return laid.take(torch.arange(len(laid)).tensor_split(runtime.world)[runtime.rank])


def put_together(
    learned: Sequence[Learned], like: Parameters, runtime: Runtime
) -> tuple[list[Update], Tensor]:
    """What all processes found: updates, the same on all, and the tasks' losses, ``[T]``.

    Args:
        learned: What this process's tasks gave, part by part; nothing if it had none.
        like: What the updates move.
        runtime: The processes; all must call at once.
    """
    losses = torch.cat([own.losses for own in learned]) if learned else torch.zeros(0)
    updates = [own.update for own in learned]
    if runtime.world == 1:
        return updates, losses
    losses = torch.cat(runtime.gather(losses, PURPOSE))
    own = weighted_mean(updates) if any(u.weight for u in updates) else Update.zero()
    weight = float(runtime.sum(torch.tensor([own.weight], dtype=torch.float64)))
    if not weight:
        return [Update.zero()], losses
    share = own.scale(own.weight / weight)
    dense = _sum_dense(share, like, runtime)
    tables = {}
    for name in (ROWS, OWN_ROWS):
        found = _sum_rows(name, share, like.tables[ROWS], runtime)
        if len(found.rows):
            tables[name] = found
    return [Update(dense=dense, tables=tables, weight=weight)], losses


def _sum_dense(share: Update, like: Parameters, runtime: Runtime) -> dict[str, Tensor]:
    """The sum over processes of everything outside the tables, in one message."""
    parts = [share.dense.get(name, torch.zeros_like(own)) for name, own in like.dense.items()]
    total = runtime.sum(torch.cat([part.flatten() for part in parts]))
    sizes = [own.numel() for own in like.dense.values()]
    pairs = zip(like.dense.items(), total.split(sizes), strict=True)
    return {name: flat.view(own.shape) for (name, own), flat in pairs}


def _sum_rows(name: str, share: Update, matrix: Tensor, runtime: Runtime) -> TableRows:
    """The sum over processes of some rows; each sends its own alone."""
    width = matrix.shape[1] + (name == OWN_ROWS)
    none = TableRows(rows=torch.zeros(0, dtype=torch.int64), values=matrix.new_zeros(0, width))
    own = share.tables.get(name, none)
    rows, values = (runtime.gather(tensor, PURPOSE) for tensor in (own.rows, own.values))
    return sum_rows(name, [TableRows(rows=r, values=v) for r, v in zip(rows, values, strict=True)])

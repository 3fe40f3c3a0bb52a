"""Checkpoints across the line between one process and several: each goes on from the other's.

One process keeps a whole checkpoint in one file, several keep a part each. Whoever writes removes
the other's; after a kill in between both are there, and the later one counts.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from scalerec.distributed.checkpoints import (
    POINTER,
    join_parts,
    read_part,
    read_pointer,
    remove_parts,
    table_of,
)
from scalerec.distributed.group import Group
from scalerec.distributed.placement import Placement, TablePlan
from scalerec.distributed.tables import ShardedTables
from scalerec.errors import TrainError
from scalerec.train.checkpoints import (
    FILE,
    UNREADABLE,
    Checkpoint,
    read_checkpoint,
    remove_checkpoint,
)
from scalerec.train.runtime import OneProcess

__all__ = ["SingleProcess", "is_of_one", "read_part_of_one", "remove_of_one"]


class SingleProcess(OneProcess):
    """As `OneProcess`; it goes on from what several processes wrote, too."""

    def read_checkpoint(self, folder: Path) -> Checkpoint | None:
        """The folder's checkpoint, whole, whoever wrote it."""
        if is_of_one(folder) or not (folder / POINTER).is_file():
            return super().read_checkpoint(folder)
        return _join_all(folder)

    def write_checkpoint(self, folder: Path, checkpoint: Checkpoint) -> None:
        """As `OneProcess`; what several processes wrote goes."""
        super().write_checkpoint(folder, checkpoint)
        remove_parts(folder, Group(0, 1, self.device))

    def remove_checkpoint(self, folder: Path) -> None:
        """Remove the checkpoint of a run that is done, whoever wrote it."""
        super().remove_checkpoint(folder)
        remove_parts(folder, Group(0, 1, self.device))


def is_of_one(folder: Path) -> bool:
    """Whether one process wrote the folder's last checkpoint.

    Raises:
        TrainError: If a checkpoint is not readable.
    """
    path = folder / FILE
    if not path.is_file():
        return False
    if not (folder / POINTER).is_file():
        return True
    try:
        with safe_open(path, "pt") as file:
            step = int(json.loads(file.metadata()["scalerec"])["state"]["step"])
    except UNREADABLE as error:
        raise TrainError(f"{path}: not a checkpoint: {error}; remove it to start anew") from error
    return step > read_pointer(folder).step


def remove_of_one(folder: Path, group: Group) -> None:
    """Remove what one process wrote, once several have written or the run is done."""
    if group.rank == 0:
        remove_checkpoint(folder)
    group.wait()


def read_part_of_one(folder: Path, tables: ShardedTables | None, rank: int) -> Checkpoint | None:
    """This process's part of a checkpoint that one process wrote.

    Args:
        folder: Of the run's checkpoints.
        tables: Of which each process keeps a part; none if all have all.
        rank: This process's number.

    Raises:
        TrainError: If it is not readable, was changed, or is of other tables.
    """
    found = read_checkpoint(folder)
    if found is None or tables is None:
        return found
    before = _whole_plan(tables.plan)
    tensors: dict[str, Tensor] = {}
    for name, tensor in found.tensors.items():
        if name.startswith("rows."):
            part = name.removeprefix("rows.")
            sizes = list(before.num_rows.values())
            if len(tensor) != sum(sizes):
                raise TrainError(
                    f"{folder}: the checkpoint has state of {len(tensor)} rows; now there are "
                    f"{sum(sizes)}"
                )
            split = zip(before.num_rows, tensor.split(sizes), strict=True)
            tensors |= {f"rows.{table}.{part}": own for table, own in split}
        else:
            tensors[name] = tensor
    for name, tensor in tensors.items():
        if table := table_of(name):
            place = rank, list(before.num_rows).index(table)
            is_row = name.rpartition(".")[2] in tables.row_state
            plans = before, tables.plan
            tensors[name] = join_parts({0: tensor}, plans, place, whole_rows=is_row)
    return Checkpoint(tensors, found.state)


def _join_all(folder: Path) -> Checkpoint:
    """What several processes wrote, as one process has it."""
    pointer = read_pointer(folder)
    parts = [read_part(pointer.parts / str(rank)) for rank in range(pointer.world)]
    before, first = pointer.plan, parts[0]
    if before is None:
        return first
    after, numbers = _whole_plan(before), list(before.num_rows)
    names = list(dict.fromkeys(name for part in parts for name in part.tensors))
    tensors: dict[str, Tensor] = {n: t for n, t in first.tensors.items() if not table_of(n)}
    state: dict[str, dict[str, Tensor]] = {}
    for name in names:
        if table := table_of(name):
            held = {rank: p.tensors[name] for rank, p in enumerate(parts) if name in p.tensors}
            place, kind = (0, numbers.index(table)), name.rpartition(".")[2]
            is_row = kind in pointer.row_state
            whole = join_parts(held, (before, after), place, whole_rows=is_row)
            if name.startswith("rows."):
                state.setdefault(kind, {})[table] = whole
            else:
                tensors[name] = whole
    for kind, by_table in state.items():
        # One matrix holds all tables of one process, in the order of the layout.
        tensors[f"rows.{kind}"] = torch.cat([by_table[table] for table in numbers])
    return Checkpoint(tensors, first.state)


def _whole_plan(plan: TablePlan) -> TablePlan:
    """The same tables, all kept by one process."""
    placements = {name: Placement() for name in plan.num_rows}
    return TablePlan(num_rows=plan.num_rows, placements=placements, world=1, width=plan.width)

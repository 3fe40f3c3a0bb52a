"""Checkpoints of several processes: each writes the rows it keeps, and any number may go on.

A checkpoint is a folder of one file a process, and `checkpoint.json` beside it names the folder
that is whole: it is replaced when all processes have written, so a run that is killed at any
moment, or whose disk is full, leaves the last whole checkpoint.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalerec.distributed.group import Group
from scalerec.distributed.placement import TablePlan
from scalerec.distributed.tables import ShardedTables
from scalerec.errors import TrainError
from scalerec.train.checkpoints import Checkpoint, read_checkpoint, write_checkpoint

__all__ = [
    "POINTER",
    "Pointer",
    "join_parts",
    "read_part",
    "read_parts",
    "read_pointer",
    "remove_parts",
    "table_of",
    "write_parts",
]

POINTER = "checkpoint.json"
# Rows that are put together at a time.
CHUNK = 262_144


@dataclass(frozen=True, slots=True)
class Pointer:
    """What `checkpoint.json` says of the checkpoint that is whole.

    Args:
        parts: The folder of its parts.
        step: Steps taken until then.
        world: How many processes wrote it.
        plan: Where tables were kept; none if all had all.
        row_state: Of the row optimiser's state, what is one number a row.
        own: How names begin of what every process had its own of.
    """

    parts: Path
    step: int
    world: int
    plan: TablePlan | None
    row_state: frozenset[str]
    own: tuple[str, ...]


def read_pointer(folder: Path) -> Pointer:
    """Which checkpoint of several processes is whole.

    Raises:
        TrainError: If that cannot be read.
    """
    try:
        facts = json.loads((folder / POINTER).read_text("utf-8"))
        return Pointer(
            parts=folder / facts["folder"],
            step=int(facts["step"]),
            world=int(facts["world"]),
            plan=TablePlan.from_dict(facts["plan"]) if facts["plan"] else None,
            row_state=frozenset(facts["row_state"]),
            own=tuple(facts["own"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainError(f"{folder / POINTER}: not a checkpoint: {error}") from error


def write_parts(
    folder: Path,
    checkpoint: Checkpoint,
    group: Group,
    tables: ShardedTables | None,
    own_heads: tuple[str, ...] = (),
) -> None:
    """Write a checkpoint together, or leave the earlier one as it was.

    Args:
        folder: Of the run's checkpoints; all processes must reach it.
        checkpoint: What this process has; of what is not part of a table, process 0's counts.
        group: The processes.
        tables: Of which each keeps a part; none if all have all.
        own_heads: How names begin of what every process has its own of.

    Raises:
        TrainError: On every process, if one of them could not write.
    """
    name = f"step-{checkpoint.state['step']}-of-{group.world}"
    own = {
        key: tensor
        for key, tensor in checkpoint.tensors.items()
        if key.startswith(own_heads) or group.rank in _writers(key, tables)
    }
    fault = ""
    try:
        write_checkpoint(folder / name / str(group.rank), Checkpoint(own, checkpoint.state))
    except TrainError as error:
        fault = f"process {group.rank}: {error}"
    if faults := _faults(group, fault):
        if group.rank == 0:
            shutil.rmtree(folder / name, ignore_errors=True)
        raise TrainError("; ".join(faults))
    if group.rank == 0:
        facts = {
            "folder": name,
            "step": checkpoint.state["step"],
            "world": group.world,
            "plan": tables.plan.to_dict() if tables else None,
            "row_state": sorted(tables.row_state) if tables else [],
            "own": list(own_heads),
        }
        fault = _point(folder, facts)
    if faults := _faults(group, fault):
        raise TrainError("; ".join(faults))


def read_parts(folder: Path, group: Group, tables: ShardedTables | None) -> Checkpoint | None:
    """Read the folder's checkpoint, whatever number of processes wrote it; None if there is none.

    Args:
        folder: Of the run's checkpoints.
        group: The processes that go on.
        tables: Of which each keeps a part; none if all have all.

    Raises:
        TrainError: If it is not readable, was changed, or is of other tables.
    """
    if not (folder / POINTER).is_file():
        return None
    pointer = read_pointer(folder)
    if (pointer.plan is None) != (tables is None):
        raise TrainError(f"{folder}: the checkpoint's tables are kept in another way")
    tensors: dict[str, Tensor] = {}
    own: dict[str, list[Tensor]] = {}
    state: Mapping[str, Any] = {}
    for rank in range(pointer.world):
        # One at a time, and nothing of it stays but what is kept here.
        part = read_part(pointer.parts / str(rank))
        state = state or part.state
        _take(part, rank, pointer, (tables, group.rank), tensors)
        for name, tensor in part.tensors.items():
            if name.startswith(pointer.own):
                own.setdefault(name, []).append(tensor.clone())
        del part
    tensors |= {name: _own(held, group) for name, held in own.items()}
    return Checkpoint(tensors, state)


def _take(
    part: Checkpoint,
    rank: int,
    pointer: Pointer,
    keeper: tuple[ShardedTables | None, int],
    tensors: dict[str, Tensor],
) -> None:
    """Take from what one process wrote what this one keeps; from the first, what is all's too."""
    tables, own_rank = keeper
    for name, tensor in part.tensors.items():
        table = table_of(name)
        if table and pointer.plan and tables:
            tensors[name] = join_parts(
                {rank: tensor},
                (pointer.plan, tables.plan),
                (own_rank, list(pointer.plan.num_rows).index(table)),
                whole_rows=name.rpartition(".")[2] in pointer.row_state,
                out=tensors.get(name),
            )
        elif rank == 0:
            tensors[name] = tensor.clone()


def remove_parts(folder: Path, group: Group) -> None:
    """Remove the checkpoint of a run that is done, and its folder if nothing else is in it."""
    if group.rank == 0:
        (folder / POINTER).unlink(missing_ok=True)
        for part in folder.glob("step-*-of-*"):
            shutil.rmtree(part, ignore_errors=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    group.wait()


def table_of(name: str) -> str:
    """The table that a tensor of a checkpoint belongs to, or nothing."""
    if name.startswith("rows."):
        return name.removeprefix("rows.").rpartition(".")[0]
    head, _, rest = name.partition("tables.")
    is_weight = head in ("model.", "kept.") and rest.endswith(".weight")
    return rest.removesuffix(".weight") if is_weight else ""


def join_parts(
    parts: Mapping[int, Tensor],
    plans: tuple[TablePlan, TablePlan],
    place: tuple[int, int],
    *,
    whole_rows: bool,
    out: Tensor | None = None,
) -> Tensor:
    """What a process keeps now of a table, from what all processes kept before.

    Args:
        parts: What each that wrote it had, by rank, ``[rows, columns]``.
        plans: Where tables were kept, and where they are now.
        place: The process, and the table's number.
        whole_rows: Whether there is one number for a row, whatever columns are kept.
        out: What others had, to be filled further; they may come one by one.

    Raises:
        TrainError: If the tables are of other sizes.
    """
    before, after = plans
    if (dict(before.num_rows), before.width) != (dict(after.num_rows), after.width):
        raise TrainError(
            f"the checkpoint has tables of {dict(before.num_rows)} rows of {before.width} numbers; "
            f"now they have {dict(after.num_rows)} of {after.width}"
        )
    rank, table = place
    wanted = after.part(table, rank)
    low, high = (0, 1) if whole_rows else (wanted.low, wanted.high)
    if out is None:
        out = next(iter(parts.values())).new_empty(wanted.size, high - low)
    for other, tensor in parts.items():
        own = before.part(table, other)
        first, last = (0, 1) if whole_rows else (own.low, own.high)
        start = first
        first, last = max(first, low), min(last, high)
        if first >= last or not own.size:
            continue
        for begin in range(0, wanted.size, CHUNK):
            end = min(begin + CHUNK, wanted.size)
            rows = wanted.first + wanted.step * torch.arange(begin, end)
            here = ((rows - own.first) % own.step == 0).nonzero().squeeze(1)
            numbers = (rows[here] - own.first) // own.step
            piece = tensor[numbers, first - start : last - start]
            out[begin + here, first - low : last - low] = piece
    return out


def _writers(name: str, tables: ShardedTables | None) -> list[int]:
    """The processes that write a tensor of a checkpoint."""
    table = table_of(name) if tables else ""
    return tables.plan.writers(list(tables.num_rows).index(table)) if tables and table else [0]


def _own(parts: list[Tensor], group: Group) -> Tensor:
    """What this process had, or, if there were not as many processes, the mean of what all had.

    So the mean over the processes, which is what they exchange, is as it was.
    """
    if len(parts) == group.world:
        return parts[group.rank]
    return torch.stack([part.double() for part in parts]).mean(0).to(parts[0].dtype)


def read_part(folder: Path) -> Checkpoint:
    """What one process wrote.

    Raises:
        TrainError: If it is missing, not readable, or was changed.
    """
    found = read_checkpoint(folder)
    if found is None:
        raise TrainError(f"{folder}: this part of the checkpoint is missing")
    return found


def _faults(group: Group, own: str) -> list[str]:
    """What went wrong, on any process; all must ask."""
    return [found["fault"] for found in group.gather_facts({"fault": own}) if found["fault"]]


def _point(folder: Path, facts: dict[str, Any]) -> str:
    """Name the checkpoint that is whole, and remove the others; give what went wrong, if it did."""
    try:
        _replace(folder / POINTER, json.dumps(facts))
    except OSError as error:
        shutil.rmtree(folder / facts["folder"], ignore_errors=True)
        return (
            f"{folder}: the checkpoint cannot be written: {error}; the earlier one, if any, stays"
        )
    for other in folder.glob("step-*-of-*"):
        if other.name != facts["folder"]:
            shutil.rmtree(other, ignore_errors=True)
    return ""


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)

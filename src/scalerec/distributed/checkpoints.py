"""Checkpoints of several processes: each writes the rows it keeps, and any number may go on.

A checkpoint is a folder of one file a process, and `checkpoint.json` beside it names the folder
that is whole: it is replaced when all processes have written, so a run that is killed at any
moment, or whose disk is full, leaves the last whole checkpoint.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from torch import Tensor

from scalerec.distributed.group import Group
from scalerec.distributed.placement import RowPlan
from scalerec.errors import TrainError
from scalerec.train.checkpoints import Checkpoint, read_checkpoint, write_checkpoint

__all__ = ["join_rows", "read_parts", "remove_parts", "write_parts"]

POINTER = "checkpoint.json"


def write_parts(folder: Path, checkpoint: Checkpoint, group: Group, plan: RowPlan | None) -> None:
    """Write a checkpoint together, or leave the earlier one as it was.

    Args:
        folder: Of the run's checkpoints; all processes must reach it.
        checkpoint: What this process has; of what is not rows kept here, process 0's counts.
        group: The processes.
        plan: Which rows of tables each keeps; none if all have all.

    Raises:
        TrainError: On every process, if one of them could not write.
    """
    name = f"step-{checkpoint.state['step']}-of-{group.world}"
    own = dict(checkpoint.tensors)
    if group.rank:
        own = {key: tensor for key, tensor in own.items() if plan and is_rows(key)}
    fault = ""
    try:
        write_checkpoint(folder / name / str(group.rank), Checkpoint(own, checkpoint.state))
    except TrainError as error:
        fault = f"process {group.rank}: {error}"
    faults = [found["fault"] for found in group.gather_facts({"fault": fault}) if found["fault"]]
    if faults:
        if group.rank == 0:
            shutil.rmtree(folder / name, ignore_errors=True)
        raise TrainError("; ".join(faults))
    if group.rank == 0:
        facts = {"folder": name, "world": group.world, "plan": plan.to_dict() if plan else None}
        _replace(folder / POINTER, json.dumps(facts))
        for other in folder.glob("step-*-of-*"):
            if other.name != name:
                shutil.rmtree(other, ignore_errors=True)
    group.wait()


def read_parts(folder: Path, group: Group, plan: RowPlan | None) -> Checkpoint | None:
    """Read the folder's checkpoint, whatever number of processes wrote it; None if there is none.

    Args:
        folder: Of the run's checkpoints.
        group: The processes that go on.
        plan: Which rows each of them keeps; none if all have all.

    Raises:
        TrainError: If it is not readable, was changed, or keeps other tables.
    """
    try:
        facts = json.loads((folder / POINTER).read_text("utf-8"))
        parts, world = folder / facts["folder"], int(facts["world"])
        before = RowPlan.from_dict(facts["plan"]) if facts["plan"] else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainError(f"{folder / POINTER}: not a checkpoint: {error}") from error
    first = _part(parts / "0")
    if before is None or plan is None:
        if (before is None) != (plan is None):
            raise TrainError(f"{folder}: the checkpoint's tables are kept in another way")
        return first
    others = [first, *(_part(parts / str(rank)) for rank in range(1, world))]
    tensors = dict(first.tensors)
    for name in first.tensors:
        if is_rows(name):
            held = [part.tensors[name] for part in others]
            tensors[name] = join_rows(held, before, plan, group.rank, table_of(name, plan))
    return Checkpoint(tensors, first.state)


def remove_parts(folder: Path, group: Group) -> None:
    """Remove the checkpoint of a run that is done, and its folder if nothing else is in it."""
    if group.rank == 0:
        (folder / POINTER).unlink(missing_ok=True)
        for part in folder.glob("step-*-of-*"):
            shutil.rmtree(part, ignore_errors=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    group.wait()


def is_rows(name: str) -> bool:
    """Whether a tensor of a checkpoint holds something for each row kept."""
    return name.startswith("rows.") or (".tables." in name and name.endswith(".weight"))


def table_of(name: str, plan: RowPlan) -> int | None:
    """Number of the table whose rows a tensor holds; none where it holds those of all tables."""
    if name.startswith("rows."):
        return None
    table = name.partition(".tables.")[2].removesuffix(".weight")
    return list(plan.num_rows).index(table)


def join_rows(
    parts: list[Tensor], before: RowPlan, after: RowPlan, rank: int, table: int | None
) -> Tensor:
    """What a process keeps now, of what all processes kept before.

    Args:
        parts: What each had, by rank: ``[rows, ...]`` of one table, or of all, one after the other.
        before: Which rows each kept.
        after: Which rows each keeps now.
        rank: The process.
        table: The table's number; none for all.

    Raises:
        TrainError: If the tables are of other sizes.
    """
    if dict(before.num_rows) != dict(after.num_rows):
        raise TrainError(
            f"the checkpoint has tables of {dict(before.num_rows)} rows; "
            f"now they have {dict(after.num_rows)}"
        )
    numbers = range(len(after.num_rows)) if table is None else [table]
    bases = before.bases()
    found = []
    for number in numbers:
        first, step = after.first_and_step(number, rank)
        rows = first + step * torch.arange(after.kept(number, rank))
        out = parts[0].new_empty(len(rows), *parts[0].shape[1:])
        for other, part in enumerate(parts):
            first, step = before.first_and_step(number, other)
            kept = before.kept(number, other)
            if not kept:
                continue
            here = (rows - first) % step == 0
            start = int(bases[number, other]) if table is None else 0
            out[here] = part[start + (rows[here] - first) // step]
        found.append(out)
    return torch.cat(found)


def _part(folder: Path) -> Checkpoint:
    found = read_checkpoint(folder)
    if found is None:
        raise TrainError(f"{folder}: this part of the checkpoint is missing")
    return found


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.partial")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)

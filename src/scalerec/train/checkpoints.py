"""Checkpoints: all of a training run in one safetensors file, written aside and renamed.

The file holds tensors, and in its header a JSON text with everything else. There is no pickle in
it. A run that is killed at any moment leaves the last whole checkpoint.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scalerec.errors import TrainError

__all__ = [
    "Checkpoint",
    "load_optimiser",
    "optimiser_tensors",
    "read_checkpoint",
    "remove_checkpoint",
    "write_checkpoint",
]

FILE = "checkpoint.safetensors"
# One name, so that the next run replaces what a killed one left.
ASIDE = f".{FILE}.partial"
UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A moment of a training run.

    Args:
        tensors: Weights, averages, best weights and optimiser states, by name.
        state: Everything else, as JSON.
    """

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def write_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Replace the directory's checkpoint, or leave it as it was.

    Raises:
        TrainError: If it cannot be written; the earlier one stays.
    """
    aside = directory / ASIDE
    whole = {name: tensor.cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    sums = {name: _checksum(tensor) for name, tensor in whole.items()}
    text = json.dumps({"state": dict(checkpoint.state), "checksums": sums})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        save_file(whole, aside, metadata={"scalerec": text})
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(directory / FILE)
    except (OSError, SafetensorError) as error:
        raise TrainError(
            f"{directory}: the checkpoint cannot be written: {error}; the earlier one, if any, "
            "stays; make room and go on with --resume"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def read_checkpoint(directory: Path) -> Checkpoint | None:
    """The directory's checkpoint, or None if there is none.

    Raises:
        TrainError: If it is not readable, or was changed.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            held = json.loads(file.metadata()["scalerec"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state, sums = dict(held["state"]), dict(held["checksums"])
    except UNREADABLE as error:
        raise TrainError(f"{path}: not a checkpoint: {error}; remove it to start anew") from error
    if {name: _checksum(tensor) for name, tensor in tensors.items()} != sums:
        raise TrainError(f"{path}: the checkpoint was changed; remove it to start anew")
    return Checkpoint(tensors, state)


def remove_checkpoint(directory: Path) -> None:
    """Remove the checkpoint of a run that is done, and its directory if nothing else is in it."""
    for name in (FILE, ASIDE):
        (directory / name).unlink(missing_ok=True)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def optimiser_tensors(name: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as tensors, named ``NAME.number of the parameter.kind``."""
    return {
        f"{name}.{number}.{key}": torch.as_tensor(value)
        for number, state in optimiser.state_dict()["state"].items()
        for key, value in state.items()
        if value is not None
    }


def load_optimiser(
    name: str, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        if full.startswith(f"{name}."):
            _, number, key = full.rsplit(".", 2)
            state.setdefault(int(number), {})[key] = tensor
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def _checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's bytes: against a bad disk, not against an attacker."""
    if not tensor.numel():
        return 0
    flat: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return zlib.crc32(flat)

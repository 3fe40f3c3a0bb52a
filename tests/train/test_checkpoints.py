"""Checkpoints: whole or not at all, nothing read that was changed, nothing left behind."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from scalerec.errors import TrainError
from scalerec.train import Checkpoint, checkpoints, read_checkpoint, write_checkpoint
from scalerec.train.checkpoints import (
    FILE,
    load_optimiser,
    optimiser_tensors,
    remove_checkpoint,
)

STATE = {"step": 3, "best": 0.1 + 0.2, "curve": [{"a": None}]}


def tensors() -> dict[str, Tensor]:
    whole = torch.arange(12.0).view(6, 2)
    return {
        "a": whole[:3],
        "b": whole[3:],
        "half": torch.ones(3, dtype=torch.bfloat16),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 2),
        "turned": torch.arange(6.0).view(2, 3).T,
    }


def test_round_trip_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoint"
    assert read_checkpoint(folder) is None
    write_checkpoint(folder, Checkpoint(tensors(), STATE))
    found = read_checkpoint(folder)
    assert found is not None
    assert found.state == STATE
    assert found.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype is tensor.dtype
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_full_disk_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path, Checkpoint(tensors(), {"step": 1}))

    def full(held: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(TrainError, match=r"cannot be written: .*No space left .*go on with --res"):
        write_checkpoint(tmp_path, Checkpoint(tensors(), {"step": 2}))
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found.state == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match="the checkpoint cannot be written"):
        write_checkpoint(tmp_path / "file" / "in", Checkpoint({}, {}))


def test_every_cut_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Checkpoint(tensors(), STATE))
    whole = (tmp_path / FILE).read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / FILE).write_bytes(whole[:size])
        with pytest.raises(TrainError, match=r"not a checkpoint: .*; remove it to start anew"):
            read_checkpoint(tmp_path)


def test_every_flipped_byte_of_the_tensors_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, Checkpoint(tensors(), STATE))
    whole = (tmp_path / FILE).read_bytes()
    first = 8 + int.from_bytes(whole[:8], "little")
    for place in range(first, len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        (tmp_path / FILE).write_bytes(bytes(changed))
        with pytest.raises(TrainError, match="the checkpoint was changed; remove it"):
            read_checkpoint(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"other": "x"}, {"scalerec": "{"}, {"scalerec": "[]"}])
def test_another_safetensors_file_is_refused(tmp_path: Path, metadata: Any) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / FILE, metadata=metadata)
    with pytest.raises(TrainError, match="not a checkpoint"):
        read_checkpoint(tmp_path)


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    text = json.dumps({"state": {}, "checksums": {"a": 0, "b": 0}})
    save_file({"a": torch.zeros(0)}, tmp_path / FILE, metadata={"scalerec": text})
    with pytest.raises(TrainError, match="was changed"):
        read_checkpoint(tmp_path)


def test_removal_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    write_checkpoint(folder, Checkpoint(tensors(), STATE))
    (folder / checkpoints.ASIDE).write_bytes(b"left by a run that was killed")
    remove_checkpoint(folder)
    assert not folder.exists()
    remove_checkpoint(folder)
    shared = tmp_path / "shared"
    write_checkpoint(shared, Checkpoint(tensors(), STATE))
    (shared / "notes.txt").write_text("mine")
    remove_checkpoint(shared)
    assert [path.name for path in shared.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adagrad", "SGD", "momentum"])
def test_optimisers_go_on_bit_for_bit(name: str, generator: torch.Generator) -> None:
    def make() -> tuple[list[Tensor], torch.optim.Optimizer]:
        weights = [torch.ones(3, 2, requires_grad=True), torch.ones(4, requires_grad=True)]
        if name == "momentum":
            return weights, torch.optim.SGD(weights, lr=0.1, momentum=0.9, fused=True)
        return weights, getattr(torch.optim, name)(weights, lr=0.1, fused=True)

    def steps(weights: list[Tensor], optimiser: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            for weight in weights:
                weight.grad = weight.detach().cos() * number
            optimiser.step()

    one, first = make()
    steps(one, first, range(3))
    other, second = make()
    for mine, its in zip(other, one, strict=True):
        mine.data.copy_(its.data)
    saved = {key: value.clone() for key, value in optimiser_tensors("x", first).items()}
    load_optimiser("x", second, {**saved, "y.0.step": torch.tensor(5.0)})
    steps(one, first, range(3, 6))
    steps(other, second, range(3, 6))
    for mine, its in zip(other, one, strict=True):
        assert torch.equal(mine, its)

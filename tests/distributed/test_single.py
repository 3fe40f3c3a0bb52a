"""Which checkpoint counts where one process and several have written."""

import json
from pathlib import Path

import pytest
import torch

from scalerec.distributed.checkpoints import POINTER
from scalerec.distributed.single import SingleProcess, is_of_one
from scalerec.errors import TrainError
from scalerec.train import Checkpoint
from scalerec.train.checkpoints import FILE, write_checkpoint


def at_step(step: int, value: float) -> Checkpoint:
    return Checkpoint({"model.bias": torch.full((2,), value)}, {"step": step})


def write_together(folder: Path, step: int, value: float) -> None:
    """What two processes leave that keep no table."""
    for rank in range(2):
        write_checkpoint(folder / f"step-{step}-of-2" / str(rank), at_step(step, value))
    facts = {"folder": f"step-{step}-of-2", "step": step, "world": 2}
    more = {"plan": None, "row_state": [], "own": ["own."]}
    (folder / POINTER).write_text(json.dumps({**facts, **more}))


@pytest.mark.parametrize(("alone", "together", "wanted"), [(9, 7, 1.0), (5, 7, 2.0)])
def test_the_later_one_counts(alone: int, together: int, wanted: float, tmp_path: Path) -> None:
    """A kill in between leaves both."""
    write_checkpoint(tmp_path, at_step(alone, 1.0))
    write_together(tmp_path, together, 2.0)
    assert is_of_one(tmp_path) == (alone > together)
    found = SingleProcess().read_checkpoint(tmp_path)
    assert found is not None
    assert found.tensors["model.bias"].tolist() == [wanted, wanted]
    assert found.state["step"] == max(alone, together)


def test_who_writes_removes_what_others_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "run.checkpoint"
    runtime = SingleProcess()
    assert runtime.read_checkpoint(folder) is None
    write_together(folder, 7, 2.0)
    runtime.write_checkpoint(folder, at_step(9, 1.0))
    assert [path.name for path in folder.iterdir()] == [FILE]
    write_together(folder, 11, 2.0)
    runtime.remove_checkpoint(folder)
    assert not folder.exists()


def test_a_spoilt_pointer_is_an_error(tmp_path: Path) -> None:
    (tmp_path / POINTER).write_text('{"folder": "step-7-of-2"}')
    with pytest.raises(TrainError, match=r"checkpoint.json: not a checkpoint: 'step'"):
        SingleProcess().read_checkpoint(tmp_path)

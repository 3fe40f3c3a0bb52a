"""A run that was killed and resumed ends where the undisturbed run ends, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.train import killed
from tests.train.toys import narrow, ratings

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.errors import TrainError
from scalerec.train import Learner, TrainConfig, Trained, read_checkpoint, train

ROOT = Path(__file__).parents[2]
# 240 training rows make 5 steps an epoch; checkpoints fall within epochs and at their ends.
BASE: dict[str, Any] = {
    "epochs": 4, "batch_size": 48, "dense": {"lr": 2e-2}, "tables": {"lr": 2e-2},
    "checkpoint_steps": 1, "checkpoint_seconds": 0, "precision": "fp32",
}  # fmt: skip
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "adam, average, negatives, cosine": (
        "deepfm", {"ema": 0.9, "negatives": 2, "schedule": {"name": "cosine", "warmup_steps": 2}},
    ),
    "batch norm, early stop, plateau": (
        "wide-deep",
        {"patience": 1, "evaluate_every": 2, "schedule": {"name": "plateau", "patience": 0}},
    ),
    "torch, lazy adam": ("din", {"tables": {"engine": "torch", "lr": 2e-2, "l2": 0.01}}),
    "fused, row-wise": ("deepfm", {"tables": {"optimiser": "rowwise_adagrad", "lr": 2e-2}}),
    "momentum, adagrad, clipping": (
        "dcn-v2",
        {
            "dense": {"name": "sgd", "momentum": 0.9, "lr": 0.1},
            "tables": {"optimiser": "adagrad", "lr": 0.1, "engine": "dense"},
            "clip_norm": 0.5, "patience": -1,
        },
    ),
    "bf16": ("deepfm", {"precision": "bf16"}),
}  # fmt: skip


class KilledError(Exception):
    """Stands for the end of the process."""


def run(dataset: Dataset, kind: str, folder: Path | None, resume: bool = False) -> Trained:
    model, changes = KINDS[kind]
    settings = {"dropout": 0.2, "embedding_dropout": 0.1}
    if model == "wide-deep":
        settings |= {"batch_norm": True}
    config = TrainConfig.from_dict({**BASE, **changes})
    spec = narrow(model, **settings)
    return train(dataset, spec, config, checkpoints=folder, resume=resume)


def differences(one: Trained, other: Trained) -> list[str]:
    theirs = other.recommender.to_tensors()
    mine = one.recommender.to_tensors()
    return [name for name, tensor in mine.items() if not torch.equal(tensor, theirs[name])]


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_at_every_step(
    rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """One run that dies before each of its steps in turn, as often as it has steps."""
    whole = run(rated, kind, None)
    real, budget = Learner.step, 3

    def dying(self: Learner, batch: Batch, factor: float) -> float:
        nonlocal budget
        if budget == 0:
            raise KilledError
        budget -= 1
        return real(self, batch, factor)

    monkeypatch.setattr(Learner, "step", dying)
    deaths = 0
    while True:
        budget = 3
        try:
            resumed = run(rated, kind, tmp_path / "run", resume=True)
            break
        except KilledError:
            deaths += 1
            found = read_checkpoint(tmp_path / "run")
            assert found is not None
            assert found.state["step"] == 3 * deaths
    assert deaths == (whole.num_steps - 1) // 3
    assert differences(whole, resumed) == []
    assert (resumed.best, resumed.num_steps) == (whole.best, whole.num_steps)
    steps = [{k: v for k, v in entry.items() if k != "seconds"} for entry in resumed.curve]
    assert steps == [{k: v for k, v in e.items() if k != "seconds"} for e in whole.curve]
    assert not (tmp_path / "run").exists()


def test_killed_at_any_moment(rated: Dataset, tmp_path: Path) -> None:
    """SIGKILL to a process of its own, also while it writes a checkpoint."""
    kind = "adam, average, negatives, cosine"
    model, changes = KINDS[kind]
    settings = {"dropout": 0.2, "embedding_dropout": 0.1}
    job = {
        "data": str(rated.directory),
        "spec": narrow(model, **settings).to_dict(),
        "config": {**BASE, **changes},
        "folder": str(tmp_path / "run"),
        "out": str(tmp_path / "weights.safetensors"),
        "kills": 4,
        "seed": 1,
    }
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    found = subprocess.run(
        [sys.executable, "-m", killed.__name__, json.dumps(job)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    # Each kill came after a checkpoint of its own run, so none of the runs started anew.
    steps = json.loads(found.stdout)
    assert len(steps) == 4
    assert steps == sorted(steps)
    assert steps[0] > 0
    whole = run(rated, kind, None).recommender.to_tensors()
    held = load_file(tmp_path / "weights.safetensors")
    assert [name for name, tensor in whole.items() if not torch.equal(tensor, held[name])] == []


def interrupted(dataset: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """Leave the checkpoint of a run after two steps."""
    config = TrainConfig.from_dict({**BASE, "epochs": 1})
    real = Learner.step

    def dying(self: Learner, batch: Batch, factor: float) -> float:
        if self.step_number == 2:
            raise KilledError
        return real(self, batch, factor)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", dying)
        with pytest.raises(KilledError):
            train(dataset, narrow(), config, checkpoints=folder)
    return config


class TestRefusals:
    """A checkpoint is taken up only by the run that it is of."""

    def test_another_run(
        self, rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = interrupted(rated, tmp_path / "run", monkeypatch)
        other = ratings(tmp_path / "data", history=False)
        changes: list[tuple[Dataset, Any, TrainConfig, str]] = [
            (rated, narrow(), config.replace(seed=2), "another seed: 1, now 2; start without"),
            (rated, narrow(dim=4), config, "another model: "),
            (other, narrow(), config, "another data: "),
        ]
        for dataset, spec, settings, words in changes:
            with pytest.raises(TrainError, match=words):
                train(dataset, spec, settings, checkpoints=tmp_path / "run", resume=True)
        again = config.replace(checkpoint_steps=3, checkpoint_seconds=1.0)
        resumed = train(rated, narrow(), again, checkpoints=tmp_path / "run", resume=True)
        assert differences(resumed, train(rated, narrow(), config)) == []

    def test_one_that_was_spoilt(
        self, rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = interrupted(rated, tmp_path, monkeypatch)
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(TrainError, match="not a checkpoint"):
            train(rated, narrow(), config, checkpoints=tmp_path, resume=True)

    def test_without_resume_a_run_starts_anew(
        self, rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = interrupted(rated, tmp_path / "run", monkeypatch)
        anew = train(rated, narrow(), config, checkpoints=tmp_path / "run")
        assert anew.num_steps == 5
        resumed = train(rated, narrow(), config, checkpoints=tmp_path / "none", resume=True)
        assert differences(anew, resumed) == []


def test_checkpoints_by_time(
    rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    name = "scalerec.train.runtime.write_checkpoint"
    monkeypatch.setattr(name, lambda *checkpoint: written.append(checkpoint))
    config = TrainConfig.from_dict({**BASE, "checkpoint_steps": 0, "patience": -1})
    train(rated, narrow(), config, checkpoints=tmp_path)
    assert written == []
    train(rated, narrow(), config.replace(checkpoint_seconds=1e-9), checkpoints=tmp_path)
    assert len(written) == 20

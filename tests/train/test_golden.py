"""Ten seeded steps as text: a change of these numbers is a change of training, and is meant.

Losses agree to 1e-5: float32 sums in the order of one processor and not of another. To write the
file anew, in a commit of its own: ``SCALEREC_GOLDEN=write python -m pytest tests/train``.
"""

import os
from pathlib import Path

import pytest
from tests.train.toys import narrow, rating_rows, ratings

from scalerec.data.loading import Loader
from scalerec.models.recommender import build_recommender
from scalerec.train import Learner, OneProcess, TrainConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "ten_steps.txt"
RUNS: dict[str, tuple[str, dict[str, object]]] = {
    "deepfm, adam": ("deepfm", {"tables": {"lr": 1e-2}}),
    "deepfm, fused": ("deepfm", {"tables": {"optimiser": "rowwise_adagrad", "lr": 1e-2}}),
    "din, negatives": ("din", {"negatives": 1, "ema": 0.9}),
}


def ten_steps(folder: Path, name: str) -> list[float]:
    model, changes = RUNS[name]
    dataset = ratings(folder / name, columns=rating_rows(600, seed=3))
    config = TrainConfig.from_dict(
        {"batch_size": 32, "precision": "fp32", "dense": {"lr": 1e-2}, **changes}
    )
    recommender = build_recommender(dataset.layout, narrow(model, dropout=0.1), config.seed)
    learner = Learner(recommender, dataset, config, OneProcess())
    loader = Loader(dataset.split("train"), config.batch_size, config.seed)
    return [learner.step(batch, 1.0) for batch, _ in zip(loader.epoch(0), range(10), strict=False)]


@pytest.mark.parametrize("name", RUNS)
def test_ten_steps(tmp_path: Path, name: str) -> None:
    losses = ten_steps(tmp_path, name)
    lines = GOLDEN.read_text().splitlines() if GOLDEN.exists() else []
    held = dict(line.rsplit(": ", 1) for line in lines)
    if os.environ.get("SCALEREC_GOLDEN") == "write":
        held[name] = " ".join(f"{loss:.8f}" for loss in losses)
        GOLDEN.write_text("".join(f"{key}: {held[key]}\n" for key in sorted(held)))
    expected = [float(word) for word in held[name].split()]
    assert losses == pytest.approx(expected, rel=1e-5)

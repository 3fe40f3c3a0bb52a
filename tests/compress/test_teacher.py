"""One teacher or several, and the note of what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.toys import narrow, ratings

from scalerec.bundle.recommenders import write_recommender
from scalerec.compress.teacher import (
    Teacher,
    digest_of,
    mean_logits,
    note_logits,
    noted_path,
    open_teacher,
)
from scalerec.data.dataset import Dataset
from scalerec.data.layout import IdField, Layout
from scalerec.data.schema import Role, Task, TaskKind
from scalerec.errors import ConfigError
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.train.lineage import prepare_step

pytestmark = pytest.mark.usefixtures("one_thread")


def make(dataset: Dataset, seed: int = 1, model: str = "deepfm") -> Recommender:
    return build_recommender(dataset.layout, narrow(model, embedding_dropout=0.5), seed)


def test_one_says_what_it_says(rated: Dataset) -> None:
    own = make(rated)
    batch = rated.split("train").read(0, 9)
    with torch.no_grad():
        expected = own.eval()(batch)
    own.train()
    teacher = Teacher([own])
    with torch.autocast("cpu", torch.bfloat16):
        found = teacher.logits(batch)
        near = teacher.logits(batch, exact=False)
    assert torch.equal(found, expected)
    assert not found.requires_grad
    assert not torch.equal(near, expected)
    # bf16 keeps eight bits of each product.
    assert torch.allclose(near, expected, atol=0.02)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_two_equal_ones_are_one(rated: Dataset, average: str) -> None:
    batch = rated.split("train").read(0, 9)
    one = Teacher([make(rated)]).logits(batch)
    two = Teacher([make(rated), make(rated)], average=average).logits(batch)  # type: ignore[arg-type]
    # The mean of equal logits is exact; probabilities go through a logarithm.
    assert torch.allclose(two, one, atol=0 if average == "logits" else 1e-6, rtol=0)


def test_means_by_hand() -> None:
    field = IdField(name="item", role=Role.ITEM, table="item")
    tasks = (
        Task(name="click"),
        Task(name="kind", kind=TaskKind.MULTICLASS, num_classes=2),
        Task(name="stars", kind=TaskKind.REGRESSION),
    )
    layout = Layout(ids=(field,), tables={"item": 4}, tasks=tasks)
    shares = torch.tensor([[0.2, 0.8], [0.4, 0.6]])
    logits = [
        torch.tensor([[(p / (1 - p)).log(), (1 - p).log() + 3, p.log() + 3, stars]])
        for p, stars in zip(shares[:, 0], (1.0, 4.0), strict=True)
    ]
    assert torch.equal(mean_logits(layout, logits, "logits"), (logits[0] + logits[1]) / 2)
    found = mean_logits(layout, logits, "probabilities")
    assert found[:, 0].sigmoid().item() == pytest.approx(0.3)
    assert found[0, 1:3].exp().tolist() == pytest.approx([0.7, 0.3])
    assert found[0, 3].item() == 2.5


def test_noted_in_the_order_of_rows(rated: Dataset, tmp_path: Path) -> None:
    teacher = Teacher([make(rated)])
    events = rated.split("train")
    expected = teacher.logits(events.read(0, len(events))).numpy()
    assert np.array_equal(note_logits(teacher, rated), expected)
    kept = note_logits(teacher, rated, tmp_path / "kept")
    path = noted_path(teacher, rated, tmp_path / "kept")
    assert isinstance(kept, np.memmap)
    assert np.array_equal(kept, expected)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    np.save(path, expected + 1)
    assert np.array_equal(note_logits(teacher, rated, path.parent), expected + 1), "not made again"
    first = teacher.noted(rated)
    assert np.array_equal(first, expected)
    assert teacher.noted(rated) is first
    assert noted_path(Teacher([make(rated, seed=2)]), rated, path.parent) != path


def test_digests(rated: Dataset) -> None:
    assert digest_of(make(rated)) == digest_of(make(rated))
    assert digest_of(make(rated)) != digest_of(make(rated, seed=2))
    one, two = Teacher([make(rated)]), Teacher([make(rated), make(rated)])
    other = Teacher([make(rated), make(rated)], average="probabilities")
    assert len({one.digest, two.digest, other.digest}) == 3


def test_from_bundles(rated: Dataset, tmp_path: Path) -> None:
    own = make(rated)
    written = write_recommender(tmp_path / "one", own, rated, (prepare_step(rated),))
    teacher = open_teacher([tmp_path / "one"], rated)
    batch = rated.split("train").read(0, 9)
    assert torch.equal(teacher.logits(batch), Teacher([own]).logits(batch))
    assert teacher.digests == (written.digest,)


def test_what_it_refuses(rated: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one teacher; got none"):
        Teacher([])
    with pytest.raises(ConfigError, match="one of logits, probabilities; got 'votes'"):
        Teacher([make(rated)], average="votes")  # type: ignore[arg-type]
    other = ratings(tmp_path / "other", history=False)
    with pytest.raises(ConfigError, match="teachers must be of one layout"):
        Teacher([make(rated), make(other)])

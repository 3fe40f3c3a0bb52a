"""A student learns from its teacher: what the loss is, which rows it sees, how it is resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.toys import LIKED, narrow, rating_rows, ratings

from scalerec.compress.distil import DistilConfig, Distillation, distil
from scalerec.compress.soft import soft_binary, soft_losses
from scalerec.compress.teacher import Teacher
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError, TrainError
from scalerec.models.growing import GrownRows
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.train import Learner, OneProcess, Start, TrainConfig, Trained, task_loss, train

pytestmark = pytest.mark.usefixtures("one_thread")

BASE: dict[str, Any] = {
    "epochs": 3, "batch_size": 48, "dense": {"lr": 2e-2}, "tables": {"lr": 2e-2},
    "precision": "fp32", "checkpoint_seconds": 0,
}  # fmt: skip
STUDENT = narrow(hidden=[6], dim=4, dropout=0.2)


def teach(dataset: Dataset, seed: int = 1, model: str = "deepfm") -> Teacher:
    """Weights far from those that a model starts from."""
    recommender = build_recommender(dataset.layout, narrow(model), seed)
    with torch.no_grad():
        recommender.tables.matrix.mul_(20)
    return Teacher([recommender])


def run(
    dataset: Dataset, settings: dict[str, Any], folder: Path | None = None, **changes: Any
) -> Trained:
    resume = changes.pop("resume", False)
    teacher = changes.pop("teacher", None) or teach(dataset)
    config = TrainConfig.from_dict({**BASE, **changes})
    own = DistilConfig.from_dict(settings)
    return distil(dataset, teacher, STUDENT, config, own, checkpoints=folder, resume=resume)


def same(one: Recommender, other: Recommender) -> bool:
    theirs = other.to_tensors()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.to_tensors().items())


def lesson_of(dataset: Dataset, **settings: Any) -> tuple[Distillation, Recommender]:
    student = build_recommender(dataset.layout, STUDENT, 3)
    lesson = Distillation(teach(dataset), dataset, DistilConfig(**settings))
    lesson.begin(student)
    return lesson, student


def test_loss_by_hand(rated: Dataset) -> None:
    """Rows in any order get their own teacher's score; rows beyond them are scored now."""
    lesson, student = lesson_of(rated, weight=0.25, temperature=2.0)
    rows = torch.tensor([7, 3, 11])
    batch = rated.split("train").take(np.array([7, 3, 11, 20]))
    logits, taught = student(batch), lesson.teacher.logits(batch)
    weights = batch.weights
    soft = (soft_binary(logits[:, 0], taught[:, 0], 2.0) * weights).sum() / weights.sum()
    expected = 0.75 * task_loss(rated.layout, logits, batch) + 0.25 * soft
    assert torch.allclose(lesson.loss(logits, batch, rows), expected, atol=1e-6)


def test_rows_without_label_teach(rated: Dataset) -> None:
    lesson, student = lesson_of(rated, weight=0.5)
    batch = rated.split("train").read(0, 6)
    blind = replace(batch, label_mask=torch.zeros_like(batch.label_mask))
    logits = student(blind)
    taught = lesson.teacher.logits(batch)
    expected = 0.5 * soft_losses(rated.layout, logits, taught)[:, 0]
    expected = (expected * batch.weights).sum() / batch.weights.sum()
    found = lesson.loss(logits, blind, torch.arange(6))
    assert torch.allclose(found, expected, atol=1e-6)
    found.backward()
    grads = [p.grad for p in student.dense_parameters().values() if p.grad is not None]
    assert any(bool(grad.any()) for grad in grads)


def test_several_tasks(tmp_path: Path) -> None:
    """Each by its weight."""
    tasks = [
        {**LIKED, "weight": 2.0},
        {"name": "stars", "kind": "regression", "weight": 0.5},
        {"name": "kind", "kind": "multiclass", "num_classes": 3},
    ]
    dataset = ratings(tmp_path / "data", tasks=tasks)
    lesson, student = lesson_of(dataset, weight=1.0)
    batch = dataset.split("train").read(0, 8)
    logits = student(batch)
    losses = soft_losses(dataset.layout, logits, lesson.teacher.logits(batch))
    expected = (losses.mean(0) * torch.tensor([2.0, 0.5, 1.0])).sum()
    assert torch.allclose(lesson.loss(logits, batch, torch.arange(8)), expected, atol=1e-5)
    run(dataset, {"weight": 0.5, "hint": 0.1}, epochs=1)


@pytest.mark.parametrize("changes", [{}, {"negatives": 1}, {"precision": "bf16"}])
def test_without_weight_it_is_plain_training(rated: Dataset, changes: dict[str, Any]) -> None:
    """To the last bit."""
    plain = train(rated, STUDENT, TrainConfig.from_dict({**BASE, **changes}))
    taught = run(rated, {"weight": 0.0}, **changes)
    assert same(plain.recommender, taught.recommender)
    assert plain.curve[-1]["train/loss"] == taught.curve[-1]["train/loss"]


def test_each_row_meets_its_own_score(rated: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the loader's shuffle: noted scores are those the teacher gives for the batch."""
    seen = 0
    real = Distillation.loss

    def checked(
        self: Distillation, logits_bc: torch.Tensor, batch: Batch, rows: torch.Tensor
    ) -> Any:
        nonlocal seen
        found = self._taught(batch, rows)
        assert torch.allclose(found, self.teacher.logits(batch), atol=1e-5)
        assert len(rows) == len(batch) - len(rows) // 2 * 1, "half as many drawn"
        seen += len(rows)
        return real(self, logits_bc, batch, rows)

    monkeypatch.setattr(Distillation, "loss", checked)
    run(rated, {"weight": 0.5, "drawn": 0.5}, epochs=2)
    assert seen == 2 * rated.num_rows("train")


def test_drawn_rows(rated: Dataset) -> None:
    """A row's user and context, an item that was met, no label; the same in the same step."""
    lesson, _ = lesson_of(rated, drawn=2.0)
    batch = rated.split("train").read(0, 10)
    longer = lesson.extend(batch, 4)
    drawn = longer.slice(10, 30)
    assert len(longer) == 30
    assert not drawn.label_mask.any()
    assert longer.slice(0, 10).ids.equal(batch.ids)
    known = {(int(u), float(x)) for u, x in zip(batch.ids[0], batch.dense[:, 0], strict=True)}
    assert {
        (int(u), float(x)) for u, x in zip(drawn.ids[0], drawn.dense[:, 0], strict=True)
    } <= known
    assert bool((rated.item_counts[drawn.items.numpy()] > 0).all())
    assert torch.equal(rated.items.ids[1, drawn.items], drawn.ids[1])
    assert lesson.extend(batch, 4).ids.equal(longer.ids)
    assert not lesson.extend(batch, 5).ids.equal(longer.ids)


def test_a_student_comes_close(rated: Dataset) -> None:
    """By the teacher's scores alone; its labels were never seen."""
    teacher = teach(rated)
    blind = run(rated, {"weight": 1.0, "drawn": 1.0}, teacher=teacher, epochs=30, patience=-1)
    events = rated.split("test")
    batch = events.read(0, len(events))
    own, taught = blind.recommender(batch).detach(), teacher.logits(batch)
    together = torch.corrcoef(torch.stack([own[:, 0], taught[:, 0]]))[0, 1]
    assert together > 0.9


def test_hints_reach_the_student_alone(rated: Dataset) -> None:
    """The teacher stays; the regressor learns; both nets are left as they were."""
    teacher = teach(rated)
    before = {name: t.clone() for name, t in teacher.recommenders[0].to_tensors().items()}
    student = build_recommender(rated.layout, STUDENT, 3)
    lesson = Distillation(teacher, rated, DistilConfig(weight=0.0, hint=1.0))
    config = TrainConfig.from_dict(BASE)
    learner = Learner(student, rated, config, OneProcess(), lesson)
    regressor = {n[7:]: t.clone() for n, t in learner.tensors().items() if n.startswith("lesson.")}
    assert set(regressor) == {"weight", "bias"}
    assert regressor["weight"].shape == (20, 6)
    learner.step(rated.split("train").read(0, 48), 1.0, torch.arange(48))
    after = learner.tensors()
    assert not torch.equal(after["lesson.weight"], regressor["weight"])
    for name, tensor in teacher.recommenders[0].to_tensors().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is None for p in teacher.recommenders[0].parameters())
    hidden = student.get_submodule("net.tower.1")
    assert hidden._forward_hooks
    lesson.close()
    assert not hidden._forward_hooks


def test_hints_change_the_result(rated: Dataset) -> None:
    found = [run(rated, {"hint": hint}).recommender for hint in (0.0, 0.5)]
    assert not same(*found)


def test_two_equal_teachers_are_one(rated: Dataset) -> None:
    one = run(rated, {"weight": 0.7})
    both = Teacher([*teach(rated).recommenders, *teach(rated).recommenders])
    assert same(one.recommender, run(rated, {"weight": 0.7}, teacher=both).recommender)


def test_hints_and_tables_are_the_first_teachers(rated: Dataset) -> None:
    """A second one is asked for scores alone, which count nothing here."""
    first, second = teach(rated).recommenders[0], teach(rated, seed=2).recommenders[0]
    settings = {"weight": 0.0, "hint": 1.0, "tables": "teacher"}
    one = run(rated, settings, teacher=Teacher([first]), epochs=1)
    both = run(rated, settings, teacher=Teacher([first, second]), epochs=1)
    assert same(one.recommender, both.recommender)


def test_from_the_teachers_tables(rated: Dataset) -> None:
    """It starts nearer to the teacher than drawn tables do."""
    losses = [
        run(rated, {"weight": 1.0, "tables": own}, epochs=1).curve[0]["train/loss"]
        for own in ("teacher", "drawn")
    ]
    assert losses[0] < losses[1]


def test_a_student_that_goes_on(rated: Dataset) -> None:
    """From where it is; a caller may act after each step."""
    first = build_recommender(rated.layout, STUDENT, 9)
    start = Start(first, "of another bundle", GrownRows({}))
    steps: list[int] = []
    trained = distil(
        rated, teach(rated), STUDENT, TrainConfig.from_dict({**BASE, "epochs": 1}),
        start=start, after_step=steps.append,
    )  # fmt: skip
    assert trained.recommender is first
    assert steps == [1, 2, 3, 4, 5]
    settings = DistilConfig(tables="teacher")
    with pytest.raises(ConfigError, match="for a new student; got one to start from"):
        distil(rated, teach(rated), STUDENT, settings=settings, start=start)


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    "settings",
    [{"weight": 0.5, "drawn": 0.5}, {"weight": 0.5, "hint": 0.5}, {"tables": "teacher"}],
)
def test_killed_and_resumed(
    rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """It ends where the undisturbed run ends, bit for bit, and leaves no file."""
    whole = run(rated, settings)
    real, left = Learner.step, 7

    def dying(self: Learner, batch: Batch, factor: float, rows: torch.Tensor) -> float:
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError
        return real(self, batch, factor, rows)

    monkeypatch.setattr(Learner, "step", dying)
    folder = tmp_path / "run"
    with pytest.raises(KilledError):
        run(rated, settings, folder, checkpoint_steps=1)
    monkeypatch.setattr(Learner, "step", real)
    again = run(rated, settings, folder, checkpoint_steps=1, resume=True)
    assert same(whole.recommender, again.recommender)
    assert not folder.exists()


def test_another_teacher_is_another_run(
    rated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(self: Learner, batch: Batch, factor: float, rows: torch.Tensor) -> float:
        if self.step_number == 3:
            raise KilledError
        return real(self, batch, factor, rows)

    real = Learner.step
    monkeypatch.setattr(Learner, "step", dying)
    with pytest.raises(KilledError):
        run(rated, {}, tmp_path / "run", checkpoint_steps=1)
    with pytest.raises(TrainError, match="the checkpoint is of a run with another lesson"):
        run(rated, {}, tmp_path / "run", resume=True, teacher=teach(rated, seed=2))
    with pytest.raises(TrainError, match="the checkpoint is of a run with another lesson"):
        run(rated, {"weight": 0.6}, tmp_path / "run", resume=True)


def test_what_it_refuses(rated: Dataset, tmp_path: Path) -> None:
    ranges = {
        "weight": (1.5, r"weight must be in \[0, 1\]; got 1.5"),
        "temperature": (0, "temperature must be above 0; got 0"),
        "hint": (-1, "hint must be at least 0; got -1"),
        "drawn": (-1, "drawn must be at least 0; got -1"),
        "drawn_by": ("luck", "drawn_by must be one of .*; got 'luck'"),
        "tables": ("none", "tables must be one of .*; got 'none'"),
    }
    for name, (value, message) in ranges.items():
        with pytest.raises(ConfigError, match=message):
            DistilConfig(**{name: value})  # type: ignore[arg-type]
    other = ratings(tmp_path / "other", history=False)
    with pytest.raises(ConfigError, match="the teacher has another layout than"):
        run(other, {}, teacher=teach(rated))


def test_what_data_it_refuses(tmp_path: Path) -> None:
    retrieval = [{"name": "liked", "kind": "retrieval"}]
    dataset = ratings(tmp_path / "retrieval", tasks=retrieval)
    with pytest.raises(ConfigError, match=r"\['liked'\] is of kind retrieval: train a two-tower"):
        run(dataset, {}, teacher=teach(dataset, model="two-tower"))
    columns = {name: rating_rows()[name] for name in ("user", "price", "liked", "time")}
    from tests.train.toys import CATEGORIES, make_data

    plain = make_data(tmp_path / "plain", columns, [CATEGORIES[0]], timestamp="time", user="user")
    with pytest.raises(ConfigError, match="drawn rows need an item; name one in the schema"):
        run(plain, {"drawn": 1.0})


def test_several_processes(rated: Dataset) -> None:
    runtime = OneProcess()
    runtime.world = 2
    lesson = Distillation(teach(rated), rated, DistilConfig())
    student = build_recommender(rated.layout, STUDENT, 3)
    with pytest.raises(ConfigError, match="learned from in one process; got 2"):
        Learner(student, rated, TrainConfig.from_dict(BASE), runtime, lesson)

"""Losses against numbers worked by hand or in a few lines of NumPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scalerec.data.batches import Batch
from scalerec.data.frames import empty_batch
from scalerec.data.layout import IdField, Layout
from scalerec.data.schema import Role, Task, TaskKind
from scalerec.train import retrieval_loss, row_losses, task_loss

IDS = (IdField(name="a", role=Role.USER, table="t"),)


def make(tasks: tuple[Task, ...], labels: list[list[float | None]]) -> tuple[Layout, Batch]:
    layout = Layout(ids=IDS, tables={"t": 2}, tasks=tasks)
    known = torch.tensor([[value is not None for value in row] for row in labels])
    values = torch.tensor([[0.0 if value is None else value for value in row] for row in labels])
    return layout, replace(empty_batch(layout, len(labels)), labels=values, label_mask=known)


def test_binary_by_hand() -> None:
    """Logits log 3 and 0: probabilities 3/4 and 1/2; labels 1 and 0."""
    layout, batch = make((Task(name="a"),), [[1.0], [0.0]])
    logits = torch.tensor([[math.log(3.0)], [0.0]])
    expected = (-math.log(0.75) - math.log(0.5)) / 2
    assert float(task_loss(layout, logits, batch)) == pytest.approx(expected, rel=1e-6)


def test_weights_make_a_weighted_mean() -> None:
    layout, batch = make((Task(name="a"),), [[1.0], [0.0]])
    batch = replace(batch, weights=torch.tensor([3.0, 1.0]))
    logits = torch.tensor([[math.log(3.0)], [0.0]])
    expected = (-3 * math.log(0.75) - math.log(0.5)) / 4
    assert float(task_loss(layout, logits, batch)) == pytest.approx(expected, rel=1e-6)


def test_unknown_labels_do_not_count() -> None:
    layout, batch = make((Task(name="a"), Task(name="b")), [[1.0, None], [None, None]])
    logits = torch.tensor([[0.0, 5.0], [9.0, 5.0]], requires_grad=True)
    loss = task_loss(layout, logits, batch)
    assert float(loss.detach()) == pytest.approx(math.log(2.0), rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.5, 0.0], [0.0, 0.0]]


def test_multiclass_and_regression_against_numpy(generator: torch.Generator) -> None:
    tasks = (
        Task(name="kind", kind=TaskKind.MULTICLASS, num_classes=3, weight=2.0),
        Task(name="stars", kind=TaskKind.REGRESSION, weight=0.5),
    )
    layout, batch = make(tasks, [[2.0, 1.5], [0.0, None], [1.0, -1.0]])
    logits = torch.randn(3, 4, generator=generator)
    scores = logits.double().numpy()
    chances = np.exp(scores[:, :3]) / np.exp(scores[:, :3]).sum(1, keepdims=True)
    kind = -np.log(chances[[0, 1, 2], [2, 0, 1]]).mean()
    stars = ((scores[[0, 2], 3] - [1.5, -1.0]) ** 2).mean()
    # float32 against float64.
    loss = float(task_loss(layout, logits, batch))
    assert loss == pytest.approx(2.0 * kind + 0.5 * stars, rel=1e-5)
    losses, counted = row_losses(layout, logits, batch)
    assert losses.shape == counted.shape == (3, 2)
    assert counted.tolist() == [[1, 1], [1, 0], [1, 1]]


def test_a_retrieval_task_has_no_loss_of_rows() -> None:
    layout, batch = make((Task(name="a", kind=TaskKind.RETRIEVAL),), [[1.0]])
    assert float(task_loss(layout, torch.tensor([[3.0]]), batch)) == 0.0


class TestRetrieval:
    """Softmax over the items of the batch."""

    def test_two_by_two_by_hand(self) -> None:
        """Scores ((1, 2), (0, 1)); shares 1/2 and 1/8, so log q is subtracted from each column."""
        user = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        item = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
        share = torch.tensor([0.125, 0.5]).log()
        items = torch.tensor([1, 0])
        loss = retrieval_loss(user, item, items, share, torch.tensor([1.0, 3.0]))
        first = -math.log(2 * math.e / (2 * math.e + 8 * math.e**2))
        second = -math.log(8 * math.e / (2 * 1 + 8 * math.e))
        assert float(loss) == pytest.approx((first + 3 * second) / 4, rel=1e-6)

    def test_another_copy_of_the_item_is_no_negative(self) -> None:
        user, item = torch.eye(3), torch.eye(3)
        share = torch.tensor([0.5, 0.25]).log()
        items = torch.tensor([0, 0, 1])
        loss = retrieval_loss(user, item, items, share, torch.ones(3))
        pair = -math.log(2 * math.e / (2 * math.e + 4))
        last = -math.log(4 * math.e / (4 * math.e + 2 + 2))
        assert float(loss) == pytest.approx((pair + pair + last) / 3, rel=1e-6)

    def test_only_copies_teach_nothing(self) -> None:
        user = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        items = torch.zeros(4, dtype=torch.int64)
        loss = retrieval_loss(user, user * 2, items, torch.zeros(1), torch.ones(4))
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert user.grad is not None
        assert not user.grad.any()

    def test_nothing_gives_zero(self) -> None:
        none = torch.zeros(0, 2)
        items = torch.zeros(0, dtype=torch.int64)
        assert float(retrieval_loss(none, none, items, torch.zeros(3), torch.zeros(0))) == 0.0

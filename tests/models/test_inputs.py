"""What a net sees of a batch, worked by hand."""

import torch

from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.frames import empty_batch
from scalerec.data.layout import BagField, IdField, Layout, NumberField, VectorField
from scalerec.data.schema import Role, Task
from scalerec.models.inputs import FieldEmbedder

LAYOUT = Layout(
    ids=(
        IdField(name="user", role=Role.USER, table="u"),
        IdField(name="item", role=Role.ITEM, table="i"),
    ),
    numbers=(NumberField(name="price", role=Role.ITEM),),
    bags=(
        BagField(name="genres", role=Role.ITEM, table="g", max_length=2),
        BagField(name="past", role=Role.USER, table="i", max_length=3, history=True),
    ),
    vectors=(VectorField(name="image", role=Role.ITEM, dim=2),),
    tables={"u": 3, "i": 4, "g": 3},
    tasks=(Task(name="liked"),),
)


def make_batch() -> Batch:
    empty = empty_batch(LAYOUT, 2)
    genres = Bag(torch.tensor([1, 2]), torch.tensor([0, 2, 2]))
    past = Bag(torch.tensor([3, 2, 3]), torch.tensor([0, 1, 3]))
    image = Vectors(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([True, False]))
    return Batch(
        empty.ids, torch.tensor([[2.0], [-1.0]]), (genres, past), (image,), empty.labels,
        empty.label_mask, empty.weights, empty.groups, empty.times, empty.users, empty.items,
    )  # fmt: skip


def embedder() -> FieldEmbedder:
    """D = 2: a number is times (1, 10, 100); a vector's image is its (first, second, sum)."""
    made = FieldEmbedder(LAYOUT, 2, torch.Generator().manual_seed(1))
    made.numbers.data[:] = torch.tensor([[1.0, 10.0, 100.0]])
    made.vectors[0].data[:] = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    return made


def rows() -> torch.Tensor:
    """Row k is (k, 2k, 1000): users 0-1, items 2-3, genres 4-5, past 6-8."""
    number = torch.arange(9.0)
    return torch.stack([number, 2 * number, torch.full((9,), 1000.0)], 1)


def test_fields_by_hand() -> None:
    inputs = embedder()(rows(), make_batch())
    first = [[0, 0], [2, 4], [2, 20], [4.5, 9], [6, 12], [1, 2]]
    second = [[1, 2], [3, 6], [-1, -10], [0, 0], [7.5, 15], [0, 0]]
    assert inputs.fields.tolist() == [first, second]
    # Two ids, a number, the mean of genres (none in row two), of the past, and the image.
    assert inputs.linear.tolist() == [4000 + 200 + 3, 3000 - 100 + 0]
    assert inputs.dense.tolist() == [[2.0], [-1.0]]


def test_history_by_hand() -> None:
    (history,) = embedder()(rows(), make_batch()).histories
    assert history.values.tolist() == [[[6, 12], [0, 0]], [[7, 14], [8, 16]]]
    assert history.mask.tolist() == [[True, False], [True, True]]
    assert history.target == 1


def test_no_rows_and_no_history() -> None:
    """A batch of nobody, and rows whose lists are all empty."""
    made = embedder()
    nobody = made(torch.zeros(0, 3), empty_batch(LAYOUT, 0))
    assert nobody.fields.shape == (0, 6, 2)
    assert nobody.histories[0].values.shape == (0, 1, 2)
    strangers = made(torch.ones(4, 3), empty_batch(LAYOUT, 2))
    assert strangers.fields.isfinite().all()
    assert not strangers.fields[:, 3:].any()
    assert strangers.histories[0].mask.tolist() == [[False], [False]]


def test_gradients_reach_every_part() -> None:
    made, given = embedder(), rows().requires_grad_()
    inputs = made(given, make_batch())
    (inputs.fields.square().sum() + inputs.histories[0].values.sum()).backward()
    assert given.grad is not None
    # Row 0 is zero, so the square has no slope there.
    assert given.grad[1:].any(1).all()
    assert made.numbers.grad is not None
    assert made.vectors[0].grad is not None


def test_numbers_alone() -> None:
    layout = LAYOUT.replace(ids=(), bags=(), vectors=(), tables={})
    made = FieldEmbedder(layout, 2, torch.Generator().manual_seed(1))
    batch = empty_batch(layout, 3)
    batch.dense[:] = 1.0
    inputs = made(torch.zeros(0, 3), batch)
    assert inputs.fields.shape == (3, 1, 2)
    torch.testing.assert_close(inputs.linear, made.numbers[0, -1].expand(3))

"""The inputs of exported graphs: their names, and what they hold for a batch."""

from dataclasses import replace

import pytest
import torch
from tests.models.toys import LAYOUTS

from scalerec.data.batches import Bag
from scalerec.data.layout import IdField, Layout, NumberField
from scalerec.data.schema import Role, Task
from scalerec.errors import RequestError
from scalerec.scoring.onnx_inputs import draw_batch, feeds_of, graph_inputs

MIXED = LAYOUTS["mixed"]


def test_a_field_has_an_input_of_its_own_name() -> None:
    inputs = graph_inputs(MIXED)
    assert [(own.name, own.dtype, own.shape) for own in inputs] == [
        ("user", "int64", ("batch",)),
        ("item", "int64", ("batch",)),
        ("day", "int64", ("batch",)),
        ("age", "float32", ("batch",)),
        ("price", "float32", ("batch",)),
        ("genres", "int64", ("batch", "genres.size")),
        ("genres.length", "int64", ("batch",)),
        ("seen", "int64", ("batch", "seen.size")),
        ("seen.length", "int64", ("batch",)),
        ("image", "float32", ("batch", 3)),
        ("image.present", "bool", ("batch",)),
    ]
    assert inputs[0].meaning == "an id: 0 for none, 1 for unknown, up to 11"
    assert inputs[7].meaning == (
        "up to 5 ids a row, oldest first, then zeros; an id: 0 for none, 1 for unknown, up to 13"
    )


def test_one_side_has_its_own_inputs_alone() -> None:
    names = [own.name for own in graph_inputs(MIXED, [Role.USER])]
    assert names == ["user", "age", "seen", "seen.length"]


def test_two_inputs_of_one_name_are_refused() -> None:
    vectors = MIXED.vectors
    layout = Layout(
        ids=(IdField(name="image.present", role=Role.ITEM, table="t"),),
        numbers=(NumberField(name="price", role=Role.ITEM),),
        vectors=vectors,
        tables={"t": 3},
        tasks=(Task(name="liked"),),
    )
    with pytest.raises(RequestError, match=r"named 'image\.present', one of them for feature"):
        graph_inputs(layout)


def test_feeds_are_the_batch() -> None:
    batch = draw_batch(MIXED, 3, seed=1)
    lists = Bag(torch.tensor([4, 5, 6]), torch.tensor([0, 2, 2, 3]))
    batch = replace(batch, bags=(lists, lists))
    feeds = feeds_of(MIXED, batch, graph_inputs(MIXED))
    assert feeds["genres"].tolist() == [[4, 5], [0, 0], [6, 0]]
    assert feeds["genres.length"].tolist() == [2, 0, 1]
    assert feeds["item"].tolist() == batch.ids[1].tolist()
    assert feeds["price"].tolist() == batch.dense[:, 1].tolist()
    assert feeds["image"].shape == (3, 3)
    assert feeds["image.present"].dtype == bool


def test_empty_lists_have_one_place() -> None:
    batch = draw_batch(MIXED, 2, seed=1)
    none = Bag(torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    batch = replace(batch, bags=(none, none))
    assert feeds_of(MIXED, batch, graph_inputs(MIXED))["seen"].tolist() == [[0], [0]]


def test_draws_reach_every_kind_of_row() -> None:
    batch = draw_batch(MIXED, 200, seed=0)
    assert {0, 1, 11} <= set(batch.ids[0].tolist())
    assert {0, 5} <= set(batch.bags[1].lengths.tolist())
    assert set(batch.vectors[0].present.tolist()) == {True, False}

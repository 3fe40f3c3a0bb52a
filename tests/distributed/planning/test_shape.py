"""What an example asks of a model, counted and by hand."""

import pytest

from scalerec.distributed.planning import TableReads, model_shape, plain_layout
from scalerec.models.recommender import ModelSpec
from scalerec.models.zoo import ZOO


def test_deepfm_by_hand() -> None:
    layout = plain_layout({f"c{i}": TableReads(rows=50) for i in range(3)}, 2)
    settings = {"dim": 4, "hidden": [8, 6]}
    shape = model_shape(layout, ModelSpec(model="deepfm", settings=settings))
    # Three fields of 4; two numbers in one column each, filled up to 16: 28 columns. Forward, and
    # backward by the input and by the weights, of 2 operations a product.
    assert shape.flops == 6 * (28 * 8 + 8 * 6 + 6 * 1)
    # The weights are over all five fields; numbers have a vector of 4 + 1 each.
    assert shape.num_parameters == (20 * 8 + 8) + (8 * 6 + 6) + (6 + 1) + 2 * 5
    assert (shape.width, shape.lookups) == (5, 3.0)
    assert shape.activations >= 28 + 8 + 6


def test_a_table_of_several_ids_is_a_bag() -> None:
    layout = plain_layout({"a": TableReads(rows=50), "b": TableReads(rows=9, lookups=2.5)}, 0)
    assert [own.name for own in layout.ids] == ["a"]
    assert [(own.name, own.max_length) for own in layout.bags] == [("b", 3)]
    shape = model_shape(layout, ModelSpec(model="fm", settings={"dim": 4}))
    assert shape.lookups == 4.0


@pytest.mark.parametrize("model", [name for name, entry in ZOO.items() if not entry.needs])
def test_every_model_is_counted(model: str) -> None:
    layout = plain_layout({f"c{i}": TableReads(rows=50) for i in range(4)}, 2)
    shape = model_shape(layout, ModelSpec(model=model, settings={"dim": 4}))
    assert shape.flops >= 0
    assert shape.activations > 0
    assert shape.num_parameters > 0

"""Recommenders without some units, fields and columns, and with shared rows."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.toys import LAYOUTS, draw_batch
from tests.train.toys import narrow

from scalerec.compress.fields import FieldConfig
from scalerec.compress.joints import find_joints, unit_columns
from scalerec.compress.neurons import NeuronConfig
from scalerec.compress.recommenders import (
    reads_by_table,
    share_table_rows,
    without_columns,
    without_fields,
    without_least_fields,
    without_units,
)
from scalerec.compress.rows import ColumnConfig, RowConfig
from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.models.forming import formed
from scalerec.models.forms import Forms, LayerForm, TableForm
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.models.zoo import ZOO

pytestmark = pytest.mark.usefixtures("one_thread")

# The same products in other blocks.
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
WITH_MLP = [
    "wide-deep", "deepfm", "dcn-v2", "finalmlp", "autoint", "din", "shared-bottom", "two-tower",
]  # fmt: skip


def drawn(model: str, layout: str = "", **settings: Any) -> tuple[Recommender, Batch]:
    """A recommender with weights that matter, and rows for it."""
    if model == "autoint":
        settings = {"hidden": [20, 20], **settings}
    own = LAYOUTS[layout or ("funnel" if model == "esmm" else "mixed")]
    recommender = build_recommender(own, narrow(model, **settings), 1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in recommender.state_dict().items():
            if tensor.is_floating_point():
                fresh = torch.randn(tensor.shape, generator=generator) * 0.3
                tensor.copy_(fresh.abs() + 0.5 if name.endswith("var") else fresh)
        recommender.tables.keep_padding_zero()
    return recommender.eval(), draw_batch(own, 30, torch.Generator().manual_seed(2))


def same_again(recommender: Recommender) -> Recommender:
    """What a reader of a bundle builds of its spec and its tensors."""
    spec = ModelSpec.from_dict(recommender.spec.to_dict())
    generator = torch.Generator().manual_seed(7)
    new = Recommender(recommender.layout, spec, generator, draw_tables=False)
    new.load_tensors({name: own.clone() for name, own in recommender.to_tensors().items()})
    return new.eval()


def count(recommender: Recommender) -> int:
    return sum(tensor.numel() for tensor in recommender.to_tensors().values())


@pytest.mark.parametrize("model", WITH_MLP)
def test_silent_units_go_without_a_trace(model: str) -> None:
    settings: dict[str, Any] = (
        {"batch_norm": True} if "batch_norm" in ZOO[model].config().to_dict() else {}
    )
    recommender, batch = drawn(model, **settings)
    for joint in find_joints(recommender):
        silent = unit_columns(torch.arange(0, 20, 2), joint.repeats)
        with torch.no_grad():
            recommender.get_submodule(joint.consumer).get_parameter("weight")[:, silent] = 0.0
    before = recommender(batch)
    small = without_units(recommender, NeuronConfig(ratio=0.5, weights="outgoing"))
    torch.testing.assert_close(small(batch), before, **CLOSE)
    torch.testing.assert_close(recommender(batch), before, rtol=0.0, atol=0.0)
    again = same_again(small)
    torch.testing.assert_close(again(batch), small(batch), rtol=0.0, atol=0.0)
    assert count(small) < count(recommender)
    for joint in find_joints(small):
        assert small.get_submodule(joint.producer).out_features == 10
        assert small.spec.forms.layers[joint.producer].outputs == 10
        assert small.spec.forms.layers[joint.consumer].inputs == 10


def test_units_by_activations_are_measured_on_the_recommender_itself() -> None:
    recommender, batch = drawn("deepfm")
    layer = recommender.get_submodule("net.tower.0")
    with torch.no_grad():
        layer.get_parameter("bias")[5:] = -100.0
    before = recommender(batch)
    small = without_units(recommender, NeuronConfig(ratios={"net.tower.0": 0.75}, ratio=0.0), batch)
    torch.testing.assert_close(small(batch), before, **CLOSE)
    assert small.spec.forms.layers == {
        "net.tower.0": LayerForm(outputs=5),
        "net.tower.2": LayerForm(inputs=5),
    }


def test_units_go_twice() -> None:
    recommender, batch = drawn("deepfm", batch_norm=True)
    twice = recommender
    for _ in range(2):
        twice = without_units(twice, NeuronConfig(ratio=0.5, compensate=True), batch)
    assert twice.spec.forms.layers["net.tower.0"] == LayerForm(outputs=5)
    assert twice.spec.forms.layers["net.tower.1"] == LayerForm(outputs=5)
    assert twice.spec.forms.layers["net.tower.3"] == LayerForm(inputs=5, outputs=5)
    assert same_again(twice)(batch).equal(twice(batch))


def test_nets_without_a_tower_say_so() -> None:
    recommender, _ = drawn("mmoe")
    with pytest.raises(
        ConfigError, match="no units can go: the model has no two layers of float32"
    ):
        without_units(recommender, NeuronConfig())


def emptied(recommender: Recommender, batch: Batch, names: tuple[str, ...]) -> Batch:
    """The batch with some fields absent."""
    layout = recommender.layout
    ids, dense = batch.ids.clone(), batch.dense.clone()
    for i, field in enumerate(layout.ids):
        ids[i] *= field.name not in names
    for i, number in enumerate(layout.numbers):
        dense[:, i] *= number.name not in names
    bags, vectors = [], []
    for bag, own in zip(layout.bags, batch.bags, strict=True):
        none = Bag(own.values[:0], torch.zeros_like(own.offsets))
        bags.append(none if bag.name in names else own)
    for vector, given in zip(layout.vectors, batch.vectors, strict=True):
        absent = Vectors(torch.zeros_like(given.values), torch.zeros_like(given.present))
        vectors.append(absent if vector.name in names else given)
    return replace(batch, ids=ids, dense=dense, bags=tuple(bags), vectors=tuple(vectors))


FIELDS = [("day",), ("price", "age"), ("genres",), ("image",), ("day", "age", "genres")]


@pytest.mark.parametrize("names", FIELDS)
@pytest.mark.parametrize("model", [name for name in ZOO if name not in ("autoint", "esmm")])
def test_without_fields_it_gives_what_it_gave_where_they_were_absent(
    model: str, names: tuple[str, ...]
) -> None:
    recommender, batch = drawn(model)
    small = without_fields(recommender, names)
    expected = recommender(emptied(recommender, batch, names))
    torch.testing.assert_close(small(batch), expected, **CLOSE)
    assert small.spec.forms.fields == names
    assert same_again(small)(batch).equal(small(batch))
    assert count(small) < count(recommender)
    assert ("tables.genre.weight" in small.to_tensors()) == ("genres" not in names)


def test_fields_go_after_units_columns_and_other_fields() -> None:
    recommender, batch = drawn("deepfm", batch_norm=True)
    reads = {name: torch.ones(len(recommender.tables.table(name))) for name in ("day", "item")}
    reads |= {name: torch.ones(len(recommender.tables.table(name))) for name in ("user", "genre")}
    small = without_units(recommender, NeuronConfig(ratio=0.5), batch)
    small = without_columns(small, reads, ColumnConfig(ratio=0.5, scope="global"))
    first = without_fields(small, ["user"])
    second = without_fields(first, ["image", "price"])
    expected = small(emptied(small, batch, ("user", "image", "price")))
    torch.testing.assert_close(second(batch), expected, **CLOSE)
    assert second.spec.forms.fields == ("user", "image", "price")
    assert "user" not in second.spec.forms.tables
    assert same_again(second)(batch).equal(second(batch))


def test_fields_a_net_cannot_do_without_are_named() -> None:
    recommender, _ = drawn("din")
    with pytest.raises(ConfigError, match="din needs a history"):
        without_fields(recommender, ["seen"])
    with pytest.raises(ConfigError, match="a field to leave out must be one of"):
        without_fields(recommender, ["sene"])
    coded = formed(recommender, Forms(layers={"net.tower.0": LayerForm(rank=2)}))
    with pytest.raises(ConfigError, match=r"leave out fields before layer 'net.tower.0' is given"):
        without_fields(coded, ["day"])


def test_the_least_fields_that_a_net_can_do_without_go() -> None:
    """DIN cannot do without its history, and the history not without its item's id."""
    recommender, _ = drawn("din")
    names = ["seen", "item", "day", "age", "user", "genres", "image", "price"]
    importance = {name: float(place) for place, name in enumerate(names)}
    small = without_least_fields(recommender, importance, FieldConfig(number=2))
    assert small.spec.forms.fields == ("day", "age")
    with pytest.raises(ConfigError, match="6 fields can be left out, not 7: din needs"):
        without_least_fields(recommender, importance, FieldConfig(number=7))


def test_reads_are_counted_by_table(rated: Dataset) -> None:
    recommender = build_recommender(rated.layout, narrow(), 1)
    reads = reads_by_table(recommender, rated)
    assert list(reads) == list(rated.layout.tables)
    train = rated.split("train")
    batch = train.read(0, len(train))
    expected = torch.bincount(batch.ids[0], minlength=rated.layout.tables["user"])
    assert reads["user"].tolist() == expected.tolist()
    expected = torch.bincount(batch.ids[1], minlength=rated.layout.tables["item"])
    expected += torch.bincount(batch.bags[0].values, minlength=len(expected))
    assert reads["item"].tolist() == expected.tolist()


@pytest.mark.parametrize("share", ["mean", "unknown"])
def test_rare_ids_share_a_row(share: Any) -> None:
    recommender, batch = drawn("deepfm")
    reads = {name: torch.arange(size, 0, -1) for name, size in recommender.layout.tables.items()}
    config = RowConfig(by="frequency", ratios={"user": 0.5}, share=share)
    small = share_table_rows(recommender, reads, config)
    # Of twelve rows the last five go.
    rows = small.tables.maps["user"].rows
    assert rows is not None
    assert rows.dtype == torch.int16
    shared = 7 if share == "mean" else 1
    assert rows.tolist() == [0, 1, 2, 3, 4, 5, 6, *[shared] * 5]
    assert small.tables.num_rows == {**recommender.tables.num_rows, "user": 7 + (share == "mean")}
    common = batch.take((batch.ids[0] < 7).nonzero().flatten())
    assert small(common).equal(recommender(common))
    assert same_again(small)(batch).equal(small(batch))
    if share == "mean":
        table = recommender.tables.table("user")
        mean = (torch.arange(5.0, 0.0, -1.0) @ table[7:]) / 15
        torch.testing.assert_close(small.tables.table("user")[7], mean)
    left = torch.arange(len(small.tables.table("user")), 0, -1)
    twice = share_table_rows(small, {**reads, "user": left}, config)
    again = twice.tables.maps["user"].rows
    assert again is not None
    assert int(again.max()) <= 5


@pytest.mark.parametrize("turn", [False, True])
def test_columns_that_are_zero_go_without_a_trace(turn: bool) -> None:
    recommender, batch = drawn("deepfm")
    with torch.no_grad():
        recommender.tables.table("item")[:, [0, 3, 4]] = 0.0
        recommender.tables.table("day")[:, 7] = 0.0
    before = recommender(batch)
    reads = {name: torch.ones(size) for name, size in recommender.layout.tables.items()}
    share = {"item": 3 / 8, "day": 1 / 8}
    config = ColumnConfig(ratio=0.0, ratios=share, scope="table", turn=turn)
    small = without_columns(recommender, reads, config)
    torch.testing.assert_close(small(batch), before, **CLOSE)
    assert small.spec.forms.tables == {"item": TableForm(dim=5), "day": TableForm(dim=7)}
    assert small.to_tensors()["tables.item.weight"].shape == (14, 6)
    assert same_again(small)(batch).equal(small(batch))
    more = without_columns(small, reads, config)
    assert more.spec.forms.tables == {"item": TableForm(dim=3), "day": TableForm(dim=6)}
    assert same_again(more)(batch).equal(more(batch))


def test_turned_columns_lose_what_no_direction_holds() -> None:
    """Rows in a plane need two columns, however the plane lies; rows never read do not count."""
    recommender, batch = drawn("deepfm")
    generator = torch.Generator().manual_seed(5)
    plane = torch.randn(14, 2, generator=generator) @ torch.randn(2, 8, generator=generator)
    with torch.no_grad():
        table = recommender.tables.table("item")
        table[1:13, :-1] = plane[1:13]
    reads = {name: torch.ones(size) for name, size in recommender.layout.tables.items()}
    reads["item"][13] = 0
    config = ColumnConfig(ratio=0.0, ratios={"item": 0.75}, scope="table")
    small = without_columns(recommender, reads, config)
    assert small.spec.forms.tables == {"item": TableForm(dim=2)}
    with torch.no_grad():
        table[13, :-1] = 0.0
        small.tables.table("item")[13, :2] = 0.0
    torch.testing.assert_close(small(batch), recommender(batch), rtol=1e-3, atol=1e-3)


def test_rows_and_columns_of_codes_and_of_hashes_are_left_alone() -> None:
    recommender, _ = drawn("deepfm")
    reads = {name: torch.ones(size) for name, size in recommender.layout.tables.items()}
    coded = formed(recommender, Forms(tables={"item": TableForm(bits=16)}))
    with pytest.raises(ConfigError, match="columns of table 'item' go before it is given 16 bits"):
        without_columns(coded, reads, ColumnConfig())
    spec = replace(narrow(), forms=Forms(tables={"item": TableForm(rows=5, sharing="hash")}))
    hashed = build_recommender(recommender.layout, spec, 1)
    with pytest.raises(ConfigError, match="rows of table 'item' are shared already: TableForm"):
        share_table_rows(hashed, reads, RowConfig(ratios={"item": 0.5}))
    with pytest.raises(ConfigError, match="there is no table 'itme'; there is user, item, day"):
        share_table_rows(recommender, reads, RowConfig(ratios={"itme": 0.5}))
    small = share_table_rows(hashed, {**reads, "item": torch.ones(5)}, RowConfig(ratio=0.5))
    assert small.tables.num_rows["item"] == 5
    assert small.tables.num_rows["user"] == 8

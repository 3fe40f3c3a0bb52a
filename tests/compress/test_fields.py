"""Which fields matter, by three ways; and which go."""

import math

import pytest
import torch
from tests.models.toys import LAYOUTS, draw_batch
from tests.train.toys import narrow

from scalerec.compress.fields import (
    FieldConfig,
    choose_fields,
    norm_importance,
    permutation_importance,
    permute_field,
    taylor_importance,
)
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.schema import Task, TaskKind
from scalerec.errors import ConfigError
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.models.zoo import ZOO
from scalerec.train import TrainConfig, train

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(model: str = "deepfm", layout: str = "mixed") -> tuple[Recommender, Batch]:
    recommender = build_recommender(LAYOUTS[layout], narrow(model), 1)
    with torch.no_grad():
        recommender.tables.matrix.mul_(10.0)
    batch = draw_batch(LAYOUTS[layout], 40, torch.Generator().manual_seed(2))
    batch.labels[::3] = 1.0
    return recommender.eval(), batch


def test_choosing_by_hand() -> None:
    importance = {"a": 0.3, "b": -0.1, "c": 0.0, "d": 0.2}
    assert choose_fields(importance, FieldConfig(number=2)) == ("b", "c")
    assert choose_fields(importance, FieldConfig(ratio=0.7)) == ("b", "c", "d")
    with pytest.raises(ConfigError, match="at least one of 4 fields must be left; got number 4"):
        choose_fields(importance, FieldConfig(ratio=0.9))


@pytest.mark.parametrize("name", ["user", "price", "genres", "image"])
def test_permuting_moves_one_field_alone(name: str) -> None:
    layout = LAYOUTS["mixed"]
    batch = draw_batch(layout, 6, torch.Generator().manual_seed(1))
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    moved = permute_field(layout, batch, name, order)
    whole = batch.take(order)
    for i, field in enumerate(layout.ids):
        assert torch.equal(moved.ids[i], (whole if field.name == name else batch).ids[i])
    for i, number in enumerate(layout.numbers):
        source = whole if number.name == name else batch
        assert torch.equal(moved.dense[:, i], source.dense[:, i])
    for bag, own, one, other in zip(layout.bags, moved.bags, batch.bags, whole.bags, strict=True):
        assert torch.equal(own.values, (other if bag.name == name else one).values)
    assert torch.equal(
        moved.vectors[0].values, (whole if name == "image" else batch).vectors[0].values
    )
    assert torch.equal(moved.labels, batch.labels)


def test_a_field_that_is_not_there_is_named() -> None:
    layout = LAYOUTS["ids"]
    batch = draw_batch(layout, 2, torch.Generator().manual_seed(1))
    with pytest.raises(ConfigError, match="no field 'age' in the layout; there is user, item, day"):
        permute_field(layout, batch, "age", torch.tensor([1, 0]))


@pytest.mark.parametrize("model", ZOO)
def test_a_field_that_says_nothing_matters_nothing(model: str) -> None:
    """Every row of its table is the same, and padding is not read."""
    layout = "funnel" if model == "esmm" else "mixed"
    recommender, batch = drawn(model, layout)
    table = recommender.tables.table("day")
    with torch.no_grad():
        table[1:] = table[1].clone()
    rises = permutation_importance(recommender, batch)
    assert list(rises) == [field.name for field in LAYOUTS[layout].fields]
    assert rises["day"] == 0.0
    assert any(abs(rise) > 1e-6 for rise in rises.values())
    assert rises == permutation_importance(recommender, batch)
    assert rises != permutation_importance(recommender, batch, seed=2)


@pytest.mark.parametrize("model", [name for name in ZOO if name != "lr"])
def test_a_field_of_zeros_has_no_norm_and_no_gradient(model: str) -> None:
    layout = "funnel" if model == "esmm" else "mixed"
    recommender, batch = drawn(model, layout)
    with torch.no_grad():
        recommender.tables.table("day").zero_()
    for found in (norm_importance(recommender, batch), taylor_importance(recommender, batch)):
        assert list(found) == [field.name for field in LAYOUTS[layout].fields]
        assert found["day"] == 0.0
        assert min(value for name, value in found.items() if name != "day") > 0.0


def test_the_norm_by_hand() -> None:
    """Of DeepFM, the mean magnitude of each number of a field times the weights of its column."""
    recommender, batch = drawn()
    fields = recommender.read(batch).fields.abs().mean(0)
    weight = recommender.get_parameter("net.tower.0.weight").abs().sum(0).view(fields.shape)
    found = norm_importance(recommender, batch)
    for value, own in zip(found.values(), (fields * weight).sum(1).tolist(), strict=True):
        assert math.isclose(value, own, rel_tol=1e-5)


def test_what_was_learned_matters_most(rated: Dataset) -> None:
    """Whether an item is liked follows from user and item; its price is noise."""
    config = TrainConfig.from_dict({"epochs": 12, "batch_size": 64, "dense": {"lr": 1e-2}})
    trained = train(rated, narrow("deepfm"), config.replace(tables={"lr": 3e-2}))
    batch = rated.split("valid").read(0, 1000)
    rises = permutation_importance(trained.recommender, batch, repeats=3)
    assert min(rises["user"], rises["item"]) > max(0.1, 3 * rises["price"])
    assert choose_fields(rises, FieldConfig(number=1)) != ("user",)


def test_the_logistic_regression_reads_no_embedding() -> None:
    recommender, batch = drawn("lr", "ids")
    with pytest.raises(ConfigError, match="model 'lr' does not read the fields' embeddings"):
        taylor_importance(recommender, batch)


def test_retrieval_has_no_loss_a_row() -> None:
    layout = LAYOUTS["ids"].replace(tasks=(Task(name="liked", kind=TaskKind.RETRIEVAL),))
    recommender = build_recommender(layout, narrow("two-tower"), 1)
    batch = draw_batch(layout, 4, torch.Generator().manual_seed(1))
    with pytest.raises(ConfigError, match="a retrieval task has none"):
        permutation_importance(recommender, batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of ratio and number must be above 0; got ratio 0.0 and number 0"),
        ({"ratio": 0.5, "number": 2}, "exactly one of ratio and number"),
        ({"ratio": 1.0}, r"ratio must be in \(0, 1\); got 1.0"),
        ({"number": -1}, "number must be at least 1; got -1"),
        ({"number": 1, "by": "age"}, "by must be one of permutation, taylor, norm; got 'age'"),
        ({"number": 1, "rows": 1}, "rows must be at least 2; got 1"),
        ({"number": 1, "repeats": 0}, "repeats must be at least 1; got 0"),
        ({"number": 1, "seed": -1}, "seed must be at least 0; got -1"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FieldConfig(**settings)  # type: ignore[arg-type]

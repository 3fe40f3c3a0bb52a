"""Recommenders in and out of bundles: bit for bit, whole, and nothing else in their place."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tests.train.toys import make_data, narrow, rating_rows, ratings

import scalerec.bundle
from scalerec.bundle import (
    Contents,
    Step,
    check_encoders,
    open_recommender,
    read_bundle,
    write_bundle,
    write_recommender,
)
from scalerec.bundle.recommenders import copy_tensors, same_encoders
from scalerec.data.dataset import Dataset
from scalerec.data.prepare import prepare
from scalerec.data.simulate import SimulatorConfig, simulate
from scalerec.errors import BundleError
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.models.zoo import ZOO
from scalerec.optim import RowwiseAdagrad

STEP = (Step(verb="train", settings={"seed": 1}),)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    config = SimulatorConfig(
        num_users=30, num_items=20, num_events=600, num_domains=2, image_dim=4, text_dim=0
    )
    return prepare(simulate(config).raw(), tmp_path_factory.mktemp("simulated") / "data")


def trained(dataset: Dataset, model: str = "deepfm", **settings: object) -> Recommender:
    """A model whose running means have moved as well."""
    recommender = build_recommender(dataset.layout, narrow(model, **settings), seed=3)
    recommender.train()(dataset.split("train").read(0, 64))
    return recommender.eval()


@torch.no_grad()
def scores(recommender: Recommender, dataset: Dataset) -> torch.Tensor:
    found: torch.Tensor = recommender(dataset.split("test").read(0, 50))
    return found


@pytest.mark.parametrize("model", ZOO)
def test_the_same_scores_bit_for_bit(tmp_path: Path, simulated: Dataset, model: str) -> None:
    recommender = trained(simulated, model)
    write_recommender(tmp_path / "bundle", recommender, simulated, STEP)
    opened = open_recommender(tmp_path / "bundle")
    assert not opened.recommender.training
    assert torch.equal(scores(opened.recommender, simulated), scores(recommender, simulated))
    assert opened.recommender.spec == recommender.spec
    assert opened.layout == simulated.layout
    theirs = opened.recommender.to_tensors()
    assert all(torch.equal(t, theirs[n]) for n, t in recommender.to_tensors().items())


def test_running_means_and_counts_too(tmp_path: Path, simulated: Dataset) -> None:
    recommender = trained(simulated, "wide-deep", batch_norm=True)
    counts = {n: t for n, t in recommender.to_tensors().items() if n.endswith("batches_tracked")}
    assert counts
    assert all(int(count) == 1 for count in counts.values())
    write_recommender(tmp_path / "bundle", recommender, simulated, STEP)
    opened = open_recommender(tmp_path / "bundle").recommender
    assert torch.equal(scores(opened, simulated), scores(recommender, simulated))
    assert all(torch.equal(opened.to_tensors()[name], count) for name, count in counts.items())


@pytest.mark.parametrize("engine", ["torch", "auto"])
def test_from_a_fused_engine(tmp_path: Path, simulated: Dataset, engine: str) -> None:
    recommender = trained(simulated)
    recommender.tables.use(engine, RowwiseAdagrad(), "rowwise_adagrad")
    write_recommender(tmp_path / "bundle", recommender, simulated, STEP)
    opened = open_recommender(tmp_path / "bundle").recommender
    found, expected = scores(opened, simulated), scores(recommender, simulated)
    # The compiled lookup sums in another order.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_rows_that_are_shared(tmp_path: Path, simulated: Dataset) -> None:
    """A table on three rows: every known id reads the third."""
    recommender = trained(simulated)
    name, num_ids = "user_id", simulated.layout.tables["user_id"]
    rows = torch.cat([torch.tensor([0, 1]), torch.full((num_ids - 2,), 2)])
    tensors = copy_tensors(recommender)
    tensors[f"tables.{name}.weight"] = tensors[f"tables.{name}.weight"][:3]
    recommender.load_tensors({**tensors, f"tables.{name}.rows": rows})
    write_recommender(tmp_path / "bundle", recommender, simulated, STEP)
    opened = open_recommender(tmp_path / "bundle").recommender
    assert opened.tables.num_rows[name] == 3
    assert torch.equal(scores(opened, simulated), scores(recommender, simulated))


def test_catalogue_and_users_round_trip(tmp_path: Path, simulated: Dataset) -> None:
    write_recommender(tmp_path / "bundle", trained(simulated), simulated, STEP)
    opened = open_recommender(tmp_path / "bundle")
    assert opened.item_keys == simulated.item_table["key"].to_pylist()
    assert opened.titles == simulated.item_table["title"].to_pylist()
    assert opened.user_keys == simulated.user_table["key"].to_pylist()
    assert opened.item_numbers[opened.item_keys[7]] == 7
    assert opened.user_numbers[opened.user_keys[5]] == 5
    assert opened.item_counts.tolist() == simulated.item_counts.tolist()
    for mine, its in ((opened.items, simulated.items), (opened.users, simulated.users)):
        assert torch.equal(mine.ids, its.ids)
        assert torch.equal(mine.dense, its.dense)
        for bag, other in zip(mine.bags, its.bags, strict=True):
            assert torch.equal(bag.values, other.values)
            assert torch.equal(bag.offsets, other.offsets)
        for vectors, others in zip(mine.vectors, its.vectors, strict=True):
            assert torch.equal(vectors.values, others.values)
            assert torch.equal(vectors.present, others.present)
    events = simulated.split("train")
    pairs = set(zip(events.column("user").tolist(), events.column("item").tolist(), strict=True))
    assert {(u, i) for u, items in enumerate(opened.met.to_pylist()) for i in items} == pairs


def test_without_users_or_items(tmp_path: Path) -> None:
    price = {"name": "price", "kind": "numeric"}
    dataset = make_data(tmp_path / "data", rating_rows(), [price], timestamp="time")
    write_recommender(tmp_path / "bundle", trained(dataset), dataset, STEP)
    opened = open_recommender(tmp_path / "bundle")
    assert (len(opened.items), len(opened.users), len(opened.met)) == (0, 0, 0)
    assert torch.equal(scores(opened.recommender, dataset), scores(trained(dataset), dataset))


def test_users_without_items(tmp_path: Path) -> None:
    user: dict[str, object] = {"name": "user", "kind": "categorical", "role": "user"}
    dataset = make_data(tmp_path / "data", rating_rows(), [user], user="user", timestamp="time")
    write_recommender(tmp_path / "bundle", trained(dataset, "lr"), dataset, STEP)
    opened = open_recommender(tmp_path / "bundle")
    assert opened.met.to_pylist() == [[]] * dataset.num_users


def test_nothing_is_drawn_to_be_overwritten(
    tmp_path: Path, simulated: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recommender(tmp_path / "bundle", trained(simulated), simulated, STEP)
    shapes = []
    real = torch.nn.init.normal_

    def count(tensor: torch.Tensor, *args: Any, **settings: Any) -> torch.Tensor:
        shapes.append(tuple(tensor.shape))
        return real(tensor, *args, **settings)

    monkeypatch.setattr(torch.nn.init, "normal_", count)
    opened = open_recommender(tmp_path / "bundle")
    assert tuple(opened.recommender.tables.matrix.shape) not in shapes


class TestRefusals:
    """What is not opened, or not used together."""

    def test_an_existing_bundle(self, tmp_path: Path, simulated: Dataset) -> None:
        recommender = trained(simulated)
        write_recommender(tmp_path / "bundle", recommender, simulated, STEP)
        with pytest.raises(BundleError, match="exists"):
            write_recommender(tmp_path / "bundle", recommender, simulated, STEP)
        write_recommender(tmp_path / "bundle", recommender, simulated, STEP, overwrite=True)

    def test_another_kind(self, tmp_path: Path) -> None:
        tensors = {"a": torch.ones(2)}
        contents = Contents(schema={}, spec={"kind": "image"}, layout={}, tensors=tensors)
        write_bundle(tmp_path / "bundle", contents)
        with pytest.raises(BundleError, match="holds a 'image'; this needs a 'recommender'"):
            open_recommender(tmp_path / "bundle")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"encoders": None}, "encoders.arrow is missing"),
            ({"encoders": pa.table({"a": [1]})}, "parts do not fit together"),
            ({"tensors": {"a": torch.ones(1)}}, "tensors missing or unknown: "),
            ({"spec": {"kind": "recommender", "model": "x", "settings": {}}}, "model must be one"),
            ({"layout": {}}, "layout: setting 'ids' is missing"),
            ({"catalogue": pa.table({"key": ["a"]})}, "parts do not fit together"),
            ({"users": pa.table({"key": ["a"]})}, "parts do not fit together"),
        ],
    )
    def test_parts_that_do_not_fit(
        self, tmp_path: Path, simulated: Dataset, change: dict[str, Any], words: str
    ) -> None:
        whole = write_recommender(tmp_path / "whole", trained(simulated), simulated, STEP)
        parts: dict[str, Any] = {
            "schema": whole.schema, "spec": whole.spec, "layout": whole.layout,
            "tensors": whole.tensors(), "encoders": whole.encoders,
            "catalogue": whole.catalogue, "users": whole.users,
        }  # fmt: skip
        write_bundle(tmp_path / "odd", Contents(**{**parts, **change}))
        with pytest.raises(BundleError, match=f"odd: its parts do not fit together: .*{words}|"
                           f"odd: its {words}"):  # fmt: skip
            open_recommender(tmp_path / "odd")

    def test_other_encoders(self, tmp_path: Path) -> None:
        dataset = ratings(tmp_path / "one")
        write_recommender(tmp_path / "bundle", trained(dataset), dataset, STEP)
        opened = open_recommender(tmp_path / "bundle")
        check_encoders(opened, dataset)
        check_encoders(opened, ratings(tmp_path / "again"))
        other = ratings(tmp_path / "other", columns=rating_rows(seed=5))
        assert not same_encoders(opened.encoders, other.encoders)
        words = "other was encoded differently from what .*bundle was trained on, so its ids mean"
        with pytest.raises(BundleError, match=words):
            check_encoders(opened, other)


def test_the_door_is_light_and_whole() -> None:
    assert scalerec.bundle.open_recommender is open_recommender
    assert scalerec.bundle.read_bundle is read_bundle
    with pytest.raises(AttributeError, match=r"'scalerec.bundle' has no attribute 'nothing'"):
        _ = scalerec.bundle.nothing

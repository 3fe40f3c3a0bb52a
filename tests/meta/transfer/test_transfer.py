"""Transfer: what each method moves, what it starts from, what it refuses, and the bundle made."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.meta.transfer.shops import SPEC, make, rows, target_data, trained

from scalerec.bundle import Contents, read_bundle, write_bundle
from scalerec.bundle.recommenders import open_recommender, write_recommender
from scalerec.data.dataset import Dataset
from scalerec.errors import BundleError, ConfigError
from scalerec.meta.transfer import (
    METHODS,
    TRANSFERS,
    TransferConfig,
    open_transfer,
    transfer,
    write_transferred,
)
from scalerec.models.forming import formed
from scalerec.models.forms import Forms, LayerForm
from scalerec.models.recommender import ModelSpec
from scalerec.train import TrainConfig, train

pytestmark = pytest.mark.usefixtures("one_thread")
TRAIN: dict[str, Any] = {"epochs": 2, "batch_size": 32, "precision": "fp32", "patience": -1}
Tensors = dict[str, torch.Tensor]


def config_of(method: str, **settings: Any) -> TransferConfig:
    train = {**TRAIN, **settings.pop("train", {})}
    return TransferConfig.from_dict({"method": method, "rank": 2, "train": train, **settings})


def tensors_of(recommender: Any) -> Tensors:
    return {name: tensor.clone() for name, tensor in recommender.to_tensors().items()}


def moved(bundle: Path, target: Dataset, config: TransferConfig) -> tuple[Tensors, Tensors, Any]:
    """All tensors before and after a transfer."""
    source = open_transfer(bundle, target)
    before = tensors_of(source.start.recommender)
    found = transfer(source, target, config)
    return before, tensors_of(found.recommender), (source, found)


@pytest.fixture
def target(plain: Path, tmp_path: Path) -> Dataset:
    return target_data(tmp_path / "target", plain)


def test_the_table_has_a_row_for_each_method() -> None:
    assert tuple(TRANSFERS) == METHODS
    assert all(method.words for method in TRANSFERS.values())


def test_all_is_training_further(plain: Path, target: Dataset) -> None:
    config = config_of("all")
    _, after, (_, found) = moved(plain, target, config)
    start = open_transfer(plain, target).start
    wanted = train(target, SPEC, config.train, start=start)
    for name, tensor in wanted.recommender.to_tensors().items():
        assert torch.equal(after[name], tensor)
    assert found.examples == target.num_rows("train")
    assert found.num_steps == wanted.num_steps


def test_scratch_takes_nothing_but_the_settings(plain: Path, target: Dataset) -> None:
    config = config_of("scratch")
    before, after, _ = moved(plain, target, config)
    wanted = train(target, SPEC, config.train)
    for name, tensor in wanted.recommender.to_tensors().items():
        assert torch.equal(after[name], tensor)
        assert not tensor.numel() or not torch.equal(tensor, before[name])


def changed_rows(before: Tensors, after: Tensors, name: str) -> list[int]:
    return (before[name] != after[name]).any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("engine", ["dense", "numba"])
def test_the_head_moves_with_rows_that_are_new(plain: Path, target: Dataset, engine: str) -> None:
    config = config_of("head", train={"tables": {"engine": engine}})
    before, after, (source, found) = moved(plain, target, config)
    dense = {n for n in after if not torch.equal(after[n], before[n]) and "tables." not in n}
    assert dense == {"net.tower.4.weight", "net.tower.4.bias"}
    num_new = 0
    for table, plan in source.start.grown.plans.items():
        rows = changed_rows(before, after, f"tables.{table}.weight")
        assert set(rows) <= set(plan.fresh.tolist())
        num_new += len(rows)
    assert num_new == source.start.grown.num_fresh > 10
    assert found.moved["rows"] == num_new


@pytest.mark.parametrize(("rows", "tables"), [("none", 0), ("all", 3)])
def test_which_rows_move_may_be_said(plain: Path, target: Dataset, rows: str, tables: int) -> None:
    before, after, (source, _) = moved(plain, target, config_of("head", rows=rows))
    old = {
        table: set(changed_rows(before, after, f"tables.{table}.weight")) - set(plan.fresh.tolist())
        for table, plan in source.start.grown.plans.items()
    }
    # Of shops the target has but its own.
    assert sum(bool(own) for own in old.values()) == min(tables, 2)


def test_low_rank_moves_layers_by_few_directions(plain: Path, target: Dataset) -> None:
    before, after, (_, found) = moved(
        plain, target, config_of("low-rank", train={"dense": {"lr": 0.02}})
    )
    assert found.moved["factored"] == {
        "net.tower.0.weight": [2, 1.0], "net.tower.2.weight": [2, 1.0],
    }  # fmt: skip
    for name in ("net.tower.0.weight", "net.tower.2.weight"):
        assert int(torch.linalg.matrix_rank(after[name] - before[name], tol=1e-5)) == 2
    for name in ("net.tower.0.bias", "net.tower.2.bias"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["net.tower.4.weight"], before["net.tower.4.weight"])
    # The sums are in the weights: the same shapes, nothing more to store.
    assert {n: t.shape for n, t in after.items()} == {n: t.shape for n, t in before.items()}


def test_a_layer_no_larger_than_the_rank_moves_whole(plain: Path, target: Dataset) -> None:
    _, _, (_, found) = moved(plain, target, config_of("low-rank", rank=6))
    assert list(found.moved["factored"]) == ["net.tower.0.weight"]
    assert "net.tower.2.weight" in found.moved["whole"]


def test_a_rank_must_be_below_the_largest_layer(plain: Path, target: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"rank must be from 1 to 7.*got 8"):
        moved(plain, target, config_of("low-rank", rank=8))


def test_a_net_without_layers_has_no_low_rank(shops: Dataset, tmp_path: Path) -> None:
    spec = ModelSpec(model="fm", settings={"dim": 4})
    path = tmp_path / "fm"
    write_recommender(path, train(shops, spec, TrainConfig(epochs=1)).recommender, shops, ())
    target = target_data(tmp_path / "target", path)
    with pytest.raises(ConfigError, match="'fm' has no linear layer but the last"):
        moved(path, target, config_of("low-rank"))


def test_validation_rows_decide_when_to_stop(plain: Path, tmp_path: Path) -> None:
    target = target_data(tmp_path / "target", plain, num=400, valid=0.3)
    settings = {"epochs": 30, "patience": 1, "dense": {"lr": 0.05}, "tables": {"lr": 0.05}}
    _, _, (_, found) = moved(plain, target, config_of("all", train=settings))
    values = [entry["valid/auc"] for entry in found.curve]
    assert len(values) < 30
    assert found.best == max(values) == values[-3]


def test_without_them_all_epochs_are_taken(plain: Path, target: Dataset) -> None:
    config = config_of("head", train={"epochs": 7, "patience": 1})
    _, _, (_, found) = moved(plain, target, config)
    assert len(found.curve) == 7
    assert found.best is None


def test_a_source_of_the_same_tastes_is_worth_more_than_nothing(tmp_path: Path) -> None:
    """In one pass over few examples, half of whose users and items are known."""
    even = make(tmp_path / "data", rows(["shop0", "shop2"], range(20), range(12), 500, 1), 0.0)
    settings = {"dense": {"lr": 0.01}, "tables": {"lr": 0.03}}
    path = trained(tmp_path / "source", even, epochs=20, **settings).path
    target = target_data(tmp_path / "target", path, shops=("new8",))
    losses = {}
    for method in ("scratch", "all", "head", "low-rank"):
        config = config_of(method, train={"epochs": 1, **settings})
        found = transfer(open_transfer(path, target), target, config)
        batch = target.split("test").read(0, target.num_rows("test"))
        logits = found.recommender(batch)[:, 0].detach()
        losses[method] = float(
            torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels[:, 0])
        )
    assert all(
        losses[method] < losses["scratch"] - 0.05 for method in losses if method != "scratch"
    )


def test_few_bits_are_not_trained_further(plain: Path, shops: Dataset, tmp_path: Path) -> None:
    forms = Forms(layers={"net.tower.0": LayerForm(bits=8)})
    small = formed(open_recommender(plain).recommender, forms)
    write_recommender(tmp_path / "small", small, shops, ())
    target = target_data(tmp_path / "target", tmp_path / "small")
    for method in ("all", "head", "low-rank", "meta"):
        with pytest.raises(ConfigError, match=r"too few bits to be trained further: net\.tower\.0"):
            moved(tmp_path / "small", target, config_of(method))
    found = transfer(open_transfer(tmp_path / "small", target), target, config_of("scratch"))
    assert not found.recommender.spec.forms


def test_a_frozen_source_stays_as_it_is(plain: Path, target: Dataset, tmp_path: Path) -> None:
    bundle = read_bundle(plain)
    contents = Contents(
        schema=bundle.schema, spec=bundle.spec, layout=bundle.layout, adaptable=(),
        lineage=bundle.lineage, tensors=bundle.tensors(), encoders=bundle.encoders,
        catalogue=bundle.catalogue, users=bundle.users,
    )  # fmt: skip
    write_bundle(tmp_path / "frozen", contents)
    with pytest.raises(BundleError, match="is frozen: none of its parameters may be adapted"):
        open_transfer(tmp_path / "frozen", target)


def test_data_of_other_ids_are_refused(plain: Path, shops: Dataset, tmp_path: Path) -> None:
    other = make(tmp_path / "other", rows(["x1"], range(3), range(3), 50, 3), 0.0)
    with pytest.raises(BundleError, match="does not continue"):
        open_transfer(plain, other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"method": "lora"},
            "method must be one of scratch, all, head, low-rank, meta; got 'lora'",
        ),
        ({"rank": 0}, "rank must be at least 1; got 0"),
        ({"scale": 0.0}, "scale must be above 0; got 0"),
        ({"rows": "some"}, "rows must be one of auto, all, new, none; got 'some'"),
        ({"method": "meta", "rows": "new"}, "rows must be 'auto' for method 'meta'; got 'new'"),
        ({"steps": -1}, "steps must be at least 0; got -1"),
        ({"most_examples": 0}, "most_examples must be at least 1; got 0"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TransferConfig.from_dict(settings)


@pytest.mark.parametrize("method", ["low-rank", "scratch"])
def test_a_whole_bundle_is_written(
    plain: Path, target: Dataset, tmp_path: Path, method: str
) -> None:
    config = config_of(method)
    source = open_transfer(plain, target)
    found = transfer(source, target, config)
    bundle = write_transferred(tmp_path / "own", found, source, target, config)
    opened = open_recommender(bundle.path)
    batch = target.split("test").read(0, 10)
    torch.testing.assert_close(opened.recommender(batch), found.recommender(batch))
    assert "i17" in opened.item_keys
    steps = bundle.lineage
    assert steps[-1].verb == "adapt"
    assert steps[-1].data == target.digest
    assert steps[-1].settings["method"] == method
    assert steps[-1].settings["examples"] == target.num_rows("train")
    if method == "scratch":
        assert [step.verb for step in steps] == ["prepare", "adapt"]
        assert steps[-1].parents == ()
    else:
        assert [step.verb for step in steps] == ["prepare", "train", "prepare", "adapt"]
        assert steps[-1].parents == (read_bundle(plain).digest,)
        assert steps[-1].settings["rank"] == 2
        assert steps[-1].settings["moved"] == found.moved
    assert "curves.json" in bundle.attachments()

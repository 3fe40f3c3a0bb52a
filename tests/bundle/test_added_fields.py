"""Bundles that go on with a target that has other fields: opened, trained, scored, written."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.bundle.test_growing import drawn
from tests.data.worlds import RICH, prepared, raw, rich_tables
from tests.train.toys import narrow

from scalerec.bundle import Bundle, Step, open_recommender, write_recommender
from scalerec.bundle.growing import base_of, recommender_for
from scalerec.data.dataset import Dataset
from scalerec.data.growing import GrowConfig
from scalerec.data.narrowing import Narrowing
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.schema import Schema
from scalerec.distributed.continuing import open_shared_start
from scalerec.errors import BundleError, ConfigError
from scalerec.models.recommender import build_recommender
from scalerec.models.zoo import ZOO
from scalerec.scoring import evaluate, recommend
from scalerec.train import TrainConfig, open_start, train
from scalerec.train.config import TableConfig
from scalerec.train.start import STATE_FILE

SPLIT: dict[str, Any] = {"split": {"valid": 0.2, "test": 0.2}}
# The source knows nothing of these; the target has them.
NEW = ("country", "tags", "seen_tags", "image", "speed")
# The target does not have these.
GONE = ("mood", "price", "depth", "hour")
CONFIG = TrainConfig.from_dict(
    {"epochs": 2, "batch_size": 16, "precision": "fp32", "tables": {"lr": 0.05}}
)
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
MODELS = [name for name in ZOO if name not in ("esmm", "autoint")]


def without(names: tuple[str, ...]) -> Schema:
    return RICH.replace(features=tuple(f for f in RICH.features if f.name not in names))


def dataset_of(path: Path, seed: int, bundle: Bundle | None, names: tuple[str, ...]) -> Dataset:
    rows = raw(without(names), *rich_tables(60, seed))
    if bundle is None:
        return prepared(path, rows, **SPLIT)
    config = PrepareConfig.from_dict(SPLIT)
    return prepare(rows, path / "data", config, base=base_of(bundle, GrowConfig(admit=1)))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    folder = tmp_path_factory.mktemp("worlds")
    return folder, dataset_of(folder / "source", 0, None, NEW)


def source_bundle(worlds: tuple[Path, Dataset], name: str) -> Bundle:
    folder, data = worlds
    path = folder / name
    if not path.exists():
        recommender = drawn(build_recommender(data.layout, narrow(name), 1))
        write_recommender(path, recommender, data, (Step(verb="train", parents=()),))
    return open_recommender(path).bundle


@pytest.fixture(scope="module")
def target(worlds: tuple[Path, Dataset]) -> Dataset:
    """One target fits all models: how rows are encoded does not depend on the model."""
    return dataset_of(worlds[0] / "target", 5, source_bundle(worlds, "lr"), GONE)


@pytest.mark.parametrize("name", MODELS)
def test_a_start_scores_the_target_as_the_source_does(
    worlds: tuple[Path, Dataset], target: Dataset, name: str
) -> None:
    """To the source's recommender the target's new ids are unknown, and its new fields nothing."""
    bundle = source_bundle(worlds, name)
    old = open_recommender(bundle.path).recommender
    start = open_start(bundle.path, target)
    assert sorted(start.added) == sorted(NEW)
    assert start.grown.exact
    assert start.grown.lost == ()
    batch = target.split("test").read(0, 20)
    plain = Narrowing(target.layout, start.added)(batch)
    sizes = [old.layout.tables[field.table] for field in old.layout.ids]
    ids = [torch.where(own < n, own, 1) for own, n in zip(plain.ids, sizes, strict=True)]
    bags = tuple(
        replace(bag, values=torch.where(bag.values < old.layout.tables[field.table], bag.values, 1))
        for bag, field in zip(plain.bags, old.layout.bags, strict=True)
    )
    plain = replace(plain, ids=torch.stack(ids), bags=bags)
    with torch.no_grad():
        torch.testing.assert_close(start.recommender(batch), old(plain), **CLOSE)


@pytest.mark.parametrize("name", ["deepfm", "din"])
def test_training_goes_on_and_the_bundle_scores_both(
    worlds: tuple[Path, Dataset], target: Dataset, tmp_path: Path, name: str
) -> None:
    bundle, source = source_bundle(worlds, name), worlds[1]
    start = open_start(bundle.path, target)
    trained = train(target, narrow(name), CONFIG, start=start)
    step = Step(verb="train", parents=(bundle.digest,))
    path = tmp_path / "target"
    write_recommender(path, trained.recommender, target, (*bundle.lineage, step))
    opened = open_recommender(path)
    assert opened.layout == target.layout
    assert opened.recommender.tables.table("country")[2:].any()
    assert opened.recommender.embedder.vectors[-1].any()
    assert recommend(opened, user="u1", k=3, exclude_met=False)
    assert evaluate(opened.recommender, target).rows == target.num_rows("test")
    # The source's rows, in which the new fields are missing.
    view = recommender_for(opened, source)
    assert view.layout == source.layout
    batch = source.split("test").read(0, 20)
    before = open_recommender(bundle.path).recommender
    with torch.no_grad():
        scores = view(batch)
        assert not torch.allclose(scores, before(batch), **CLOSE)
        rows = view.tables(batch)
        torch.testing.assert_close(view.score(rows, batch), scores, **CLOSE)
    assert evaluate(view, source).rows == source.num_rows("test")
    # A bundle of the target that has not learned says of the source's rows what it said.
    write_recommender(
        tmp_path / "same", open_start(bundle.path, target).recommender, target, bundle.lineage
    )
    same = recommender_for(open_recommender(tmp_path / "same"), source)
    with torch.no_grad():
        torch.testing.assert_close(same(batch), before(batch), **CLOSE)


def test_the_next_rows_of_the_target_need_no_column_that_it_lacks(
    worlds: tuple[Path, Dataset], target: Dataset, tmp_path: Path
) -> None:
    bundle = source_bundle(worlds, "deepfm")
    recommender = drawn(open_start(bundle.path, target).recommender)
    second = write_recommender(tmp_path / "second", recommender, target, ())
    known = base_of(second)
    rows = [
        {name: values for name, values in table.items() if name not in GONE}
        for table in rich_tables(60, 6)
    ]
    more = prepare(
        raw(known.encoders.schema, *rows), tmp_path / "more", PrepareConfig.from_dict(SPLIT),
        base=known,
    )  # fmt: skip
    start = open_start(second.path, more)
    assert start.added == ()
    assert more.num_rows("train") > 0


def test_data_of_another_kind_are_refused(worlds: tuple[Path, Dataset], tmp_path: Path) -> None:
    bundle = source_bundle(worlds, "lr")
    other = dataset_of(tmp_path / "other", 5, None, GONE)
    words = "does not continue .*: the schemas differ: feature 'mood' is not where it was"
    with pytest.raises(BundleError, match=words):
        open_start(bundle.path, other)


def test_several_processes_cannot_add_fields(worlds: tuple[Path, Dataset], target: Dataset) -> None:
    runtime: Any = SimpleNamespace(config=SimpleNamespace(engine="scalerec"))
    words = "does not know the fields .*country.* which one process alone can add"
    with pytest.raises(ConfigError, match=words):
        open_shared_start(source_bundle(worlds, "lr").path, target, runtime, TableConfig())


def test_optimisers_start_anew(worlds: tuple[Path, Dataset], target: Dataset) -> None:
    """What they remember of the source has other sizes, and is not looked at."""
    bundle = source_bundle(worlds, "fm")
    bundle.attach(STATE_FILE, b"of other sizes", overwrite=True)
    start = open_start(bundle.path, target)
    assert start.state == {}
    assert train(target, narrow("fm"), CONFIG, start=start).num_steps > 0

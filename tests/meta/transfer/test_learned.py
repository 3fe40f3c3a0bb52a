"""Transfer by steps that were taught: the same as adapting to one task, for a whole target."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.meta.transfer.shops import target_data, taught

from scalerec.bundle.recommenders import open_recommender
from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError, TrainError
from scalerec.meta.adapt import Adapter
from scalerec.meta.transfer import TransferConfig, open_transfer, transfer

pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(**settings: Any) -> TransferConfig:
    return TransferConfig.from_dict({"method": "meta", **settings})


@pytest.mark.parametrize("shops_of", [("new7",), ("new7", "new9")])
def test_it_is_adapting_to_one_task(
    learned: Path, tmp_path: Path, shops_of: tuple[str, ...]
) -> None:
    """What `Adapter` finds for the same rows is in the target's parameters and its shops' rows."""
    target = target_data(tmp_path / "target", learned, shops=shops_of)
    source = open_transfer(learned, target)
    batch = target.split("train").read(0, target.num_rows("train"))
    before = source.start.recommender(batch)
    adapter = Adapter(open_recommender(learned))
    # New ids of users and items read copies of the unknown ids' rows, as the source reads those.
    ids = batch.ids.clone()
    for place, field in enumerate(source.start.recommender.layout.ids):
        known = adapter.opened.layout.tables[field.table]
        ids[place] = torch.where(ids[place] < known, ids[place], 1)
    own = adapter.one(replace(batch, ids=ids))
    found = transfer(source, target, config_of())
    assert found.num_steps == 3
    assert found.examples == len(batch)
    for name, tensor in own.dense.items():
        torch.testing.assert_close(found.recommender.get_parameter(name), tensor)
    place = [field.name for field in target.layout.ids].index("shop")
    rows = found.recommender.tables.table("shop")[batch.ids[place].unique()]
    assert own.row is not None
    assert len(rows) == len(shops_of)
    for row in rows:
        torch.testing.assert_close(row, own.row)
    # Nobody else's row has moved.
    torch.testing.assert_close(
        found.recommender.tables.table("user"),
        open_transfer(learned, target).start.recommender.tables.table("user"),
    )
    assert not torch.equal(found.recommender(batch), before)


def test_validation_rows_choose_the_steps(learned: Path, tmp_path: Path) -> None:
    target = target_data(tmp_path / "target", learned, num=400, valid=0.3)
    found = transfer(open_transfer(learned, target), target, config_of(steps=6))
    values = [entry["valid/auc"] for entry in found.curve]
    assert len(values) == 7
    assert found.best == max(values)
    assert found.num_steps == values.index(max(values))
    again = transfer(
        open_transfer(learned, target),
        target,
        config_of(steps=max(1, found.num_steps), train={"patience": -1}),
    )
    if found.num_steps:
        for name, tensor in found.recommender.to_tensors().items():
            torch.testing.assert_close(again.recommender.to_tensors()[name], tensor)
    whole = transfer(
        open_transfer(learned, target), target, config_of(steps=6, train={"patience": -1})
    )
    assert (whole.num_steps, whole.curve, whole.best) == (6, [], None)


def test_examples_are_bounded(learned: Path, tmp_path: Path) -> None:
    target = target_data(tmp_path / "target", learned)
    found = transfer(open_transfer(learned, target), target, config_of(most_examples=20))
    assert found.examples == 20


def test_a_source_must_have_been_taught(plain: Path, tmp_path: Path) -> None:
    target = target_data(tmp_path / "target", plain)
    with pytest.raises(ConfigError, match="not taught to adapt; learn it with `scalerec meta"):
        transfer(open_transfer(plain, target), target, config_of())


def test_steps_that_run_away_are_refused(shops: Dataset, tmp_path: Path) -> None:
    path = taught(tmp_path / "wild", shops, rates="fixed", updates=1).path
    target = target_data(tmp_path / "target", path)
    source = open_transfer(path, target)
    rates = {name: torch.tensor(1e20) for name in source.rates}
    with pytest.raises(TrainError, match="not finite after adapting; lower the rates"):
        transfer(replace(source, rates=rates), target, config_of(steps=5))

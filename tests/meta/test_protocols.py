"""Protocols: held-out keys are new, queries are fixed, the ceiling learns all but queries."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from scalerec.data.raw import RawData
from scalerec.data.simulate import SimulatorConfig, simulate
from scalerec.data.sources import TableSource
from scalerec.errors import ConfigError, DataError
from scalerec.meta.protocols import Protocol, ProtocolConfig, hold_out_keys, without_features

SMALL = ProtocolConfig(valid=0.2, test=0.2, warm=0.1, least_rows=6, num_query=3)
FIELDS = {"user": "user_id", "item": "item_id", "domain": "domain"}


@pytest.fixture(scope="module")
def raw() -> RawData:
    config = SimulatorConfig(
        num_users=40, num_items=60, num_events=1500, num_domains=10, image_dim=0, text_dim=0
    )
    return simulate(config).raw()


@pytest.fixture(scope="module", params=["user", "item", "domain"])
def protocol(
    request: pytest.FixtureRequest, raw: RawData, tmp_path_factory: pytest.TempPathFactory
) -> Protocol:
    config = SMALL.replace(by=request.param)
    return hold_out_keys(raw, config, tmp_path_factory.mktemp(request.param))


def test_held_out_keys_are_new_to_the_model(protocol: Protocol) -> None:
    fields = [field.name for field in protocol.dataset.layout.ids]
    place = fields.index(FIELDS[protocol.config.by])
    for split in ("valid", "test"):
        events = protocol.dataset.split(split)
        assert events.read(0, len(events)).ids[place].unique().tolist() == [1]
    train = protocol.dataset.split("train")
    assert int(train.read(0, len(train)).ids[place].min()) > 1


def test_histories_are_left_out(protocol: Protocol, raw: RawData) -> None:
    assert raw.schema.history
    assert not protocol.dataset.schema.history


def test_every_event_is_in_one_part(protocol: Protocol) -> None:
    cold = sum(len(protocol.dataset.split(split)) for split in ("train", "valid", "test"))
    warm = protocol.warm.split("valid")
    assert cold + len(warm) == 1500
    assert len(warm) == pytest.approx(0.1 * (len(warm) + protocol.dataset.num_rows("train")), 0.3)


def test_tasks_and_queries(protocol: Protocol) -> None:
    for split in ("valid", "test"):
        tasks, episode = protocol.tasks(split), protocol.episode(split)
        assert len(tasks) >= 2
        assert int(tasks.rows.lengths.min()) >= 6
        assert set(episode.query.lengths.tolist()) == {3}
        assert (episode.support.lengths + 3).tolist() == tasks.rows.lengths.tolist()
        again = protocol.episode(split)
        assert torch.equal(again.query.rows, episode.query.rows)
        assert torch.equal(again.support.rows, episode.support.rows)


def test_the_warm_rows_are_of_known_keys_with_the_same_ids(protocol: Protocol) -> None:
    assert protocol.warm.layout == protocol.dataset.layout
    one, other = (data.split("train") for data in (protocol.dataset, protocol.warm))
    assert torch.equal(one.read(0, len(one)).ids, other.read(0, len(other)).ids)


def test_the_ceilings_learn_all_but_the_queries(protocol: Protocol, tmp_path: Path) -> None:
    episode, learned = protocol.episode("test"), 0
    for group in (0, 1):
        ceiling = protocol.ceiling("test", tmp_path / f"{group}", group, 2)
        place = [f.name for f in ceiling.layout.ids].index(FIELDS[protocol.config.by])
        own = episode.take(torch.arange(group, len(episode), 2))
        learned += ceiling.num_rows("train") - protocol.dataset.num_rows("train")
        assert ceiling.num_rows("train") == protocol.dataset.num_rows("train") + len(
            own.support.rows
        )
        queries = protocol.dataset.split("test").take(own.query.rows.numpy())
        found = ceiling.split("valid").read(0, ceiling.num_rows("valid"))
        assert torch.equal(found.labels, queries.labels)
        assert torch.equal(found.times, queries.times)
        assert int(found.ids[place].min()) > 1
    assert learned == len(episode.support.rows)
    with pytest.raises(ConfigError, match="group must be below 2; got 2"):
        protocol.ceiling("test", tmp_path / "other", 2, 2)


def test_short_keys_train_and_long_ones_are_left_out(tmp_path: Path) -> None:
    users = np.repeat(["a", "b", "c", "d", "e"], [2, 8, 8, 8, 30])
    table = {"user": users, "item": np.arange(len(users)) % 9, "y": np.arange(len(users)) % 2}
    raw = small(pa.table({name: pa.array(values) for name, values in table.items()}))
    config = SMALL.replace(valid=1 / 3, test=1 / 3, warm=0.0, most_rows=10)
    found = hold_out_keys(raw, config, tmp_path)
    sizes = {split: found.dataset.num_rows(split) for split in ("train", "valid", "test")}
    assert sizes == {"train": 10, "valid": 8, "test": 8}
    with pytest.raises(DataError, match="small: no user has 40 to 50 rows"):
        hold_out_keys(raw, config.replace(least_rows=40, most_rows=50), tmp_path / "other")


def small(table: pa.Table) -> RawData:
    from tests.data.worlds import schema

    own = schema(
        {"name": "user", "kind": "categorical", "role": "user"},
        {"name": "item", "kind": "categorical", "role": "item"},
        user="user",
        item="item",
    )
    return RawData(name="small", schema=own, splits={"all": TableSource(table, "small")})


def test_features_can_be_left_out(raw: RawData) -> None:
    left = without_features(raw, "age", "segment")
    names = {feature.name for feature in raw.schema.features}
    assert {feature.name for feature in left.schema.features} == names - {"age", "segment"}
    with pytest.raises(DataError, match="simulated: no feature 'height'; there is user_id, "):
        without_features(raw, "height")


def test_wrong_settings_are_named(raw: RawData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_query must be from 1 to least_rows - 1; got 6"):
        SMALL.replace(num_query=6)
    with pytest.raises(ConfigError, match=r"warm must be in \[0, 1\); got 1"):
        SMALL.replace(warm=1.0)
    with pytest.raises(ConfigError, match="most_rows must be at least 0; got -1"):
        SMALL.replace(most_rows=-1)
    with pytest.raises(DataError, match="no column 'shop' in the events or the items"):
        hold_out_keys(raw, SMALL.replace(by="shop"), tmp_path)
    divided = replace(raw, splits={"train": raw.splits["all"]})
    with pytest.raises(DataError, match="they are split already"):
        hold_out_keys(divided, SMALL, tmp_path)

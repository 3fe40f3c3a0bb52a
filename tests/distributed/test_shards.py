"""Which rows each process learns from: all of them, once an epoch, whatever the sizes."""

from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.frames import empty_batch
from scalerec.data.layout import Layout
from scalerec.data.loading import Loader
from scalerec.data.schema import Task
from scalerec.distributed import DistributedConfig
from scalerec.distributed.shards import find_shard, make_loader, own_batch
from scalerec.errors import ConfigError
from scalerec.train import TrainConfig

LAYOUT = Layout(ids=(), tables={}, tasks=(Task(name="y"),))
SHARDS = ("contiguous", "user", "hashed", "balanced")
Numbers = NDArray[np.int64]


class Events:
    """Events whose time is their number, and whose users are given."""

    def __init__(self, users: Numbers, lengths: Numbers) -> None:
        self.users, self.lengths = users, lengths

    def __len__(self) -> int:
        return len(self.users)

    def read(self, start: int, stop: int) -> Batch:
        return self.take(np.arange(start, min(stop, len(self))))

    def take(self, rows: Numbers) -> Batch:
        assert len(rows) == 0 or (rows.min() >= 0 and rows.max() < len(self))
        return replace(empty_batch(LAYOUT, len(rows)), times=torch.from_numpy(rows))

    def num_ids(self, rows: slice) -> Numbers:
        return self.lengths[rows]

    def column(self, name: str) -> Numbers:
        assert name == "user"
        return self.users


def make(users: Any, lengths: Any = None, user: str = "user") -> Dataset:
    users = np.asarray(users, np.int64)
    events = Events(users, np.zeros(len(users), np.int64) if lengths is None else lengths)
    num_users = int(users.max(initial=-1)) + 1
    schema = SimpleNamespace(user=user)
    found = SimpleNamespace(split=lambda _: events, schema=schema, num_users=num_users)
    return cast("Dataset", found)


def loaders(dataset: Dataset, world: int, partition: str, **settings: Any) -> list[Loader]:
    config = TrainConfig.from_dict(settings)
    distributed = DistributedConfig.from_dict({"partition": partition})
    return [make_loader(dataset, config, distributed, rank, world) for rank in range(world)]


def epoch(loader: Loader, number: int = 0, first: int = 0) -> list[list[int]]:
    return [batch.times.tolist() for batch in loader.epoch(number, first)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], int, str, dict[str, int]]:
    users = draw(st.lists(st.integers(0, 9), min_size=1, max_size=60))
    world = draw(st.integers(1, 5))
    settings = {
        "batch_size": draw(st.integers(world, 13)),
        "block_rows": draw(st.integers(1, 30)),
        "seed": draw(st.integers(0, 3)),
    }
    return users, world, draw(st.sampled_from(("batch", *SHARDS))), settings


@given(cases())
def test_every_row_once_in_equally_many_steps(case: Any) -> None:
    users, world, partition, settings = case
    own = loaders(make(users), world, partition, **settings)
    for number in range(2):
        found = [epoch(loader, number) for loader in own]
        assert sorted(row for part in found for rows in part for row in rows) == list(
            range(len(users))
        )
        assert {len(part) for part in found} == {own[0].steps_per_epoch}
        assert {loader.steps_per_epoch for loader in own} == {own[0].steps_per_epoch}
        for loader, part in zip(own, found, strict=True):
            unread = [loader.events.take(rows).times.tolist() for rows in loader.rows(number)]
            assert unread == part
        for step in zip(*found, strict=True):
            assert 1 <= sum(map(len, step)) <= settings["batch_size"]
    assert len({loader.order for loader in own}) == 1


@given(cases(), st.integers(0, 70))
def test_a_resumed_epoch_goes_on_where_it_was(case: Any, step: int) -> None:
    users, world, partition, settings = case
    dataset = make(users)
    for loader, again in zip(
        *(loaders(dataset, world, partition, **settings) for _ in range(2)), strict=True
    ):
        assert epoch(again, 3, step) == epoch(loader, 3)[step:]


@given(cases())
def test_the_parts_of_a_batch_are_the_batch(case: Any) -> None:
    users, world, _, settings = case
    dataset = make(users)
    (alone,) = loaders(dataset, 1, "batch", **settings)
    parts = zip(*map(epoch, loaders(dataset, world, "batch", **settings)), strict=True)
    assert [list(chain.from_iterable(part)) for part in parts] == epoch(alone)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 5))
def test_users_stay_whole(users: list[int], world: int) -> None:
    for partition in ("user", "balanced"):
        homes: dict[int, set[int]] = {}
        for rank in range(world):
            shard = find_shard(make(users), partition, rank, world)
            assert len(shard.rows) == shard.sizes[rank]
            for row in shard.rows:
                homes.setdefault(users[row], set()).add(rank)
        assert all(len(home) == 1 for home in homes.values())


def test_shards_by_hand() -> None:
    dataset = make([0, 0, 1, 2, 2, 1, 1], np.array([0, 0, 5, 9, 9, 0, 0]))
    runs = [find_shard(dataset, "contiguous", rank, 3).rows for rank in range(3)]
    assert runs == [range(2), range(2, 4), range(4, 7)]
    # User 2 costs 20, user 1 costs 8 and user 0 costs 2.
    found = [find_shard(dataset, "balanced", rank, 2) for rank in range(2)]
    assert [list(shard.rows) for shard in found] == [[3, 4], [0, 1, 2, 5, 6]]
    assert all(shard.sizes == (2, 5) for shard in found)
    assert found[0].rows.dtype == np.uint32  # type: ignore[union-attr]


def test_one_that_ran_out_takes_part_with_nothing() -> None:
    dataset = make([0] * 7 + [1] * 2)
    found = [epoch(loader) for loader in loaders(dataset, 2, "balanced", batch_size=4)]
    assert [list(map(len, part)) for part in found] == [[2, 2, 2, 1], [2, 0, 0, 0]]
    # One process has no row at all.
    found = [epoch(loader) for loader in loaders(make([0] * 3), 2, "balanced", batch_size=4)]
    assert [list(map(len, part)) for part in found] == [[2, 1], [0, 0]]


def test_the_remainder_of_a_batch_is_spread() -> None:
    assert [own_batch(11, rank, 4) for rank in range(4)] == [3, 3, 3, 2]
    with pytest.raises(ConfigError, match="at least the number of processes, 4; got 3"):
        own_batch(3, 0, 4)


@pytest.mark.parametrize("partition", ["user", "balanced"])
def test_users_must_be_known(partition: str) -> None:
    with pytest.raises(ConfigError, match=f"partition '{partition}' keeps users whole"):
        find_shard(make([0, 1], user=""), partition, 0, 2)


@pytest.mark.parametrize("partition", SHARDS)
def test_a_shard_of_real_data(
    partition: str, simulated: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found in chunks as at once; its rows are those of the split, histories included."""
    whole = [find_shard(simulated, partition, rank, 3) for rank in range(3)]
    monkeypatch.setattr("scalerec.distributed.shards.CHUNK", 100)
    for rank, shard in enumerate(whole):
        again = find_shard(simulated, partition, rank, 3)
        assert again.sizes == shard.sizes
        assert list(again.rows) == list(shard.rows)
    events = simulated.split("train")
    everything = events.read(0, len(events))
    (loader,) = loaders(simulated, 3, partition, batch_size=96)[1:2]
    own = loader.events.read(5, 400)
    rows = torch.tensor([int(row) for row in whole[1].rows])[5:400]
    wanted = everything.take(rows)
    assert torch.equal(own.ids, wanted.ids)
    assert torch.equal(own.labels, wanted.labels)
    for bag, other in zip(own.bags, wanted.bags, strict=True):
        assert torch.equal(bag.values, other.values)
        assert torch.equal(bag.offsets, other.offsets)


def test_what_a_row_looks_up(simulated: Dataset) -> None:
    events = simulated.split("train")
    batch = events.read(10, 200)
    ids = len(simulated.layout.ids) + sum(bag.lengths for bag in batch.bags)
    assert events.num_ids(slice(10, 200)).tolist() == torch.as_tensor(ids).tolist()
    some = np.arange(199, 9, -1)
    assert events.num_ids(some).tolist() == torch.as_tensor(ids).tolist()[::-1]

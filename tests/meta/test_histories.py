"""Histories in episodes: by hand, and on data whose own histories would tell what is hidden."""

from typing import Any

import pytest
import torch
from tests.train.toys import narrow, ratings

from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.frames import empty_batch
from scalerec.data.layout import Layout
from scalerec.meta import episodes
from scalerec.meta.config import MetaConfig
from scalerec.meta.episodes import Opened, Reader
from scalerec.meta.histories import history_kinds, tell_anew
from scalerec.meta.learning import meta_train
from scalerec.meta.parts import choose_parts
from scalerec.meta.personal import PersonalModel
from scalerec.meta.tasks import TaskSet
from scalerec.models.recommender import Recommender, build_recommender

pytestmark = pytest.mark.usefixtures("one_thread")
SUPPORT, QUERY = 4, 6


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ratings(tmp_path_factory.mktemp("ratings") / "data")


def din(dataset: Dataset) -> Recommender:
    return build_recommender(dataset.layout, narrow("din"), 1)


def rows(layout: Layout, items: list[int], liked: list[int], times: list[int]) -> Batch:
    """Rows with these ids of items."""
    batch = empty_batch(layout, len(items))
    place = [field.name for field in layout.ids].index("item")
    batch.ids[place] = torch.tensor(items)
    batch.labels[:, 0] = torch.tensor(liked).float()
    batch.label_mask[:] = True
    batch.times[:] = torch.tensor(times)
    return batch


def lists(batch: Batch) -> list[list[int]]:
    bag = batch.bags[0]
    return [bag.values[a:b].tolist() for a, b in zip(bag.offsets, bag.offsets[1:], strict=False)]


def test_queries_have_what_was_met_or_liked_in_order_of_time(dataset: Dataset) -> None:
    support = rows(dataset.layout, [5, 6, 7, 8, 9, 2], [1, 0, 1, 1, 1, 1], [30, 10, 20, 50, 60, 40])
    query = rows(dataset.layout, [3, 4, 3, 4], [1, 0, 0, 1], [0, 0, 90, 90])
    # The first task's rows count, but of the second only the first and the last do.
    counts = torch.tensor([[True, True, True], [True, False, True]])
    name = dataset.layout.bags[0].name
    for kind, expected in {"all": [[6, 7, 5], [2, 8]], "positive": [[7, 5], [2, 8]]}.items():
        before, told = tell_anew(dataset.layout, {name: kind}, support, query, counts)
        assert lists(before) == [[]] * 6
        assert lists(told) == [expected[0]] * 2 + [expected[1]] * 2
    assert lists(support) == [[]] * 6


def test_the_last_few_are_kept(dataset: Dataset) -> None:
    field = dataset.layout.bags[0]
    size = field.max_length + 2
    support = rows(dataset.layout, list(range(2, 2 + size)), [1] * size, list(range(size)))
    query = rows(dataset.layout, [2], [1], [0])
    args = (dataset.layout, {field.name: "all"}, support, query)
    _, told = tell_anew(*args, torch.ones(1, size, dtype=torch.bool))
    assert lists(told) == [list(range(4, 2 + size))]


def opened(dataset: Dataset, by: str, read_as: str) -> tuple[Opened, Any]:
    recommender = din(dataset)
    model = PersonalModel(recommender, choose_parts(recommender, "head"))
    tasks = TaskSet(dataset.split("train"), by, least_rows=SUPPORT + QUERY)
    generator = torch.Generator().manual_seed(0)
    episode = tasks.episode(torch.arange(len(tasks)), SUPPORT, QUERY, generator)
    return Reader(model, tasks.events, None, read_as).read(episode), episode


def hidden_in(found: Opened, layout: Layout) -> int:
    """How many items queries' histories hold that are not of their task's support."""
    place = [field.name for field in layout.ids].index("item")
    seen = found.support.batch.ids[place].view(-1, SUPPORT).tolist()
    told = lists(found.query.batch)
    return sum(item not in seen[row // QUERY] for row, items in enumerate(told) for item in items)


def test_what_a_support_hides_is_in_no_history_of_its_user(dataset: Dataset) -> None:
    assert set(history_kinds(dataset.schema).values()) == {"positive"}
    found, episode = opened(dataset, "user", "user")
    assert len(episode) > 1
    assert hidden_in(found, dataset.layout) == 0
    assert not any(lists(found.support.batch))
    assert any(lists(found.query.batch))
    place = [field.name for field in dataset.layout.ids].index("item")
    batch = found.support.batch
    for task, told in enumerate(lists(found.query.batch)[::QUERY]):
        own = slice(task * SUPPORT, (task + 1) * SUPPORT)
        liked = batch.ids[place, own][batch.labels[own, 0] > 0]
        assert told == liked[batch.times[own][batch.labels[own, 0] > 0].argsort()].tolist()
    # Histories as the data have them would tell more.
    assert hidden_in(opened(dataset, "user", "")[0], dataset.layout) > 0


def test_users_of_an_items_rows_keep_their_histories(dataset: Dataset) -> None:
    found, episode = opened(dataset, "item", "item")
    events = dataset.split("train")
    assert lists(found.query.batch) == lists(events.take(episode.query.rows.numpy()))


def test_learning_reads_users_so(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    def watched(*args: Any) -> tuple[Batch, Batch]:
        told.append(1)
        return tell_anew(*args)

    monkeypatch.setattr(episodes, "tell_anew", watched)
    config = MetaConfig(adapt="head", updates=1, evaluate_every=1, metric="loss")
    for by in ("item", "user"):
        tasks = TaskSet(dataset.split("train"), by, least_rows=2)
        meta_train(din(dataset), tasks, config)
        assert bool(told) == (by == "user")

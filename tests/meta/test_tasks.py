"""Tasks and episodes: every row once, queries that stay, supports that contain each other."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.toys import make_data
from torch import Tensor

from scalerec.data.dataset import Dataset, Events
from scalerec.errors import ConfigError, DataError
from scalerec.meta import Episode, Ragged, TaskSet

FEATURES = (
    {"name": "user", "kind": "categorical", "role": "user"},
    {"name": "item", "kind": "categorical", "role": "item"},
    {"name": "domain", "kind": "categorical", "role": "item", "optional": True},
)
# User a has rows 0, 3, 4, 6; user b rows 1, 5; user c row 2.
USERS = ["a", "b", "c", "a", "a", "b", "a"]
ITEMS = ["p", "q", "p", "r", "q", "q", "q"]
DOMAINS = ["one", "two", "one", None, "two", "two", "two"]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Events:
    path = Path(tmp_path_factory.mktemp("tasks")) / "data"
    columns: dict[str, Sequence[object]] = {
        "user": USERS,
        "item": ITEMS,
        "domain": DOMAINS,
        "liked": [0, 1, 0, 1, 0, 1, 0],
    }
    config = {"split": {"by": "random", "valid": 0.0, "test": 0.0}}
    return make_data(path, columns, FEATURES, user="user", item="item", config=config).split(
        "train"
    )


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def everything(tasks: TaskSet) -> Tensor:
    return torch.arange(len(tasks))


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.of(task).tolist() for task in range(len(ragged))]


def test_rows_are_gathered_by_user_and_by_item(events: Events) -> None:
    tasks = TaskSet(events, "user")
    assert len(tasks) == 3
    assert tasks.keys.tolist() == [0, 1, 2]
    assert lists(tasks.rows) == [[0, 3, 4, 6], [1, 5], [2]]
    assert tasks.rows_of(1).tolist() == [1, 5]
    assert lists(TaskSet(events, "item").rows) == [[0, 2], [1, 4, 5, 6], [3]]


def test_rows_are_gathered_by_a_column_and_what_is_missing_is_nobodys(events: Events) -> None:
    tasks = TaskSet(events, "domain")
    assert sorted(lists(tasks.rows)) == [[0, 2], [1, 4, 5, 6]]
    assert int(tasks.keys.min()) >= 1


def test_keys_with_few_rows_are_no_tasks(events: Events) -> None:
    tasks = TaskSet(events, "user", least_rows=2)
    assert lists(tasks.rows) == [[0, 3, 4, 6], [1, 5]]
    words = "has no user with at least 5 rows; the most that one has is 4"
    with pytest.raises(DataError, match=words):
        TaskSet(events, "user", least_rows=5)


def test_keys_can_be_given(events: Events) -> None:
    tasks = TaskSet(events, "shop", keys=torch.tensor([5, -1, 5, 2, 2, 5, -1]))
    assert tasks.keys.tolist() == [2, 5]
    assert lists(tasks.rows) == [[3, 4], [0, 2, 5]]
    with pytest.raises(ConfigError, match="keys must be one a row of 7; got 1"):
        TaskSet(events, "shop", keys=torch.tensor([5]))


def test_an_unknown_column_is_an_error(events: Events) -> None:
    with pytest.raises(DataError, match=r"tasks are by one of user, item, .*; got 'genre'"):
        TaskSet(events, "genre")


def test_ragged_rows() -> None:
    ragged = Ragged(torch.tensor([7, 8, 9]), torch.tensor([0, 1, 1, 3]))
    assert len(ragged) == 3
    assert ragged.lengths.tolist() == [1, 0, 2]
    assert ragged.tasks.tolist() == [0, 2, 2]
    assert ragged.ranks.tolist() == [0, 0, 1]
    assert lists(ragged.first(1)) == [[7], [], [8]]
    assert lists(ragged.take(torch.tensor([2, 2, 0]))) == [[8, 9], [8, 9], [7]]
    assert lists(ragged.keep(torch.tensor([False, True, True]))) == [[], [], [8, 9]]


def test_support_and_query_share_no_row_and_are_the_tasks_own(simulated: Dataset) -> None:
    tasks = TaskSet(simulated.split("train"), "user", least_rows=8)
    episode = tasks.episode(everything(tasks), 5, 3, seeded())
    assert episode.keys.tolist() == tasks.keys.tolist()
    assert set(episode.support.lengths.tolist()) == {5}
    assert set(episode.query.lengths.tolist()) == {3}
    users = torch.from_numpy(np.array(tasks.events.column("user")))
    for place, key in enumerate(episode.keys.tolist()):
        support, query = episode.support.of(place), episode.query.of(place)
        assert len(torch.cat([support, query]).unique()) == 8
        assert users[support].unique().tolist() == users[query].unique().tolist() == [key]


def test_queries_stay_and_supports_contain_each_other(simulated: Dataset) -> None:
    tasks = TaskSet(simulated.split("train"), "user", least_rows=8)
    whole = tasks.episode(everything(tasks), 5, 3, seeded())
    few = tasks.episode(everything(tasks), 2, 3, seeded())
    assert same(few, whole.first(2))
    assert not same(few, tasks.episode(everything(tasks), 2, 3, seeded(2)))


def same(one: Episode, other: Episode) -> bool:
    pairs = ((one.support, other.support), (one.query, other.query))
    keys = torch.equal(one.keys, other.keys)
    return keys and all(
        torch.equal(a.rows, b.rows) and torch.equal(a.offsets, b.offsets) for a, b in pairs
    )


def test_all_the_others_are_the_query_or_the_support(events: Events) -> None:
    tasks = TaskSet(events, "user", least_rows=2)
    places = torch.tensor([1, 0, 0])
    for num_support, num_query, sizes in (
        (1, None, ([1] * 3, [1, 3, 3])),
        (None, 1, ([1, 3, 3], [1] * 3)),
    ):
        episode = tasks.episode(places, num_support, num_query, seeded())
        assert (episode.support.lengths.tolist(), episode.query.lengths.tolist()) == sizes
        for place, rows in enumerate(([1, 5], [0, 3, 4, 6], [0, 3, 4, 6])):
            both = torch.cat([episode.support.of(place), episode.query.of(place)])
            assert both.sort().values.tolist() == rows


def test_short_tasks_have_their_query_whole_and_a_shorter_support(events: Events) -> None:
    tasks = TaskSet(events, "user")
    episode = tasks.episode(everything(tasks), 5, 2, seeded())
    assert episode.query.lengths.tolist() == [2, 2, 1]
    assert episode.support.lengths.tolist() == [2, 0, 0]


def test_a_choice_gets_the_rows_outside_the_query(events: Events) -> None:
    def latest(rows: Tensor, num: int, generator: torch.Generator) -> Tensor:
        assert isinstance(generator, torch.Generator)
        return rows.argsort(descending=True)[:num]

    tasks = TaskSet(events, "user", least_rows=2)
    one = tasks.episode(everything(tasks), 2, 1, seeded(), choose=latest)
    query = tasks.episode(everything(tasks), 2, 1, seeded()).query
    assert lists(one.query) == lists(query)
    left = [row for row in (6, 4, 3, 0) if row not in query.of(0).tolist()]
    assert one.support.of(0).tolist() == left[:2]
    assert one.support.lengths.tolist() == [2, 1]
    other = tasks.episode(everything(tasks), 1, None, seeded(), choose=latest)
    assert lists(other.support) == [[6], [5]]


def test_tasks_are_held_out_whole(simulated: Dataset) -> None:
    tasks = TaskSet(simulated.split("train"), "user")
    learned, held = tasks.hold_out(0.25, seeded())
    assert len(held) == round(0.25 * len(tasks))
    assert torch.cat([learned.keys, held.keys]).sort().values.tolist() == tasks.keys.tolist()
    assert len(learned.rows.rows) + len(held.rows.rows) == len(tasks.rows.rows)
    first = int(torch.nonzero(tasks.keys == held.keys[0]))
    assert held.rows_of(0).tolist() == tasks.rows_of(first).tolist()
    again = tasks.hold_out(0.25, seeded())[1]
    assert again.keys.tolist() == held.keys.tolist()


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((None, None), "one of num_support and num_query must be a number; both are None"),
        ((-1, 2), "num_support must be at least 0; got -1"),
        ((2, 0), "num_query must be at least 1; got 0"),
        ((1, None), "user 2 has no row left for its query; raise least_rows"),
    ],
)
def test_wrong_numbers_are_named(
    events: Events, numbers: tuple[int | None, int | None], words: str
) -> None:
    tasks = TaskSet(events, "user")
    with pytest.raises(ConfigError, match=words):
        tasks.episode(everything(tasks), *numbers, seeded())


def test_wrong_shares_are_named(events: Events) -> None:
    tasks = TaskSet(events, "user")
    with pytest.raises(ConfigError, match=r"share must be in \(0, 1\); got 1"):
        tasks.hold_out(1.0, seeded())
    with pytest.raises(ConfigError, match="at least 2 of them; got 1"):
        tasks.take(torch.tensor([0])).hold_out(0.5, seeded())
    with pytest.raises(ConfigError, match="least_rows must be at least 1; got 0"):
        TaskSet(events, "user", least_rows=0)


def test_an_episode_of_some_tasks(events: Events) -> None:
    tasks = TaskSet(events, "user", least_rows=2)
    episode = tasks.episode(everything(tasks), 1, 1, seeded())
    some = episode.take(torch.tensor([1]))
    assert len(some) == 1
    assert some.keys.tolist() == [1]
    assert some.query.of(0).tolist() == episode.query.of(1).tolist()

"""Whom to rank for, on events that can be read at a glance."""

from pathlib import Path

import pytest
import torch
from tests.train.toys import ratings

from scalerec.data.dataset import Dataset
from scalerec.scoring import queries, queries_of

# user, item, liked, in the order of time; the last five are the test part, the three before valid.
EVENTS = [
    ("ann", "a", 1), ("ann", "b", 0), ("bob", "a", 1), ("cat", "c", 1),
    ("cat", "d", 0), ("dan", "d", 1), ("dan", "a", 0), ("ann", "e", 1),
    ("bob", "c", 1), ("ann", "c", 0), ("cat", "a", 0),
    ("bob", "a", 1), ("bob", "e", 1), ("cat", "b", 0), ("ann", "d", 1), ("ann", "b", 1),
]  # fmt: skip


@pytest.fixture
def events(tmp_path: Path) -> Dataset:
    return prepare(tmp_path / "data", EVENTS)


def prepare(path: Path, events: list[tuple[str, str, int]]) -> Dataset:
    user, item, liked = zip(*events, strict=True)
    columns = {
        "user": user,
        "item": item,
        "liked": liked,
        "price": [0.1 * i for i in range(len(events))],
        "time": list(range(len(events))),
    }
    shares = {"by": "time", "valid": 3 / len(events), "test": 5 / len(events)}
    return ratings(path, columns=columns, config={"split": shares})


def lists(dataset: Dataset, split: str, which: str) -> dict[str, list[str]]:
    """The names of the items in each user's list."""
    found = queries_of(dataset, split)
    bag = found.relevant if which == "relevant" else found.met
    users = dataset.user_table["key"].to_pylist()
    items = dataset.item_table["key"].to_pylist()
    return {
        users[number]: [items[i] for i in bag.values[bag.offsets[row] : bag.offsets[row + 1]]]
        for row, number in enumerate(found.users.users.tolist())
    }


def test_who_chose_what(events: Dataset) -> None:
    """Cat chose nothing. Bob had met a and c, Ann had met a, b, c and e."""
    assert events.manifest["rows"] == {"train": 8, "valid": 3, "test": 5}
    assert lists(events, "test", "relevant") == {"ann": ["d"], "bob": ["e"]}
    assert lists(events, "test", "met") == {"ann": ["a", "b", "c", "e"], "bob": ["a", "c"]}
    assert lists(events, "valid", "relevant") == {"bob": ["c"]}
    assert lists(events, "valid", "met") == {"bob": ["a"]}


def test_users_are_as_at_their_first_event(events: Dataset) -> None:
    found = queries_of(events, "test")
    assert found.users.times.tolist() == [14, 11]
    past = found.users.bags[0]
    items = events.item_table["key"].to_pylist()
    ids = {int(number): items[i] for i, number in enumerate(events.items.ids[1])}
    assert [ids[int(i)] for i in past.values] == ["a", "e", "a", "c"]
    assert past.offsets.tolist() == [0, 2, 4]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_reading_in_blocks_changes_nothing(
    events: Dataset, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    whole = queries_of(events, "test")
    monkeypatch.setattr(queries, "SCORE_BATCH", size)
    found = queries_of(events, "test")
    assert torch.equal(found.users.ids, whole.users.ids)
    assert torch.equal(found.users.bags[0].values, whole.users.bags[0].values)


def test_nobody_chose_anything(tmp_path: Path) -> None:
    unmoved = [(u, i, liked if n < 11 else 0) for n, (u, i, liked) in enumerate(EVENTS)]
    dataset = prepare(tmp_path / "data", unmoved)
    found = queries_of(dataset, "test")
    assert len(found.users) == 0
    assert found.relevant.offsets.tolist() == found.met.offsets.tolist() == [0]


def test_all_that_was_chosen_had_been_met(tmp_path: Path) -> None:
    repeats = [*EVENTS[:11], *(("bob", "a", 1) for _ in range(5))]
    found = queries_of(prepare(tmp_path / "data", repeats), "test")
    assert found.relevant.offsets.tolist() == [0, 0]
    assert len(found.relevant.values) == 0

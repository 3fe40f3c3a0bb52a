"""Which rows train: by time, by each user's last, by chance, or as given."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scalerec.data.splits import SplitConfig, assign_splits, cut_valid
from scalerec.errors import ConfigError, DataError

Numbers = NDArray[np.int64]
TIMES = st.lists(st.integers(-5, 30), min_size=1, max_size=60).map(np.array)
SHARES = st.sampled_from([0.0, 0.1, 0.25, 0.4])


@given(TIMES, SHARES, SHARES)
def test_by_time_the_parts_follow_each_other(times: Numbers, valid: float, test: float) -> None:
    splits = assign_splits(SplitConfig(by="time", valid=valid, test=test), len(times), times, None)
    for early, late in ((0, 1), (1, 2), (0, 2)):
        first, second = times[splits == early], times[splits == late]
        if len(first) and len(second):
            assert first.max() < second.min()
    assert valid or not (splits == 1).any()
    assert test or not (splits == 2).any()


@given(st.integers(1, 200), SHARES, SHARES)
def test_by_time_the_shares_are_kept(size: int, valid: float, test: float) -> None:
    times = np.random.default_rng(0).permutation(size)
    splits = assign_splits(SplitConfig(valid=valid, test=test), size, times, None)
    counts = np.bincount(splits, minlength=3)
    assert abs(counts[2] - test * size) <= 1
    assert abs(counts[1] - valid * size) <= 1
    assert abs(counts[0] - (1 - valid - test) * size) <= 1


def test_each_users_last_events() -> None:
    users = np.array([0, 1, 0, 2, 0, 1, 0, 3])
    times = np.array([9, 1, 2, 5, 7, 4, 9, 3])
    splits = assign_splits(SplitConfig(by="leave-last-out"), 8, times, users)
    # User 0 in order of time: rows 2, 4, 0, 6 (equal times in the order of the file).
    assert splits.tolist() == [1, 0, 0, 0, 0, 2, 2, 0]


@given(st.data())
def test_each_users_last_events_against_a_slow_reference(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    users = np.array(data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size)))
    times = np.array(data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)))
    expected = np.zeros(size)
    for user in set(users.tolist()):
        rows = sorted(np.flatnonzero(users == user).tolist(), key=lambda row: (times[row], row))
        if len(rows) >= 2:
            expected[rows[-1]] = 2
        if len(rows) >= 3:
            expected[rows[-2]] = 1
    splits = assign_splits(SplitConfig(by="leave-last-out"), size, times, users)
    assert splits.tolist() == expected.tolist()


def test_by_chance_is_seeded_and_about_right() -> None:
    config = SplitConfig(by="random", valid=0.2, test=0.3, seed=1)
    splits = assign_splits(config, 100_000, None, None)
    assert np.bincount(splits) / 100_000 == pytest.approx([0.5, 0.2, 0.3], abs=0.01)
    assert (splits == assign_splits(config, 100_000, None, None)).all()
    assert (splits != assign_splits(config.replace(seed=2), 100_000, None, None)).any()


@pytest.mark.parametrize("by", ["user", "item"])
def test_users_and_items_stay_whole_and_their_shares_are_kept(by: Any) -> None:
    keys = np.random.default_rng(0).permutation(np.arange(400) % 40)
    config = SplitConfig(by=by, valid=0.1, test=0.25)

    def split(config: SplitConfig) -> NDArray[np.int8]:
        users, items = (keys, None) if by == "user" else (None, keys)
        return assign_splits(config, len(keys), None, users, items)

    splits = split(config)
    of_key = [set(splits[keys == key].tolist()) for key in range(40)]
    assert all(len(found) == 1 for found in of_key)
    assert np.bincount([found.pop() for found in of_key]).tolist() == [26, 4, 10]
    assert (splits == split(config)).all()
    assert (splits != split(config.replace(seed=1))).any()


def test_a_validation_part_is_cut_from_given_files() -> None:
    given_splits = np.array([0] * 10 + [2] * 5, np.int8)
    times = np.arange(15)
    splits = cut_valid(SplitConfig(valid=0.2), given_splits, times)
    assert splits.tolist() == [0] * 8 + [1] * 2 + [2] * 5
    assert given_splits[9] == 0
    chance = cut_valid(SplitConfig(valid=0.5, seed=3), given_splits, None)
    assert set(chance[:10].tolist()) == {0, 1}
    assert chance[10:].tolist() == [2] * 5
    assert cut_valid(SplitConfig(valid=0.0), given_splits, times).tolist() == given_splits.tolist()


@pytest.mark.parametrize(
    ("by", "times", "words"),
    [
        ("auto", None, "no timestamp to split by: name one in the schema, or --split random"),
        ("time", None, "split 'time' needs a timestamp; name one in the schema, or --split random"),
        ("leave-last-out", None, "split 'leave-last-out' needs a timestamp"),
        ("user", np.arange(3), "split 'user' needs one; name the column `user` in the schema"),
        ("item", np.arange(3), "split 'item' needs one; name the column `item` in the schema"),
        ("leave-last-out", np.arange(3), "split 'leave-last-out' needs a user; name one"),
    ],
)
def test_what_a_split_needs(by: Any, times: Numbers | None, words: str) -> None:
    with pytest.raises(DataError) as caught:
        assign_splits(SplitConfig(by=by), 3, times, None)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.1), (float("nan"), 0.1)])
def test_shares_leave_something_to_train(shares: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="valid and test must leave a share to train; got"):
        SplitConfig(valid=shares[0], test=shares[1])

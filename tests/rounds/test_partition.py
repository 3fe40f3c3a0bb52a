"""Partitioners: one contract for all, figures by hand, and the report of skew."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerec.errors import ConfigError, RoundError
from scalerec.rounds import Balanced, ByKey, Contiguous, Hashed, Partitioner, Skew, skew

# One row a member; the number of parts it gives for these keys, where it is fixed.
MEMBERS: dict[str, Partitioner] = {
    "balanced": Balanced(num_parts=3),
    "by key": ByKey(),
    "contiguous": Contiguous(num_parts=3),
    "hashed": Hashed(num_parts=3, seed=7),
}
calm = settings(deadline=None)  # a slow machine is no failure
members = pytest.mark.parametrize("name", MEMBERS)
some_keys = st.lists(st.integers(-3, 6), max_size=30).map(lambda k: np.array(k, dtype=np.int64))


@members
@calm
@given(keys=some_keys)
def test_each_row_is_in_one_part(name: str, keys: npt.NDArray[np.int64]) -> None:
    member = MEMBERS[name]
    assert isinstance(member, Partitioner)
    parts = member.split(len(keys), keys)
    assert len(parts) == (len(set(keys.tolist())) if name == "by key" else 3)
    assert sorted(row for part in parts for row in part.tolist()) == list(range(len(keys)))
    for part in parts:
        assert part.dtype == np.int64
        assert part.tolist() == sorted(part.tolist())
    if name != "contiguous":  # a key's rows stay together
        owners = [
            {p for p, part in enumerate(parts) if k in keys[part]} for k in set(keys.tolist())
        ]
        assert all(len(owner) == 1 for owner in owners)


@members
@calm
@given(keys=some_keys)
def test_the_same_again(name: str, keys: npt.NDArray[np.int64]) -> None:
    member = MEMBERS[name]
    pairs = zip(member.split(len(keys), keys), member.split(len(keys), keys.copy()), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)


def plain(parts: list[npt.NDArray[np.int64]]) -> list[list[int]]:
    return [part.tolist() for part in parts]


def test_by_hand() -> None:
    keys = np.array([5, 5, 2, 9, 5, 2])
    assert plain(Contiguous(num_parts=4).split(6)) == [[0, 1], [2, 3], [4], [5]]
    assert plain(Contiguous(num_parts=3).split(2)) == [[0], [1], []]
    assert plain(ByKey().split(6, keys)) == [[2, 5], [0, 1, 4], [3]]
    # Key 5 (3 rows) goes to the first part, 2 (2 rows) and 9 (1 row) to the second.
    assert plain(Balanced(num_parts=2).split(6, keys)) == [[0, 1, 4], [2, 3, 5]]


def test_balanced_by_cost_by_hand() -> None:
    keys = np.array([5, 5, 2, 9, 5, 2])
    # Key 5 costs 3, key 2 costs 4 and key 9 costs 5: 9, then 2, then 5 beside 2 (4 < 5).
    costs = np.array([1.0, 1.0, 2.0, 5.0, 1.0, 2.0])
    parts = Balanced(num_parts=2).split(6, keys, costs)
    assert plain(parts) == [[3], [0, 1, 2, 4, 5]]
    assert Balanced(num_parts=2).deal(np.array([3, 4, 5])).tolist() == [1, 1, 0]
    with pytest.raises(RoundError, match=r"costs must be 6 numbers; got shape \[2\]"):
        Balanced(num_parts=2).split(6, keys, np.ones(2))
    with pytest.raises(RoundError, match=r"costs must be at least 0; got -1\.0"):
        Balanced(num_parts=2).deal(np.array([3.0, -1.0]))


@calm
@given(costs=st.lists(st.integers(0, 50), min_size=1, max_size=40), num_parts=st.integers(1, 5))
def test_no_part_is_dearer_than_the_mean_and_one_more_key(costs: list[int], num_parts: int) -> None:
    loads = np.bincount(Balanced(num_parts=num_parts).deal(np.array(costs)), costs, num_parts)
    assert loads.sum() == sum(costs)
    assert loads.max() <= sum(costs) / num_parts + max(costs) * (1 - 1 / num_parts) + 1e-9


def test_the_hash_is_that_of_splitmix64() -> None:
    # The first output of SplitMix64 seeded with 0 and with 1; the state's step is part of the hash.
    for key, output in ((0, 0xE220A8397B1DCDAF), (1, 0x910A2DEC89025CC1)):
        few = Hashed(num_parts=1000).split(1, np.array([key]))
        assert [len(part) for part in few].index(1) == output % 1000


def test_hashed_keys_are_even_and_keep_their_part() -> None:
    keys = np.arange(4000)
    member = Hashed(num_parts=4)
    sizes = [len(part) for part in member.split(4000, keys)]
    assert max(sizes) < 1100  # 1000 expected, with a standard deviation of 27
    alone = [p for p, part in enumerate(member.split(1, keys[7:8])) if len(part)]
    together = [p for p, part in enumerate(member.split(4000, keys)) if 7 in part]
    assert alone == together
    assert plain(member.split(4000)) == plain(member.split(4000, keys))
    assert plain(Hashed(num_parts=4, seed=1).split(4000)) != plain(member.split(4000))


def test_skew_by_hand() -> None:
    parts = [np.array([0, 1, 2]), np.array([], dtype=np.int64), np.array([3])]
    labels = np.array([1, 0, 0, 1])
    assert skew(parts, labels) == Skew(
        sizes=(3, 0, 1),
        label_rates=(pytest.approx(1 / 3), None, 1.0),  # type: ignore[arg-type]
        num_empty=1,
        size_ratio=2.25,  # 3 against a mean of 4/3
        label_spread=pytest.approx(1 / 3),  # type: ignore[arg-type]
    )
    assert skew(parts).label_rates == (None, None, None)
    assert skew([]) == Skew(
        sizes=(), label_rates=(), num_empty=0, size_ratio=None, label_spread=None
    )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Contiguous(num_parts=0), "num_parts must be at least 1; got 0"),
        (lambda: Hashed(num_parts=2, seed=-1), "seed must be at least 0; got -1"),
        (
            lambda: Balanced.from_dict({"parts": 2}),
            "unknown setting 'parts'; did you mean 'num_parts'",
        ),
    ],
)
def test_a_wrong_setting_is_refused(build: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build()


@pytest.mark.parametrize("name", ["balanced", "by key"])
def test_missing_keys_are_refused(name: str) -> None:
    with pytest.raises(RoundError, match="needs a key for each row; got none"):
        MEMBERS[name].split(3)


@pytest.mark.parametrize("name", ["balanced", "by key", "hashed"])
def test_keys_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(RoundError, match=r"keys must be 3 integers; got shape \[2\] of int64"):
        MEMBERS[name].split(3, np.array([1, 2]))
    with pytest.raises(RoundError, match=r"keys must be 2 integers; got shape \[2\] of float64"):
        MEMBERS[name].split(2, np.array([1.0, 2.0]))

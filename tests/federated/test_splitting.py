"""Parties: every row has one holder, figures by hand, and laws of chance."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.dataset import Dataset
from scalerec.data.schema import Task
from scalerec.errors import ConfigError, RoundError
from scalerec.federated.splitting import Names, Parties, group_rows
from scalerec.federated.splitting_text import BY, parse_by, split_parties

ANY = [
    "user", "column:item", "uniform:7", "dirichlet:7:0.3", "dirichlet-equal:7:0.3", "time:7",
    "dirichlet:7:0.3:item", "uneven:7", "power:7:1.5", "domain:user:3",
]  # fmt: skip


def plain(parties: Parties) -> list[list[int]]:
    return [parties.rows(party).tolist() for party in range(len(parties))]


def by_hand() -> Parties:
    order, offsets = group_rows(np.array([2, 0, 2, 1, 0, 2]), 4)
    return Parties(
        names=Names(["a", "b", "c", "d"]),
        order=order,
        offsets=offsets,
        users=np.array([10, 11, 12, 13]),
        vectors=np.eye(4, 2, dtype=np.bool_),
    )


def test_parties_by_hand() -> None:
    parties = by_hand()
    assert plain(parties) == [[1, 4], [3], [0, 2, 5], []]
    assert parties.sizes.tolist() == [2, 1, 3, 0]
    assert (len(parties), parties.num_rows) == (4, 6)
    assert parties.owners.tolist() == [0, 0, 1, 2, 2, 2]
    rows, offsets = parties.rows_of(np.array([2, 3, 0]))
    assert rows.tolist() == [0, 2, 5, 1, 4]
    assert offsets.tolist() == [0, 3, 3, 5]
    with pytest.raises(IndexError, match="party must be from 0 to 3; got -1"):
        parties.rows(-1)


def test_some_parties_by_hand() -> None:
    some = by_hand().take(np.array([2, 0]))
    assert plain(some) == [[0, 2, 5], [1, 4]]
    assert list(some.names) == ["c", "a"]
    assert some.users is not None
    assert some.vectors is not None
    assert some.users.tolist() == [12, 10]
    assert some.vectors.tolist() == [[False, False], [True, False]]


def test_small_parties_are_left_out_and_counted() -> None:
    parties = by_hand().keep(2)
    assert plain(parties) == [[1, 4], [0, 2, 5]]
    assert list(parties.names) == ["a", "c"]
    assert (parties.num_left_out, parties.num_rows_left_out) == (2, 1)
    again = parties.keep(3)
    assert plain(again) == [[0, 2, 5]]
    assert (again.num_left_out, again.num_rows_left_out) == (3, 3)
    with pytest.raises(ConfigError, match="at most 3, the rows of the largest party; got 4"):
        again.keep(4)
    with pytest.raises(ConfigError, match="min_examples must be at least 1; got 0"):
        again.keep(0)


def test_parties_that_do_not_fit() -> None:
    order = np.arange(3)
    with pytest.raises(RoundError, match=r"1 parties need 2 offsets .* rows, 3; got 2 .* with 2"):
        Parties(names=["a"], order=order, offsets=np.array([0, 2]))
    with pytest.raises(RoundError, match="users must be of 1 parties; got 2"):
        Parties(names=["a"], order=order, offsets=np.array([0, 3]), users=np.arange(2))


def test_names() -> None:
    names = Names(np.arange(5) * 2, "party ")
    assert names[3] == "party 6"
    assert list(names[3:1:-1]) == ["party 6", "party 4"]
    assert list(names.take(np.array([4, 0]))) == ["party 8", "party 0"]


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(6, 8))
def test_rows_are_grouped_in_order(party_of: list[int], num: int) -> None:
    order, offsets = group_rows(np.array(party_of, np.int64), num)
    found = [order[a:b].tolist() for a, b in pairwise(offsets.tolist())]
    assert found == [[row for row, own in enumerate(party_of) if own == p] for p in range(num)]


def test_many_parties_are_grouped_in_order() -> None:
    party_of = np.random.default_rng(0).integers(0, 200_000, 50_000)
    order, offsets = group_rows(party_of, 200_000)
    assert np.array_equal(order, np.argsort(party_of, kind="stable"))
    assert np.array_equal(np.diff(offsets), np.bincount(party_of, minlength=200_000))


@pytest.mark.parametrize("by", ANY)
@pytest.mark.parametrize("min_examples", [1, 4])
def test_every_row_has_one_holder(by: str, min_examples: int, rated: Dataset) -> None:
    parties = split_parties(rated, by, seed=3, min_examples=min_examples)
    num_rows = len(rated.split("train"))
    rows = parties.order.tolist()
    assert len(set(rows)) == len(rows) == num_rows - parties.num_rows_left_out
    assert set(rows) <= set(range(num_rows))
    assert parties.sizes.min() >= min_examples
    assert all(part == sorted(part) for part in plain(parties))
    assert len(set(parties.names)) == len(parties)
    assert by in (parties.by, f"{parties.by}:1") or parties.by.startswith(by)
    assert parse_by(parties.by) == parse_by(by)


@pytest.mark.parametrize("by", ANY)
def test_the_seed_decides(by: str, rated: Dataset) -> None:
    first, again = (split_parties(rated, by, seed=3) for _ in range(2))
    assert plain(first) == plain(again)
    fixed = by.startswith(("user", "column", "time"))
    assert (plain(split_parties(rated, by, seed=4)) == plain(first)) == fixed


def test_by_user(rated: Dataset) -> None:
    parties = split_parties(rated, "user")
    users = rated.split("train").column("user")
    keys = rated.user_table["key"].to_pylist()
    assert parties.users is not None
    assert parties.users.tolist() == sorted(set(users.tolist()))
    for party, user in enumerate(parties.users.tolist()):
        assert parties.rows(party).tolist() == np.flatnonzero(users == user).tolist()
        assert parties.names[party] == keys[user]


def test_by_column(rated: Dataset) -> None:
    """A feature's values head the names; parties are those of the rows."""
    parties = split_parties(rated, "column:item")
    items = rated.split("train").column("item")
    titles = rated.item_table["key"].to_pylist()
    for party in range(len(parties)):
        (item,) = set(items[parties.rows(party)].tolist())
        assert parties.names[party] == f"item={titles[item]}"


def test_by_column_of_a_side_table(simulated: Dataset) -> None:
    batch = simulated.split("train").read(0, 10**9)
    for number, field in enumerate(simulated.layout.ids):
        parties = split_parties(simulated, f"column:{field.name}")
        ids = batch.ids[number].numpy()
        assert len(parties) == len(set(ids.tolist()))
        assert all(len(set(ids[parties.rows(p)].tolist())) == 1 for p in range(len(parties)))


def test_uniform_sizes_differ_by_one(rated: Dataset) -> None:
    parties = split_parties(rated, "uniform:7")
    num = len(rated.split("train"))
    assert sorted(set(parties.sizes.tolist())) == sorted({num // 7, -(-num // 7)})
    assert parties.names[6] == "party 6"


def toy(labels: Any) -> Dataset:
    """A data set of nothing but the labels of a binary task."""
    schema = SimpleNamespace(tasks=(Task(name="y"),), user="", features=(), timestamp="")
    rows = _Rows(np.asarray(labels, np.float32)[:, None])
    found = SimpleNamespace(schema=schema, split=lambda _: rows, store=lambda _: {})
    found.layout = SimpleNamespace(ids=(), vectors=())
    return cast("Dataset", found)


class _Rows:
    def __init__(self, labels: Any) -> None:
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def column(self, name: str) -> Any:
        return self._labels


def rates(dataset: Dataset, by: str) -> Any:
    parties = split_parties(dataset, by, seed=1)
    labels = dataset.split("train").column("labels")[:, 0]
    return np.array([labels[parties.rows(p)].mean() for p in range(len(parties))])


@pytest.mark.parametrize(("by", "each"), [("dirichlet", 1.0), ("dirichlet-equal", 0.5)])
@pytest.mark.parametrize("alpha", [0.1, 1.0, 100.0])
def test_concentration_decides_how_far_labels_differ(by: str, each: float, alpha: float) -> None:
    """Of two even labels a party's share is Beta(a, a), a = alpha or alpha/2: 1 / (4 (2 a + 1)).

    50 parties tell the deviation to a tenth; the last equal ones take what is left.
    """
    found = rates(toy(np.arange(20_000) % 2), f"{by}:50:{alpha}").std()
    assert found == pytest.approx((4 * (2 * alpha * each + 1)) ** -0.5, abs=0.08)


def test_equal_sizes_with_unequal_labels() -> None:
    parties = split_parties(toy(np.arange(1003) % 3), "dirichlet-equal:10:0.1", seed=2)
    assert sorted(parties.sizes.tolist()) == [100] * 7 + [101] * 3


def test_shares_of_a_label_are_dirichlet() -> None:
    """Mean 1/N and variance (N-1) / (N^2 (N a + 1)) of a share; 4 standard errors of 600 draws."""
    num, alpha, size = 6, 0.5, 4000
    dataset = toy(np.arange(2 * size) % 2)
    shares = []
    for seed in range(100):
        parties = split_parties(dataset, f"dirichlet:{num}:{alpha}", seed=seed)
        own = np.zeros(num)
        for party in range(len(parties)):
            number = int(parties.names[party].split()[1])
            own[number] = (parties.rows(party) % 2 == 0).sum() / size
        shares.append(own)
    found = np.array(shares)
    wanted = (num - 1) / (num**2 * (num * alpha + 1))
    assert found.sum(axis=1) == pytest.approx(1)
    assert found.mean(axis=0) == pytest.approx(1 / num, abs=4 * (wanted / 100) ** 0.5)
    assert found.var() == pytest.approx(wanted, rel=0.25)


def test_a_mix_of_equal_parties_is_dirichlet() -> None:
    """Share of label 1 is Beta(alpha/2, alpha/2) for two even labels: variance 1/(4 (alpha+1)).

    The last parties take what is left, so only the first tenth is chosen freely; over all parties
    the mean is exact and the variance near.
    """
    found = rates(toy(np.arange(40_000) % 2), "dirichlet-equal:200:2")
    assert found.mean() == pytest.approx(0.5)
    assert found.var() == pytest.approx(1 / 12, rel=0.25)


def test_unknown_labels_are_labels_of_their_own() -> None:
    dataset = toy([0, 1, np.nan, np.nan, 1, 0])
    parties = split_parties(dataset, "dirichlet:2:0.5")
    assert sorted(parties.order.tolist()) == list(range(6))


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("users", "by must be one of user, column:NAME, uniform:N, .*; got 'users'"),
        ("uniform", "by must be written uniform:N; got 'uniform'"),
        ("uniform:", "by must be written uniform:N; got 'uniform:'"),
        ("user:3", "by must be written user; got 'user:3'"),
        ("uniform:x", "by 'uniform:x': N must be a whole number; got 'x'"),
        ("uniform:0", "by 'uniform:0': the number of parties must be at least 1; got 0"),
        ("dirichlet:3", r"by must be written dirichlet:N:ALPHA\[:COLUMN\]; got 'dirichlet:3'"),
        ("dirichlet:3:x", "by 'dirichlet:3:x': 'x' must be a number"),
        ("dirichlet:3:0", "alpha must be from 0.001 to 1000000; got 0"),
        ("dirichlet:3:nan", "alpha must be from 0.001 to 1000000; got nan"),
        ("uneven:3:-1", "spread must be from 0 to 10; got -1"),
        ("uniform:10000", "uniform:10000: there must be at most as many parties as training rows"),
        ("column:mood", "column must be one id a row; got 'mood'; there are: user, item"),
        ("modality:3", "'modality:3' takes vector features away, but the schema has none"),
    ],
)
def test_words(by: str, words: str, rated: Dataset) -> None:
    with pytest.raises(ConfigError, match=words):
        split_parties(rated, by)


def test_words_about_data_that_lack_something() -> None:
    words = "'user' makes each user a party, but the schema names no user"
    with pytest.raises(ConfigError, match=words):
        split_parties(toy([0, 1]), "user")
    with pytest.raises(ConfigError, match="divides by time, but the schema names no timestamp"):
        split_parties(toy([0, 1]), "time:2")
    with pytest.raises(ConfigError, match="needs rows of at least two labels; all are y=1"):
        split_parties(toy([1, 1]), "dirichlet:2:1")


def test_all_ways_are_listed() -> None:
    assert len(BY) == len({by.split(":")[0] for by in BY}) == 10

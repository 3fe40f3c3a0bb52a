"""Accumulators: equal to the functions over all rows, however the rows are cut and merged.

1e-12 throughout: cutting changes only the order of sums of a few hundred float64.
"""

import pickle
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerec import metrics as m
from scalerec.errors import ConfigError, DataError

NUM_ROWS = 300
Values = dict[str, float | None]


class Accumulator(Protocol):
    """What the laws below need."""

    def merge(self, other: Self) -> Self: ...

    def compute(self) -> Values: ...

    def counts(self) -> dict[str, int]: ...


RNG = np.random.default_rng(11)
CHANCES = np.round(RNG.random(NUM_ROWS), 2)
LABELS = RNG.random(NUM_ROWS) < CHANCES
WEIGHTS = RNG.random(NUM_ROWS)
GROUPS = RNG.integers(0, 60, NUM_ROWS)
TARGETS, PREDICTIONS = RNG.normal(size=(2, NUM_ROWS))
CLASSES = RNG.integers(0, 4, NUM_ROWS)
CLASS_CHANCES = RNG.dirichlet(np.ones(4), NUM_ROWS)
RANKED = np.argsort(RNG.random((NUM_ROWS, 30)), axis=1)[:, :20]
COUNTS = RNG.integers(0, 5, NUM_ROWS)
VALUES = np.concatenate([RNG.permutation(30)[:count] for count in COUNTS])
OFFSETS = np.concatenate([[0], np.cumsum(COUNTS)])
GAINS = RNG.integers(1, 4, len(VALUES))
RANKS = RNG.integers(1, 41, NUM_ROWS) / 2 + 0.5


def binary(rows: slice) -> m.BinaryMetrics:
    made = m.BinaryMetrics()
    made.update(LABELS[rows], CHANCES[rows], groups=GROUPS[rows], weights=WEIGHTS[rows])
    return made


def binary_plain(rows: slice) -> m.BinaryMetrics:
    made = m.BinaryMetrics(num_bins=7, eps=1e-6)
    made.update(LABELS[rows], CHANCES[rows])
    return made


def regression(rows: slice) -> m.RegressionMetrics:
    made = m.RegressionMetrics()
    made.update(TARGETS[rows], PREDICTIONS[rows], weights=WEIGHTS[rows])
    return made


def multiclass(rows: slice) -> m.MulticlassMetrics:
    made = m.MulticlassMetrics()
    made.update(CLASSES[rows], CLASS_CHANCES[rows], weights=WEIGHTS[rows])
    return made


def ranking(rows: slice) -> m.RankingMetrics:
    made = m.RankingMetrics()
    users = np.arange(NUM_ROWS)[rows]
    first = OFFSETS[users[0]] if len(users) else 0
    last = OFFSETS[users[-1] + 1] if len(users) else 0
    offsets = np.append(OFFSETS[users] - first, last - first)
    made.update(RANKED[rows], VALUES[first:last], offsets, gains=GAINS[first:last])
    return made


def ranks(rows: slice) -> m.RankingMetrics:
    made = m.RankingMetrics(ks=(3,))
    made.update_ranks(RANKS[rows])
    return made


MAKERS: dict[str, Callable[[slice], Accumulator]] = {
    maker.__name__: maker
    for maker in (binary, binary_plain, regression, multiclass, ranking, ranks)
}
EMPTY = slice(0, 0)
ALL = slice(None)


def same(one: Accumulator, other: Accumulator) -> None:
    left, right = one.compute(), other.compute()
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value == pytest.approx(right[name], abs=1e-12), name
    assert one.counts() == other.counts()


def pieces(make: Callable[[slice], Accumulator], cuts: Sequence[int]) -> list[Accumulator]:
    edges = [0, *sorted(cuts), NUM_ROWS]
    return [make(slice(*pair)) for pair in pairwise(edges)]


@pytest.mark.parametrize("name", MAKERS)
@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, NUM_ROWS), min_size=2, max_size=2))
def test_cutting_merging_and_their_order_change_nothing(name: str, cuts: list[int]) -> None:
    make = MAKERS[name]
    a, b, c = pieces(make, cuts)
    whole = make(ALL)
    same(a.merge(b).merge(c), whole)
    same(a.merge(b.merge(c)), whole)
    same(c.merge(a).merge(b), whole)


@pytest.mark.parametrize("name", MAKERS)
def test_empty_is_the_identity(name: str) -> None:
    make = MAKERS[name]
    whole, expected = make(ALL), make(ALL).compute()
    assert whole.merge(make(EMPTY)).compute() == expected
    assert make(EMPTY).merge(whole).compute() == expected
    assert set(make(EMPTY).compute().values()) == {None}
    assert set(make(EMPTY).counts().values()) == {0}


@pytest.mark.parametrize("name", MAKERS)
def test_merging_changes_neither(name: str) -> None:
    a, b = MAKERS[name](slice(0, 100)), MAKERS[name](slice(100, None))
    before = a.compute(), b.compute(), a.counts(), b.counts()
    a.merge(b).merge(a)
    assert (a.compute(), b.compute(), a.counts(), b.counts()) == before


@pytest.mark.parametrize("name", MAKERS)
def test_an_accumulator_travels_between_processes(name: str) -> None:
    whole = MAKERS[name](ALL)
    copy = pickle.loads(pickle.dumps(whole))
    assert copy.compute() == whole.compute()
    assert copy.counts() == whole.counts()


def test_row_by_row_equals_the_functions() -> None:
    made = m.BinaryMetrics()
    for i in range(NUM_ROWS):
        row = slice(i, i + 1)
        made.update(LABELS[row], CHANCES[row], groups=GROUPS[row], weights=WEIGHTS[row])
    grouped = m.gauc(LABELS, CHANCES, GROUPS, WEIGHTS)
    expected = {
        "auc": m.auc(LABELS, CHANCES, WEIGHTS),
        "log_loss": m.log_loss(LABELS, CHANCES, WEIGHTS),
        "ne": m.ne(LABELS, CHANCES, WEIGHTS),
        "ece": m.ece(LABELS, CHANCES, WEIGHTS),
        "gauc": grouped.value,
    }
    assert made.compute() == pytest.approx(expected, abs=1e-12)
    assert made.counts() == {
        "rows": NUM_ROWS,
        "positives": int(LABELS.sum()),
        "groups": grouped.num_groups,
        "undefined_groups": grouped.num_undefined,
    }


def test_regression_and_classes_equal_the_functions() -> None:
    assert regression(ALL).compute() == {
        "rmse": m.rmse(TARGETS, PREDICTIONS, WEIGHTS),
        "mae": m.mae(TARGETS, PREDICTIONS, WEIGHTS),
    }
    chosen = CLASS_CHANCES.argmax(axis=1)
    assert multiclass(ALL).compute() == {
        "accuracy": m.accuracy(CLASSES, chosen, WEIGHTS),
        "log_loss": m.multiclass_log_loss(CLASSES, CLASS_CHANCES, WEIGHTS),
    }
    assert regression(ALL).counts() == multiclass(ALL).counts() == {"rows": NUM_ROWS}


def test_ranking_equals_the_functions() -> None:
    expected = {}
    for k in (5, 10, 20):
        lists = (RANKED, VALUES, OFFSETS, k)
        expected[f"hit_rate@{k}"] = m.hit_rate(*lists).value
        expected[f"recall@{k}"] = m.recall(*lists).value
        expected[f"precision@{k}"] = m.precision(*lists).value
        expected[f"ndcg@{k}"] = m.ndcg(*lists, GAINS).value
        expected[f"mrr@{k}"] = m.mrr(*lists).value
        expected[f"map@{k}"] = m.mean_average_precision(*lists).value
    assert ranking(ALL).compute() == pytest.approx(expected, abs=1e-12)
    undefined = int(np.count_nonzero(COUNTS == 0))
    assert ranking(ALL).counts() == {"users": NUM_ROWS, "undefined_users": undefined}


def test_ranks_equal_lists_with_one_relevant_item() -> None:
    whole = np.ceil(RANKS)
    by_rank, by_list = m.RankingMetrics(ks=(20, 3)), m.RankingMetrics(ks=(3, 20))
    by_rank.update_ranks(whole)
    ranked = np.tile(np.arange(1, 21), (NUM_ROWS, 1))
    by_list.update(ranked, whole.astype(np.int64), np.arange(NUM_ROWS + 1))
    same(by_rank, by_list)


def test_weights_may_be_given_in_some_batches() -> None:
    mixed, whole = m.BinaryMetrics(), m.BinaryMetrics()
    mixed.update(LABELS[:100], CHANCES[:100], weights=WEIGHTS[:100])
    mixed.update(LABELS[100:], CHANCES[100:])
    weights = np.append(WEIGHTS[:100], np.ones(NUM_ROWS - 100))
    whole.update(LABELS, CHANCES, weights=weights)
    same(mixed, whole)


def test_a_callers_buffer_may_be_used_again() -> None:
    labels, chances, weights = LABELS.astype(np.int64), CHANCES.copy(), WEIGHTS.copy()
    bools, groups = LABELS.copy(), GROUPS.copy()
    made, other = m.BinaryMetrics(), m.BinaryMetrics()
    made.update(labels, chances, groups=groups, weights=weights)
    other.update(bools, chances, groups=groups, weights=weights)
    for buffer in (labels, chances, weights, bools, groups):
        buffer[:] = 0
    same(made, binary(ALL))
    same(other, binary(ALL))


def test_one_class_is_none_and_counted() -> None:
    made = m.BinaryMetrics()
    made.update([1, 1], [0.5, 0.5], groups=["a", "b"])
    values = made.compute()
    assert (values["auc"], values["ne"], values["gauc"]) == (None, None, None)
    assert values["ece"] == 0.5
    assert made.counts() == {"rows": 2, "positives": 2, "groups": 2, "undefined_groups": 2}
    assert made.grouped_auc() == m.gauc([1, 1], [0.5, 0.5], ["a", "b"])
    # Another process may bring the class that was missing.
    rest = m.BinaryMetrics()
    rest.update([0], [0.25], groups=["b"])
    assert made.merge(rest).compute()["gauc"] == 1


def test_a_refused_batch_leaves_no_trace() -> None:
    made, expected = binary(ALL), binary(ALL)
    with pytest.raises(DataError):
        made.update([0, 1], [0.5, 2.0], groups=[1, 2])
    with pytest.raises(DataError):
        made.update([0, 1], [0.5, 0.5], groups=[1, 2], weights=[1, -1])
    with pytest.raises(DataError):
        made.update([0, 1], [0.5, 0.5], groups=["a", "b"])
    assert made.compute() == expected.compute()
    lists = ranking(ALL)
    with pytest.raises(DataError, match="ranked must have at least k=20 columns"):
        lists.update([[1, 2]], [1], [0, 1])
    with pytest.raises(DataError, match=r"ranks must be at least 1; got 0.5 at row 0"):
        lists.update_ranks([0.5])
    assert lists.compute() == ranking(ALL).compute()


def test_words_about_groups() -> None:
    words = "groups must be given in every batch or in none, and of one type; got {} and then {}"
    made = binary(ALL)
    with pytest.raises(DataError) as caught:
        made.update([0], [0.5])
    assert str(caught.value) == words.format("integers", "none")
    with pytest.raises(DataError) as caught:
        made.update([0], [0.5], groups=["a"])
    assert str(caught.value) == words.format("integers", "strings")
    plain = m.BinaryMetrics()
    plain.update([0], [0.5])
    with pytest.raises(DataError) as caught:
        plain.merge(made)
    assert str(caught.value) == words.format("none", "integers")


def test_words_about_settings() -> None:
    with pytest.raises(ConfigError) as caught:
        m.BinaryMetrics(num_bins=5).merge(m.BinaryMetrics())
    assert str(caught.value) == "num_bins must be the same in both to merge; got 5 and 10"
    with pytest.raises(ConfigError, match=r"eps must be the same in both to merge; got 0.1 and"):
        m.MulticlassMetrics(eps=0.1).merge(m.MulticlassMetrics())
    with pytest.raises(ConfigError) as caught:
        m.RankingMetrics(ks=[5, 1]).merge(m.RankingMetrics(ks=(5,)))
    assert str(caught.value) == "ks must be the same in both to merge; got (1, 5) and (5,)"
    with pytest.raises(ConfigError, match="ks must hold at least one list length; got none"):
        m.RankingMetrics(ks=())
    with pytest.raises(ConfigError, match="ks must be a whole number of at least 1; got 0"):
        m.RankingMetrics(ks=(5, 0))
    with pytest.raises(ConfigError, match="num_bins must be a whole number of at least 1; got 0"):
        m.BinaryMetrics(num_bins=0)
    with pytest.raises(ConfigError, match=r"eps must be above 0 and below 0.5; got 1"):
        m.MulticlassMetrics(eps=1)


def test_calibration_bins_are_those_of_the_error() -> None:
    metrics = m.BinaryMetrics(num_bins=2)
    metrics.update([0, 1, 1], [0.2, 0.4, 0.9], weights=[1.0, 3.0, 2.0])
    low, high = metrics.calibration()
    assert low == {
        "low": 0.0,
        "high": 0.5,
        "mean_score": pytest.approx((0.2 + 3 * 0.4) / 4),
        "share_positive": 0.75,
        "count": 4.0,
    }
    assert high["mean_score"] == pytest.approx(0.9)
    assert high["share_positive"] == 1.0
    gaps = sum(
        abs((b["mean_score"] or 0) - (b["share_positive"] or 0)) * (b["count"] or 0)
        for b in (low, high)
    )
    assert metrics.compute()["ece"] == pytest.approx(gaps / 6)
    assert m.BinaryMetrics(num_bins=1).calibration()[0]["mean_score"] is None

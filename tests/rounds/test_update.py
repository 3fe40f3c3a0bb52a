"""The algebra of updates: its laws, its figures by hand, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerec.errors import RoundError
from scalerec.rounds import (
    Parameters,
    TableRows,
    Update,
    apply_update,
    check_update,
    difference,
    sum_rows,
)

R, W = 5, 2

calm = settings(deadline=None)  # a slow machine is no failure


def rows_of(values: dict[int, list[float]]) -> TableRows:
    """The rows of a table, from row number to vector."""
    ordered = sorted(values)
    return TableRows(
        rows=torch.tensor(ordered, dtype=torch.int64),
        values=torch.tensor([values[r] for r in ordered], dtype=torch.float64).reshape(-1, W),
    )


# Small whole numbers: sums and products are exact, so the laws hold without a tolerance.
numbers = st.integers(-8, 8).map(float)
vectors = st.lists(numbers, min_size=W, max_size=W)
tensors = st.lists(numbers, min_size=3, max_size=3).map(
    lambda v: torch.tensor(v, dtype=torch.float64)
)
updates = st.builds(
    Update,
    dense=st.dictionaries(st.sampled_from(["a", "b"]), tensors),
    tables=st.dictionaries(
        st.sampled_from(["user", "item"]),
        st.dictionaries(st.integers(0, R - 1), vectors).map(rows_of),
    ),
    weight=st.integers(0, 9).map(float),
)


def start() -> Parameters:
    dense = {name: torch.arange(3.0, dtype=torch.float64) for name in ("a", "b")}
    tables = {n: torch.arange(10.0, dtype=torch.float64).reshape(R, W) for n in ("user", "item")}
    return Parameters(dense=dense, tables=tables)


def whole(update: Update) -> dict[str, torch.Tensor]:
    """The update as full tensors: absent is zero, so equal updates give equal tensors."""
    zero = Parameters.from_flat({n: torch.zeros_like(t) for n, t in start().flat().items()})
    # The weight of a difference may be negative, which a server refuses; it is compared apart.
    moved = apply_update(zero, Update(dense=update.dense, tables=update.tables, weight=0.0))
    return moved.flat() | {"weight": torch.tensor(update.weight)}


def same(left: Update, right: Update) -> bool:
    a, b = whole(left), whole(right)
    return all(torch.equal(a[name], b[name]) for name in a)


@calm
@given(updates, updates)
def test_add_is_commutative(a: Update, b: Update) -> None:
    assert same(a + b, b + a)


@calm
@given(updates, updates, updates)
def test_add_is_associative(a: Update, b: Update, c: Update) -> None:
    assert same((a + b) + c, a + (b + c))


@calm
@given(updates)
def test_zero_is_neutral(a: Update) -> None:
    assert same(a + Update.zero(), a)
    assert same(Update.zero() + a, a)
    assert same(a - a, Update.zero())


@calm
@given(updates, updates)
def test_subtract_undoes_add(a: Update, b: Update) -> None:
    assert same((a + b) - b, a)


@calm
@given(updates, updates, st.integers(-4, 4), st.integers(-4, 4))
def test_scale(a: Update, b: Update, s: int, t: int) -> None:
    assert same((a + b).scale(s), a.scale(s) + b.scale(s))
    assert same(a.scale(s).scale(t), a.scale(s * t))
    assert a.scale(s).weight == a.weight


@calm
@given(updates, updates, st.integers(-4, 4))
def test_norm(a: Update, b: Update, s: int) -> None:
    assert float(a.scale(s).norm()) == pytest.approx(abs(s) * float(a.norm()))
    assert float((a + b).norm()) <= float(a.norm()) + float(b.norm()) + 1e-9
    flat = torch.cat([t.flatten() for n, t in whole(a).items() if n != "weight"])
    assert float(a.norm()) == pytest.approx(float(flat.norm()))


@calm
@given(updates, updates)
def test_sums_keep_rows_sorted_and_move_alike(a: Update, b: Update) -> None:
    check_update(a + b, start())
    together = apply_update(start(), a + b).flat()
    one_by_one = apply_update(apply_update(start(), a), b).flat()
    assert all(torch.equal(together[n], one_by_one[n]) for n in together)


@calm
@given(updates)
def test_difference_undoes_apply(a: Update) -> None:
    every = {name: torch.arange(R) for name in ("user", "item")}
    found = difference(apply_update(start(), a), start(), every, a.weight)
    assert same(found, a)


def test_add_by_hand() -> None:
    a = Update(dense={}, tables={"user": rows_of({0: [1, 2], 3: [3, 4]})}, weight=2)
    b = Update(
        dense={"a": torch.ones(3)}, tables={"user": rows_of({1: [5, 6], 3: [10, 10]})}, weight=3
    )
    both = a + b
    assert both.weight == 5
    assert torch.equal(both.dense["a"], torch.ones(3))
    assert both.tables["user"].rows.tolist() == [0, 1, 3]
    assert both.tables["user"].values.tolist() == [[1, 2], [5, 6], [13, 14]]
    assert float(a.norm()) == pytest.approx(math.sqrt(1 + 4 + 9 + 16))
    assert float(Update.zero().norm()) == 0


def test_apply_changes_nothing_in_place() -> None:
    before = start()
    update = Update(
        dense={"a": torch.ones(3).double()}, tables={"user": rows_of({1: [5, 6]})}, weight=1
    )
    apply_update(before, update)
    assert all(torch.equal(t, start().flat()[n]) for n, t in before.flat().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_seen(bad: float) -> None:
    assert Update.zero().is_finite()
    assert not Update(dense={}, tables={}, weight=bad).is_finite()
    assert not Update(dense={"a": torch.tensor([1.0, bad])}, tables={}, weight=1).is_finite()
    assert not Update(dense={}, tables={"user": rows_of({1: [0, bad]})}, weight=1).is_finite()


def dense(**parts: torch.Tensor) -> Update:
    return Update(dense=parts, tables={}, weight=1)


def table(rows: list[int], width: int = W, name: str = "user") -> Update:
    values = torch.zeros(len(rows), width, dtype=torch.float64)
    part = TableRows(rows=torch.tensor(rows, dtype=torch.int64), values=values)
    return Update(dense={}, tables={name: part}, weight=1)


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (dense(c=torch.ones(3)), r"there is no dense tensor 'c'; allowed: \['a', 'b'\]"),
        (
            dense(a=torch.ones(2)),
            r"dense tensor 'a' must be \[3\] of torch.float64; got \[2\] of torch.float32",
        ),
        (table([0], name="shop"), r"there is no table 'shop'; allowed: \['item', 'user'\]"),
        (table([0], width=3), r"a row of table 'user' must be \[1, 2\].*got \[1, 3\]"),
        (table([2, 1]), "rows of table 'user' must be sorted, each once"),
        (table([1, 1]), "rows of table 'user' must be sorted, each once"),
        (table([1, 5]), r"rows of table 'user' must be in \[0, 5\); got 1 to 5"),
        (table([-1, 4]), r"rows of table 'user' must be in \[0, 5\); got -1 to 4"),
        (Update(dense={}, tables={}, weight=-1.0), "weight must be at least 0; got -1.0"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(update: Update, words: str) -> None:
    with pytest.raises(RoundError, match=words):
        apply_update(start(), update)
    with pytest.raises(RoundError, match=f"party 3: {words}"):
        check_update(update, start(), place="party 3")


def test_scaling_by_a_tensor_keeps_the_types() -> None:
    small = dense(a=torch.tensor(2.0))  # no dimensions, so float64 would win
    assert small.scale(torch.tensor(0.5, dtype=torch.float64)).dense["a"].dtype == torch.float32


def test_an_empty_set_of_rows_fits() -> None:
    check_update(table([]), start())


def test_parts_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(RoundError, match=r"rows must be \[K\] and values \[K, W\]; got \[2\] and"):
        TableRows(rows=torch.arange(2), values=torch.zeros(3, W))
    with pytest.raises(RoundError, match=r"rows must be torch.int64; got torch.int32"):
        TableRows(rows=torch.arange(2, dtype=torch.int32), values=torch.zeros(2, W))
    with pytest.raises(RoundError, match=r"dense tensor 'a' must be \[2\] of .*; got \[3\]"):
        dense(a=torch.ones(2)) + dense(a=torch.ones(3))
    with pytest.raises(RoundError, match=r"must all have width 2 .*; got 3 and torch.float64"):
        sum_rows("user", [table([0]).tables["user"], table([0], width=3).tables["user"]])


def test_a_difference_of_unlike_parameters_is_refused() -> None:
    rows = {name: torch.arange(R) for name in ("user", "item")}
    less = Parameters(dense={}, tables=start().tables)
    with pytest.raises(RoundError, match=r"dense tensors must be \['a', 'b'\]; got \[\]"):
        difference(less, start(), rows, 1)
    with pytest.raises(RoundError, match=r"tables with row numbers must be .*; got \['user'\]"):
        difference(start(), start(), {"user": rows["user"]}, 1)

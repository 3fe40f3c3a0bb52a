"""Rows that share one, and columns that go."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalerec.compress.rows import (
    ColumnConfig,
    RowConfig,
    choose_columns,
    choose_rows,
    column_importance,
    popular_columns,
    row_importance,
    share_rows,
    unit_basis,
)
from scalerec.errors import ConfigError

TABLE = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0], [0.0, 1.0], [5.0, 0.0], [0.0, 0.0]])
COUNTS = torch.tensor([9, 0, 1, 10, 4, 4])


def test_importance_of_rows_by_hand() -> None:
    assert row_importance(TABLE, COUNTS, "frequency").tolist() == [9, 0, 1, 10, 4, 4]
    assert row_importance(TABLE, COUNTS, "norm").tolist() == [0, 5, 10, 1, 5, 0]
    assert row_importance(TABLE, COUNTS, "both").tolist() == [0, 0, 10, 10, 20, 0]


def test_choosing_rows_by_hand() -> None:
    importance = row_importance(TABLE, COUNTS, "frequency")
    half = choose_rows(importance, "item", RowConfig(ratio=0.5))
    # The first of two fours stays.
    assert half.tolist() == [True, True, False, True, True, False]
    own = choose_rows(importance, "item", RowConfig(ratios={"item": 0.25}))
    assert own.tolist() == [True, True, False, True, True, True]
    assert choose_rows(importance, "user", RowConfig(ratios={"item": 0.25})).all()
    bound = choose_rows(importance, "item", RowConfig(threshold=4.0))
    assert bound.tolist() == [True, True, False, True, True, True]
    bound = choose_rows(importance, "item", RowConfig(threshold=4.0, thresholds={"item": 5.0}))
    assert bound.tolist() == [True, True, False, True, False, False]


def test_sharing_by_hand() -> None:
    kept = torch.tensor([True, True, False, True, False, True])
    shared = share_rows(TABLE, None, kept, COUNTS)
    # (1 (6, 8) + 4 (5, 0)) / 5, appended.
    assert shared.weight.tolist() == [[0, 0], [3, 4], [0, 1], [0, 0], pytest.approx([5.2, 1.6])]
    assert shared.rows.tolist() == [0, 1, 4, 2, 4, 3]
    unknown = share_rows(TABLE, None, kept, COUNTS, "unknown")
    assert unknown.weight.tolist() == [[0, 0], [3, 4], [0, 1], [0, 0]]
    assert unknown.rows.tolist() == [0, 1, 1, 2, 1, 3]
    never = share_rows(TABLE, None, kept, torch.zeros(6))
    assert never.weight[-1].tolist() == [5.5, 4.0]


def test_ids_that_shared_rows_before_follow_them() -> None:
    kept = torch.tensor([True, True, True, False, True, True])
    before = torch.tensor([0, 1, 1, 3, 3, 5, 2])
    shared = share_rows(TABLE, before, kept, COUNTS)
    assert shared.rows.tolist() == [0, 1, 1, 5, 5, 4, 2]
    assert torch.equal(shared.weight[shared.rows[[0, 1, 2, 5, 6]]], TABLE[[0, 1, 1, 5, 2]])
    same = share_rows(TABLE, before, torch.ones(6, dtype=torch.bool), COUNTS)
    assert torch.equal(same.weight, TABLE)
    assert torch.equal(same.rows, before)


@given(st.integers(2, 30), st.floats(0.0, 0.99), st.sampled_from(["mean", "unknown"]))
def test_rows_that_stay_are_read_as_before(size: int, ratio: float, share: Any) -> None:
    generator = torch.Generator().manual_seed(size)
    table = torch.randn(size, 3, generator=generator)
    counts = torch.randint(0, 9, (size,), generator=generator)
    importance = row_importance(table, counts, "both")
    kept = choose_rows(importance, "t", RowConfig(ratio=ratio, threshold=float(ratio == 0)))
    shared = share_rows(table, None, kept, counts, share)
    assert torch.equal(shared.weight[shared.rows[kept]], table[kept])
    gone = int((~kept).sum())
    assert len(shared.weight) == size - gone + (share == "mean" and gone > 0)
    if ratio:
        assert gone == round(ratio * (size - 2))
    assert len(set(shared.rows[~kept].tolist())) <= 1


def test_padding_and_unknown_keep_their_rows() -> None:
    with pytest.raises(ConfigError, match="padding and out-of-vocabulary keep their rows"):
        share_rows(TABLE, None, torch.zeros(6, dtype=torch.bool), COUNTS)


def test_importance_of_columns_by_hand() -> None:
    table = torch.tensor([[0.0, 0.0, 9.0], [1.0, -2.0, 9.0], [-3.0, 0.0, 9.0]])
    # The last column is the first-order weight.
    assert column_importance(table, torch.tensor([0, 1, 3])).tolist() == [2.5, 0.5]
    assert column_importance(table[:, :2], torch.zeros(3)).tolist() == [pytest.approx(4 / 3)]


def test_choosing_columns() -> None:
    importance = {"day": torch.tensor([4.0, 3.0]), "item": torch.tensor([1.0, 5.0, 3.0, 2.0])}
    rows = {"day": 2, "item": 10}
    each = choose_columns(importance, rows, ColumnConfig(ratio=0.5, scope="table"))
    assert {name: own.tolist() for name, own in each.items()} == {"day": [0], "item": [1, 2]}
    one = choose_columns(
        importance, rows, ColumnConfig(ratio=0, ratios={"day": 0.9}, scope="table")
    )
    assert {name: own.tolist() for name, own in one.items()} == {"day": [0], "item": [0, 1, 2, 3]}
    # Of 44 numbers 22 may go: two columns of items, and then one of days.
    whole = choose_columns(importance, rows, ColumnConfig(ratio=0.5, scope="global"))
    assert {name: own.tolist() for name, own in whole.items()} == {"day": [0], "item": [1, 2]}
    most = choose_columns(importance, rows, ColumnConfig(ratio=0.99, scope="global"))
    assert {name: own.tolist() for name, own in most.items()} == {"day": [0], "item": [1]}


def test_a_basis_of_unit_rows_puts_columns_back() -> None:
    rows = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    columns = torch.tensor([1, 2, 5])
    back = rows[:, columns] @ unit_basis(columns, 6)
    assert torch.equal(back[:, columns], rows[:, columns])
    assert not back[:, [0, 3, 4]].any()


def test_sizes_by_popularity() -> None:
    assert popular_columns({"day": 4, "item": 4}, 16, 0.3) == {"day": 16, "item": 16}
    assert popular_columns({"day": 4, "item": 400}, 16, 0.0) == {"day": 16, "item": 16}
    assert popular_columns({"day": 4, "item": 400}, 16, 1.0) == {"day": 16, "item": 1}
    with pytest.raises(ConfigError, match=r"power must be in \[0, 1\]; got 2"):
        popular_columns({"day": 4}, 16, 2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either a ratio or a threshold, for all tables or by table"),
        ({"ratio": 0.5, "thresholds": {"a": 1.0}}, "give either a ratio or a threshold"),
        ({"ratio": 1.0}, r"ratio must be in \[0, 1\); got 1.0"),
        ({"ratios": {"a": -1.0}}, r"ratios.a must be in \[0, 1\); got -1.0"),
        ({"threshold": -1.0}, "threshold must be at least 0; got -1.0"),
        ({"ratio": 0.5, "by": "age"}, "by must be one of frequency, norm, both; got 'age'"),
        ({"ratio": 0.5, "share": "zero"}, "share must be one of mean, unknown; got 'zero'"),
    ],
)
def test_settings_of_rows_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RowConfig(**settings)  # type: ignore[arg-type]


def test_settings_of_columns_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"ratio must be in \[0, 1\); got 1"):
        ColumnConfig(ratio=1.0)
    with pytest.raises(ConfigError, match="scope must be one of table, global; got 'tensor'"):
        ColumnConfig(scope="tensor")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ratios by table need scope 'table'; got 'global'"):
        ColumnConfig(ratios={"a": 0.5}, scope="global")
    config = ColumnConfig(ratios={"a": 0.5}, scope="table")
    with pytest.raises(ConfigError, match=r"ratios.a: there is no such table in \['b'\]"):
        choose_columns({"b": torch.ones(2)}, {"b": 3}, config)

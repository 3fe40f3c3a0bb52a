"""Which process keeps which table, on sizes whose answer is plain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.distributed.planning import choose_placements, explain_placements
from scalerec.errors import ConfigError


def test_rows_are_spread_where_nothing_argues_otherwise() -> None:
    sizes = {f"c{i}": 1_000_000 for i in range(26)}
    found = choose_placements(sizes, dict.fromkeys(sizes, 1500.0), 17, 4)
    assert set(found.values()) == {"row"}
    assert list(found) == list(sizes)


def test_one_process_keeps_all() -> None:
    assert choose_placements({"a": 10}, {"a": 10.0}, 17, 1) == {"a": "row"}


def test_tiny_tables_are_kept_by_all() -> None:
    # 100 rows a step, W = 17: told to 3 others, 100 * (8 + 4 * 17) * 3 = 22,800 bytes; by rows
    # 100 * (8 + 8 * 17) * 3 / 4 = 10,800, and a message, worth 62,500.
    sizes = {"day": 7, "hour": 24, "city": 300}
    reads = {"day": 7.0, "hour": 24.0, "city": 69.0}
    assert set(choose_placements(sizes, reads, 17, 4).values()) == {"replicated"}
    # Of 64 processes: 478,800 bytes against 14,175 and a message. Their traffic, 1.6 rows on the
    # mean, cannot be balanced by whole tables either.
    assert set(choose_placements(sizes, reads, 17, 64).values()) == {"row"}


def test_what_all_keep_must_be_small() -> None:
    # 4 * 18 bytes a row: 64 MiB are 932,067 rows.
    assert choose_placements({"a": 932_067}, {"a": 100.0}, 17, 2) == {"a": "replicated"}
    assert choose_placements({"a": 932_068}, {"a": 100.0}, 17, 2) == {"a": "row"}


def test_small_tables_go_where_the_least_traffic_is() -> None:
    # 4 processes: fewer than 64 * 4 = 256 rows are crumbs. All reads together are 4,075, so the
    # mean is 1,018.75 and the most is 1,120.6. A table of 80 reads adds 80 to one process and takes
    # 20 from each: 1,078.75.
    sizes = {"large": 10**6, "v": 250, "w": 250, "x": 250, "y": 250, "z": 250}
    reads = {"large": 3900.0, "v": 80.0, "w": 40.0, "x": 25.0, "y": 20.0, "z": 10.0}
    found = explain_placements(sizes, reads, 17, 4)
    assert {name: choice.placement for name, choice in found.items()} == {
        "large": "row",
        "v": "table:0",
        "w": "table:1",
        "x": "table:2",
        "y": "table:3",
        "z": "table:3",
    }
    assert found["v"].why == "250 rows are too few to spread over 4 processes"


def test_a_table_that_would_unbalance_is_spread() -> None:
    # On one of 4: 200 + 2,000 / 4 of a mean of 550, 1.27 times.
    sizes, reads = {"hot": 200, "cold": 10**6}, {"hot": 200.0, "cold": 2000.0}
    assert choose_placements(sizes, reads, 17, 4) == {"hot": "row", "cold": "row"}


def test_few_wide_rows_are_cut_by_columns() -> None:
    # W = 64, P = 4, 1,000 rows a step: by columns 1,000 * (24 + 384) = 408,000 bytes, a tenth more
    # 448,800; by rows 1,000 * 520 * 3 / 4 = 390,000, and the fullest process has
    # 1 + sqrt(2 * ln 4 * 4 / 1,000) = 1.105 times that, 431,000.
    sizes = {"hot": 10**6, "cold": 10**6}
    assert set(choose_placements(sizes, {"hot": 500.0, "cold": 500.0}, 64, 4).values()) == {"row"}
    # 400 rows: 179,520 by columns; 156,000 * 1.167 = 182,000 by rows.
    assert set(choose_placements(sizes, {"hot": 200.0, "cold": 200.0}, 64, 4).values()) == {
        "column"
    }
    assert set(choose_placements(sizes, {"hot": 200.0, "cold": 200.0}, 63, 4).values()) == {"row"}


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="reads_per_step must name table 'b'; got a"):
        choose_placements({"a": 1, "b": 1}, {"a": 1.0}, 4, 2)
    with pytest.raises(ConfigError, match="table 'a' must have at least one row; got 0"):
        choose_placements({"a": 0}, {"a": 1.0}, 4, 2)
    with pytest.raises(ConfigError, match="world must be at least 1; got 0"):
        choose_placements({"a": 1}, {"a": 1.0}, 4, 0)


@given(
    tables=st.lists(st.tuples(st.integers(1, 10**7), st.floats(0, 1)), min_size=1, max_size=20),
    width=st.integers(1, 300),
    world=st.integers(2, 40),
)
def test_no_process_gets_much_more_than_its_part(
    tables: list[tuple[int, float]], width: int, world: int
) -> None:
    sizes = {f"t{i}": rows for i, (rows, _) in enumerate(tables)}
    reads = {f"t{i}": rows * share for i, (rows, share) in enumerate(tables)}
    found = choose_placements(sizes, reads, width, world)
    traffic, even = [0.0] * world, 0.0
    for name, placement in found.items():
        kind, _, home = placement.partition(":")
        assert kind in ("row", "table", "column", "replicated")
        if kind == "table":
            traffic[int(home)] += reads[name]
        elif kind != "replicated":
            even += reads[name] / world
    mean = even + sum(traffic) / world
    if any(traffic):
        assert even + max(traffic) <= 1.1 * mean * (1 + 1e-9)

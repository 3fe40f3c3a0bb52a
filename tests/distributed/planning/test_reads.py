"""Distinct rows of a batch: by the law, by hand and beside counting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.dataset import Dataset
from scalerec.distributed.planning import TableReads, distinct_rows, layout_reads, measured_reads
from scalerec.distributed.planning.reads import total_distinct
from scalerec.errors import ConfigError


def test_even_chances_by_hand() -> None:
    # Each of R ids is missed by n draws with chance 1 - 1/R to the power of n.
    assert distinct_rows(10, 1, 0.0) == pytest.approx(1.0)
    assert distinct_rows(10, 3, 0.0) == pytest.approx(10 * (1 - 0.9**3))
    assert distinct_rows(4, 0, 0.0) == 0.0


def test_a_table_of_two_rows_by_hand() -> None:
    # Density x^-1 on [1, 3): the first id has the chance log 2 / log 3.
    p = np.log(2) / np.log(3)
    assert distinct_rows(2, 2, 1.0) == pytest.approx(2 - p**2 - (1 - p) ** 2)


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.0, 1.05, 1.5])
def test_the_tail_joins_the_head(exponent: float) -> None:
    # 10^6 rows are summed one by one, and by the head and the integral.
    rows, draws = 1_000_000, 50_000
    edges = np.arange(1.0, rows + 2)
    power = 1 - exponent
    areas = np.log(edges) if power == 0 else (edges**power - 1) / power
    exact = float(-np.expm1(draws * np.log1p(-np.diff(areas / areas[-1]))).sum())
    # The grid's step is 0.13% of a place; Simpson would do better and is not needed.
    assert distinct_rows(rows, draws, exponent) == pytest.approx(exact, rel=1e-4)


def test_the_law_beside_draws() -> None:
    # The benchmarks' generator, as they write it.
    rows, exponent, draws = 100_000, 1.05, 2048
    power = 1 - exponent
    uniform = np.random.default_rng(1).random((40, draws))
    places = (1 - uniform * (1 - (rows + 1.0) ** power)) ** (1 / power)
    counts = [len(np.unique(own.astype(np.int64))) for own in places]
    # Forty means of about 1,000 with deviation 15: 1% is four of theirs.
    assert distinct_rows(rows, draws, exponent) == pytest.approx(np.mean(counts), rel=0.01)


@given(
    rows=st.integers(1, 10**12),
    draws=st.floats(1, 1e9),
    exponent=st.floats(0, 2),
)
def test_bounds(rows: int, draws: float, exponent: float) -> None:
    found = distinct_rows(rows, draws, exponent)
    assert 0 < found <= min(rows, draws)
    assert distinct_rows(rows, 2 * draws, exponent) >= found * (1 - 1e-9)


def test_counted_reads(simulated: Dataset) -> None:
    reads = measured_reads(simulated)
    assert list(reads) == list(simulated.layout.tables)
    events = simulated.split("train")
    batch = events.read(0, len(events))
    for i, own in enumerate(simulated.layout.ids):
        alone = all(bag.table != own.table for bag in simulated.layout.bags)
        if alone and sum(other.table == own.table for other in simulated.layout.ids) == 1:
            ids = batch.ids[i]
            wanted = len(ids[ids > 0].unique())
            got = reads[own.table].distinct(len(batch))
            assert wanted * 0.97 <= got <= wanted * 1.03
    half = total_distinct(reads, len(batch) / 2)
    assert total_distinct(reads, 16) < half < total_distinct(reads, len(batch))


def test_points_are_joined_by_powers() -> None:
    table = TableReads(rows=1000, lookups=2.0, points={"100": 50.0, "400": 100.0})
    assert table.distinct(100) == pytest.approx(50)
    assert table.distinct(200) == pytest.approx(50 * 2**0.5)
    assert table.distinct(1600) == pytest.approx(200)
    assert table.distinct(1e9) == 1000


def test_layout_reads(simulated: Dataset) -> None:
    reads = layout_reads(simulated.layout, 1.0)
    assert {name: own.rows for name, own in reads.items()} == simulated.layout.tables


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="lookups of a table must be above 0; got 0"):
        TableReads(rows=5, lookups=0.0)

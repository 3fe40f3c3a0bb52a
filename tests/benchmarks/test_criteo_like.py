"""The generated click data are what they claim to be."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from benchmarks.peers.child import CATEGORICAL, LABEL, NUMBERS, area_under_curve, read_columns
from benchmarks.peers.criteo_like import CriteoLike, draw_ids, generate
from sklearn.metrics import roc_auc_score

SMALL = CriteoLike(rows_per_field=50, train=4000, held_out=1000, stretches=(("first", 100),))


def test_auc_by_hand() -> None:
    # Of the four pairs, two are in order, one is not, and one is a tie.
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.5, 0.6])
    assert area_under_curve(labels, scores) == (2 + 0.5) / 4


def test_auc_equals_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 500)
    scores = generator.integers(0, 40, 500) / 40
    # Both count ranks; only the order of summing differs.
    expected = roc_auc_score(labels, scores)
    assert area_under_curve(labels, scores) == pytest.approx(expected, abs=1e-12)


def test_ids_follow_the_law() -> None:
    config = CriteoLike(rows_per_field=1000, train=1, held_out=1, exponent=1.2)
    ids = draw_ids(config, (1, 200_000), np.random.default_rng(0))
    assert ids.min() == 0
    assert ids.max() == 999
    # The share of id 0 is that of [1, 2) under the density k^-1.2 on [1, 1001).
    share = (1 - 2**-0.2) / (1 - 1001**-0.2)
    # Four standard deviations of a share of 200,000 draws.
    assert (ids == 0).mean() == pytest.approx(share, abs=4 * (share * (1 - share) / 200_000) ** 0.5)


def test_both_forms_hold_the_same_rows(tmp_path: Path) -> None:
    generate(tmp_path / "data", SMALL)
    for name, size in (("train", 4000), ("valid", 1000), ("test", 1000), ("first", 100)):
        columns = read_columns(str(tmp_path / "data" / f"{name}.npz"))
        table = pq.read_table(tmp_path / "data" / f"{name}.parquet")
        assert tuple(columns) == tuple(table.column_names) == (*CATEGORICAL, *NUMBERS, LABEL)
        assert len(table) == size
        for column, values in columns.items():
            np.testing.assert_array_equal(values, table[column].to_numpy())


def test_a_stretch_is_the_start_of_the_training_rows(tmp_path: Path) -> None:
    generate(tmp_path / "data", SMALL)
    train = read_columns(str(tmp_path / "data" / "train.npz"))
    first = read_columns(str(tmp_path / "data" / "first.npz"))
    for column, values in first.items():
        np.testing.assert_array_equal(values, train[column][:100])


def test_the_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    facts = [generate(tmp_path / name, SMALL) for name in ("one", "two")]
    assert facts[0] == facts[1]
    assert 0.7 < facts[0]["true auc, test"] < 1
    one, two = (read_columns(str(tmp_path / name / "test.npz")) for name in ("one", "two"))
    for column, values in one.items():
        np.testing.assert_array_equal(values, two[column])


def test_files_that_are_there_are_kept(tmp_path: Path) -> None:
    facts = generate(tmp_path, SMALL)
    before = (tmp_path / "train.npz").stat().st_mtime_ns
    assert generate(tmp_path, SMALL) == facts
    assert (tmp_path / "train.npz").stat().st_mtime_ns == before

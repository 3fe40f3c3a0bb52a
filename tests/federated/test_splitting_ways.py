"""Parties by time, domain, modality and size; what a column or a label may be."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train.toys import make_data

from scalerec.data.dataset import Dataset
from scalerec.errors import ConfigError
from scalerec.federated.splitting import Parties
from scalerec.federated.splitting_columns import codes_of
from scalerec.federated.splitting_dealing import (
    apportion,
    deal,
    deal_by_label,
    deal_equally_by_label,
    even_sizes,
)
from scalerec.federated.splitting_text import split_parties
from scalerec.federated.splitting_vectors import keep_vectors

ROWS = 200


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Events with a text and an image vector, and columns of several kinds."""
    numbers = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "image": numbers.normal(size=(ROWS, 2)).tolist(),
        "text": [None if row % 5 == 0 else [1.0, 2.0, 3.0] for row in range(ROWS)],
        "site": [f"s{row % 3}" for row in range(ROWS)],
        "rare": ["once" if row == 3 else None if row % 2 else "often" for row in range(ROWS)],
        "device": [f"d{row % 4}" for row in range(ROWS)],
        "age": numbers.normal(size=ROWS).tolist(),
        "stars": numbers.normal(size=ROWS).tolist(),
        "t": [3600 * (row % 48) for row in range(ROWS)],
    }
    features: list[dict[str, object]] = [
        {"name": "image", "kind": "vector", "dim": 2},
        {"name": "text", "kind": "vector", "dim": 3, "optional": True},
        {"name": "site", "kind": "categorical"},
        {"name": "rare", "kind": "categorical", "min_count": 5, "optional": True},
        {"name": "device", "kind": "categorical", "buckets": 50},
        {"name": "age", "kind": "numeric", "transform": "quantile", "num_buckets": 4},
        {"name": "when", "kind": "timestamp", "column": "t", "parts": ["hour"]},
    ]
    tasks = [{"name": "stars", "kind": "regression"}]
    split = {"split": {"by": "random", "valid": 0.1, "test": 0.1}}
    path = tmp_path_factory.mktemp("media") / "data"
    return make_data(path, columns, features, tasks, split)


def plain(parties: Parties) -> list[list[int]]:
    return [parties.rows(party).tolist() for party in range(len(parties))]


def test_by_time(rated: Dataset) -> None:
    parties = split_parties(rated, "time:4")
    times = rated.split("train").column("time")
    last = [int(times[rows].max()) for rows in plain(parties)]
    first = [int(times[rows].min()) for rows in plain(parties)]
    assert all(end <= start for end, start in zip(last[:-1], first[1:], strict=True))
    assert parties.sizes.max() - parties.sizes.min() <= 1


def test_by_domain(simulated: Dataset) -> None:
    parties = split_parties(simulated, "domain:domain:3")
    assert parties.domains is not None
    assert parties.domains.tolist() == [0, 0, 0, 1, 1, 1]
    assert [name.split()[-1] for name in parties.names] == ["0", "1", "2"] * 2
    codes = codes_of(simulated, "domain")
    for party, domain in enumerate(parties.domains.tolist()):
        assert set(codes.code_of[parties.rows(party)].tolist()) == {domain}
        assert parties.names[party].startswith(f"domain={codes.values[domain]} ")
    for domain in (0, 1):
        sizes = parties.sizes[parties.domains == domain]
        assert sizes.max() - sizes.min() <= 1
    whole = split_parties(simulated, "domain:domain")
    assert plain(whole) == plain(split_parties(simulated, "column:domain"))
    assert list(whole.names) == [f"domain={value}" for value in codes.values]


def test_by_modality(media: Dataset, simulated: Dataset) -> None:
    parties = split_parties(media, "modality:9", seed=1)
    assert parties.vectors is not None
    kinds = ["".join(str(int(v)) for v in own) for own in parties.vectors]
    # Image alone, text alone, both, none: as many of each up to one.
    assert sorted(kinds.count(kind) for kind in ("10", "01", "11", "00")) == [2, 2, 2, 3]
    other = split_parties(media, "modality:9", seed=2).vectors
    assert other is not None
    assert other.tolist() != parties.vectors.tolist()
    assert parties.sizes.max() - parties.sizes.min() <= 1
    alone = split_parties(simulated, "modality:4").vectors
    assert alone is not None
    assert sorted(alone[:, 0].tolist()) == [False, False, True, True]


def test_vectors_that_a_party_does_not_have_are_blank(media: Dataset) -> None:
    parties = split_parties(media, "modality:4")
    assert parties.vectors is not None
    batch = media.split("train").take(parties.order)
    kept = torch.from_numpy(parties.vectors[parties.owners])
    blank = keep_vectors(batch, kept)
    for field in range(2):
        before, after = batch.vectors[field], blank.vectors[field]
        own = kept[:, field]
        assert torch.equal(after.values[own], before.values[own])
        assert torch.equal(after.present[own], before.present[own])
        assert not after.present[~own].any()
        assert not after.values[~own].any()
    assert torch.equal(blank.ids, batch.ids)
    words = rf"kept must have shape \[{len(batch)}, 2\]; got \[{len(batch)}\]"
    with pytest.raises(ConfigError, match=words):
        keep_vectors(batch, kept[:, 0])


def test_names_of_values(media: Dataset) -> None:
    # Values stand in the order of their ids, the commonest first.
    assert set(split_parties(media, "column:site").names) == {"site=s0", "site=s1", "site=s2"}
    names = list(split_parties(media, "column:rare").names)
    assert names == ["rare=(none)", "rare=(unknown)", "rare=often"]
    # Hashed ids, buckets and hours have no key to tell.
    for column in ("device", "age", "when.hour"):
        found = split_parties(media, f"column:{column}")
        assert all(name.split("=")[1].isdigit() for name in found.names)


def test_words(media: Dataset) -> None:
    with pytest.raises(ConfigError, match="task 'stars' is a regression; name a column instead: s"):
        split_parties(media, "dirichlet:3:1")
    assert len(split_parties(media, "dirichlet:3:100:site")) == 3
    words = r"by 'domain:site:x': N must be a whole number; got 'x'"
    with pytest.raises(ConfigError, match=words):
        split_parties(media, "domain:site:x")


def test_sizes_go_with_a_power() -> None:
    assert apportion(10, np.arange(1, 5) ** -1.0, least=0).tolist() == [5, 2, 2, 1]
    assert apportion(4, np.array([1e-300, 1.0, 0.0, 0.0])).tolist() == [1, 1, 1, 1]


@given(
    st.lists(st.floats(0.001, 1000), min_size=1, max_size=30), st.integers(0, 500), st.booleans()
)
def test_apportioned_numbers_sum_up(shares: list[float], more: int, least: bool) -> None:
    weights = np.array(shares)
    total = len(shares) * least + more
    found = apportion(total, weights, least=int(least))
    assert found.sum() == total
    assert (found >= int(least)).all()
    exact = weights / weights.sum() * more + int(least)
    assert np.abs(found - exact).max() < 1 + 1e-6


def test_lognormal_sizes(rated: Dataset) -> None:
    even, wide = (split_parties(rated, f"uneven:20:{sigma}", seed=1) for sigma in (0, 2))
    assert even.sizes.max() - even.sizes.min() <= 1
    assert wide.sizes.max() > 4 * wide.sizes.mean()
    assert wide.sizes.min() >= 1
    power = split_parties(rated, "power:20:1").sizes
    assert power.tolist() == sorted(power.tolist(), reverse=True)
    assert len(power) == len(wide) == 20


@given(st.data())
def test_dealing_gives_each_row_one_party(data: st.DataObject) -> None:
    codes = np.array(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=60)))
    codes = np.unique(codes, return_inverse=True)[1]
    num = data.draw(st.integers(1, len(codes)))
    alpha = data.draw(st.sampled_from((0.001, 0.1, 1.0, 1000.0)))
    numbers = np.random.default_rng(data.draw(st.integers(0, 9)))
    free = deal_by_label(codes, num, alpha, numbers)
    equal = deal_equally_by_label(codes, num, alpha, numbers)
    for found in (free, equal, deal(even_sizes(len(codes), num), numbers)):
        assert found.shape == codes.shape
        assert set(found.tolist()) <= set(range(num))
    for found in (equal, deal(even_sizes(len(codes), num), numbers)):
        sizes = np.bincount(found, minlength=num)
        assert sizes.max() - sizes.min() <= 1

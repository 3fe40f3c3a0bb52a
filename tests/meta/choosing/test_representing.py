"""k-means representatives: by hand, against scikit-learn, and what always holds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from scalerec.errors import ConfigError
from scalerec.meta.choosing import cluster, representatives

# Three heaps: around 0 (middle 0.1), around 10 (middle 10), around 20.
HEAPS = torch.tensor([[0.0], [0.1], [0.2], [9.0], [10.0], [11.0], [9.9], [20.0]])


def test_each_heap_gives_its_middle_the_largest_first(generator: torch.Generator) -> None:
    # The middle of 9, 10, 11 and 9.9 is 9.975, and 10 is .025 away.
    assert representatives(HEAPS, 3, generator).tolist() == [4, 1, 7]


def test_a_cluster_is_what_lies_nearest(generator: torch.Generator) -> None:
    centres, owners = cluster(HEAPS, 3, generator)
    own = centres.flatten()[owners]
    # 39.9 / 4 in float64, of numbers that were float32.
    heaps = [0.1] * 3 + [9.975] * 4 + [20.0]
    torch.testing.assert_close(own, torch.tensor(heaps).double(), rtol=1e-6, atol=0)


@given(seed=st.integers(0, 200), num=st.integers(2, 25), num_clusters=st.integers(1, 6))
def test_it_rests_where_scikit_learn_rests(seed: int, num: int, num_clusters: int) -> None:
    num_clusters = min(num, num_clusters)
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num, 2, generator=generator).double()
    centres, owners = cluster(points, num_clusters, generator, num_iterations=200)
    other = KMeans(num_clusters, init=centres.numpy(), n_init=1, tol=0).fit(points.numpy())
    # A fixed point of ours is one of theirs; sums of at most 25 numbers in float64.
    torch.testing.assert_close(torch.from_numpy(other.cluster_centers_), centres, rtol=0, atol=1e-9)
    assert other.labels_.tolist() == owners.tolist()


@given(seed=st.integers(0, 100), num=st.integers(0, 12), budget=st.integers(0, 14))
def test_as_many_as_asked_each_once(seed: int, num: int, budget: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few distinct places, so that candidates coincide.
    points = torch.randint(3, (num, 2), generator=generator).double()
    chosen = representatives(points, budget, generator).tolist()
    assert len(chosen) == len(set(chosen)) == min(num, budget)


def test_the_same_seed_gives_the_same() -> None:
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    one, other = (
        representatives(points, 9, torch.Generator().manual_seed(3)).tolist() for _ in range(2)
    )
    assert one == other


def test_wrong_words(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="num_clusters must be from 1 to 8; got 9"):
        cluster(HEAPS, 9, generator)
    with pytest.raises(ConfigError, match="num_iterations must be at least 1; got 0"):
        representatives(HEAPS, 2, generator, num_iterations=0)

"""k-centre greedy: by hand, against trying all, and its bound."""

from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalerec.errors import ConfigError
from scalerec.meta.choosing import covering_radius, k_centre_greedy


def test_it_takes_the_middle_then_what_is_farthest() -> None:
    # The mean is 4; 3 is nearest to it. 10 is then 7 away; after it, 0 is 3 away.
    points = torch.tensor([[0.0], [1.0], [3.0], [6.0], [10.0]])
    assert k_centre_greedy(points, 3).tolist() == [2, 4, 0]
    assert covering_radius(points, torch.tensor([2, 4, 0])) == 3.0


def test_what_is_held_is_covered_already() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [6.0], [10.0]])
    # With 10 held, 0 is farthest; then 3 and 6 are as near as 3 and 4: 6 it is.
    assert k_centre_greedy(points, 2, held=torch.tensor([4])).tolist() == [0, 3]


def test_candidates_that_coincide_are_chosen_once_each() -> None:
    points = torch.ones(4, 2)
    assert sorted(k_centre_greedy(points, 9).tolist()) == [0, 1, 2, 3]
    assert k_centre_greedy(points, 9, held=torch.tensor([1, 1])).tolist() == [0, 2, 3]


def _slow(points: torch.Tensor, budget: int) -> list[int]:
    """Algorithm 1 of the paper, with all distances computed anew."""
    start = (points - points.mean(0)).square().sum(1).argmin()
    chosen = [int(start)]
    while len(chosen) < budget:
        best, best_gap = -1, -1.0
        for i in range(len(points)):
            gap = min(float((points[i] - points[j]).square().sum()) for j in chosen)
            if i not in chosen and gap > best_gap:
                best, best_gap = i, gap
        chosen.append(best)
    return chosen


@given(seed=st.integers(0, 1000), num=st.integers(3, 9), budget=st.integers(1, 3))
def test_it_is_the_papers_and_at_most_twice_the_best(seed: int, num: int, budget: int) -> None:
    points = torch.randn(num, 2, generator=torch.Generator().manual_seed(seed)).double()
    chosen = k_centre_greedy(points, budget)
    assert chosen.tolist() == _slow(points, budget)
    best = min(
        covering_radius(points, torch.tensor(some)) for some in combinations(range(num), budget)
    )
    # Sums of the same numbers in float64.
    assert covering_radius(points, chosen) <= 2 * best + 1e-12


def test_prefixes_are_choices_under_smaller_budgets(generator: torch.Generator) -> None:
    points = torch.randn(30, 3, generator=generator)
    whole = k_centre_greedy(points, 20).tolist()
    assert k_centre_greedy(points, 7).tolist() == whole[:7]
    assert len(set(whole)) == 20


def test_wrong_words() -> None:
    with pytest.raises(ConfigError, match="budget of examples must be at least 0; got -1"):
        k_centre_greedy(torch.zeros(3, 1), -1)
    with pytest.raises(ConfigError, match=r"held candidates must be from 0 to 2; got \[3\]"):
        k_centre_greedy(torch.zeros(3, 1), 1, held=torch.tensor([3]))

"""Herding: by hand, against the paper's sums, and the mean that it keeps."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from scalerec.meta.choosing import herding


def test_the_mean_of_the_chosen_stays_near_that_of_all() -> None:
    # The mean is 3. First 2, 1 away. Then (2 + 5) / 2 = 3.5 and (2 + 4) / 2 = 3, so 4.
    # Then (2 + 4 + x) / 3: 5 gives 3.67, 2 of 0 gives 2, 4 is taken: 5 is nearest.
    points = torch.tensor([[0.0], [2.0], [4.0], [5.0], [4.0]])
    assert herding(points, 2).tolist() == [1, 2]
    assert herding(points, 3).tolist() == [1, 2, 4]


def _slow(points: torch.Tensor, budget: int) -> list[int]:
    """Algorithm 4 of iCaRL, as it is written."""
    mean, chosen = points.mean(0), list[int]()
    for k in range(1, budget + 1):
        free = [i for i in range(len(points)) if i not in chosen]
        held = points[chosen].sum(0)
        gaps = [float((mean - (points[i] + held) / k).norm()) for i in free]
        chosen.append(free[min(range(len(free)), key=gaps.__getitem__)])
    return chosen


@given(seed=st.integers(0, 1000), num=st.integers(1, 12), budget=st.integers(0, 12))
def test_it_is_the_papers(seed: int, num: int, budget: int) -> None:
    points = torch.randn(num, 3, generator=torch.Generator().manual_seed(seed)).double()
    assert herding(points, budget).tolist() == _slow(points, min(num, budget))


def test_it_keeps_the_mean_better_than_chance(generator: torch.Generator) -> None:
    points = torch.randn(200, 5, generator=generator)
    order = torch.randperm(200, generator=generator)[:10]
    mean = points.mean(0)
    gap = (points[herding(points, 10)].mean(0) - mean).norm()
    assert gap < 0.3 * (points[order].mean(0) - mean).norm()


def test_a_shift_of_all_changes_nothing(generator: torch.Generator) -> None:
    points = torch.randn(40, 3, generator=generator).double()
    assert torch.equal(herding(points, 12), herding(points + 100.0, 12))


def test_nothing_of_nothing() -> None:
    assert herding(torch.zeros(0, 3), 5).tolist() == []

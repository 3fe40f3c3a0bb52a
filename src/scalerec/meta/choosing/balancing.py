"""Balanced choices: as many examples of each class, or of each domain."""

from collections.abc import Callable

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.meta.choosing.candidates import check_budget

__all__ = ["balanced", "quotas"]


def quotas(sizes_g: Tensor, budget: int) -> Tensor:
    """How many each group gives, so that the smallest share is as large as it can be.

    Groups give equally many; one that has too few gives all that it has, and the others share the
    rest. What cannot be shared equally goes to the largest groups, the first of several as large.

    Args:
        sizes_g: How many each group has, ``[G]`` int64, at least 0.
        budget: How many are given in all, at least 0.

    Returns:
        ``[G]`` int64; their sum is the smaller of the budget and of all there are.

    Raises:
        ConfigError: If the budget or a size is negative.

    Example:
        >>> quotas(torch.tensor([1, 9, 4]), 8)
        tensor([1, 4, 3])
    """
    fits = sizes_g.dtype is torch.int64 and (not len(sizes_g) or int(sizes_g.min()) >= 0)
    require(fits, f"sizes of groups must be int64, at least 0; got {sizes_g.tolist()}")
    left = check_budget(budget, int(sizes_g.sum()))
    given = torch.zeros_like(sizes_g)
    while left:
        open_ = (given < sizes_g).nonzero().flatten()
        each = left // len(open_)
        if each:
            more = (sizes_g[open_] - given[open_]).clamp(max=each)
        else:
            order = sizes_g[open_].argsort(descending=True, stable=True)
            more = torch.zeros_like(open_)
            more[order[:left]] = 1
        given[open_] += more
        left -= int(more.sum())
    return given


def balanced(groups_n: Tensor, budget: int, within: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Choose equally many of each group.

    Args:
        groups_n: The group of each candidate, ``[n]`` int64, any numbers.
        budget: How many are chosen, at least 0.
        within: Chooses in a group: given its candidates' numbers ``[m]`` and how many, it gives
            places among them, ``[k]`` int64.

    Returns:
        Numbers of the chosen ones, ``[min(budget, n)]`` int64: one of each group, a second of each
        and so on, the largest group first.

    Raises:
        ConfigError: If the budget is negative.
    """
    check_budget(budget, len(groups_n))
    _, places, sizes = groups_n.unique(return_inverse=True, return_counts=True)
    shares = quotas(sizes, budget)
    order = sizes.argsort(descending=True, stable=True).tolist()
    turns: list[tuple[int, int, int]] = []
    for rank, group in enumerate(order):
        members = (places == group).nonzero().flatten()
        picked = members[within(members, int(shares[group]))]
        turns += [(turn, rank, number) for turn, number in enumerate(picked.tolist())]
    return torch.tensor([number for _, _, number in sorted(turns)], dtype=torch.int64)

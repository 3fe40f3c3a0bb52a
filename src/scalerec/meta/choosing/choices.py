"""The table of choices: which few examples are taken under a budget.

To add one, write its function and its row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import ConfigError
from scalerec.meta.choosing.balancing import balanced
from scalerec.meta.choosing.candidates import Candidates, check_budget
from scalerec.meta.choosing.covering import k_centre_greedy
from scalerec.meta.choosing.herding import herding
from scalerec.meta.choosing.representing import representatives

__all__ = ["CHOICES", "Choice", "choose", "choose_at_random"]

Choice = Callable[[Candidates, int, torch.Generator], Tensor]
BALANCED = ("class-balanced", "domain-balanced")


def choose(words: str, candidates: Candidates, budget: int, generator: torch.Generator) -> Tensor:
    """Choose a few of the candidates.

    Args:
        words: A name in `CHOICES`; after a balanced one and a colon, what chooses in each group, as
            ``class-balanced:herding``; by chance if nothing is said.
        candidates: What there is.
        budget: How many are chosen, at least 0.
        generator: For what is drawn.

    Returns:
        Numbers of the chosen ones, ``[min(budget, n)]`` int64, each once, in the order of being
        chosen.

    Raises:
        ConfigError: If there is no such choice, the budget is negative, or a choice needs what the
            candidates do not have.
    """
    head, colon, inner = words.partition(":")
    known = head in CHOICES and (not colon or (head in BALANCED and inner in CHOICES))
    if not known or inner in BALANCED:
        names = ", ".join(CHOICES)
        raise ConfigError(
            f"a choice of examples must be one of {names}; after {' or '.join(BALANCED)} another "
            f"one may follow, as class-balanced:herding; got {words!r}"
        )
    if colon:
        return _by_group(head, candidates, budget, generator, CHOICES[inner])
    return CHOICES[head](candidates, budget, generator)


def choose_at_random(candidates: Candidates, budget: int, generator: torch.Generator) -> Tensor:
    """Choose by chance, all candidates alike; see `choose`."""
    order = torch.randperm(len(candidates), generator=generator)
    return order[: check_budget(budget, len(candidates))]


def _k_centre(candidates: Candidates, budget: int, _: torch.Generator) -> Tensor:
    return k_centre_greedy(candidates.embeddings, budget)


def _herding(candidates: Candidates, budget: int, _: torch.Generator) -> Tensor:
    return herding(candidates.embeddings, budget)


def _k_means(candidates: Candidates, budget: int, generator: torch.Generator) -> Tensor:
    return representatives(candidates.embeddings, budget, generator)


def _by_class(candidates: Candidates, budget: int, generator: torch.Generator) -> Tensor:
    return _by_group("class-balanced", candidates, budget, generator, choose_at_random)


def _by_domain(candidates: Candidates, budget: int, generator: torch.Generator) -> Tensor:
    return _by_group("domain-balanced", candidates, budget, generator, choose_at_random)


def _by_group(
    name: str, candidates: Candidates, budget: int, generator: torch.Generator, inner: Choice
) -> Tensor:
    groups = candidates.classes if name == "class-balanced" else candidates.domains
    what = "class" if name == "class-balanced" else "domain"
    require(groups is not None, f"choice {name!r} needs the {what} of each candidate; got none")
    assert groups is not None
    return balanced(groups, budget, lambda own, num: inner(candidates.take(own), num, generator))


CHOICES: dict[str, Choice] = {
    "class-balanced": _by_class,
    "domain-balanced": _by_domain,
    "herding": _herding,
    "k-centre": _k_centre,
    "k-means": _k_means,
    "random": choose_at_random,
}

"""The table of choices: what holds for every one, and its words."""

import pytest
import torch

from scalerec.errors import ConfigError
from scalerec.meta.choosing import CHOICES, Candidates, choose, herding, k_centre_greedy

WORDS = [*CHOICES, "class-balanced:herding", "domain-balanced:k-centre", "class-balanced:k-means"]


def make(num: int, seed: int = 0) -> Candidates:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(num, 3, generator=generator)
    classes = torch.randint(2, (num,), generator=generator)
    return Candidates(points, classes, torch.randint(4, (num,), generator=generator))


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize(("num", "budget"), [(0, 3), (1, 1), (20, 0), (20, 5), (20, 99)])
def test_as_many_as_asked_each_once(words: str, num: int, budget: int) -> None:
    chosen = choose(words, make(num), budget, torch.Generator().manual_seed(1))
    assert chosen.dtype is torch.int64
    assert len(chosen) == len(set(chosen.tolist())) == min(num, budget)
    assert all(0 <= number < num for number in chosen.tolist())


@pytest.mark.parametrize("words", WORDS)
def test_the_same_seed_gives_the_same_and_nothing_is_changed(words: str) -> None:
    candidates, before = make(30), make(30)
    one, other = (
        choose(words, candidates, 6, torch.Generator().manual_seed(1)).tolist() for _ in range(2)
    )
    assert one == other
    assert torch.equal(candidates.embeddings, before.embeddings)


def test_names_lead_to_their_functions(generator: torch.Generator) -> None:
    candidates = make(30)
    points = candidates.embeddings
    assert torch.equal(choose("herding", candidates, 6, generator), herding(points, 6))
    assert torch.equal(choose("k-centre", candidates, 6, generator), k_centre_greedy(points, 6))


def test_classes_are_balanced_and_herded_within(generator: torch.Generator) -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [5.0], [6.0], [7.0], [8.0]])
    classes = torch.tensor([1, 1, 1, 0, 0, 0, 0])
    # The mean of class 0 is 6.5, as near to 6 as to 7: the first; that of class 1 is 1.
    chosen = choose("class-balanced:herding", Candidates(points, classes), 2, generator)
    assert chosen.tolist() == [4, 1]


def test_every_domain_has_its_share(generator: torch.Generator) -> None:
    candidates = make(60)
    chosen = choose("domain-balanced", candidates, 8, generator)
    assert candidates.domains is not None
    assert candidates.domains[chosen].bincount().tolist() == [2, 2, 2, 2]


def test_chance_takes_all_alike() -> None:
    generator = torch.Generator().manual_seed(5)
    candidates = Candidates(torch.zeros(5, 0))
    counts = torch.zeros(5)
    for _ in range(2000):
        counts[choose("random", candidates, 2, generator)] += 1
    # 800 each; the standard deviation is 22.
    assert float((counts - 800).abs().max()) < 90


@pytest.mark.parametrize("words", ["best", "class-balanced:best", "herding:random", "random:", ""])
def test_unknown_words(words: str, generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="a choice of examples must be one of class-balanced"):
        choose(words, make(3), 2, generator)


def test_nothing_within_itself(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="got 'class-balanced:domain-balanced'"):
        choose("class-balanced:domain-balanced", make(3), 2, generator)


def test_what_is_missing_is_named(generator: torch.Generator) -> None:
    bare = Candidates(torch.zeros(3, 1))
    with pytest.raises(ConfigError, match="'class-balanced' needs the class of each candidate"):
        choose("class-balanced", bare, 2, generator)
    with pytest.raises(ConfigError, match="'domain-balanced' needs the domain of each candidate"):
        choose("domain-balanced:herding", bare, 2, generator)


def test_candidates_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"embeddings must be floats \[n, D\]; got torch.int64"):
        Candidates(torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ConfigError, match="embeddings must be finite"):
        Candidates(torch.tensor([[torch.nan]]))
    with pytest.raises(ConfigError, match=r"classes must be int64 \[3\]; got torch.float32 \[2\]"):
        Candidates(torch.zeros(3, 1), classes=torch.zeros(2))

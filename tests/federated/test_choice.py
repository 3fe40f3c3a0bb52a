"""Choosing a cohort: one contract for all, chances by count, and means without bias."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.errors import ConfigError, RoundError
from scalerec.federated.choice import (
    Choice,
    Chosen,
    Facts,
    PoissonChoice,
    SizeChoice,
    UniformChoice,
    inclusion_chances,
    keep_first,
)
from scalerec.federated.choice_ranked import (
    CHOICES,
    AvailableChoice,
    CurriculumChoice,
    PowerChoice,
    make_choice,
)

SIZES = np.array([1, 2, 3, 4, 10, 20])
ROUNDS = 4000


def make(name: str, cohort: int = 2, num: int = 6, **more: Any) -> Choice:
    return make_choice(name, cohort=cohort, num_parties=num, rounds=10, **more)


def facts_of(num: int = 6, seed: int = 0, **more: Any) -> Facts:
    numbers = np.random.default_rng(seed)
    known: dict[str, Any] = {
        "sizes": numbers.integers(1, 50, num),
        "losses": np.where(numbers.random(num) < 0.5, np.nan, numbers.random(num)),
        "seconds": numbers.uniform(1, 10, num),
    }
    return Facts(**{**known, **more})


def shares(choice: Choice, facts: Facts, rounds: int = ROUNDS, first: int = 0) -> Any:
    """How often each party was chosen."""
    counts = np.zeros(len(facts))
    for number in range(first, first + rounds):
        counts[choice.choose(number, facts).parties] += 1
    return counts / rounds


def near(wanted: Any, rounds: int = ROUNDS) -> Any:
    """Within 4.5 standard errors of a share, and no closer than rounding."""
    wanted = np.asarray(wanted, np.float64)
    return pytest.approx(wanted, abs=4.5 * (0.25 / rounds) ** 0.5)


@pytest.mark.parametrize("name", CHOICES)
@given(num=st.integers(1, 40), cohort=st.integers(1, 12), seed=st.integers(0, 5), over=st.just(1.5))
def test_the_contract(name: str, num: int, cohort: int, seed: int, over: float) -> None:
    choice = make(name, cohort, num, seed=seed, over=over)
    assert isinstance(choice, Choice)
    available = np.random.default_rng(seed).random(num) < 0.6
    facts = facts_of(num, seed, available=available)
    for number in range(3):
        chosen, again = choice.choose(number, facts), choice.choose(number, facts)
        assert chosen.parties.dtype == np.int64
        assert np.array_equal(chosen.parties, np.unique(chosen.parties))
        assert available[chosen.parties].all()
        assert chosen.weights.dtype == np.float64
        assert len(chosen) == len(chosen.weights)
        assert (chosen.weights > 0).all()
        assert np.array_equal(chosen.parties, again.parties)
        assert np.array_equal(chosen.weights, again.weights)
        if name != "poisson":
            asked = int(np.ceil(cohort * over))
            assert len(chosen) == min(asked, int(available.sum()))


@pytest.mark.parametrize("name", CHOICES)
def test_rounds_and_seeds_differ(name: str) -> None:
    facts = facts_of(200)
    found = {
        tuple(make(name, 10, 200, seed=seed).choose(number, facts).parties.tolist())
        for seed in range(3)
        for number in range(3)
    }
    assert len(found) == 9


@pytest.mark.parametrize("name", CHOICES)
def test_nobody_is_there(name: str) -> None:
    facts = facts_of(available=np.zeros(6, np.bool_))
    assert len(make(name).choose(0, facts)) == 0


def test_uniform_chances_and_weights() -> None:
    choice = UniformChoice(cohort=2)
    assert shares(choice, Facts(sizes=SIZES)) == near([1 / 3] * 6)
    chosen = choice.choose(0, Facts(sizes=SIZES))
    assert chosen.weights.tolist() == SIZES[chosen.parties].tolist()
    assert chosen.divisor is None


def test_more_are_asked() -> None:
    facts = Facts(sizes=np.ones(100, np.int64))
    for over, wanted in ((1.0, 10), (1.1, 11), (1.3, 13), (1.31, 14)):
        assert len(UniformChoice(cohort=10, over=over).choose(0, facts)) == wanted


def test_poisson_coins_are_independent() -> None:
    facts, choice = Facts(sizes=np.ones(50, np.int64)), PoissonChoice(rate=0.3, seed=2**127)
    drawn = np.zeros((ROUNDS, 50))
    for number in range(ROUNDS):
        chosen = choice.choose(number, facts)
        drawn[number, chosen.parties] = 1
        assert chosen.divisor == pytest.approx(15)
        assert chosen.weights.tolist() == [1.0] * len(chosen)
    assert drawn.mean(axis=0) == near([0.3] * 50)
    # Sizes of cohorts are binomial; the variance's own error is about sqrt(2 / rounds) of it.
    assert drawn.sum(axis=1).var() == pytest.approx(50 * 0.3 * 0.7, rel=5 * (2 / ROUNDS) ** 0.5)
    pairs = np.asarray(np.corrcoef(drawn.T))[~np.eye(50, dtype=np.bool_)]
    assert np.abs(pairs).max() < 5 / ROUNDS**0.5


def test_everybody_joins_at_rate_one() -> None:
    chosen = PoissonChoice(rate=1.0).choose(3, Facts(sizes=SIZES))
    assert chosen.parties.tolist() == list(range(6))
    assert chosen.divisor == 6


def test_inclusion_chances_by_hand() -> None:
    # 20 of 40 rows is all of one place in two, exactly; the rest share the other by rows.
    assert inclusion_chances(SIZES, 2) == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.5, 1.0])
    # Of three places, 20 takes one; 10 of the other 20 rows takes another.
    assert inclusion_chances(SIZES, 3) == pytest.approx([0.1, 0.2, 0.3, 0.4, 1, 1])
    assert inclusion_chances(SIZES, 6).tolist() == [1.0] * 6
    assert inclusion_chances(SIZES, 60).tolist() == [1.0] * 6


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 30))
def test_inclusion_chances(sizes: list[int], num: int) -> None:
    chances = inclusion_chances(np.array(sizes), num)
    assert chances.sum() == pytest.approx(min(num, len(sizes)))
    assert ((chances > 0) & (chances <= 1)).all()
    part = chances < 1
    ratios = chances[part] / np.array(sizes)[part]
    assert ratios == pytest.approx(np.full(len(ratios), ratios.mean() if len(ratios) else 0))


@pytest.mark.parametrize("cohort", [1, 2, 3, 5])
def test_choice_by_size_is_unbiased(cohort: int) -> None:
    """Chances are as said; the weights sum to all rows, and so do the means to the mean of all."""
    facts, choice = Facts(sizes=SIZES), SizeChoice(cohort=cohort)
    chances = inclusion_chances(SIZES, cohort)
    assert shares(choice, facts) == near(chances)
    values = np.array([3.0, -1.0, 4.0, 1.0, -5.0, 9.0])
    means = []
    for number in range(ROUNDS):
        chosen = choice.choose(number, facts)
        assert len(chosen) == cohort
        assert chosen.weights.sum() == pytest.approx(40)
        assert chosen.weights == pytest.approx(SIZES[chosen.parties] / chances[chosen.parties])
        means.append((values[chosen.parties] @ chosen.weights) / 40)
    wanted = values @ SIZES / 40
    error = float(np.std(means)) / ROUNDS**0.5
    assert np.mean(means) == pytest.approx(wanted, abs=4.5 * error)


def test_equal_sizes_are_drawn_in_all_pairs() -> None:
    """A list that was not shuffled would never give neighbours."""
    facts, choice = Facts(sizes=np.full(6, 7)), SizeChoice(cohort=2)
    found = {tuple(choice.choose(number, facts).parties.tolist()) for number in range(300)}
    assert len(found) == 15


def test_available_prefers_the_fast() -> None:
    seconds = np.array([1.0, 2.0, 4.0])
    facts = Facts(sizes=np.array([5, 6, 7]), seconds=seconds)
    choice = AvailableChoice(cohort=1, over=1.0, prefer=2.0)
    assert shares(choice, facts) == near(np.array([16, 4, 1]) / 21)
    alike = AvailableChoice(cohort=1, over=1.0, prefer=0.0)
    assert shares(alike, Facts(sizes=facts.sizes)) == near([1 / 3] * 3)
    chosen = AvailableChoice(cohort=3).choose(0, facts)
    assert chosen.weights.tolist() == [5.0, 6.0, 7.0]
    # Two places: the first by 16, 4, 1 of 21, the next from the rest.
    two = AvailableChoice(cohort=2, over=1.0, prefer=2.0)
    out = np.array([4 / 21 / 17 + 1 / 21 * 4 / 20, 16 / 21 / 5 + 1 / 21 * 16 / 20])
    assert shares(two, facts)[:2] == near(1 - out)
    with pytest.raises(RoundError, match=r"\(prefer=2\) needs to know how long each takes"):
        choice.choose(0, Facts(sizes=facts.sizes))


def test_the_curriculum_opens_from_easy_to_hard() -> None:
    losses = np.array([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 1.0, 0.6])
    facts = Facts(sizes=np.ones(10, np.int64), losses=losses)
    choice = CurriculumChoice(cohort=2, rounds=10, start=0.3)

    def opened(number: int) -> set[float]:
        choices = (CurriculumChoice(cohort=2, rounds=10, start=0.3, seed=s) for s in range(60))
        found = (choice.choose(number, facts).parties for choice in choices)
        return {round(float(losses[p]) * 10) / 10 for parties in found for p in parties}

    assert opened(0) == {0.1, 0.2, 0.3}
    assert opened(5) == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
    assert opened(10) == opened(11) == {number / 10 for number in range(1, 11)}
    assert shares(choice, facts, first=10) == near([0.2] * 10)


def test_the_curriculum_neither_holds_back_nor_prefers_what_is_unknown() -> None:
    losses = np.where(np.arange(2000) < 1000, np.linspace(0, 1, 2000), np.nan)
    facts = Facts(sizes=np.ones(2000, np.int64), losses=losses)
    choice = CurriculumChoice(cohort=600, rounds=10, start=0.3)
    parties = choice.choose(0, facts).parties
    assert len(parties) == 600
    # All of the open share: about as many known as unknown, and of the known the easiest.
    known = parties[parties < 1000]
    assert len(known) == pytest.approx(300, abs=40)
    assert known.tolist() == list(range(len(known)))
    nothing = Facts(sizes=facts.sizes)
    assert len(choice.choose(0, nothing)) == 600


def test_power_of_choice_takes_the_hardest_of_its_candidates() -> None:
    losses = np.array([0.1, 0.9, 0.5, 0.7, np.nan, 0.3])
    facts = Facts(sizes=SIZES, losses=losses)
    everybody = PowerChoice(cohort=2, candidates=6).choose(0, facts)
    assert everybody.parties.tolist() == [1, 4]
    assert everybody.weights.tolist() == [1.0, 1.0]
    # One candidate: the chance goes with rows.
    one = PowerChoice(cohort=1, candidates=1)
    assert shares(one, facts) == near(SIZES / 40)
    # Of two candidates of three, the harder: party 2 unless it is not drawn, 1 only beside 0.
    few = Facts(sizes=np.array([1, 1, 1]), losses=np.array([0.1, 0.2, 0.3]))
    assert shares(PowerChoice(cohort=1, candidates=2), few) == near([0, 1 / 3, 2 / 3])
    assert len(set(PowerChoice(cohort=2, candidates=3).choose(0, Facts(sizes=SIZES)).parties)) == 2


def test_the_first_to_finish_are_kept() -> None:
    chosen = Chosen(parties=np.array([3, 5, 8, 9]), weights=np.array([1.0, 2.0, 3.0, 4.0]))
    kept, seconds = keep_first(chosen, np.array([7.0, np.inf, 2.0, 5.0]), 2)
    assert (kept.parties.tolist(), kept.weights.tolist(), seconds) == ([8, 9], [3.0, 4.0], 5.0)
    kept, seconds = keep_first(chosen, np.array([7.0, np.inf, 2.0, 5.0]), 4)
    assert (kept.parties.tolist(), seconds) == ([3, 8, 9], 7.0)
    kept, seconds = keep_first(chosen, np.full(4, np.inf), 2)
    assert (len(kept), seconds) == (0, 0.0)


@pytest.mark.parametrize(
    ("make_wrong", "words"),
    [
        (lambda: UniformChoice(cohort=0), "cohort must be at least 1; got 0"),
        (lambda: SizeChoice(cohort=1, over=0.5), "over must be from 1 to 100; got 0.5"),
        (lambda: PoissonChoice(rate=0.0), "rate must be above 0 and at most 1; got 0"),
        (lambda: AvailableChoice(cohort=1, prefer=-1), "prefer must be from 0 to 10; got -1"),
        (lambda: CurriculumChoice(cohort=1, rounds=0), "rounds must be at least 1; got 0"),
        (
            lambda: CurriculumChoice(cohort=1, rounds=1, start=0),
            "start must be above 0 and at most",
        ),
        (
            lambda: PowerChoice(cohort=3, candidates=2),
            "candidates must be at least cohort=3; got 2",
        ),
        (lambda: make("best"), "choice must be one of uniform, poisson, size, .*; got 'best'"),
        (lambda: make("poisson", cohort=0), "cohort must be at least 1; got 0"),
    ],
)
def test_words(make_wrong: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_wrong()

"""Robust rules: by hand, against slow references, in any order of parties, and against attacks."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scalerec.errors import ConfigError, RoundError
from scalerec.rounds import TableRows, Update
from scalerec.rounds.cohort import CohortRows, CohortUpdate, cohort_mean
from scalerec.rounds.holders import Holders, gram
from scalerec.rounds.robust import (
    bound_norms,
    cohort_median,
    geometric_median,
    krum,
    krum_scores,
    trimmed_mean,
)

RULES: dict[str, Callable[[CohortUpdate], Update]] = {
    "median": cohort_median,
    "trimmed": lambda cohort: trimmed_mean(cohort, 0.25),
    "krum": lambda cohort: krum(cohort, 1),
    "multikrum": lambda cohort: krum(cohort, 1, 2, "holders"),
    "norm bound": lambda cohort: cohort_mean(bound_norms(cohort), "holders"),
    "geometric median": geometric_median,
}
rules = pytest.mark.parametrize("name", RULES)


def cohort_of(
    dense: list[float],
    rows: list[dict[int, float]] | None = None,
    weights: list[float] | None = None,
) -> CohortUpdate:
    """One dense number a party, and rows of one number."""
    rows = rows or [{} for _ in dense]
    return CohortUpdate.of(
        [
            Update(
                dense={"w": torch.tensor([number])},
                tables={
                    "t": TableRows(
                        rows=torch.tensor(sorted(own), dtype=torch.int64),
                        values=torch.tensor([own[r] for r in sorted(own)]).reshape(-1, 1),
                    )
                },
                weight=weight,
            )
            for number, own, weight in zip(dense, rows, weights or [1.0] * len(dense), strict=True)
        ]
    )


def drawn(num: int, seed: int, *, rows: int = 12, width: int = 2) -> CohortUpdate:
    """A cohort at random; some parties hold no row."""
    generator = torch.Generator().manual_seed(seed)
    held = [torch.rand(rows, generator=generator) < 0.4 for _ in range(num)]
    lengths = torch.tensor([0, *(int(own.sum()) for own in held)]).cumsum(0)
    part = CohortRows(
        rows=torch.cat([own.nonzero().flatten() for own in held]),
        offsets=lengths,
        values=torch.randn(int(lengths[-1]), width, generator=generator),
    )
    dense = {
        "a": torch.randn(num, 3, 2, generator=generator),
        "b": torch.randn(num, 5, generator=generator),
    }
    weights = torch.rand(num, generator=generator, dtype=torch.float64) + 0.5
    return CohortUpdate(dense=dense, tables={"t": part}, weights=weights)


def numbers(update: Update) -> tuple[float, dict[int, float]]:
    part = update.tables["t"]
    rows = dict(zip(part.rows.tolist(), part.values.flatten().tolist(), strict=True))
    return update.dense["w"].item(), rows


def lines(cohort: CohortUpdate, num_rows: int = 12) -> Tensor:
    """Each party's update as one line, absent rows as zeros: what the fast code never builds."""
    full = []
    for number in range(len(cohort)):
        own = cohort.party(number)
        table = torch.zeros(num_rows, own.tables["t"].values.shape[1], dtype=torch.float64)
        table[own.tables["t"].rows] = own.tables["t"].values.double()
        parts = [tensor.double().flatten() for tensor in own.dense.values()]
        full.append(torch.cat([*parts, table.flatten()]))
    return torch.stack(full)


# By hand.


def test_a_median_by_hand() -> None:
    # Row 1 has three holders, row 2 two, row 5 one; weights do not count.
    rows = [{1: 1.0, 2: 4.0}, {1: 9.0}, {1: 2.0, 5: 7.0}, {2: 8.0}]
    median = cohort_median(cohort_of([1.0, 3.0, 100.0, 5.0], rows, [1, 2, 3, 4]))
    assert numbers(median) == (4.0, {1: 2.0, 2: 6.0, 5: 7.0})
    assert median.weight == 10


def test_a_row_with_too_few_holders_stays() -> None:
    rows = [{1: 1.0, 2: 4.0}, {1: 9.0}, {1: 2.0, 5: 7.0}, {2: 8.0}]
    median = cohort_median(cohort_of([1.0, 3.0, 100.0, 5.0], rows), least=3)
    assert numbers(median)[1] == {1: 2.0, 2: 0.0, 5: 0.0}
    trimmed = trimmed_mean(cohort_of([1.0, 3.0, 100.0, 5.0], rows), 0.1, least=2)
    assert numbers(trimmed)[1] == {1: 2.0, 2: 6.0, 5: 0.0}


def test_a_trimmed_mean_by_hand() -> None:
    dense = [1.0, 2.0, 3.0, 4.0, 90.0]
    assert trimmed_mean(cohort_of(dense), 0.0).dense["w"].item() == 20.0
    assert trimmed_mean(cohort_of(dense), 0.2).dense["w"].item() == 3.0  # 2, 3, 4
    # A fifth of five is one; any more is rounded up to two.
    assert trimmed_mean(cohort_of([1, 2, 30, 40, 90]), 0.21).dense["w"].item() == 30.0


def test_the_trimmed_mean_of_few_holders() -> None:
    rows = [
        {1: 1.0, 2: 1.0, 3: 1.0},
        {2: 9.0, 3: 2.0, 4: 0.0},
        {3: 30.0, 4: 1.0},
        {4: 2.0},
        {4: 9.0},
    ]
    trimmed = trimmed_mean(cohort_of([0.0] * 5, rows), 0.05)
    # One and two: their mean. Three and four: one goes from each side, however small the share.
    assert numbers(trimmed)[1] == {1: 1.0, 2: 5.0, 3: 2.0, 4: 1.5}


def test_a_share_that_is_a_hair_too_much_is_not_rounded_up() -> None:
    # 0.07 * 100 is 7.000000000000001: seven go from each side, not eight.
    dense = [-99.0] * 7 + [1.0] + [2.0] * 84 + [88.0] + [99.0] * 7
    assert trimmed_mean(cohort_of(dense), 0.07).dense["w"].item() == pytest.approx(257 / 86)
    assert trimmed_mean(cohort_of(dense), 0.08).dense["w"].item() == 2.0


def test_krum_by_hand() -> None:
    # Five, one of them bad: a score looks at the two nearest. At 0, 1, 3, 4.5 and 100 the scores
    # are 1 + 9, 1 + 4, 4 + 2.25, 2.25 + 12.25 and far more.
    cohort = cohort_of([3.0, 100.0, 0.0, 4.5, 1.0], [{i: 1.0} for i in [3, 100, 0, 4, 1]])
    # A row that only one holds adds its square, and that of the other's, to each distance.
    assert krum_scores(gram(cohort), 1).tolist()[:1] == [4 + 2.25 + 4]
    best = krum(cohort, 1)
    assert numbers(best) == (1.0, {1: 1.0})
    assert best.weight == 1
    both = krum(cohort, 1, 2, "holders")
    assert numbers(both) == (2.0, {1: 1.0, 3: 1.0})
    assert numbers(krum(cohort, 1, 2, "all"))[1] == {1: 0.5, 3: 0.5}
    assert both.weight == 2


def test_an_absent_row_is_zero_for_krum() -> None:
    # Dense parts are equal; only row 7 tells them apart: 0, 0.1, absent, absent, 50.
    rows = [{7: 0.0}, {7: 0.1}, {}, {}, {7: 50.0}]
    products = gram(cohort_of([1.0] * 5, rows))
    assert products[2, 3] == 1
    assert products[4].tolist() == pytest.approx([1, 1 + 5.0, 1, 1, 1 + 2500])
    assert numbers(krum(cohort_of([1.0] * 5, rows), 1)) == (1.0, {7: 0.0})


def test_a_norm_bound_by_hand() -> None:
    # Norms 5 (3 and 4), 1 and 2.
    cohort = cohort_of([3.0, 1.0, 0.0], [{1: 4.0}, {}, {2: 2.0}])
    bounded = bound_norms(cohort, 2.5)
    assert bounded.norms().tolist() == pytest.approx([2.5, 1.0, 2.0])
    assert bounded.dense["w"].flatten().tolist() == [1.5, 1.0, 0.0]
    assert bounded.tables["t"].values.flatten().tolist() == [2.0, 2.0]
    assert bound_norms(cohort).norms().tolist() == pytest.approx([2.0, 1.0, 2.0])
    assert torch.equal(bounded.weights, cohort.weights)


def test_a_geometric_median_by_hand() -> None:
    # On a line it is the median. Of a triangle it is the point that sees each side under 120
    # degrees: of the one with equal sides its middle.
    assert geometric_median(cohort_of([1.0, 2.0, 50.0])).dense["w"].item() == pytest.approx(2.0)
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    cohort = CohortUpdate(dense={"w": corners}, tables={}, weights=torch.ones(3).double())
    found = geometric_median(cohort)
    assert found.dense["w"].tolist() == pytest.approx([0.5, math.sqrt(0.75) / 3], abs=1e-6)
    assert found.weight == 3


# Slow references.


@pytest.mark.parametrize("seed", range(3))
def test_rules_by_coordinate_equal_a_loop(seed: int) -> None:
    cohort = drawn(9, seed)
    median, trimmed = cohort_median(cohort), trimmed_mean(cohort, 0.2)
    for name, tensor in cohort.dense.items():
        wanted = np.median(tensor.numpy(), axis=0)
        torch.testing.assert_close(median.dense[name], torch.from_numpy(wanted))
        middle = np.sort(tensor.numpy(), axis=0)[2:-2].mean(0)
        torch.testing.assert_close(trimmed.dense[name], torch.from_numpy(middle))
    part = cohort.tables["t"]
    assert median.tables["t"].rows.tolist() == sorted(set(part.rows.tolist()))
    for place, row in enumerate(median.tables["t"].rows.tolist()):
        own = np.sort(part.values[part.rows == row].numpy(), axis=0)
        gone = min(math.ceil(0.2 * len(own)), (len(own) - 1) // 2)
        np.testing.assert_allclose(
            median.tables["t"].values[place], np.median(own, axis=0), rtol=1e-6
        )
        np.testing.assert_allclose(
            trimmed.tables["t"].values[place], own[gone : len(own) - gone].mean(0), rtol=1e-5
        )


@pytest.mark.parametrize("seed", range(3))
def test_krum_equals_a_loop(seed: int) -> None:
    cohort, f = drawn(9, seed), 2
    full = lines(cohort)
    torch.testing.assert_close(gram(cohort), full @ full.T)
    scores = []
    for i in range(9):
        distances = sorted(float((full[i] - full[j]).square().sum()) for j in range(9) if j != i)
        scores.append(sum(distances[: 9 - f - 2]))
    torch.testing.assert_close(
        krum_scores(gram(cohort), f), torch.tensor(scores, dtype=torch.float64)
    )
    best = sorted(range(9), key=lambda i: scores[i])
    chosen = krum(cohort, f, 4)
    kept = cohort.take(torch.tensor(sorted(best[:4])))
    wanted = cohort_mean(replace(kept, weights=torch.ones(4).double()))
    assert torch.equal(chosen.dense["a"], wanted.dense["a"])
    assert chosen.weight == pytest.approx(float(kept.weights.sum()))


def test_products_in_small_pieces_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = drawn(9, 4)
    whole = gram(cohort)
    monkeypatch.setattr("scalerec.rounds.holders.PAIRS", 1)
    torch.testing.assert_close(gram(cohort), whole)


@pytest.mark.parametrize("seed", range(3))
def test_the_geometric_median_is_the_best_of_its_surroundings(seed: int) -> None:
    cohort = drawn(7, seed)
    full = lines(cohort)
    found = geometric_median(cohort)
    table = torch.zeros(12, 2, dtype=torch.float64)
    table[found.tables["t"].rows] = found.tables["t"].values.double()
    parts = [tensor.double().flatten() for tensor in found.dense.values()]
    point = torch.cat([*parts, table.flatten()])

    def cost(place: Tensor) -> float:
        return float((full - place).norm(dim=1).sum())

    least = cost(point)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(50):
        step = torch.randn(point.shape, generator=generator, dtype=torch.float64) * 0.01
        assert cost(point + step) > least
    assert least < cost(full.mean(0))


def test_holders_are_found() -> None:
    part = cohort_of([0.0] * 3, [{4: 1.0, 9: 2.0}, {9: 3.0}, {2: 4.0, 9: 5.0}]).tables["t"]
    holders = Holders.of(part)
    assert holders.rows.tolist() == [2, 4, 9]
    assert holders.counts.tolist() == [1, 1, 3]
    groups = {tuple(places.tolist()): entries.tolist() for places, entries in holders.groups()}
    assert groups == {(0, 1): [[3], [0]], (2,): [[1, 2, 4]]}


# Properties.


@rules
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_order_of_parties_does_not_matter(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 30))
    order = data.draw(st.permutations(range(7)))
    cohort = drawn(7, seed)
    found, wanted = RULES[name](cohort.take(torch.tensor(order))), RULES[name](cohort)
    # Sums run in another order, in float32.
    for key, tensor in wanted.dense.items():
        torch.testing.assert_close(found.dense[key], tensor, rtol=1e-5, atol=1e-6)
    assert torch.equal(found.tables["t"].rows, wanted.tables["t"].rows)
    torch.testing.assert_close(
        found.tables["t"].values, wanted.tables["t"].values, rtol=1e-5, atol=1e-6
    )
    assert found.weight == pytest.approx(wanted.weight)


@rules
def test_equal_updates_give_that_update(name: str) -> None:
    cohort = drawn(7, 3).take(torch.tensor([2] * 7))
    found, wanted = RULES[name](cohort), cohort.party(0)
    for key, tensor in wanted.dense.items():
        torch.testing.assert_close(found.dense[key], tensor)
    torch.testing.assert_close(found.tables["t"].values, wanted.tables["t"].values)


@rules
def test_scale_passes_through(name: str) -> None:
    cohort = drawn(7, 5)
    found = RULES[name](cohort.scale(torch.full((7,), 1e-4)))
    wanted = RULES[name](cohort)
    for key, tensor in wanted.dense.items():
        torch.testing.assert_close(found.dense[key], tensor * 1e-4, rtol=1e-4, atol=1e-9)


@rules
def test_inputs_stay_as_they_are(name: str) -> None:
    cohort = drawn(7, 6, width=1)
    before = [tensor.clone() for tensor in (*cohort.dense.values(), cohort.tables["t"].values)]
    RULES[name](cohort)
    after = [*cohort.dense.values(), cohort.tables["t"].values]
    assert all(itertools.starmap(torch.equal, zip(before, after, strict=True)))


@rules
def test_parties_without_weight_have_no_say(name: str) -> None:
    cohort = drawn(8, 7)
    last = replace(cohort, weights=cohort.weights * (torch.arange(8) < 7))
    if name != "norm bound":  # Its bound is the cohort's median norm.
        wanted = RULES[name](cohort.take(torch.arange(7)))
        torch.testing.assert_close(RULES[name](last).dense["a"], wanted.dense["a"])


@pytest.mark.parametrize("name", [name for name in RULES if name != "norm bound"])
def test_a_fifth_that_lies_does_not_move_it_far(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    good = torch.randn(8, 20, generator=generator) * 0.1 + 1
    bad = torch.full((2, 20), -1e6)
    cohort = CohortUpdate(
        dense={"w": torch.cat([bad, good])}, tables={}, weights=torch.full((10,), 5.0).double()
    )
    rules = {**RULES, "krum": lambda c: krum(c, 2), "multikrum": lambda c: krum(c, 2, 6)}
    found = rules[name](cohort).dense["w"]
    assert float((found - 1).abs().max()) < 0.4
    assert float((cohort_mean(cohort).dense["w"]).max()) < -1e5


# What cannot be combined.


def test_krum_says_how_many_it_needs() -> None:
    with pytest.raises(RoundError, match=r"with 2 bad parties needs at least 7 updates, .* got 6"):
        krum(cohort_of([1.0] * 6), 2)
    with pytest.raises(RoundError, match=r"of 7 updates, 2 of them bad, can keep 1 to 3; got 4"):
        krum(cohort_of([1.0] * 7), 2, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: trimmed_mean(c, 0.5), r"trim must be in \[0, 0.5\); got 0.5"),
        (lambda c: trimmed_mean(c, -0.1), r"trim must be in"),
        (lambda c: cohort_median(c, 0), "least must be at least 1; got 0"),
        (lambda c: krum(c, -1), "num_bad must be at least 0; got -1"),
        (lambda c: krum(c, 0, 0), "num_kept must be at least 1; got 0"),
        (lambda c: bound_norms(c, 0.0), "max_norm must be above 0; got 0.0"),
        (lambda c: geometric_median(c, num_steps=0), "num_steps must be at least 1"),
        (lambda c: geometric_median(c, smoothing=0.0), "smoothing must be above 0"),
    ],
)
def test_settings_out_of_range(call: Callable[[CohortUpdate], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        call(cohort_of([1.0] * 5))


@pytest.mark.parametrize("name", [name for name in RULES if name != "norm bound"])
def test_what_is_not_finite_is_refused(name: str) -> None:
    cohort = cohort_of([1.0, math.nan, 1.0, math.inf, 1.0, 1.0, 1.0])
    with pytest.raises(RoundError, match=r"must be finite .* 2 of 7 are not, at place 1, 3"):
        RULES[name](cohort)
    with pytest.raises(RoundError, match="one of 2 updates must have a weight above 0; got none"):
        cohort_median(cohort_of([1.0, 2.0], weights=[0, 0]))
    with pytest.raises(RoundError, match="weights at least 0; 1 of 2 are not, at place 1"):
        cohort_median(cohort_of([1.0, 2.0], weights=[0, -1]))

"""Sums under masks: exact, through every pattern of dropouts, and with few neighbours."""

import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalerec.errors import ConfigError, MissingExtraError, RoundError
from scalerec.federated.secure import (
    FixedPoint,
    Moment,
    SumPlan,
    choose_neighbours,
    keys,
    run_sum,
    secure_sum,
)
from scalerec.federated.secure.fixed import word_type
from scalerec.federated.secure.neighbours import ring_neighbours

MOMENTS: tuple[Moment, ...] = ("keys", "shares", "vector", "unmask")


def words_of(seed: int, plan: SumPlan) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    numbers = generator.integers(
        0, 2**plan.modulus_bits - 1, (plan.num_parties, plan.length), dtype=np.uint64, endpoint=True
    )
    return list(numbers.astype(word_type(plan.modulus_bits)))


def whole_sum(words: list[np.ndarray], members: frozenset[int], modulus_bits: int) -> list[int]:
    """Python's integers, taken modulo 2^k once at the end."""
    columns = zip(*(words[member].tolist() for member in sorted(members)), strict=True)
    return [sum(column) % 2**modulus_bits for column in columns]


@pytest.mark.parametrize("modulus_bits", range(8, 65, 8))
def test_sums_are_exact_modulo_every_width(modulus_bits: int) -> None:
    plan = SumPlan.new(num_parties=3, length=17, modulus_bits=modulus_bits)
    words = words_of(modulus_bits, plan)
    server, total, traffic = run_sum(words, plan)
    assert server.members == {0, 1, 2}
    assert total.tolist() == whole_sum(words, server.members, modulus_bits)
    assert server.refused == []
    # Headers of 26 bytes. Keys; a digest of 16 and two shares of 86 after a count of 4; the vector;
    # three seeds' and no keys' shares of 37 after counts of 4.
    vector = 17 * modulus_bits // 8
    assert (
        traffic.up.tolist() == [26 + 64 + 26 + 16 + 4 + 2 * 86 + 26 + vector + 26 + 8 + 3 * 37] * 3
    )
    assert traffic.down.tolist() == [26 + 4 + 3 * 68 + 26 + 4 + 2 * 86 + 26 + 8 + 3 * 4] * 3


def test_every_pattern_of_dropouts() -> None:
    # Each of four parties stays, or is gone at one of four moments: 625 patterns.
    threshold = 3
    plan = SumPlan.new(num_parties=4, length=3, modulus_bits=24, threshold=threshold)
    words = words_of(1, plan)
    for pattern in product(range(5), repeat=4):
        dropouts = {m: [p for p in range(4) if pattern[p] == i] for i, m in enumerate(MOMENTS)}
        left = [sum(at > moment for at in pattern) for moment in range(4)]
        if min(left) < threshold:
            first = next(i for i in range(4) if left[i] < threshold)
            did = ("sent keys", "sent shares", "sent vectors", "replied")[first]
            message = f"^{left[first]} of 4 parties {did}, and the threshold is 3$"
            with pytest.raises(RoundError, match=message):
                run_sum(words, plan, dropouts=dropouts)
            continue
        server, total, _ = run_sum(words, plan, dropouts=dropouts)
        assert server.members == {p for p in range(4) if pattern[p] > 2}
        assert total.tolist() == whole_sum(words, server.members, 24), pattern


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), gone=st.lists(st.integers(0, 4), min_size=14, max_size=14))
def test_a_sparse_sum_is_exact_or_refused(seed: int, gone: list[int]) -> None:
    plan = SumPlan.new(num_parties=14, length=3, modulus_bits=32, threshold=8, num_neighbours=6)
    words = words_of(seed, plan)
    # Half of what was drawn stays after all, so that many patterns succeed.
    gone = [at if p % 2 else 4 for p, at in enumerate(gone)]
    dropouts = {m: [p for p in range(14) if gone[p] == i] for i, m in enumerate(MOMENTS)}
    try:
        server, total, _ = run_sum(words, plan, dropouts=dropouts)
    except RoundError as error:
        assert any(  # noqa: PT017
            part in str(error)
            for part in (
                "and the threshold is 8",
                "shares; got",
                "must send vectors; got",
                "choose more neighbours",
            )
        )
    else:
        assert total.tolist() == whole_sum(words, server.members, 32)
        assert server.members <= {p for p in range(14) if gone[p] > 2}


def test_a_sparse_sum_survives_dropouts_and_costs_less() -> None:
    encoding = FixedPoint(num_parties=60)
    numbers = np.random.default_rng(3).uniform(-1, 1, (60, 5))
    dropouts: dict[Moment, list[int]] = {"keys": [0], "shares": [1], "vector": [2], "unmask": [3]}
    sparse = secure_sum(numbers, encoding, num_neighbours=16, dropouts=dropouts)
    whole = secure_sum(numbers, encoding, dropouts=dropouts)
    assert sparse.members == whole.members == tuple(range(3, 60))
    # The fixed-point numbers are the same, and their sums are exact.
    assert sparse.total.tolist() == whole.total.tolist()
    wanted = numbers[3:].sum(0)
    assert np.abs(sparse.total - wanted).max() <= 57 * encoding.error
    assert sparse.traffic.up[4:].max() < whole.traffic.up[4:].min() / 2
    assert sparse.traffic.up[0] == 0
    assert 0 < sparse.traffic.up[1] < sparse.traffic.up[2] < sparse.traffic.up[3]


def test_masks_that_fall_into_two_rings_are_refused() -> None:
    # Entropy that counts puts the ring in the order of the numbers: 0 1 2 3 ... 11.
    plan = SumPlan.new(num_parties=12, length=1, modulus_bits=8, threshold=7, num_neighbours=2)
    words = words_of(1, plan)
    count, generator = iter(range(10**6)), np.random.default_rng(5)

    def entropy(size: int) -> bytes:
        # Sixteen bytes at a time order the ring.
        return next(count).to_bytes(size, "big") if size == 16 else generator.bytes(size)

    # Without 0 and 6, the ring is two arcs.
    with pytest.raises(RoundError, match=r"masks of 5 of the 10 members are tied to no other's"):
        run_sum(words, plan, dropouts={"vector": [0, 6]}, entropy=entropy)


def test_a_vector_sum_counts_what_it_clipped() -> None:
    encoding = FixedPoint(num_parties=3, limit=2.0)
    numbers = np.array([[1.0, 5.0], [-2.5, 0.5], [9.0, 9.0]])
    found = secure_sum(numbers, encoding, threshold=2, dropouts={"vector": [2]})
    assert found.total.tolist() == [-1.0, 2.5]
    assert found.members == (0, 1)
    assert found.num_clipped == 2


def test_stochastic_rounding_sums_within_a_step_each() -> None:
    encoding = FixedPoint(num_parties=4, bits=8, rounding="stochastic")
    numbers = np.random.default_rng(3).uniform(-1, 1, (4, 50))
    error = np.abs(secure_sum(numbers, encoding).total - numbers.sum(0)).max()
    assert error <= 4 * encoding.error


def test_wrong_arguments_are_refused_in_words() -> None:
    plan = SumPlan.new(num_parties=2, length=2, modulus_bits=16)
    with pytest.raises(RoundError, match="the plan is for 2 vectors; got 1"):
        run_sum(words_of(0, plan)[:1], plan)
    with pytest.raises(RoundError, match=r"must be \[2\] of uint16; got \[2\] of uint32"):
        run_sum([w.astype(np.uint32) for w in words_of(0, plan)], plan)
    with pytest.raises(ConfigError, match=r"dropouts must be at one of keys, .*; got 'lunch'"):
        run_sum(words_of(0, plan), plan, dropouts={"lunch": [1]})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"dropouts must be parties in \[0, 2\); got 2"):
        run_sum(words_of(0, plan), plan, dropouts={"keys": [2]})
    with pytest.raises(RoundError, match="the encoding has room for 1 parties; got 2 vectors"):
        secure_sum(np.zeros((2, 2)), FixedPoint(num_parties=1))
    large = SumPlan.new(num_parties=2, length=1, modulus_bits=24)
    with pytest.raises(RoundError, match=r"numbers must be below 2\^24; got 16777216"):
        run_sum([np.array([2**24], dtype=np.uint32)] * 2, large)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 2}, r"threshold must be in \[3, 4\], above half .*; got 2"),
        ({"threshold": 5}, r"threshold must be in \[3, 4\], above half .*; got 5"),
        ({"num_parties": 1}, r"num_parties must be in \[2, 2\^32\); got 1"),
        ({"length": 0}, "length must be at least 1; got 0"),
        ({"modulus_bits": 31}, "modulus_bits must be a multiple of 8 from 8 to 64; got 31"),
        ({"num_neighbours": 3}, "num_neighbours must be even and at least 2; got 3"),
        ({"session": b"x"}, "session must be 16 bytes; got 1"),
    ],
)
def test_a_plan_out_of_range_is_refused(changes: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "session": bytes(16),
        "num_parties": 4,
        "threshold": 3,
        "length": 1,
        "modulus_bits": 8,
    }
    with pytest.raises(ConfigError, match=message):
        SumPlan(**(good | changes))  # type: ignore[arg-type]


def test_rings_are_mutual() -> None:
    assert ring_neighbours([5, 3, 9, 1, 7], 2) == {
        5: {3, 7},
        3: {5, 9},
        9: {3, 1},
        1: {9, 7},
        7: {1, 5},
    }
    assert ring_neighbours([5, 3, 9], 2) == {5: {3, 9}, 3: {5, 9}, 9: {5, 3}}
    for size, neighbours in ((9, 4), (10, 8), (11, 8)):
        ring = ring_neighbours(range(size), neighbours)
        assert all(len(others) == neighbours for others in ring.values())
        assert all(party in ring[other] for party, others in ring.items() for other in others)


def test_neighbours_are_chosen_by_the_odds() -> None:
    # Nobody corrupt, nobody gone: two neighbours are enough.
    assert choose_neighbours(1000, dropped=0.0, corrupt=0.0) == 2
    calm = choose_neighbours(1000, dropped=0.05, corrupt=0.05)
    rough = choose_neighbours(1000, dropped=0.3, corrupt=0.1)
    assert calm is not None
    assert rough is not None
    assert 20 <= calm < rough <= 200
    # A hundred thousand parties need hardly more than a thousand.
    more = choose_neighbours(100_000, dropped=0.05, corrupt=0.05)
    assert more is not None
    assert calm < more < 2 * calm
    assert choose_neighbours(10, dropped=0.4, corrupt=0.4) is None
    with pytest.raises(ConfigError, match=r"dropped must be in \[0, 0.5\); got 0.5"):
        choose_neighbours(10, dropped=0.5, corrupt=0.0)


def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    keys._engine.cache_clear()
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(MissingExtraError, match=r"cryptography is not .*scalerec\[federated\]"):
        secure_sum(np.zeros((2, 1)), FixedPoint(num_parties=2))

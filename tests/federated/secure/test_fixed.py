"""Fixed-point numbers: exact, clipped in the open, and never wrapped in silence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.errors import ConfigError, RoundError
from scalerec.federated.secure import FixedPoint
from scalerec.federated.secure.fixed import word_type

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def test_known_words() -> None:
    # Four bits in 8: steps of a quarter of 2; -0.25 is -1, which is 255 modulo 256.
    encoding = FixedPoint(num_parties=15, limit=2.0, bits=4, modulus_bits=8)
    assert encoding.step == 0.25
    encoded = encoding.encode(np.array([0.0, 0.25, -0.25, 2.0, -2.0, 0.3, 7.0]))
    assert encoded.words.tolist() == [0, 1, 255, 8, 248, 1, 8]
    assert encoded.words.dtype == np.uint8
    assert encoded.num_clipped == 1
    assert encoding.decode(encoded.words).tolist() == [0.0, 0.25, -0.25, 2.0, -2.0, 0.25, 2.0]


def test_the_smallest_modulus_is_chosen_and_is_tight() -> None:
    # 255 times 2^23 is 2^31 - 2^23, below 2^31; 256 times 2^23 is 2^31, which 32 bits do not hold.
    assert FixedPoint(num_parties=255, bits=24).width == 32
    assert FixedPoint(num_parties=256, bits=24).width == 40
    assert FixedPoint(num_parties=1, bits=7).width == 8
    assert FixedPoint(num_parties=1, bits=8).width == 16
    assert [word_type(k).itemsize for k in (8, 16, 24, 32, 40, 64)] == [1, 2, 4, 4, 8, 8]


def test_a_sum_that_may_wrap_is_refused_with_its_numbers() -> None:
    with pytest.raises(ConfigError) as caught:
        FixedPoint(num_parties=256, bits=24, modulus_bits=32)
    assert str(caught.value) == (
        "256 parties with numbers of 24 bits can sum up to 2147483648, and 32 bits hold at most "
        "2147483647; allowed: bits of at most 23 or modulus_bits of at least 40"
    )
    assert FixedPoint(num_parties=256, bits=23, modulus_bits=32).width == 32
    with pytest.raises(ConfigError, match=r"64 bits hold at most .*; allowed: bits of at most 43$"):
        FixedPoint(num_parties=2**20, bits=48)
    assert FixedPoint(num_parties=2**20 - 1, bits=44).width == 64
    with pytest.raises(ConfigError, match="allowed: fewer parties or modulus_bits of at least 16"):
        FixedPoint(num_parties=100, bits=3, modulus_bits=8)


@given(
    vectors=st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=6),
    bits=st.integers(2, 48),
    limit=st.floats(1e-90, 1e90),
    rounding=st.sampled_from(["nearest", "stochastic"]),
)
def test_sums_of_any_numbers_are_those_of_clipped_ones(
    vectors: list[list[float]], bits: int, limit: float, rounding: str
) -> None:
    values = np.array(vectors)
    encoding = FixedPoint.from_dict(
        {"num_parties": len(values), "limit": limit, "bits": bits, "rounding": rounding}
    )
    generator = np.random.default_rng(1)
    encoded = [encoding.encode(vector, generator) for vector in values]
    total = np.zeros(3, dtype=word_type(encoding.width))
    for one in encoded:
        total = (total + one.words) & np.array(2**encoding.width - 1).astype(total.dtype)
    clipped = np.clip(values, -limit, limit)
    # Python's integers do not wrap: the decoded sum is theirs.
    whole = [sum(int(encoding.centred(e.words)[i]) for e in encoded) for i in range(3)]
    assert encoding.centred(total).tolist() == whole
    wanted = [float(np.longdouble(clipped[:, i]).sum()) for i in range(3)]
    assert np.abs(encoding.decode(total) - wanted).max() <= len(values) * encoding.error
    assert sum(e.num_clipped for e in encoded) == int((np.abs(values) > limit).sum())


@given(
    num_parties=st.integers(1, 10**9), bits=st.integers(2, 48), k=st.sampled_from(range(8, 65, 8))
)
def test_a_modulus_is_accepted_when_the_largest_sum_fits_and_only_then(
    num_parties: int, bits: int, k: int
) -> None:
    fits = num_parties * 2 ** (bits - 1) <= 2 ** (k - 1) - 1
    try:
        encoding = FixedPoint(num_parties=num_parties, bits=bits, modulus_bits=k)
    except ConfigError:
        assert not fits
    else:
        assert fits
        edge = num_parties * encoding.levels
        words = np.array([edge, 2**k - edge], dtype=np.uint64).astype(word_type(k))
        assert encoding.centred(words).tolist() == [edge, -edge]


def test_the_unexpected_is_refused_in_words() -> None:
    encoding = FixedPoint(num_parties=2, limit=1.0, beyond="refuse")
    with pytest.raises(RoundError, match="1 of 2 numbers are not finite; the first is number 1"):
        encoding.encode(np.array([0.0, np.nan]))
    with pytest.raises(RoundError, match=r"1 of 1 numbers are not finite; the first .* -inf"):
        FixedPoint(num_parties=2).encode(np.array([-np.inf]))
    with pytest.raises(RoundError, match=r"2 of 3 numbers are outside \[-1, 1\]; .* number 0, 1.5"):
        encoding.encode(np.array([1.5, 0.0, -3.0]))
    with pytest.raises(RoundError, match=r"a vector to be summed must be \[n\]; got \[2, 2\]"):
        encoding.encode(np.zeros((2, 2)))
    beyond = np.array([2 * encoding.levels + 1], dtype=np.uint32)
    with pytest.raises(RoundError, match=r"which 2 parties cannot reach; .* number 0, 16777217"):
        encoding.decode(beyond)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_parties": 0}, "num_parties must be at least 1; got 0"),
        ({"num_parties": 1, "bits": 1}, r"bits must be in \[2, 48\]; got 1"),
        ({"num_parties": 1, "bits": 49}, r"bits must be in \[2, 48\]; got 49"),
        ({"num_parties": 1, "limit": 0.0}, r"limit must be in \[1e-100, 1e100\]; got 0.0"),
        ({"num_parties": 1, "modulus_bits": 12}, "a multiple of 8 from 8 to 64; got 12"),
        ({"num_parties": 1, "beyond": "wrap"}, "beyond must be one of .*; got 'wrap'"),
        ({"num_parties": 1, "rounding": "up"}, "rounding must be one of .*; got 'up'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FixedPoint.from_dict(settings)


def test_stochastic_rounding_is_right_in_the_mean() -> None:
    encoding = FixedPoint(num_parties=1, limit=1.0, bits=3, rounding="stochastic")
    numbers = np.full(100_000, 0.1)  # 0.4 of a step: up with a chance of 0.4
    words = encoding.encode(numbers, np.random.default_rng(7)).words
    assert set(words.tolist()) == {0, 1}
    # Five standard deviations of 100,000 coins.
    assert abs(float(words.mean()) - 0.4) < 5 * np.sqrt(0.24 / 100_000)
    exact = encoding.encode(np.array([0.25, -1.0, 1.0, 0.0]), np.random.default_rng(7)).words
    assert encoding.centred(exact).tolist() == [1, -4, 4, 0]
    # Without a generator the operating system's entropy decides.
    assert len(encoding.encode(numbers).words) == 100_000

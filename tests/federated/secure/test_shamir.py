"""Shamir's shares: worked by hand in small fields, and in the field that is used."""

import os
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.errors import ConfigError, RoundError
from scalerec.federated.secure import combine_shares, split_secret
from scalerec.federated.secure.shamir import PRIME


def numbers_of(*values: int) -> bytes:
    """What the operating system would have to give for these coefficients, highest first."""
    return b"".join(value.to_bytes(17, "little") for value in values)


def test_known_answers_modulo_17() -> None:
    # 5 + 3x + 2x^2 at 1, 2, 3, 4: 10, 19, 32, 49, modulo 17.
    shares = split_secret(5, range(4), 3, lambda _: numbers_of(2, 3), prime=17)
    assert shares == {0: 10, 1: 2, 2: 15, 3: 15}
    # Through 1, 2, 3 the weights at 0 are 3, -3, 1: 30 - 6 + 15 = 39 = 5.
    assert combine_shares({0: 10, 1: 2, 2: 15}, 3, prime=17) == 5
    # Through 1, 2, 4: 8/3, -2, 1/3, with 1/3 = 6: 10 * 48 - 4 + 15 * 6 = 566 = 5.
    assert combine_shares({0: 10, 1: 2, 3: 15}, 3, prime=17) == 5
    # More than needed: the first three are taken.
    assert combine_shares(shares, 3, prime=17) == 5


def test_fewer_shares_than_the_threshold_tell_nothing() -> None:
    # All lines modulo 7: whatever one holder's share is, each secret is behind it exactly once.
    def share(secret: int, slope: int) -> int:
        return split_secret(secret, [0, 3], 2, lambda _: numbers_of(slope), prime=7)[3]

    seen = {(secret, share(secret, slope)) for secret in range(7) for slope in range(7)}
    assert len(seen) == 49


@given(
    secret=st.integers(0, 2**256 - 1),
    holders=st.sets(st.integers(0, 2**32 - 1), min_size=1, max_size=6),
    data=st.data(),
)
def test_every_set_of_enough_holders_gives_the_secret_back(
    secret: int, holders: set[int], data: st.DataObject
) -> None:
    threshold = data.draw(st.integers(1, len(holders)))
    shares = split_secret(secret, sorted(holders), threshold, os.urandom)
    for some in combinations(sorted(holders), threshold):
        assert combine_shares({holder: shares[holder] for holder in some}, threshold) == secret


def test_the_field_is_prime_and_holds_32_bytes() -> None:
    # Miller-Rabin with the first twelve primes as bases.
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        power = pow(base, odd, PRIME)
        assert power in (1, PRIME - 1) or any(
            pow(base, odd * 2**r, PRIME) == PRIME - 1 for r in range(1, twos)
        )
    assert PRIME > 2**256


def test_wrong_arguments_are_refused_in_words() -> None:
    with pytest.raises(RoundError, match="a secret needs 3 shares; got 2"):
        combine_shares({0: 1, 1: 2}, 3)
    with pytest.raises(ConfigError, match=r"threshold must be in \[1, 2\], .*; got 3"):
        split_secret(1, [0, 1], 3, os.urandom)
    with pytest.raises(ConfigError, match="holders must be different numbers"):
        split_secret(1, [1, 1], 2, os.urandom)
    with pytest.raises(ConfigError, match="a secret must be a number of the field"):
        split_secret(PRIME, [0, 1], 2, os.urandom)

"""Shamir's shares: a secret that any `threshold` of its holders give back, and fewer do not.

Paper: How to Share a Secret, Shamir, 1979, https://doi.org/10.1145/359168.359176
"""

import functools
from collections.abc import Callable, Mapping, Sequence

from scalerec.config import require
from scalerec.errors import RoundError

__all__ = ["PRIME", "SHARE_SIZE", "combine_shares", "split_secret"]

PRIME = 2**256 + 297
"""The first prime above 2^256: any 32 bytes are a secret of this field."""

SHARE_SIZE = 33
"""Bytes of a number of this field."""

Entropy = Callable[[int], bytes]
"""Gives so many bytes that nobody can guess; `os.urandom` outside of tests."""


def split_secret(
    secret: int, holders: Sequence[int], threshold: int, entropy: Entropy, *, prime: int = PRIME
) -> dict[int, int]:
    """Give each holder the value of a random polynomial whose value at 0 is the secret.

    Args:
        secret: In [0, prime).
        holders: Numbers of the holders, each once, in [0, prime - 1); holder h gets the value at
            h + 1.
        threshold: How many shares give the secret back, in [1, len(holders)].
        entropy: Where the polynomial comes from.
        prime: The field's size.

    Returns:
        Holder to share, in [0, prime).

    Raises:
        ConfigError: If an argument is out of range.
    """
    require(0 <= secret < prime, "a secret must be a number of the field")
    require(
        1 <= threshold <= len(holders),
        f"threshold must be in [1, {len(holders)}], the number of holders; got {threshold}",
    )
    require(
        len(set(holders)) == len(holders) and all(0 <= h < prime - 1 for h in holders),
        f"holders must be different numbers in [0, {prime - 1}); got {list(holders)[:8]}",
    )
    # 16 bytes more than the prime has: what the remainder favours is below 2^-127.
    size = (prime.bit_length() + 7) // 8 + 16
    drawn = entropy(size * (threshold - 1))
    coefficients = [
        int.from_bytes(drawn[at : at + size], "little") % prime for at in range(0, len(drawn), size)
    ]
    coefficients.append(secret)
    shares = {}
    for holder in holders:
        value, x = 0, holder + 1
        for coefficient in coefficients:
            value = (value * x + coefficient) % prime
        shares[holder] = value
    return shares


def combine_shares(shares: Mapping[int, int], threshold: int, *, prime: int = PRIME) -> int:
    """The secret: the value at 0 of the polynomial through the first `threshold` shares.

    Args:
        shares: Holder to share.
        threshold: As when the secret was split.
        prime: The field's size.

    Raises:
        RoundError: If there are fewer shares than the threshold.
    """
    if len(shares) < threshold:
        raise RoundError(f"a secret needs {threshold} shares; got {len(shares)}")
    points = sorted(shares)[:threshold]
    weights = _weights_at_zero(tuple(holder + 1 for holder in points), prime)
    return sum(w * shares[h] for w, h in zip(weights, points, strict=True)) % prime


# A cohort's secrets come back from the same holders, one after the other.
@functools.lru_cache(maxsize=64)
def _weights_at_zero(points: tuple[int, ...], prime: int) -> list[int]:
    weights = []
    for x in points:
        above, below = 1, 1
        for other in points:
            if other != x:
                above = above * other % prime
                below = below * (other - x) % prime
        weights.append(above * pow(below, -1, prime) % prime)
    return weights

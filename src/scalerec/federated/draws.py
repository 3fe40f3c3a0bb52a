"""Randomness of a simulation as a function of what it is for.

A party's draws follow from the run's seed, the round, and the party's number alone: not from who
else takes part, nor from the order in which parties are computed. So a loop, a batched computation
and a run that was stopped and resumed draw alike. It is SplitMix64 (Fast Splittable Pseudorandom
Number Generators, Steele et al., 2014, https://doi.org/10.1145/2660193.2660195) used as a hash; it
keeps no secret, so privacy noise and masks do not come from here.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["bits_of", "shuffled", "uniforms"]

STEP = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
LAST = np.uint64(2**64 - 1)

Numbers = NDArray[np.int64]


def bits_of(key: tuple[int, ...], parties: Numbers, num: int) -> NDArray[np.uint64]:
    """Random bits, ``[P, num]`` uint64.

    Args:
        key: What they are for: a seed, a round, and so on; each at least 0.
        parties: Numbers of parties, ``[P]``.
        num: How many for each.
    """
    # Arrays, whose numbers wrap; those of single numbers are warned of.
    state = np.zeros(1, np.uint64)
    for part in key:
        state = _mixed(state + STEP * np.array([part + 1], np.uint64))
    own = _mixed(state + STEP * (parties.astype(np.uint64) + np.uint64(1)))
    return _mixed(own[:, None] + STEP * np.arange(1, num + 1, dtype=np.uint64))


def uniforms(key: tuple[int, ...], parties: Numbers, num: int) -> NDArray[np.float64]:
    """Random numbers in [0, 1), ``[P, num]``, of 53 bits each; see `bits_of`."""
    return (bits_of(key, parties, num) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def shuffled(key: tuple[int, ...], parties: Numbers, sizes: Numbers) -> Numbers:
    """A random order of each party's examples, ``[P, most]``.

    Args:
        key: As in `bits_of`.
        parties: As in `bits_of`.
        sizes: Examples of each, ``[P]``; only the first so many places of a party mean anything.
    """
    most = int(sizes.max(initial=0))
    bits = bits_of(key, parties, most)
    # Those that are not there come last; the party's own keep to the places before.
    bits[np.arange(most) >= sizes[:, None]] = LAST
    return np.argsort(bits, axis=1, kind="stable")


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * SECOND
    return bits ^ (bits >> np.uint64(31))

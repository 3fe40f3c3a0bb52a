"""Chance that can be asked again: draws that are a function of what they are for.

A draw depends on the seed, on what it is for and on some counters (the round, say), never on what
was drawn before. So a resumed run goes on as if it had not stopped, and one party's luck does not
change with who else is asked. `draws` has what the engines need; here is the rest.

It is for simulation. Privacy noise and masks never come from here.
"""

import math
import zlib

import numpy as np
from numpy.typing import NDArray

from scalerec.federated.draws import uniforms

__all__ = ["key_of", "normals", "numbers_of", "weighted_draws"]

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


def key_of(seed: int, purpose: str, *counters: int) -> tuple[int, ...]:
    """What draws are for, as numbers.

    Args:
        seed: Of the run, at least 0.
        purpose: What the draws are for; another purpose has other draws.
        counters: The round, say; each at least 0.
    """
    return seed, zlib.crc32(purpose.encode()), *counters


def numbers_of(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A source of randomness of its own for one purpose; the arguments are those of `key_of`."""
    return np.random.default_rng(key_of(seed, purpose, *counters))


def normals(key: tuple[int, ...], parties: Index, num: int = 1) -> Floats:
    """Draws from the standard normal distribution, ``[P, num]``.

    It is the transform of Box and Muller of uniform draws (A Note on the Generation of Random
    Normal Deviates, 1958, https://doi.org/10.1214/aoms/1177706645).

    Args:
        key: As `key_of` gives it.
        parties: Numbers of parties, ``[P]``.
        num: How many for each.
    """
    pairs = uniforms(key, parties, 2 * num)
    # A uniform draw may be 0, but not 1.
    radius = np.sqrt(-2.0 * np.log1p(-pairs[:, :num]))
    return radius * np.cos(2.0 * math.pi * pairs[:, num:])


def weighted_draws(log_weights: Floats, num: int, numbers: np.random.Generator) -> Index:
    """Draw entries without replacement, the next from the rest by weight, in that order.

    Each entry draws a key, and the largest are taken (Weighted Random Sampling with a Reservoir,
    Efraimidis and Spirakis, 2006, https://doi.org/10.1016/j.ipl.2005.11.003).

    Args:
        log_weights: Natural logarithms of weights, ``[P]``, finite.
        num: How many; where there are fewer, all.
        numbers: The source of randomness.

    Returns:
        Numbers of entries, ``[min(num, P)]``.
    """
    # log(u^(1/w)) orders as -log(-log(u)) + log(w), which does not run out of digits.
    keys = -(log_weights + numbers.gumbel(size=len(log_weights)))
    first = np.argpartition(keys, num)[:num] if num < len(keys) else np.arange(len(keys))
    return first[np.argsort(keys[first])]

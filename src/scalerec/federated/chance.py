"""Chance that can be asked again: draws that are a function of what they are for.

A draw depends on the seed, on what it is for and on some counters (the round, say), never on what
was drawn before. So a resumed run goes on as if it had not stopped. Draws of each party are in
`draws`; here are those that are made once for all.

It is for simulation. Privacy noise and masks never come from here.
"""

import zlib

import numpy as np

__all__ = ["numbers_of"]


def numbers_of(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A source of randomness of its own for one purpose.

    Args:
        seed: Of the run, at least 0.
        purpose: What the draws are for; another purpose has other draws.
        counters: The round, say; each at least 0.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *counters])

"""Fixed-point numbers: what is summed under masks are integers modulo a power of two.

A sum modulo 2^k that wraps is a wrong number that looks like a right one. So nothing here wraps in
silence: a number out of range is clipped and counted, or refused, and a modulus that the largest
possible sum does not fit is refused before anything is sent.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.errors import ConfigError, RoundError

__all__ = ["Beyond", "Encoded", "FixedPoint", "bound_vector", "word_type"]

# Above it, float64 no longer holds a rounded quotient to a small part of a step.
MAX_BITS = 48

Words = NDArray[np.unsignedinteger]

Beyond = Literal["clip", "refuse"]
"""What happens to a number out of range: it is moved to the edge and counted, or is an error."""


class Encoded(NamedTuple):
    """A vector as integers modulo 2^k, and how many of its numbers were out of range.

    Args:
        words: Unsigned integers below 2^k, ``[n]``, of `word_type`.
        num_clipped: How many numbers were moved to the edge of the range.
    """

    words: Words
    num_clipped: int


def word_type(modulus_bits: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned type that holds integers modulo 2^modulus_bits, little-endian.

    Args:
        modulus_bits: 8 to 64, a multiple of 8.

    Raises:
        ConfigError: If it is another number.
    """
    require(
        modulus_bits in range(8, 65, 8),
        f"modulus_bits must be a multiple of 8 from 8 to 64; got {modulus_bits}",
    )
    size = next(size for size in (1, 2, 4, 8) if 8 * size >= modulus_bits)
    return np.dtype(f"<u{size}")


def bound_vector(
    vector: NDArray[np.float64], limit: float, beyond: Beyond
) -> tuple[NDArray[np.float64], int]:
    """Bring the numbers of a vector into [-limit, limit], or refuse it.

    Args:
        vector: ``[n]`` floating point.
        limit: The largest magnitude.
        beyond: What happens to a number out of range; NaN and infinity are always an error.

    Returns:
        The numbers, ``[n]``, and how many of them were moved.

    Raises:
        RoundError: If the vector is no vector, a number is NaN or infinite, or one is out of range
            where that is refused.
    """
    numbers = np.asarray(vector, dtype=np.float64)
    if numbers.ndim != 1:
        raise RoundError(f"a vector to be summed must be [n]; got {list(numbers.shape)}")
    odd = np.flatnonzero(~np.isfinite(numbers))
    if len(odd):
        raise RoundError(
            f"{len(odd)} of {len(numbers)} numbers are not finite; the first is number "
            f"{odd[0]}, {numbers[odd[0]]}"
        )
    outside = np.flatnonzero(np.abs(numbers) > limit)
    if len(outside) and beyond == "refuse":
        raise RoundError(
            f"{len(outside)} of {len(numbers)} numbers are outside [-{limit:g}, {limit:g}]; the "
            f"first is number {outside[0]}, {numbers[outside[0]]:g}"
        )
    return np.clip(numbers, -limit, limit), len(outside)


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedPoint(Config):
    """Numbers in [-limit, limit] as multiples of ``limit / 2^(bits - 1)``, modulo 2^k.

    Args:
        num_parties: The largest number of vectors in one sum, at least 1.
        limit: The largest magnitude of a number, 1e-100 to 1e100; a power of two keeps steps exact.
        bits: Bits of one number, sign included, 2 to 48.
        modulus_bits: k, a multiple of 8 up to 64, so that a number travels in k / 8 bytes; the
            smallest one that holds every sum if not given.
        beyond: What happens to a number out of range: `clip` moves it to the edge and counts it,
            `refuse` is an error. NaN and infinity are always an error.
        rounding: `nearest`, or `stochastic`: up or down by chance, so that the mean is right.

    Raises:
        ConfigError: If a setting is out of range, or the sum of `num_parties` vectors may not fit
            the modulus.
    """

    num_parties: int
    limit: float = 1.0
    bits: int = 24
    modulus_bits: int | None = None
    beyond: Beyond = "clip"
    rounding: Literal["nearest", "stochastic"] = "nearest"

    def __post_init__(self) -> None:
        require(self.num_parties >= 1, f"num_parties must be at least 1; got {self.num_parties}")
        require(
            1e-100 <= self.limit <= 1e100,
            f"limit must be in [1e-100, 1e100]; got {self.limit}",
        )
        require(2 <= self.bits <= MAX_BITS, f"bits must be in [2, {MAX_BITS}]; got {self.bits}")
        require(
            self.beyond in ("clip", "refuse"),
            f"beyond must be one of clip, refuse; got {self.beyond!r}",
        )
        require(
            self.rounding in ("nearest", "stochastic"),
            f"rounding must be one of nearest, stochastic; got {self.rounding!r}",
        )
        if self.modulus_bits is not None:
            word_type(self.modulus_bits)
        self._check_room()

    def _check_room(self) -> None:
        needed, given = self._bits_needed(), self.modulus_bits or 64
        if needed <= given:
            return
        most = (2 ** (given - 1) - 1) // self.num_parties
        bits = most.bit_length()
        advice = f"bits of at most {bits}" if bits >= 2 else "fewer parties"
        if needed <= 64:
            advice += f" or modulus_bits of at least {-(-needed // 8) * 8}"
        raise ConfigError(
            f"{self.num_parties} parties with numbers of {self.bits} bits can sum up to "
            f"{self.num_parties * self.levels}, and {given} bits hold at most "
            f"{2 ** (given - 1) - 1}; allowed: {advice}"
        )

    def _bits_needed(self) -> int:
        # Sums run from -top to top, so the modulus must be above 2 * top.
        return (self.num_parties * self.levels).bit_length() + 1

    @property
    def levels(self) -> int:
        """The integer that stands for `limit`."""
        return 1 << (self.bits - 1)

    @property
    def step(self) -> float:
        """The distance of two neighbouring numbers."""
        return self.limit / self.levels

    @property
    def error(self) -> float:
        """The most that a decoded sum is off for each of its parties."""
        # The quotient is rounded to float64 before it is rounded to an integer, and so is the sum.
        return self.step * (0.5 if self.rounding == "nearest" else 1.0) * (1 + 2.0**-3)

    @property
    def width(self) -> int:
        """The modulus' bits, k."""
        return self.modulus_bits or -(-self._bits_needed() // 8) * 8

    def encode(
        self, vector: NDArray[np.float64], generator: np.random.Generator | None = None
    ) -> Encoded:
        """Turn one party's vector into integers modulo 2^k.

        Args:
            vector: ``[n]`` floating point.
            generator: Of stochastic rounding; a fresh one from the operating system's entropy if
                not given. Only tests give one.

        Raises:
            RoundError: If a number is NaN or infinite, or out of range where that is refused.
        """
        numbers, num_clipped = bound_vector(vector, self.limit, self.beyond)
        levels = numbers / self.limit * self.levels
        if self.rounding == "stochastic":
            drawn = (generator or np.random.default_rng()).random(len(levels))
            levels = np.floor(levels + drawn)
        integers = np.clip(np.rint(levels), -self.levels, self.levels).astype(np.int64)
        return Encoded(self._wrap(integers), num_clipped)

    def _wrap(self, integers: NDArray[np.int64]) -> Words:
        mask = np.uint64(2**self.width - 1)
        return (integers.view(np.uint64) & mask).astype(word_type(self.width))

    def centred(self, words: Words) -> NDArray[np.int64]:
        """The integers in [-2^(k-1), 2^(k-1)) that words stand for.

        Args:
            words: ``[n]`` unsigned integers, below 2^k.
        """
        shift = np.uint64(64 - self.width)
        # The sign bit is moved to the top and back, which copies it.
        return (words.astype(np.uint64) << shift).view(np.int64) >> np.int64(64 - self.width)

    def decode(self, total: Words) -> NDArray[np.float64]:
        """The numbers whose sum arrived.

        Args:
            total: The sum of encoded vectors modulo 2^k, ``[n]``.

        Raises:
            RoundError: If a sum is beyond what the parties can reach: a party sent what is no
                encoding, or a mask was left in.
        """
        integers = self.centred(total)
        top = self.num_parties * self.levels
        odd = np.flatnonzero((integers > top) | (integers < -top))
        if len(odd):
            raise RoundError(
                f"{len(odd)} of {len(integers)} sums are outside [-{top}, {top}], which "
                f"{self.num_parties} parties cannot reach; the first is number {odd[0]}, "
                f"{integers[odd[0]]}"
            )
        return integers.astype(np.float64) * np.float64(self.step)

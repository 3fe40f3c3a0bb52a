"""Masks: vectors that look like chance, and of which each pair's two cancel in the sum."""

import numpy as np
from numpy.typing import NDArray

from scalerec.errors import RoundError
from scalerec.federated.secure.fixed import word_type
from scalerec.federated.secure.keys import stream

__all__ = ["MaskedSum", "words_from_bytes", "words_to_bytes"]

Words = NDArray[np.unsignedinteger]


class MaskedSum:
    """A running sum modulo 2^k to which vectors and masks are added and from which they are taken.

    Sums run modulo the word's size, of which 2^k is a divisor, so the upper bits are cut off once,
    at the end.

    Args:
        length: Numbers of a vector, n.
        modulus_bits: k.
    """

    def __init__(self, length: int, modulus_bits: int) -> None:
        self._modulus_bits = modulus_bits
        self._total = np.zeros(length, dtype=word_type(modulus_bits))
        self._mask = np.empty_like(self._total)
        self._zeros = bytes(self._total.nbytes)

    def add(self, words: Words) -> None:
        """Add a vector.

        Args:
            words: ``[n]`` of `word_type`.
        """
        self._total += words

    def add_mask(self, seed: bytes, sign: int) -> None:
        """Add a seed's mask, or take it away.

        Args:
            seed: 32 bytes.
            sign: 1 or -1.
        """
        stream(seed, self._mask.view(np.uint8), self._zeros)
        if sign > 0:
            self._total += self._mask
        else:
            self._total -= self._mask

    def words(self) -> Words:
        """The sum modulo 2^k, ``[n]`` of `word_type`."""
        low: Words = self._total & self._total.dtype.type(2**self._modulus_bits - 1)
        return low


def words_to_bytes(words: Words, modulus_bits: int) -> bytes:
    """Write words with modulus_bits / 8 bytes each, lowest first.

    Args:
        words: ``[n]`` of `word_type`, below 2^modulus_bits.
        modulus_bits: 8 to 64, a multiple of 8.
    """
    columns = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), words.itemsize)
    return columns[:, : modulus_bits // 8].tobytes()


def words_from_bytes(text: bytes, length: int, modulus_bits: int) -> Words:
    """Read what `words_to_bytes` wrote.

    Args:
        text: ``n * modulus_bits / 8`` bytes.
        length: n.
        modulus_bits: As when it was written.

    Raises:
        RoundError: If there are more or fewer bytes.
    """
    size = modulus_bits // 8
    if len(text) != length * size:
        raise RoundError(
            f"{length} numbers of {size} bytes must be {length * size} bytes; got {len(text)}"
        )
    dtype = word_type(modulus_bits)
    columns = np.zeros((length, dtype.itemsize), dtype=np.uint8)
    columns[:, :size] = np.frombuffer(text, dtype=np.uint8).reshape(length, size)
    return columns.view(dtype).reshape(length)

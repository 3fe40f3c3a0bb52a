"""Sums of encrypted vectors: the server adds what it cannot read, and only the key holder decrypts.

The scheme is CKKS, by TenSEAL: polynomials of degree 4096 modulo a number of 54 bits, with one more
prime of 54 bits that SEAL keeps for keys, 108 bits together. The Homomorphic Encryption Standard
(https://homomorphicencryption.org/standard/, table 1) allows 109 bits at this degree for 128 bits
of security, and SEAL refuses more. Sums need no multiplication, so there is no larger modulus to
pay for: a number takes 30 bytes on its way.

The server learns who takes part. The key holder learns the sum; it must not get single vectors, so
it and the server must be two (an organisation of the parties holds the key, say).
"""

import math
import os
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.errors import MissingExtraError, RoundError
from scalerec.federated.secure.fixed import Beyond, bound_vector
from scalerec.federated.secure.sums import Traffic, VectorSum

if TYPE_CHECKING:
    import tenseal

__all__ = ["AddingServer", "CkksPlan", "EncryptingParty", "KeyHolder", "homomorphic_sum"]

DEGREE = 4096
MODULUS_BITS = (54, 54)
SLOTS = DEGREE // 2
# Below half of the modulus, with one bit for noise and for the rounding of the scale.
ROOM_BITS = MODULUS_BITS[0] - 2
# SEAL wants the scale below the modulus; more would not make a float64 more exact.
MOST_SCALE_BITS = 50
# The noise of a fresh ciphertext has a standard deviation of about 2^9.5 in a slot, and tails that
# fall exponentially; 2^15 is never met.
NOISE_BITS = 15
MOST_PARTIES = 2**24
KEY_ID_SIZE = 16
HEADER = struct.Struct("<4sBB16sIQ")
MAGIC = b"SCHE"
VERSION = 1
VECTOR, SUM = 1, 2
KINDS = {VECTOR: "an encrypted vector", SUM: "an encrypted sum"}


@dataclass(frozen=True, kw_only=True, slots=True)
class CkksPlan(Config):
    """What a sum of encrypted vectors is about.

    Args:
        num_parties: The largest number of vectors in one sum, 1 to 2^24.
        limit: The largest magnitude of a number, 1e-100 to 1e100.
        beyond: What happens to a number out of range; NaN and infinity are always an error.

    Raises:
        ConfigError: If a setting is out of range.
    """

    num_parties: int
    limit: float = 1.0
    beyond: Beyond = "clip"

    def __post_init__(self) -> None:
        # More, and the noise of a sum would be a visible part of one number's range.
        require(
            1 <= self.num_parties <= MOST_PARTIES,
            f"num_parties must be in [1, {MOST_PARTIES}]; got {self.num_parties}",
        )
        require(
            1e-100 <= self.limit <= 1e100, f"limit must be in [1e-100, 1e100]; got {self.limit}"
        )
        require(
            self.beyond in ("clip", "refuse"),
            f"beyond must be one of clip, refuse; got {self.beyond!r}",
        )

    @property
    def scale_bits(self) -> int:
        """Numbers, divided by the limit, are encrypted as multiples of 2^-scale_bits."""
        return min(ROOM_BITS - (self.num_parties - 1).bit_length(), MOST_SCALE_BITS)

    @property
    def grid(self) -> float:
        """Decrypted sums are rounded to multiples of it, which takes the noise off."""
        bits = NOISE_BITS + math.ceil(math.log2(self.num_parties) / 2) - self.scale_bits
        return self.limit * 2.0**bits

    @property
    def tolerance(self) -> float:
        """The most that a number of a decrypted sum is off: the noise, and half of the grid."""
        return 1.5 * self.grid


class KeyHolder:
    """Who makes the keys, and alone can read a sum.

    A sum as CKKS decrypts it has noise in its last bits that depends on the key; who gets both the
    ciphertext and many such sums can solve for the key (On the Security of Homomorphic Encryption
    on Approximate Numbers, Li and Micciancio, 2021, https://eprint.iacr.org/2020/1533). So a sum
    is rounded to `CkksPlan.grid`, coarser than the noise, before it leaves. That leaves a trace
    only where a sum lies at the very edge of a step; make new keys for each round as well.

    Args:
        plan: What is summed.

    Raises:
        MissingExtraError: If TenSEAL is not installed.
    """

    def __init__(self, plan: CkksPlan) -> None:
        engine = _engine()
        self.plan = plan
        self._key_id = os.urandom(KEY_ID_SIZE)
        self._context = engine.context(
            engine.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(MODULUS_BITS), n_threads=1
        )

    def public_key(self) -> bytes:
        """What parties need to encrypt."""
        return self._key_id + self._save(public=True)

    def sum_key(self) -> bytes:
        """What the server needs to add: the scheme's settings, and no key at all."""
        return self._key_id + self._save(public=False)

    def decrypt(self, message: bytes) -> NDArray[np.float64]:
        """Read a sum.

        Args:
            message: What `AddingServer.total` gives.

        Returns:
            ``[n]``, each number within `CkksPlan.tolerance`.

        Raises:
            RoundError: If the message is no sum under this key.
        """
        _, length, chunks = _open(message, SUM, self._key_id)
        parts: list[float] = []
        for vector in _vectors(self._context, chunks, length):
            parts += vector.decrypt()
        grid = self.plan.grid
        numbers = np.asarray(parts, dtype=np.float64) * self.plan.limit
        return np.rint(numbers / grid) * np.float64(grid)

    def _save(self, *, public: bool) -> bytes:
        text: bytes = self._context.serialize(
            save_public_key=public,
            save_secret_key=False,
            save_galois_keys=False,
            save_relin_keys=False,
        )
        return text


class EncryptingParty:
    """A party of a sum of encrypted vectors.

    Args:
        plan: What is summed.
        public_key: What `KeyHolder.public_key` gives.
        party: This party's number.

    Raises:
        RoundError: If there is no such key in it.
        MissingExtraError: If TenSEAL is not installed.
    """

    def __init__(self, plan: CkksPlan, public_key: bytes, party: int) -> None:
        self.plan = plan
        self.party = party
        self.num_clipped = 0
        """How many numbers of the vector were moved to the edge of the range."""
        self._key_id, self._context = _read_key(public_key, "a public key")
        if not self._context.has_public_key():
            raise RoundError("a public key is needed to encrypt; got settings without a key")

    def encrypt(self, vector: NDArray[np.float64]) -> bytes:
        """Encrypt a vector, 2048 numbers in a ciphertext.

        Args:
            vector: ``[n]`` floating point.

        Raises:
            RoundError: If a number is NaN or infinite, or out of range where that is refused.
        """
        numbers, self.num_clipped = bound_vector(vector, self.plan.limit, self.plan.beyond)
        numbers = numbers / self.plan.limit
        scale = 2.0**self.plan.scale_bits
        chunks = [
            _engine().ckks_vector(self._context, numbers[at : at + SLOTS], scale=scale).serialize()
            for at in range(0, len(numbers), SLOTS)
        ]
        return _frame(VECTOR, self._key_id, self.party, len(numbers), chunks)


class AddingServer:
    """Who adds encrypted vectors, without a key.

    Args:
        plan: What is summed.
        sum_key: What `KeyHolder.sum_key` gives.

    Raises:
        RoundError: If it is none, or holds the secret key.
        MissingExtraError: If TenSEAL is not installed.
    """

    def __init__(self, plan: CkksPlan, sum_key: bytes) -> None:
        self.plan = plan
        self.members: set[int] = set()
        """Parties whose vectors are in the sum."""
        self._key_id, self._context = _read_key(sum_key, "a sum key")
        if self._context.has_secret_key():
            raise RoundError("the server must not hold the secret key; give it `sum_key()`")
        self._length = 0
        self._total: list[tenseal.CKKSVector] = []

    def add(self, message: bytes) -> None:
        """Add a party's vector; one that does not fit is refused and leaves the sum as it is.

        Args:
            message: What `EncryptingParty.encrypt` gives.

        Raises:
            RoundError: If it is no vector under this key, of another length, a second one of its
                party, or one more than the plan has room for.
        """
        party, length, chunks = _open(message, VECTOR, self._key_id)
        if party in self.members:
            raise RoundError(f"party {party} sent a second vector")
        if len(self.members) == self.plan.num_parties:
            raise RoundError(
                f"the plan has room for {self.plan.num_parties} vectors; party {party} sent one "
                "more, and the sum might wrap"
            )
        if self.members and length != self._length:
            raise RoundError(
                f"vectors of this sum have {self._length} numbers; party {party} sent {length}"
            )
        vectors = _vectors(self._context, chunks, length)
        if not self.members:
            self._length, self._total = length, vectors
        else:
            self._total = _add(self._total, vectors, party)
        self.members.add(party)

    def total(self) -> bytes:
        """The encrypted sum, for the key holder.

        Raises:
            RoundError: If no vector was added.
        """
        if not self.members:
            raise RoundError("there is no vector to be summed")
        chunks = [vector.serialize() for vector in self._total]
        return _frame(SUM, self._key_id, len(self.members), self._length, chunks)


def homomorphic_sum(
    vectors: Sequence[NDArray[np.float64]] | NDArray[np.float64],
    plan: CkksPlan,
    *,
    dropouts: Collection[int] = (),
) -> VectorSum:
    """Sum encrypted vectors, with new keys; parties, server and key holder in one process.

    Args:
        vectors: One vector of ``[n]`` numbers for each party.
        plan: What is summed; for at least as many parties as there are vectors.
        dropouts: Parties that get the key and send nothing.

    Returns:
        The sum, each number within ``plan.tolerance`` of the sum of the numbers in range. Its bytes
        are those of the public key (down) and of the vectors (up).

    Raises:
        RoundError: If the vectors do not fit each other or the plan, or all parties dropped out.
        MissingExtraError: If TenSEAL is not installed.
    """
    holder = KeyHolder(plan)
    key = holder.public_key()
    server = AddingServer(plan, holder.sum_key())
    traffic = Traffic.none(len(vectors))
    num_clipped = 0
    for number, vector in enumerate(vectors):
        traffic.down[number] += len(key)
        if number in dropouts:
            continue
        party = EncryptingParty(plan, key, number)
        message = party.encrypt(np.asarray(vector))
        traffic.up[number] += len(message)
        num_clipped += party.num_clipped
        server.add(message)
    return VectorSum(
        total=holder.decrypt(server.total()),
        members=tuple(sorted(server.members)),
        num_clipped=num_clipped,
        traffic=traffic,
    )


def _engine() -> Any:
    try:
        import tenseal
    except ImportError:
        raise MissingExtraError("tenseal", "privacy") from None
    return tenseal


def _read_key(text: bytes, name: str) -> tuple[bytes, "tenseal.Context"]:
    engine = _engine()
    try:
        context = engine.context_from(text[KEY_ID_SIZE:], n_threads=1)
    except (ValueError, RuntimeError) as error:
        raise RoundError(
            f"{name} of TenSEAL was expected; got {len(text)} bytes, {error}"
        ) from None
    return text[:KEY_ID_SIZE], context


def _frame(kind: int, key_id: bytes, number: int, length: int, chunks: Sequence[bytes]) -> bytes:
    parts = [HEADER.pack(MAGIC, VERSION, kind, key_id, number, length)]
    for chunk in chunks:
        parts += (struct.pack("<I", len(chunk)), chunk)
    return b"".join(parts)


def _open(text: bytes, kind: int, key_id: bytes) -> tuple[int, int, list[bytes]]:
    """The number in a message's header, the vector's length and its ciphertexts."""
    name = KINDS[kind]
    if len(text) < HEADER.size:
        raise RoundError(f"{name} has {HEADER.size} bytes of header; got {len(text)} bytes")
    magic, version, found, whose, number, length = HEADER.unpack_from(text)
    if (magic, version) != (MAGIC, VERSION):
        raise RoundError(
            f"{name} starts with {MAGIC!r}, version {VERSION}; got {magic!r}, {version}"
        )
    if found != kind:
        raise RoundError(f"{name} was expected; got {KINDS.get(found, f'kind {found}')}")
    if whose != key_id:
        raise RoundError(
            f"{name} was made with the key {whose.hex()}; this sum's is {key_id.hex()}"
        )
    chunks, at = [], HEADER.size
    while at < len(text):
        size = int.from_bytes(text[at : at + 4], "little")
        chunks.append(text[at + 4 : at + 4 + size])
        if len(chunks[-1]) != size:
            raise RoundError(f"{name} is cut short: {size} bytes needed, got {len(chunks[-1])}")
        at += 4 + size
    wanted = -(-length // SLOTS)
    if len(chunks) != wanted:
        raise RoundError(f"{name} of {length} numbers has {wanted} ciphertexts; got {len(chunks)}")
    return number, length, chunks


def _vectors(
    context: "tenseal.Context", chunks: Sequence[bytes], length: int
) -> "list[tenseal.CKKSVector]":
    vectors = []
    for at, chunk in enumerate(chunks):
        size = min(SLOTS, length - at * SLOTS)
        try:
            vector = _engine().ckks_vector_from(context, chunk)
            found = vector.size()
        except (ValueError, RuntimeError) as error:
            raise RoundError(f"ciphertext {at} does not fit the key: {error}") from None
        if found != size:
            raise RoundError(f"ciphertext {at} must hold {size} numbers; got {found}")
        vectors.append(vector)
    return vectors


def _add(
    total: "list[tenseal.CKKSVector]", vectors: "list[tenseal.CKKSVector]", party: int
) -> "list[tenseal.CKKSVector]":
    try:
        return [mine + other for mine, other in zip(total, vectors, strict=True)]
    except (ValueError, RuntimeError) as error:
        raise RoundError(f"the vector of party {party} cannot be added: {error}") from None

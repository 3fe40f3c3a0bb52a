"""The messages of a secure sum, as plain bytes that could travel over any network.

Every message starts with four letters, a version, its kind, the sum's session and the number of the
party that sends or receives it; sizes and counts are checked before anything is read, and nothing
is executed. Numbers are little-endian.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from scalerec.errors import RoundError
from scalerec.federated.secure.keys import KEY_SIZE
from scalerec.federated.secure.shamir import SHARE_SIZE

__all__ = [
    "Keys",
    "KeysOfNeighbours",
    "MaskedVector",
    "SealedShares",
    "SharesForParty",
    "UnmaskReply",
    "UnmaskRequest",
]

HEADER = struct.Struct("<4sBB16sI")
MAGIC = b"SCSA"
VERSION = 1
DIGEST_SIZE = 16
SEALED_SIZE = 2 * SHARE_SIZE + 16
KINDS = {
    1: "keys",
    2: "keys of neighbours",
    3: "sealed shares",
    4: "shares for a party",
    5: "masked vector",
    6: "unmask request",
    7: "unmask reply",
}


def _frame(kind: int, session: bytes, party: int, *parts: bytes) -> bytes:
    return b"".join((HEADER.pack(MAGIC, VERSION, kind, session, party), *parts))


def _records(records: Mapping[int, bytes]) -> bytes:
    parts = [struct.pack("<I", len(records))]
    for party, record in records.items():
        parts += (struct.pack("<I", party), record)
    return b"".join(parts)


class _Reader:
    """Reads a message from its start; every step is checked."""

    def __init__(self, text: bytes, kind: int, session: bytes) -> None:
        self._name = f"a message of {KINDS[kind]}"
        if len(text) < HEADER.size:
            raise RoundError(
                f"{self._name} starts with {HEADER.size} bytes of header; got {len(text)} bytes"
            )
        magic, version, found, whose, self.party = HEADER.unpack_from(text)
        if magic != MAGIC or version != VERSION:
            raise RoundError(
                f"{self._name} starts with {MAGIC!r}, version {VERSION}; got {magic!r}, {version}"
            )
        if found != kind:
            raise RoundError(f"expected {self._name}; got one of {KINDS.get(found, found)}")
        if whose != session:
            raise RoundError(
                f"{self._name} belongs to session {whose.hex()}; this is session {session.hex()}"
            )
        self._text, self._at = text, HEADER.size

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._text):
            raise RoundError(
                f"{self._name} of party {self.party} is cut short: {self._at + size} bytes needed, "
                f"got {len(self._text)}"
            )
        self._at += size
        return self._text[self._at - size : self._at]

    def records(self, size: int) -> dict[int, bytes]:
        count = int.from_bytes(self.take(4), "little")
        # Before anything is made of a count that may be huge.
        if self._at + count * (4 + size) > len(self._text):
            raise RoundError(
                f"{self._name} of party {self.party} is cut short: it should hold {count} entries "
                f"of {4 + size} bytes, and {len(self._text) - self._at} bytes are left"
            )
        found = {}
        for _ in range(count):
            party = int.from_bytes(self.take(4), "little")
            found[party] = self.take(size)
        if len(found) != count:
            raise RoundError(f"{self._name} of party {self.party} names a party twice")
        return found

    def rest(self) -> bytes:
        return self.take(len(self._text) - self._at)

    def end(self) -> None:
        if self._at != len(self._text):
            raise RoundError(
                f"{self._name} of party {self.party} is {self._at} bytes; got {len(self._text)}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """Round 1, up: a party's public keys.

    Args:
        session: The sum's name.
        party: The sender.
        cipher_key: Public key under which others seal shares for it.
        mask_key: Public key that its masks are agreed with.
    """

    KIND: ClassVar[int] = 1
    session: bytes
    party: int
    cipher_key: bytes
    mask_key: bytes

    def to_bytes(self) -> bytes:
        """The message as it travels."""
        return _frame(self.KIND, self.session, self.party, self.cipher_key, self.mask_key)

    @classmethod
    def from_bytes(cls, text: bytes, session: bytes) -> Self:
        """Read a message of this session.

        Raises:
            RoundError: If it is of another kind or session, or of a wrong size.
        """
        reader = _Reader(text, cls.KIND, session)
        keys = reader.take(KEY_SIZE), reader.take(KEY_SIZE)
        reader.end()
        return cls(session=session, party=reader.party, cipher_key=keys[0], mask_key=keys[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class KeysOfNeighbours:
    """Round 1, down: the public keys of a party's neighbours and its own.

    Args:
        session: The sum's name.
        party: The receiver.
        keys: Party to cipher key and mask key, one after the other, 64 bytes.
    """

    KIND: ClassVar[int] = 2
    session: bytes
    party: int
    keys: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """The message as it travels."""
        return _frame(self.KIND, self.session, self.party, _records(self.keys))

    @classmethod
    def from_bytes(cls, text: bytes, session: bytes) -> Self:
        """Read a message of this session.

        Raises:
            RoundError: If it is of another kind or session, or of a wrong size.
        """
        reader = _Reader(text, cls.KIND, session)
        keys = reader.records(2 * KEY_SIZE)
        reader.end()
        return cls(session=session, party=reader.party, keys=keys)


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedShares:
    """Round 2, up: shares of a party's secrets, each sealed for one neighbour.

    Args:
        session: The sum's name.
        party: The sender.
        digest: Fingerprint of the sender's own seed, so that a wrong share does not go unseen.
        sealed: Neighbour to sealed shares.
    """

    KIND: ClassVar[int] = 3
    session: bytes
    party: int
    digest: bytes
    sealed: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """The message as it travels."""
        return _frame(self.KIND, self.session, self.party, self.digest, _records(self.sealed))

    @classmethod
    def from_bytes(cls, text: bytes, session: bytes) -> Self:
        """Read a message of this session.

        Raises:
            RoundError: If it is of another kind or session, or of a wrong size.
        """
        reader = _Reader(text, cls.KIND, session)
        digest, sealed = reader.take(DIGEST_SIZE), reader.records(SEALED_SIZE)
        reader.end()
        return cls(session=session, party=reader.party, digest=digest, sealed=sealed)


@dataclass(frozen=True, kw_only=True, slots=True)
class SharesForParty:
    """Round 2, down: the shares that neighbours sealed for a party.

    Args:
        session: The sum's name.
        party: The receiver.
        sealed: Neighbour to sealed shares.
    """

    KIND: ClassVar[int] = 4
    session: bytes
    party: int
    sealed: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """The message as it travels."""
        return _frame(self.KIND, self.session, self.party, _records(self.sealed))

    @classmethod
    def from_bytes(cls, text: bytes, session: bytes) -> Self:
        """Read a message of this session.

        Raises:
            RoundError: If it is of another kind or session, or of a wrong size.
        """
        reader = _Reader(text, cls.KIND, session)
        sealed = reader.records(SEALED_SIZE)
        reader.end()
        return cls(session=session, party=reader.party, sealed=sealed)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskedVector:
    """Round 3, up: a party's vector under its masks.

    Args:
        session: The sum's name.
        party: The sender.
        numbers: What `words_to_bytes` gives.
    """

    KIND: ClassVar[int] = 5
    session: bytes
    party: int
    numbers: bytes

    def to_bytes(self) -> bytes:
        """The message as it travels."""
        return _frame(self.KIND, self.session, self.party, self.numbers)

    @classmethod
    def from_bytes(cls, text: bytes, session: bytes) -> Self:
        """Read a message of this session; the size of the vector is checked by who knows it.

        Raises:
            RoundError: If it is of another kind or session.
        """
        reader = _Reader(text, cls.KIND, session)
        return cls(session=session, party=reader.party, numbers=reader.rest())


@dataclass(frozen=True, kw_only=True, slots=True)
class UnmaskRequest:
    """Round 4, down: which of a party's neighbours, and itself, sent vectors and which did not.

    Args:
        session: The sum's name.
        party: The receiver.
        survivors: Those whose vectors are in the sum: shares of their own seeds are asked for.
        dropped: Those whose vectors never came: shares of their mask keys are asked for.

    Raises:
        RoundError: If a party is in both: its two shares together would lay its vector open.
    """

    KIND: ClassVar[int] = 6
    session: bytes
    party: int
    survivors: frozenset[int]
    dropped: frozenset[int]

    def __post_init__(self) -> None:
        both = sorted(self.survivors & self.dropped)
        if both:
            raise RoundError(
                f"nobody may ask for both shares of one party, its seed and its key; asked of "
                f"party {self.party} for both of {both}"
            )

    def to_bytes(self) -> bytes:
        """The message as it travels."""
        lists = (_numbers(self.survivors), _numbers(self.dropped))
        return _frame(self.KIND, self.session, self.party, *lists)

    @classmethod
    def from_bytes(cls, text: bytes, session: bytes) -> Self:
        """Read a message of this session.

        Raises:
            RoundError: If it is of another kind or session, of a wrong size, or asks for both
                shares of a party.
        """
        reader = _Reader(text, cls.KIND, session)
        survivors, dropped = frozenset(reader.records(0)), frozenset(reader.records(0))
        reader.end()
        return cls(session=session, party=reader.party, survivors=survivors, dropped=dropped)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnmaskReply:
    """Round 4, up: the shares that were asked for.

    Args:
        session: The sum's name.
        party: The sender.
        seeds: Survivor to the share of its own seed, 33 bytes.
        keys: Dropped party to the share of its mask key, 33 bytes.
    """

    KIND: ClassVar[int] = 7
    session: bytes
    party: int
    seeds: Mapping[int, bytes]
    keys: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """The message as it travels."""
        lists = (_records(self.seeds), _records(self.keys))
        return _frame(self.KIND, self.session, self.party, *lists)

    @classmethod
    def from_bytes(cls, text: bytes, session: bytes) -> Self:
        """Read a message of this session.

        Raises:
            RoundError: If it is of another kind or session, or of a wrong size.
        """
        reader = _Reader(text, cls.KIND, session)
        seeds, keys = reader.records(SHARE_SIZE), reader.records(SHARE_SIZE)
        reader.end()
        return cls(session=session, party=reader.party, seeds=seeds, keys=keys)


def _numbers(parties: Iterable[int]) -> bytes:
    return _records(dict.fromkeys(sorted(parties), b""))

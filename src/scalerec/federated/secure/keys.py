"""Key agreement, seeds, sealed messages and streams: the one door to the package `cryptography`.

Two parties agree on a secret by X25519, HKDF makes of it one key for each purpose, ChaCha20 expands
a key to a mask, and ChaCha20-Poly1305 seals what only one party may read.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scalerec.errors import MissingExtraError, RoundError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["KEY_SIZE", "KeyPair", "check_public", "digest_seed", "seal", "stream", "unseal"]

KEY_SIZE = 32
"""Bytes of a private key, a public key and a seed."""

Entropy = Callable[[int], bytes]


class _Engine(NamedTuple):
    private: "Callable[[bytes], X25519PrivateKey]"
    public: "Callable[[bytes], X25519PublicKey]"
    hkdf: "type[HKDF]"
    sha256: "type[SHA256]"
    sealer: "type[ChaCha20Poly1305]"
    cipher: "type[Cipher[None]]"
    chacha: "type[algorithms.ChaCha20]"
    broken_seal: type[Exception]


@functools.cache
def _engine() -> _Engine:
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.asymmetric import x25519
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError:
        raise MissingExtraError("cryptography", "federated") from None
    return _Engine(
        private=x25519.X25519PrivateKey.from_private_bytes,
        public=x25519.X25519PublicKey.from_public_bytes,
        hkdf=HKDF,
        sha256=SHA256,
        sealer=ChaCha20Poly1305,
        cipher=Cipher,
        chacha=algorithms.ChaCha20,
        broken_seal=InvalidTag,
    )


class KeyPair:
    """A private key of X25519 and its public key.

    Standard: Elliptic Curves for Security, RFC 7748, 2016, https://www.rfc-editor.org/rfc/rfc7748

    Args:
        private: 32 bytes that nobody can guess.

    Raises:
        MissingExtraError: If `cryptography` is not installed.
    """

    def __init__(self, private: bytes) -> None:
        assert len(private) == KEY_SIZE
        self.private = private
        self._key = _engine().private(private)
        self.public = self._key.public_key().public_bytes_raw()

    def agree(self, public: bytes, purpose: bytes) -> bytes:
        """The key that both ends of an agreement get, and nobody else.

        Args:
            public: The other end's public key, 32 bytes.
            purpose: What the key is for; each purpose has a key of its own.

        Returns:
            32 bytes.

        Raises:
            RoundError: If the public key is one that gives everybody the same secret.
        """
        engine = _engine()
        try:
            secret = self._key.exchange(engine.public(public))
        except ValueError:
            raise RoundError("a public key is weak: every private key agrees with it") from None
        return engine.hkdf(engine.sha256(), KEY_SIZE, None, purpose).derive(secret)


def check_public(public: bytes) -> None:
    """Refuse a public key that gives everybody the same secret.

    Args:
        public: 32 bytes.

    Raises:
        RoundError: If it is such a key.
    """
    KeyPair(bytes(KEY_SIZE)).agree(public, b"")


def digest_seed(seed: bytes, purpose: bytes) -> bytes:
    """A fingerprint of a random seed, 16 bytes: it tells a wrong seed, and not the right one.

    Args:
        seed: 32 random bytes.
        purpose: What the seed is for.

    Raises:
        MissingExtraError: If `cryptography` is not installed.
    """
    engine = _engine()
    return engine.hkdf(engine.sha256(), 16, None, b"scalerec check " + purpose).derive(seed)


def seal(key: bytes, text: bytes, place: bytes) -> bytes:
    """Encrypt and sign a text; a key seals one text only, so its nonce is zero.

    Args:
        key: 32 bytes, never used before.
        text: What only the other end may read.
        place: What the text is for; it opens in no other place.

    Returns:
        The text's size and 16 bytes.
    """
    return _engine().sealer(key).encrypt(bytes(12), text, place)


def unseal(key: bytes, sealed: bytes, place: bytes) -> bytes:
    """Give the text that was sealed.

    Args:
        key: As when it was sealed.
        sealed: What arrived.
        place: As when it was sealed.

    Raises:
        RoundError: If it was sealed with another key or for another place, or changed on its way.
    """
    engine = _engine()
    try:
        return engine.sealer(key).decrypt(bytes(12), sealed, place)
    except engine.broken_seal:
        raise RoundError("a sealed text does not open: wrong key or place, or changed") from None


def stream(key: bytes, out: NDArray[np.uint8], zeros: bytes) -> None:
    """Fill an array with the key's stream of ChaCha20.

    Standard: ChaCha20 and Poly1305 for IETF Protocols, RFC 8439, 2018,
    https://www.rfc-editor.org/rfc/rfc8439

    Args:
        key: 32 bytes; a key has one stream.
        out: ``[n]`` uint8, overwritten.
        zeros: n zero bytes, which the caller keeps from one stream to the next.
    """
    engine = _engine()
    cipher = engine.cipher(engine.chacha(key, bytes(16)), None)
    cipher.encryptor().update_into(zeros, out.data)

"""Keys, seals and streams, held to the published vectors and to the standard library."""

import hashlib
import hmac

import numpy as np
import pytest

from scalerec.errors import RoundError
from scalerec.federated.secure.keys import KeyPair, check_public, digest_seed, seal, stream, unseal

# RFC 7748, section 6.1.
ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
SHARED = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")


def derive(secret: bytes, purpose: bytes, size: int) -> bytes:
    """HKDF of one block, RFC 5869, without salt."""
    inner = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(inner, purpose + b"\x01", hashlib.sha256).digest()[:size]


def test_both_ends_agree_on_the_published_secret() -> None:
    alice, bob = KeyPair(ALICE), KeyPair(BOB)
    assert alice.public.hex() == ALICE_PUBLIC
    assert alice.agree(bob.public, b"mask") == derive(SHARED, b"mask", 32)
    assert bob.agree(alice.public, b"mask") == derive(SHARED, b"mask", 32)
    assert alice.agree(bob.public, b"seal") != alice.agree(bob.public, b"mask")


def test_a_stream_is_that_of_the_standard() -> None:
    # RFC 8439, appendix A.1, test vectors 1 and 2: blocks 0 and 1 of the zero key.
    out = np.empty(128, dtype=np.uint8)
    stream(bytes(32), out, bytes(128))
    first = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    second = "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
    assert out[:32].tobytes().hex() == first
    assert out[64:96].tobytes().hex() == second


def test_a_seal_opens_with_its_key_in_its_place_only() -> None:
    key = bytes(range(32))
    sealed = seal(key, b"two shares", b"1 to 2")
    assert unseal(key, sealed, b"1 to 2") == b"two shares"
    changed = bytes([sealed[0] ^ 1]) + sealed[1:]
    for attempt in (
        (bytes(32), sealed, b"1 to 2"),
        (key, sealed, b"2 to 1"),
        (key, changed, b"1 to 2"),
    ):
        with pytest.raises(RoundError, match="does not open: wrong key or place, or changed"):
            unseal(*attempt)


def test_a_weak_public_key_is_refused() -> None:
    # Points of low order, RFC 7748 section 6.1: the secret would be zero for everybody.
    for weak in (bytes(32), b"\x01" + bytes(31)):
        with pytest.raises(RoundError, match="a public key is weak"):
            check_public(weak)
    check_public(KeyPair(BOB).public)


def test_a_digest_tells_seeds_apart() -> None:
    assert digest_seed(ALICE, b"s") == derive(ALICE, b"scalerec check s", 16)
    assert digest_seed(ALICE, b"s") != digest_seed(BOB, b"s")

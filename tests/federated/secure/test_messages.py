"""Messages come back as they were, and whatever else arrives is refused in words."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalerec.errors import RoundError
from scalerec.federated.secure.messages import (
    Keys,
    KeysOfNeighbours,
    MaskedVector,
    SealedShares,
    SharesForParty,
    UnmaskReply,
    UnmaskRequest,
)

SESSION = bytes(range(16))
MESSAGES = (
    Keys(session=SESSION, party=3, cipher_key=b"c" * 32, mask_key=b"m" * 32),
    KeysOfNeighbours(session=SESSION, party=3, keys={1: b"k" * 64, 2**32 - 1: b"l" * 64}),
    SealedShares(session=SESSION, party=3, digest=b"d" * 16, sealed={1: b"s" * 82}),
    SharesForParty(session=SESSION, party=3, sealed={0: b"s" * 82, 1: b"t" * 82}),
    MaskedVector(session=SESSION, party=3, numbers=b"123456"),
    UnmaskRequest(session=SESSION, party=3, survivors=frozenset({0, 3}), dropped=frozenset({7})),
    UnmaskReply(session=SESSION, party=3, seeds={0: b"a" * 33}, keys={7: b"b" * 33}),
)
KINDS = [type(message) for message in MESSAGES]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_message_comes_back_and_no_part_of_it_does(message: object) -> None:
    kind = type(message)
    text: bytes = message.to_bytes()  # type: ignore[attr-defined]
    assert kind.from_bytes(text, SESSION) == message  # type: ignore[attr-defined]
    # The size of a vector is known to the plan only; all other messages know their own.
    for size in range(26 if kind is MaskedVector else len(text)):
        with pytest.raises(RoundError, match=r"cut short|starts with 26 bytes"):
            kind.from_bytes(text[:size], SESSION)  # type: ignore[attr-defined]
    if kind is not MaskedVector:
        with pytest.raises(RoundError, match=f"is {len(text)} bytes; got {len(text) + 1}"):
            kind.from_bytes(text + b"x", SESSION)  # type: ignore[attr-defined]


def test_foreign_messages_are_refused_in_words() -> None:
    text = MESSAGES[0].to_bytes()
    with pytest.raises(RoundError) as caught:
        Keys.from_bytes(text, bytes(16))
    assert str(caught.value) == (
        "a message of keys belongs to session 000102030405060708090a0b0c0d0e0f; this is session "
        "00000000000000000000000000000000"
    )
    with pytest.raises(RoundError, match="expected a message of unmask reply; got one of keys"):
        UnmaskReply.from_bytes(text, SESSION)
    with pytest.raises(RoundError, match=r"starts with b'SCSA', version 1; got b'HTTP', 1"):
        Keys.from_bytes(b"HTTP" + text[4:], SESSION)
    with pytest.raises(RoundError, match=r"starts with b'SCSA', version 1; got b'SCSA', 2"):
        Keys.from_bytes(text[:4] + b"\x02" + text[5:], SESSION)


def test_a_huge_count_is_refused_before_anything_is_made_of_it() -> None:
    text = MESSAGES[1].to_bytes()
    text = text[:26] + b"\xff" * 4 + text[30:]
    with pytest.raises(RoundError, match="should hold 4294967295 entries of 68 bytes, and 136 "):
        KeysOfNeighbours.from_bytes(text, SESSION)


def test_a_party_named_twice_is_refused() -> None:
    text = KeysOfNeighbours(session=SESSION, party=3, keys={1: b"k" * 64, 2: b"l" * 64}).to_bytes()
    twice = text[:98] + (1).to_bytes(4, "little") + text[102:]
    with pytest.raises(RoundError, match="keys of neighbours of party 3 names a party twice"):
        KeysOfNeighbours.from_bytes(twice, SESSION)


def test_nobody_can_write_or_read_a_request_for_both_shares() -> None:
    words = r"both shares of one party, its seed and its key; asked of party 3 for both of \[7\]"
    with pytest.raises(RoundError, match=words):
        UnmaskRequest(session=SESSION, party=3, survivors=frozenset({3, 7}), dropped=frozenset({7}))
    text = UnmaskRequest(
        session=SESSION, party=3, survivors=frozenset({3, 7}), dropped=frozenset({8})
    ).to_bytes()
    with pytest.raises(RoundError, match=words):
        UnmaskRequest.from_bytes(text[:-4] + (7).to_bytes(4, "little"), SESSION)


@given(body=st.binary(max_size=200), kind=st.sampled_from(KINDS))
def test_any_bytes_are_read_or_refused(body: bytes, kind: type[Keys]) -> None:
    for text in (body, b"SCSA\x01" + bytes([kind.KIND]) + SESSION + body):
        try:
            message = kind.from_bytes(text, SESSION)
        except RoundError:
            continue
        assert message.to_bytes() == text or isinstance(message, UnmaskRequest)


@given(
    seeds=st.dictionaries(st.integers(0, 2**32 - 1), st.binary(min_size=33, max_size=33)),
    keys=st.dictionaries(st.integers(0, 2**32 - 1), st.binary(min_size=33, max_size=33)),
)
def test_records_of_any_parties_come_back(
    seeds: Mapping[int, bytes], keys: Mapping[int, bytes]
) -> None:
    message = UnmaskReply(session=SESSION, party=1, seeds=seeds, keys=keys)
    assert UnmaskReply.from_bytes(message.to_bytes(), SESSION) == message

"""What client and server refuse, each for itself, and what a sum survives."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from scalerec.errors import RoundError
from scalerec.federated.secure import SumClient, SumPlan, SumServer
from scalerec.federated.secure.messages import (
    Keys,
    KeysOfNeighbours,
    MaskedVector,
    SealedShares,
    SharesForParty,
    UnmaskReply,
    UnmaskRequest,
)

NUM = 5
Words = np.ndarray


class Room:
    """Five clients and a server, and what was said in each round so far."""

    def __init__(self) -> None:
        self.plan = SumPlan.new(num_parties=NUM, length=2, modulus_bits=16, threshold=3)
        self.session = self.plan.session
        self.clients = [SumClient(self.plan, party) for party in range(NUM)]
        self.server = SumServer(self.plan)
        self.words = [np.array([p, 10 * p], dtype=np.uint16) for p in range(NUM)]

    def keys(self) -> list[bytes]:
        return [client.advertise_keys() for client in self.clients]

    def shares(self) -> dict[int, bytes]:
        found = self.server.collect_keys(self.keys())
        return {p: self.clients[p].share_keys(text) for p, text in found.items()}

    def vectors(self, shares: Mapping[int, bytes] | None = None) -> dict[int, bytes]:
        shares = self.shares() if shares is None else shares
        found = self.server.collect_shares(shares.values())
        return {p: self.clients[p].mask_vector(text, self.words[p]) for p, text in found.items()}

    def replies(self, vectors: Mapping[int, bytes] | None = None) -> dict[int, bytes]:
        vectors = self.vectors() if vectors is None else vectors
        found = self.server.collect_vectors(vectors.values())
        return {p: self.clients[p].unmask(text) for p, text in found.items()}

    def total(self, replies: Mapping[int, bytes]) -> list[int]:
        return [int(number) for number in self.server.unmask(replies.values())]


def changed(reply: UnmaskReply, field: str, shares: Mapping[int, bytes]) -> bytes:
    new = replace(reply, seeds=shares) if field == "seeds" else replace(reply, keys=shares)
    return new.to_bytes()


@pytest.fixture
def room() -> Room:
    return Room()


def test_a_sum_over_messages(room: Room) -> None:
    assert room.total(room.replies()) == [10, 100]
    assert room.server.members == set(range(NUM))


def test_rounds_run_once_and_in_order(room: Room) -> None:
    client, server = room.clients[0], room.server
    with pytest.raises(RoundError, match=r"party 0: share_keys is not due, .*_keys is due"):
        client.share_keys(
            KeysOfNeighbours(
                session=room.session,
                party=0,
                keys={p: c._cipher.public + c._mask.public for p, c in enumerate(room.clients)},
            ).to_bytes()
        )
    with pytest.raises(RoundError, match=r"server: unmask is not due, .*collect_keys is due"):
        server.unmask([])
    replies = room.replies()
    with pytest.raises(RoundError, match=r"party 0: advertise_keys is not due, .*the sum is over"):
        client.advertise_keys()
    room.total(replies)
    with pytest.raises(RoundError, match=r"server: collect_keys is not due, .*the sum is over"):
        server.collect_keys([])


def test_a_client_answers_one_request_only(room: Room) -> None:
    vectors = room.vectors()
    requests = room.server.collect_vectors(vectors.values())
    room.clients[0].unmask(requests[0])
    # A second one that calls another party dropped would give the server both of its shares.
    second = UnmaskRequest(
        session=room.session, party=0, survivors=frozenset({0, 1, 2, 3}), dropped=frozenset({4})
    )
    with pytest.raises(RoundError, match="party 0: unmask is not due, each round runs once"):
        room.clients[0].unmask(second.to_bytes())


@pytest.mark.parametrize(
    ("survivors", "dropped", "message"),
    [
        ({0, 1, 2}, {3}, r"holds shares of \[0, 1, 2, 3, 4\], and is asked for .* \[0, 1, 2, 3\]"),
        ({0, 1, 2, 3, 4, 9}, set(), r"is asked for those of \[0, 1, 2, 3, 4, 9\]"),
        ({1, 2, 3, 4}, {0}, "party 0 sent its vector and is called dropped"),
        ({0, 1}, {2, 3, 4}, "party 0: at least 3 parties of its group must send vectors; got 2"),
    ],
)
def test_a_client_refuses_requests_that_do_not_fit(
    room: Room, survivors: set[int], dropped: set[int], message: str
) -> None:
    room.vectors()
    request = UnmaskRequest(
        session=room.session, party=0, survivors=frozenset(survivors), dropped=frozenset(dropped)
    )
    with pytest.raises(RoundError, match=message):
        room.clients[0].unmask(request.to_bytes())


def test_a_client_refuses_keys_that_do_not_fit(room: Room) -> None:
    found = room.server.collect_keys(room.keys())
    good = KeysOfNeighbours.from_bytes(found[0], room.session)

    def refused(client: int, keys: Mapping[int, bytes], message: str) -> None:
        with pytest.raises(RoundError, match=message):
            room.clients[client].share_keys(replace(good, keys=keys).to_bytes())

    refused(1, good.keys, "party 1 got a message for party 0")
    refused(0, {**good.keys, 0: b"x" * 64}, "party 0 did not get its own keys back")
    refused(0, {**good.keys, 1: good.keys[2]}, "party 0 got one key twice")
    refused(0, {p: good.keys[p] for p in (0, 1)}, "at least 3 parties .* advertise keys; got 2")
    refused(0, {**good.keys, 5: b"x" * 64}, "at most 5 parties below 5; got 6, up to number 5")
    # None of them used up the round.
    room.clients[0].share_keys(found[0])


def test_a_client_refuses_shares_that_do_not_fit(room: Room) -> None:
    found = room.server.collect_shares(room.shares().values())
    good = SharesForParty.from_bytes(found[0], room.session)

    def refused(sealed: Mapping[int, bytes], message: str) -> None:
        text = replace(good, sealed=sealed).to_bytes()
        with pytest.raises(RoundError, match=message):
            room.clients[0].mask_vector(text, room.words[0])

    refused({**good.sealed, 9: bytes(82)}, r"got shares of \[9\], no neighbours of it")
    refused({**good.sealed, 0: bytes(82)}, r"got shares of \[0\], no neighbours of it")
    refused({1: good.sealed[1]}, "at least 3 parties of its group must share keys; got 2")


def test_the_server_refuses_and_goes_on(room: Room) -> None:
    other, keys = Room(), room.keys()
    weak = Keys(session=room.session, party=4, cipher_key=bytes(32), mask_key=bytes(32))
    stranger = Keys(session=room.session, party=9, cipher_key=b"c" * 32, mask_key=b"m" * 32)
    messages = [*keys[:4], other.keys()[4], keys[0], stranger.to_bytes(), weak.to_bytes(), b"GET /"]
    assert room.server.collect_keys(messages).keys() == {0, 1, 2, 3}
    assert [text.split(";")[0] for text in room.server.refused] == [
        f"a message of keys belongs to session {other.session.hex()}",
        "party 0 sent a second message in one round",
        "party 9 does not take part in this round",
        "party 4: a public key is weak: every private key agrees with it",
        "a message of keys starts with 26 bytes of header",
    ]


def test_too_few_left_names_the_first_refusal(room: Room) -> None:
    keys = room.keys()
    with pytest.raises(RoundError) as caught:
        room.server.collect_keys([*keys[:2], keys[0]])
    assert str(caught.value) == (
        "2 of 5 parties sent keys, and the threshold is 3; 1 refused, the first: party 0 sent a "
        "second message in one round"
    )


def test_shares_for_the_wrong_parties_are_refused(room: Room) -> None:
    shares = room.shares()
    message = SealedShares.from_bytes(shares[4], room.session)
    fewer = {p: text for p, text in message.sealed.items() if p != 1}
    shares[4] = replace(message, sealed=fewer).to_bytes()
    assert room.total(room.replies(room.vectors(shares))) == [6, 60]
    assert room.server.refused == [
        "party 4: shares must be for 4 neighbours, each of them once; got 3"
    ]


def test_a_vector_of_another_size_is_left_out(room: Room) -> None:
    vectors = room.vectors()
    long = MaskedVector(session=room.session, party=4, numbers=bytes(5))
    vectors[4] = long.to_bytes()
    assert room.total(room.replies(vectors)) == [6, 60]
    assert room.server.refused == ["party 4: 2 numbers of 2 bytes must be 4 bytes; got 5"]


def test_a_broken_seal_costs_one_share_only(room: Room) -> None:
    shares = room.shares()
    message = SealedShares.from_bytes(shares[1], room.session)
    shares[1] = replace(message, sealed={**message.sealed, 0: bytes(82)}).to_bytes()
    assert room.total(room.replies(room.vectors(shares))) == [10, 100]
    assert room.clients[0].refused == [
        "shares of party 1: a sealed text does not open: wrong key or place, or changed"
    ]


@pytest.mark.parametrize(
    ("gone", "change", "message"),
    [
        (None, {"seeds": 33 * b"\1"}, "shares of party 1 do not give its seed: some are wrong"),
        (1, {"keys": 33 * b"\1"}, "shares of party 1 do not give its (mask )?key: some are wrong"),
        (None, {"seeds": None}, "the seed of party 1 needs 3 shares; got 2"),
        (1, {"keys": None}, "the mask key of party 1 needs 3 shares; got 2"),
    ],
)
def test_wrong_shares_do_not_become_a_wrong_sum(
    room: Room, gone: int | None, change: Mapping[str, bytes | None], message: str
) -> None:
    vectors = room.vectors()
    if gone is not None:
        del vectors[gone]
    replies = room.replies(vectors)
    ((field, share),) = change.items()
    # One wrong share, or all but two withheld.
    senders = sorted(replies)[:1] if share else sorted(replies)[:-2]
    for party in senders:
        reply = UnmaskReply.from_bytes(replies[party], room.session)
        shares = dict(getattr(reply, field))
        shares.pop(1)
        if share:
            shares[1] = share
        replies[party] = changed(reply, field, shares)
    with pytest.raises(RoundError, match=message):
        room.total(replies)


@pytest.mark.parametrize(
    ("field", "message"), [("seeds", "seeds nobody asked for"), ("keys", "keys nobody asked for")]
)
def test_shares_nobody_asked_for_are_refused(room: Room, field: str, message: str) -> None:
    vectors = room.vectors()
    del vectors[4]
    replies = room.replies(vectors)
    reply = UnmaskReply.from_bytes(replies[0], room.session)
    wrong = {**getattr(reply, field), 4 if field == "seeds" else 1: bytes(33)}
    replies[0] = changed(reply, field, wrong)
    assert room.total(replies) == [6, 60]
    assert room.server.refused == [f"party 0: it sent {message}"]


def test_parties_out_of_the_plan_are_refused() -> None:
    plan = SumPlan.new(num_parties=2, length=1, modulus_bits=8)
    with pytest.raises(RoundError, match=r"party must be in \[0, 2\); got 2"):
        SumClient(plan, 2)


def test_only_injected_entropy_repeats_a_message() -> None:
    plan = SumPlan.new(num_parties=2, length=1, modulus_bits=8)

    def of(entropy: Callable[[int], bytes]) -> bytes:
        return SumClient(plan, 0, entropy=entropy).advertise_keys()

    assert of(np.random.default_rng(1).bytes) == of(np.random.default_rng(1).bytes)
    assert SumClient(plan, 0).advertise_keys() != SumClient(plan, 0).advertise_keys()

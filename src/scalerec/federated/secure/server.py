"""The server's side of a secure sum: one method a round, and no vector in the open.

A message that does not fit is refused and noted; the sum goes on with the others, as long as the
threshold of parties is left.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from scalerec.errors import RoundError
from scalerec.federated.secure.client import mask_purpose, mask_sign
from scalerec.federated.secure.keys import KEY_SIZE, KeyPair, check_public, digest_seed
from scalerec.federated.secure.masks import MaskedSum, words_from_bytes
from scalerec.federated.secure.messages import (
    Keys,
    KeysOfNeighbours,
    MaskedVector,
    SealedShares,
    SharesForParty,
    UnmaskReply,
    UnmaskRequest,
)
from scalerec.federated.secure.neighbours import connected_part, ring_neighbours
from scalerec.federated.secure.plan import Entropy, SumPlan, Turns
from scalerec.federated.secure.shamir import combine_shares

__all__ = ["SumServer"]


class _Message(Protocol):
    """What all messages have in common."""

    @property
    def party(self) -> int: ...

    @classmethod
    def from_bytes(cls, text: bytes, session: bytes) -> Self: ...


M = TypeVar("M", bound=_Message)


class SumServer:
    """The server of a secure sum; its methods are called once each, in this order.

    Paper: Practical Secure Aggregation for Privacy-Preserving Machine Learning, Bonawitz et al.,
    2017, figure 4, https://eprint.iacr.org/2017/281

    Args:
        plan: What is summed.
        entropy: Where the order of a sparse plan's ring comes from; only tests give one.
    """

    def __init__(self, plan: SumPlan, *, entropy: Entropy = os.urandom) -> None:
        self.plan = plan
        self.refused: list[str] = []
        """Messages that did not fit, in words."""
        self.members: frozenset[int] = frozenset()
        """Parties whose vectors are in the sum."""
        self._entropy = entropy
        self._turns = Turns("server", "collect_keys", "collect_shares", "collect_vectors", "unmask")
        self._keys: dict[int, Keys] = {}
        self._neighbours: dict[int, frozenset[int]] = {}
        self._digests: dict[int, bytes] = {}
        self._total = MaskedSum(plan.length, plan.modulus_bits)

    def collect_keys(self, messages: Iterable[bytes]) -> dict[int, bytes]:
        """Round 1: choose who masks with whom.

        Args:
            messages: Messages of `Keys`.

        Returns:
            Party to its message of `KeysOfNeighbours`.

        Raises:
            RoundError: If fewer parties than the threshold sent keys.
        """
        self._turns.take("collect_keys")
        for message in self._read(messages, Keys, range(self.plan.num_parties)):
            try:
                check_public(message.cipher_key)
                check_public(message.mask_key)
            except RoundError as error:
                self.refused.append(f"party {message.party}: {error}")
                continue
            self._keys[message.party] = message
        self._check_enough("sent keys", len(self._keys))
        # Keys of a random order are random bytes, so the ring is as unforeseen as they are.
        order = sorted(self._keys, key=lambda _: self._entropy(16))
        self._neighbours = ring_neighbours(order, self.plan.num_neighbours)
        texts = {party: own.cipher_key + own.mask_key for party, own in self._keys.items()}
        return {
            party: KeysOfNeighbours(
                session=self.plan.session,
                party=party,
                keys={other: texts[other] for other in sorted(self._group(party))},
            ).to_bytes()
            for party in sorted(self._keys)
        }

    def collect_shares(self, messages: Iterable[bytes]) -> dict[int, bytes]:
        """Round 2: pass sealed shares on to those they are for.

        Args:
            messages: Messages of `SealedShares`.

        Returns:
            Party to its message of `SharesForParty`.

        Raises:
            RoundError: If fewer parties than the threshold are left.
        """
        self._turns.take("collect_shares")
        sealed: dict[int, Mapping[int, bytes]] = {}
        for message in self._read(messages, SealedShares, self._keys):
            wanted = self._neighbours[message.party]
            if message.sealed.keys() != wanted:
                self.refused.append(
                    f"party {message.party}: shares must be for {len(wanted)} neighbours, each of "
                    f"them once; got {len(message.sealed)}"
                )
                continue
            sealed[message.party] = message.sealed
            self._digests[message.party] = message.digest
        self._check_enough("sent shares", len(sealed))
        left = self._drop_lonely(set(sealed))
        self._check_enough("have neighbours enough left", len(left))
        self._neighbours = {party: self._neighbours[party] & left for party in left}
        return {
            party: SharesForParty(
                session=self.plan.session,
                party=party,
                sealed={other: sealed[other][party] for other in sorted(self._neighbours[party])},
            ).to_bytes()
            for party in sorted(left)
        }

    def collect_vectors(self, messages: Iterable[bytes]) -> dict[int, bytes]:
        """Round 3: add up masked vectors as they come.

        Args:
            messages: Messages of `MaskedVector`; each is added and let go.

        Returns:
            Member to its message of `UnmaskRequest`.

        Raises:
            RoundError: If fewer parties than the threshold sent vectors, or the masks of those that
                did no longer hang together.
        """
        self._turns.take("collect_vectors")
        members = set()
        for message in self._read(messages, MaskedVector, self._neighbours):
            try:
                words = words_from_bytes(message.numbers, self.plan.length, self.plan.modulus_bits)
            except RoundError as error:
                self.refused.append(f"party {message.party}: {error}")
                continue
            self._total.add(words)
            members.add(message.party)
        self._check_enough("sent vectors", len(members))
        self.members = frozenset(members)
        self._check_connected()
        return {party: self._request(party).to_bytes() for party in sorted(members)}

    def unmask(self, messages: Iterable[bytes]) -> NDArray[np.unsignedinteger]:
        """Round 4: take off the members' own masks and those that dropped parties left behind.

        Args:
            messages: Messages of `UnmaskReply`.

        Returns:
            The sum of the members' vectors modulo 2^k, ``[length]`` of `word_type`.

        Raises:
            RoundError: If fewer parties than the threshold replied, or a party's shares are too few
                or do not give back what it promised.
        """
        self._turns.take("unmask")
        dropped = self._neighbours.keys() - self.members
        seeds: dict[int, dict[int, int]] = {party: {} for party in self.members}
        keys: dict[int, dict[int, int]] = {party: {} for party in dropped}
        replied = set()
        for message in self._read(messages, UnmaskReply, self.members):
            request = self._request(message.party)
            if not (message.seeds.keys() <= request.survivors):
                self.refused.append(f"party {message.party}: it sent seeds nobody asked for")
                continue
            if not (message.keys.keys() <= request.dropped):
                self.refused.append(f"party {message.party}: it sent keys nobody asked for")
                continue
            replied.add(message.party)
            for found, shares in ((seeds, message.seeds), (keys, message.keys)):
                for party, share in shares.items():
                    found[party][message.party] = int.from_bytes(share, "little")
        self._check_enough("replied", len(replied))
        for party in sorted(self.members):
            self._total.add_mask(self._seed_of(party, seeds[party]), -1)
        for party in sorted(dropped):
            self._remove_masks_of(party, keys[party])
        return self._total.words()

    def _read(
        self, messages: Iterable[bytes], kind: type[M], allowed: Iterable[int]
    ) -> Iterable[M]:
        waiting = set(allowed)
        seen: set[int] = set()
        for text in messages:
            try:
                message = kind.from_bytes(text, self.plan.session)
                if message.party in seen:
                    raise RoundError(f"party {message.party} sent a second message in one round")
                if message.party not in waiting:
                    raise RoundError(f"party {message.party} does not take part in this round")
            except RoundError as error:
                self.refused.append(str(error))
                continue
            seen.add(message.party)
            yield message

    def _group(self, party: int) -> frozenset[int]:
        return self._neighbours[party] | {party}

    def _drop_lonely(self, left: set[int]) -> frozenset[int]:
        """Leave out who has too few neighbours left to hold its shares, until all have enough."""
        needed = self.plan.share_threshold
        while lonely := {party for party in left if len(self._group(party) & left) < needed}:
            for party in sorted(lonely):
                self.refused.append(
                    f"party {party}: fewer than {needed} of those that hold its shares are left"
                )
            left = left - lonely
        return frozenset(left)

    def _check_enough(self, what: str, count: int) -> None:
        if count < self.plan.threshold:
            refused = self.refused
            more = f"; {len(refused)} refused, the first: {refused[0]}" if refused else ""
            raise RoundError(
                f"{count} of {self.plan.num_parties} parties {what}, and the threshold is "
                f"{self.plan.threshold}{more}"
            )

    def _check_connected(self) -> None:
        """Refuse members whose masks cancel in parts: unmasked, each part's sum would show."""
        found = connected_part(self._neighbours, self.members)
        if len(found) < len(self.members):
            raise RoundError(
                f"so many parties dropped out that the masks of {len(found)} of the "
                f"{len(self.members)} members are tied to no other's; choose more neighbours"
            )

    def _request(self, party: int) -> UnmaskRequest:
        group = self._group(party)
        return UnmaskRequest(
            session=self.plan.session,
            party=party,
            survivors=group & self.members,
            dropped=group - self.members,
        )

    def _seed_of(self, party: int, shares: Mapping[int, int]) -> bytes:
        seed = self._combine(party, shares, "seed")
        if digest_seed(seed, self.plan.session) != self._digests[party]:
            raise RoundError(f"the shares of party {party} do not give its seed: some are wrong")
        return seed

    def _remove_masks_of(self, party: int, shares: Mapping[int, int]) -> None:
        pair = KeyPair(self._combine(party, shares, "mask key"))
        if pair.public != self._keys[party].mask_key:
            raise RoundError(f"the shares of party {party} do not give its key: some are wrong")
        for other in sorted(self._neighbours[party] & self.members):
            purpose = mask_purpose(self.plan.session, party, other)
            seed = pair.agree(self._keys[other].mask_key, purpose)
            self._total.add_mask(seed, -mask_sign(other, party))

    def _combine(self, party: int, shares: Mapping[int, int], what: str) -> bytes:
        needed = self.plan.share_threshold
        if len(shares) < needed:
            raise RoundError(
                f"the {what} of party {party} needs {needed} shares; got {len(shares)}"
            )
        secret = combine_shares(shares, needed)
        if secret >> (8 * KEY_SIZE):
            raise RoundError(f"the shares of party {party} do not give its {what}: some are wrong")
        return secret.to_bytes(KEY_SIZE, "little")

"""A party's side of a secure sum: one method a round."""

import os
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from scalerec.errors import RoundError
from scalerec.federated.secure.fixed import word_type
from scalerec.federated.secure.keys import KEY_SIZE, KeyPair, digest_seed, seal, unseal
from scalerec.federated.secure.masks import MaskedSum, words_to_bytes
from scalerec.federated.secure.messages import (
    Keys,
    KeysOfNeighbours,
    MaskedVector,
    SealedShares,
    SharesForParty,
    UnmaskReply,
    UnmaskRequest,
)
from scalerec.federated.secure.plan import Entropy, SumPlan, Turns
from scalerec.federated.secure.shamir import SHARE_SIZE, split_secret

__all__ = ["SumClient", "mask_purpose", "mask_sign"]


def mask_purpose(session: bytes, one: int, other: int) -> bytes:
    """What the key of a pair's mask is for: the same words at both ends.

    Args:
        session: The sum's name.
        one: A party.
        other: Its neighbour.
    """
    return b"scalerec mask" + session + _pair(min(one, other), max(one, other))


def mask_sign(party: int, other: int) -> int:
    """Whether a party adds the mask that it shares with another, or takes it away.

    Args:
        party: Whose sign is asked for.
        other: Its neighbour, whose sign is the opposite.
    """
    return 1 if party < other else -1


def _seal_purpose(session: bytes, sender: int, receiver: int) -> bytes:
    return b"scalerec seal" + session + _pair(sender, receiver)


def _pair(first: int, second: int) -> bytes:
    return first.to_bytes(4, "little") + second.to_bytes(4, "little")


class SumClient:
    """A party of a secure sum; its methods are called once each, in this order.

    Paper: Practical Secure Aggregation for Privacy-Preserving Machine Learning, Bonawitz et al.,
    2017, figure 4 without the parts for a server that lies, https://eprint.iacr.org/2017/281

    What the server learns is the sum, who is in it, and nothing else of a vector, as long as it
    passes messages on as they are and fewer parties than the threshold work with it. A party
    refuses a request for both shares of one party, a second request, and one that does not fit who
    sent shares; since the threshold is above half of the holders, asking two halves for different
    shares does not help either. A server that invents parties is not guarded against: for that,
    keys must be signed by somebody else.

    Args:
        plan: What is summed.
        party: This party's number, in [0, num_parties).
        entropy: Where keys and shares come from; only tests give one.

    Raises:
        RoundError: If the number is not of the plan.
        MissingExtraError: If `cryptography` is not installed.
    """

    def __init__(self, plan: SumPlan, party: int, *, entropy: Entropy = os.urandom) -> None:
        if not 0 <= party < plan.num_parties:
            raise RoundError(f"party must be in [0, {plan.num_parties}); got {party}")
        self.plan = plan
        self.party = party
        self.refused: list[str] = []
        """Sealed shares that did not open, in words."""
        self._entropy = entropy
        self._turns = Turns(
            f"party {party}", "advertise_keys", "share_keys", "mask_vector", "unmask"
        )
        self._cipher = KeyPair(entropy(KEY_SIZE))
        self._mask = KeyPair(entropy(KEY_SIZE))
        self._seed = entropy(KEY_SIZE)
        self._keys: dict[int, bytes] = {}
        self._own_shares = b""
        self._sealed: Mapping[int, bytes] = {}

    def advertise_keys(self) -> bytes:
        """Round 1: send public keys.

        Returns:
            A message of `Keys`.

        Raises:
            RoundError: If it is not its turn.
        """
        self._turns.take("advertise_keys")
        return Keys(
            session=self.plan.session,
            party=self.party,
            cipher_key=self._cipher.public,
            mask_key=self._mask.public,
        ).to_bytes()

    def share_keys(self, keys: bytes) -> bytes:
        """Round 2: give each neighbour, sealed, a share of the mask key and one of the own seed.

        Args:
            keys: The server's message of `KeysOfNeighbours`.

        Returns:
            A message of `SealedShares`.

        Raises:
            RoundError: If the message does not fit, has too few or too many parties for the plan,
                changes this party's own keys, or gives two parties one key.
        """
        message = KeysOfNeighbours.from_bytes(keys, self.plan.session)
        self._check_keys(message)
        self._turns.take("share_keys")
        self._keys = dict(message.keys)
        holders, threshold = sorted(self._keys), self.plan.share_threshold
        of_key, of_seed = (
            split_secret(int.from_bytes(secret, "little"), holders, threshold, self._entropy)
            for secret in (self._mask.private, self._seed)
        )
        shares = {
            holder: of_key[holder].to_bytes(SHARE_SIZE, "little")
            + of_seed[holder].to_bytes(SHARE_SIZE, "little")
            for holder in holders
        }
        self._own_shares = shares.pop(self.party)
        return SealedShares(
            session=self.plan.session,
            party=self.party,
            digest=digest_seed(self._seed, self.plan.session),
            sealed={holder: self._seal(holder, text) for holder, text in shares.items()},
        ).to_bytes()

    def mask_vector(self, shares: bytes, words: NDArray[np.unsignedinteger]) -> bytes:
        """Round 3: send the vector under the own mask and one mask for each neighbour.

        Args:
            shares: The server's message of `SharesForParty`.
            words: The vector as integers modulo 2^k, ``[length]`` of `word_type`.

        Returns:
            A message of `MaskedVector`.

        Raises:
            RoundError: If the message or the vector does not fit, or too few neighbours are left.
        """
        plan = self.plan
        message = SharesForParty.from_bytes(shares, plan.session)
        self._check_receiver(message.party)
        strangers = sorted(message.sealed.keys() - (self._keys.keys() - {self.party}))
        if strangers:
            raise RoundError(f"party {self.party} got shares of {strangers}, no neighbours of it")
        self._check_enough("share keys", len(message.sealed) + 1)
        self._check_words(words)
        self._turns.take("mask_vector")
        self._sealed = message.sealed
        total = MaskedSum(plan.length, plan.modulus_bits)
        total.add(words)
        total.add_mask(self._seed, 1)
        for other in self._sealed:
            public = self._keys[other][KEY_SIZE:]
            seed = self._mask.agree(public, mask_purpose(plan.session, self.party, other))
            total.add_mask(seed, mask_sign(self.party, other))
        numbers = words_to_bytes(total.words(), plan.modulus_bits)
        return MaskedVector(session=plan.session, party=self.party, numbers=numbers).to_bytes()

    def unmask(self, request: bytes) -> bytes:
        """Round 4: send shares of the survivors' seeds and of the dropped parties' mask keys.

        A share that does not open is left out and noted in `refused`.

        Args:
            request: The server's message of `UnmaskRequest`.

        Returns:
            A message of `UnmaskReply`.

        Raises:
            RoundError: If it asks for both shares of a party, does not name exactly those who sent
                shares, counts this party as dropped, leaves too few survivors, or is a second one.
        """
        message = UnmaskRequest.from_bytes(request, self.plan.session)
        self._check_receiver(message.party)
        known = self._sealed.keys() | {self.party}
        if message.survivors | message.dropped != known:
            raise RoundError(
                f"party {self.party} holds shares of {sorted(known)}, and is asked for those of "
                f"{sorted(message.survivors | message.dropped)}"
            )
        if self.party in message.dropped:
            raise RoundError(f"party {self.party} sent its vector and is called dropped")
        self._check_enough("send vectors", len(message.survivors))
        self._turns.take("unmask")
        opened = {other: self._unseal(other) for other in sorted(known)}
        return UnmaskReply(
            session=self.plan.session,
            party=self.party,
            seeds={o: t[SHARE_SIZE:] for o, t in opened.items() if t and o in message.survivors},
            keys={o: t[:SHARE_SIZE] for o, t in opened.items() if t and o in message.dropped},
        ).to_bytes()

    def _seal(self, holder: int, text: bytes) -> bytes:
        purpose = _seal_purpose(self.plan.session, self.party, holder)
        return seal(self._cipher.agree(self._keys[holder][:KEY_SIZE], purpose), text, purpose)

    def _unseal(self, other: int) -> bytes | None:
        if other == self.party:
            return self._own_shares
        purpose = _seal_purpose(self.plan.session, other, self.party)
        key = self._cipher.agree(self._keys[other][:KEY_SIZE], purpose)
        try:
            return unseal(key, self._sealed[other], purpose)
        except RoundError as error:
            self.refused.append(f"shares of party {other}: {error}")
            return None

    def _check_keys(self, message: KeysOfNeighbours) -> None:
        self._check_receiver(message.party)
        keys, plan = message.keys, self.plan
        if keys.get(self.party) != self._cipher.public + self._mask.public:
            raise RoundError(f"party {self.party} did not get its own keys back")
        if max(keys) >= plan.num_parties or len(keys) > plan.group_size:
            raise RoundError(
                f"party {self.party} may get keys of at most {plan.group_size} parties below "
                f"{plan.num_parties}; got {len(keys)}, up to number {max(keys)}"
            )
        halves = {text[at : at + KEY_SIZE] for text in keys.values() for at in (0, KEY_SIZE)}
        if len(halves) != 2 * len(keys):
            raise RoundError(f"party {self.party} got one key twice; each is of one party only")
        self._check_enough("advertise keys", len(keys))

    def _check_enough(self, what: str, count: int) -> None:
        if count < self.plan.share_threshold:
            raise RoundError(
                f"party {self.party}: at least {self.plan.share_threshold} parties of its group "
                f"must {what}; got {count}"
            )

    def _check_receiver(self, receiver: int) -> None:
        if receiver != self.party:
            raise RoundError(f"party {self.party} got a message for party {receiver}")

    def _check_words(self, words: NDArray[np.unsignedinteger]) -> None:
        wanted = word_type(self.plan.modulus_bits)
        if words.shape != (self.plan.length,) or words.dtype != wanted:
            raise RoundError(
                f"party {self.party}: a vector must be [{self.plan.length}] of {wanted}; "
                f"got {list(words.shape)} of {words.dtype}"
            )
        if len(words) and int(words.max()) >> self.plan.modulus_bits:
            raise RoundError(
                f"party {self.party}: numbers must be below 2^{self.plan.modulus_bits}; "
                f"got {words.max()}"
            )

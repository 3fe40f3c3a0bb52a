"""Who masks with whom when not everybody does: a ring in random order, and how far it must reach.

Paper: Secure Single-Server Aggregation with (Poly)Logarithmic Overhead, Bell et al., 2020, section
3, https://eprint.iacr.org/2020/704
"""

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from scalerec.config import require

__all__ = ["choose_neighbours", "connected_part", "ring_neighbours"]


def ring_neighbours(
    members: Sequence[int], num_neighbours: int | None
) -> dict[int, frozenset[int]]:
    """Who masks with whom: each with those next to it on a ring, as many on either side.

    This is the Harary graph of the paper.

    Args:
        members: Numbers of parties in the order of the ring, which must be random.
        num_neighbours: Even; all others if not given or if there are no more than that.

    Returns:
        Party to its neighbours; always mutual.
    """
    size = len(members)
    if num_neighbours is None or num_neighbours >= size - 1:
        everybody = frozenset(members)
        return {party: everybody - {party} for party in members}
    reach = range(1, num_neighbours // 2 + 1)
    return {
        party: frozenset(members[(at + sign * d) % size] for d in reach for sign in (1, -1))
        for at, party in enumerate(members)
    }


def connected_part(
    neighbours: Mapping[int, AbstractSet[int]], members: AbstractSet[int]
) -> frozenset[int]:
    """Those members that are tied to the first one by masks, over any number of others.

    Args:
        neighbours: Party to its neighbours.
        members: At least one party.
    """
    found, open_ends = {min(members)}, [min(members)]
    while open_ends:
        new = (neighbours[open_ends.pop()] & members) - found
        found |= new
        open_ends += new
    return frozenset(found)


def choose_neighbours(
    num_parties: int,
    *,
    dropped: float,
    corrupt: float,
    security_bits: int = 40,
    failure_bits: int = 20,
) -> int | None:
    """The fewest neighbours with which a sparse sum is as safe and sure as asked.

    Three things may go wrong, and the ring's random order makes each rare: more than half of those
    that hold a party's shares are corrupt (they and the server could take off its masks); a run of
    corrupt and dropped parties cuts the ring (the server learns two sums instead of one); too few
    of those that hold a party's shares stay (the sum fails and must be asked for again).

    Where the paper bounds the tails of the hypergeometric distribution, we sum them.

    Args:
        num_parties: At least 2.
        dropped: The largest share of the parties that may drop out, in [0, 1/2).
        corrupt: The largest share that may work together with the server, in [0, 1/2).
        security_bits: The first two happen with a probability of at most 2^-security_bits.
        failure_bits: The third happens with a probability of at most 2^-failure_bits.

    Returns:
        An even number; None if nothing less than all others will do.

    Raises:
        ConfigError: If a share is out of range.
    """
    for name, share in (("dropped", dropped), ("corrupt", corrupt)):
        require(0 <= share < 0.5, f"{name} must be in [0, 0.5); got {share}")
    odds = _Odds(
        num_parties=num_parties,
        num_dropped=math.ceil(dropped * num_parties),
        num_corrupt=math.ceil(corrupt * num_parties),
    )
    for neighbours in range(2, num_parties - 1, 2):
        if (
            odds.of_exposure(neighbours) <= 2.0**-security_bits
            and odds.of_cut(neighbours) <= 2.0**-security_bits
            and odds.of_failure(neighbours) <= 2.0**-failure_bits
        ):
            return neighbours
    return None


class _Odds(NamedTuple):
    """Bounds of what may go wrong, each over all parties together."""

    num_parties: int
    num_dropped: int
    num_corrupt: int

    def of_exposure(self, neighbours: int) -> float:
        """Some party's shares are held by a threshold of corrupt neighbours."""
        needed = (neighbours + 1) // 2 + 1
        return self.num_parties * self._tail(neighbours, self.num_corrupt, needed)

    def of_cut(self, neighbours: int) -> float:
        """Somewhere on the ring, half of the neighbours in a row are corrupt or gone."""
        gone = min(self.num_dropped + self.num_corrupt, self.num_parties)
        run = neighbours // 2
        if gone < run:
            return 0.0
        return self.num_parties * math.comb(gone, run) / math.comb(self.num_parties, run)

    def of_failure(self, neighbours: int) -> float:
        """Of some party's neighbours so many are gone that the rest is below the threshold."""
        # The party itself may be gone, so only its neighbours' shares count.
        gone = neighbours - (neighbours + 1) // 2
        return self.num_parties * self._tail(neighbours, self.num_dropped, gone)

    def _tail(self, draws: int, marked: int, at_least: int) -> float:
        """At least so many marked among some drawn of the other parties."""
        others = self.num_parties - 1
        ways = sum(
            math.comb(marked, k) * math.comb(others - marked, draws - k)
            for k in range(at_least, min(draws, marked) + 1)
        )
        return ways / math.comb(others, draws)

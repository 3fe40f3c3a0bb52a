"""The plan of one secure sum: what every party and the server must agree on before it starts."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.federated.secure.fixed import word_type

__all__ = ["Entropy", "SumPlan", "Turns"]

SESSION_SIZE = 16

Entropy = Callable[[int], bytes]
"""Gives so many bytes that nobody can guess; `os.urandom` outside of tests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SumPlan:
    """What one secure sum is about.

    Args:
        session: The sum's name, 16 random bytes, unlike any other's; messages of another are
            refused.
        num_parties: How many parties may take part, at least 2; their numbers are below it.
        threshold: The fewest parties that a sum may consist of, above half of the parties.
        length: Numbers of a vector, at least 1.
        modulus_bits: Sums are modulo 2^modulus_bits; a multiple of 8 up to 64.
        num_neighbours: With how many others a party masks, even; all others if not given.

    Raises:
        ConfigError: If a setting is out of range.
    """

    session: bytes
    num_parties: int
    threshold: int
    length: int
    modulus_bits: int
    num_neighbours: int | None = None

    def __post_init__(self) -> None:
        word_type(self.modulus_bits)
        require(
            len(self.session) == SESSION_SIZE,
            f"session must be {SESSION_SIZE} bytes; got {len(self.session)}",
        )
        require(
            2 <= self.num_parties < 2**32,
            f"num_parties must be in [2, 2^32); got {self.num_parties}",
        )
        require(self.length >= 1, f"length must be at least 1; got {self.length}")
        # Of two halves of the parties, one could be asked for one share of a party and one for the
        # other.
        low = self.num_parties // 2 + 1
        require(
            low <= self.threshold <= self.num_parties,
            f"threshold must be in [{low}, {self.num_parties}], above half of the parties; "
            f"got {self.threshold}",
        )
        if self.num_neighbours is not None:
            require(
                self.num_neighbours >= 2 and self.num_neighbours % 2 == 0,
                f"num_neighbours must be even and at least 2; got {self.num_neighbours}",
            )

    @staticmethod
    def new(
        *,
        num_parties: int,
        length: int,
        modulus_bits: int,
        threshold: int | None = None,
        num_neighbours: int | None = None,
        entropy: Entropy = os.urandom,
    ) -> "SumPlan":
        """A plan with a new session.

        Args:
            num_parties: As in the plan.
            length: As in the plan.
            modulus_bits: As in the plan.
            threshold: As in the plan; the first number above two thirds of the parties if not
                given.
            num_neighbours: As in the plan.
            entropy: Where the session's name comes from.

        Raises:
            ConfigError: If a setting is out of range.
        """
        return SumPlan(
            session=entropy(SESSION_SIZE),
            num_parties=num_parties,
            threshold=2 * num_parties // 3 + 1 if threshold is None else threshold,
            length=length,
            modulus_bits=modulus_bits,
            num_neighbours=num_neighbours,
        )

    @property
    def is_sparse(self) -> bool:
        """Whether a party masks with some of the others only."""
        return self.num_neighbours is not None and self.num_neighbours < self.num_parties - 1

    @property
    def group_size(self) -> int:
        """How many parties hold shares of one party's secrets, itself included."""
        if self.num_neighbours is None:
            return self.num_parties
        return min(self.num_neighbours + 1, self.num_parties)

    @property
    def share_threshold(self) -> int:
        """How many shares give a party's secret back."""
        return self.group_size // 2 + 1 if self.is_sparse else self.threshold


class Turns:
    """Lets each round of a sum run once, and in order.

    Args:
        who: Whose rounds they are, for messages.
        names: The rounds, first to last.
    """

    def __init__(self, who: str, *names: str) -> None:
        self._who = who
        self._names = names
        self._done = 0

    def take(self, name: str) -> None:
        """Start a round.

        Raises:
            RoundError: If it is not its turn.
        """
        over = self._done == len(self._names)
        if over or self._names[self._done] != name:
            due = "the sum is over" if over else f"{self._names[self._done]} is due"
            raise RoundError(f"{self._who}: {name} is not due, each round runs once; {due}")
        self._done += 1

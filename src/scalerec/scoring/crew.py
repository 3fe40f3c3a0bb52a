"""Those who score together: one process alone, or several that each take a part."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol, TypeVar

from torch import Tensor

__all__ = ["Alone", "Crew", "together"]

Item = TypeVar("Item")


class Crew(Protocol):
    """The processes that score, seen from one of them.

    A model whose tables are spread over them answers only when all ask at once, so each makes as
    many calls as any other.
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def world(self) -> int:
        """How many there are."""
        ...

    def gather(self, value: Tensor, purpose: str) -> list[Tensor]:
        """A tensor of every process, by rank; their first dimensions may differ."""
        ...

    def gather_first(self, value: Tensor, purpose: str) -> list[Tensor]:
        """As `gather`, on process 0; nothing on the others."""
        ...

    def agree(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What process 0 says, as JSON has it."""
        ...


class Alone:
    """One process."""

    rank = 0
    world = 1

    def gather(self, value: Tensor, purpose: str) -> list[Tensor]:  # noqa: ARG002
        """The tensor itself."""
        return [value]

    def gather_first(self, value: Tensor, purpose: str) -> list[Tensor]:  # noqa: ARG002
        """The tensor itself."""
        return [value]

    def agree(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The facts themselves."""
        return facts


def together(items: Iterable[Item], crew: Crew) -> Iterator[tuple[list[Item], Item]]:
    """As many items at a time as there are processes, and this one's own of them.

    Where the last ones do not go round, the last of them is several processes' own; what those in
    excess give is to be left out.
    """
    rest = iter(items)
    while some := list(islice(rest, crew.world)):
        yield some, some[min(crew.rank, len(some) - 1)]

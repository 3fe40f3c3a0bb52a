"""What every net of the zoo is: a config, and a module from `Inputs` to logits."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from scalerec.config import Config, require
from scalerec.models.inputs import Inputs

__all__ = ["NetConfig", "TwoTowers", "check_count", "check_hidden", "check_rate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetConfig(Config):
    """Settings that all nets share.

    Args:
        dim: D, the embedding's size.
        embedding_dropout: Chance of dropping a value of an embedded field in training, in [0, 1).
    """

    dim: int = 16
    embedding_dropout: float = 0.0

    def __post_init__(self) -> None:
        require(self.dim >= 1, f"dim must be at least 1; got {self.dim}")
        check_rate("embedding_dropout", self.embedding_dropout)


@runtime_checkable
class TwoTowers(Protocol):
    """A net whose score is a product of a user's and an item's vector: it can be retrieved by."""

    def towers(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The users' and the items' vectors, ``[B, E]`` each; the score is their dot product."""
        ...


def check_rate(name: str, rate: float) -> None:
    """Refuse a rate outside [0, 1)."""
    require(0 <= rate < 1, f"{name} must be in [0, 1); got {rate}")


def check_hidden(name: str, sizes: tuple[int, ...]) -> None:
    """Refuse a layer size below 1."""
    require(all(size >= 1 for size in sizes), f"{name} must hold sizes of at least 1; got {sizes}")


def check_count(name: str, count: int) -> None:
    """Refuse a count or size below 1."""
    require(count >= 1, f"{name} must be at least 1; got {count}")

"""Settings of transfer to a target domain."""

from dataclasses import dataclass, field
from typing import Literal

from scalerec.config import Config, require
from scalerec.train.config import TrainConfig

__all__ = ["METHODS", "RowsToMove", "TransferConfig"]

METHODS = ("scratch", "all", "head", "low-rank", "meta")

RowsToMove = Literal["auto", "all", "new", "none"]
ROWS = ("auto", "all", "new", "none")


def _few_rows() -> TrainConfig:
    return TrainConfig(epochs=20, batch_size=64)


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferConfig(Config):
    """How a source's recommender becomes a target's.

    Args:
        method: `scratch` draws all weights anew and takes nothing but the model's settings; `all`
            trains every parameter further; `head` the last layer; `low-rank` the last layer, and
            every other linear layer by two factors; `meta` takes the steps that the source was
            taught by `meta-train`, on the parts it was taught them for.
        rank: Of the factors of `low-rank`, below the smaller side of some layer. A layer whose
            smaller side is no more than the rank moves whole: factors would say no less.
        scale: Of the factors' product, above 0; the paper's alpha / rank.
        rows: Which rows of tables move: `all`; `new`, those of ids and fields that the source did
            not know; or `none`. `auto` is `all` for `all`, whose rows are a part of what it tunes,
            and `new` for `head` and `low-rank`: known rows stay as the frozen layers know them, and
            new ones, which start as copies of the unknown id's, would say nothing if they stayed.
            Hashed ids are never new, so a target that is told by them needs `all`. What new fields
            bring outside the tables, such as a number's vector, always moves.
            What `scratch` and `meta` move is settled, so they take `auto` alone.
        steps: Of `meta`; 0 for as many as were learned.
        most_examples: Of `meta`: most training rows that it adapts on, drawn by chance, since each
            of its steps sees all of them at once.
        train: How the others train. Where the target has validation rows, these decide when to
            stop and what to keep; where it has none, training takes all epochs. Batches are small
            by default, since a target's rows are few.
    """

    method: str = "all"
    rank: int = 4
    scale: float = 1.0
    rows: RowsToMove = "auto"
    steps: int = 0
    most_examples: int = 10_000
    train: TrainConfig = field(default_factory=_few_rows)

    def __post_init__(self) -> None:
        good = self.method in METHODS
        require(good, f"method must be one of {', '.join(METHODS)}; got {self.method!r}")
        good = self.rows in ROWS
        require(good, f"rows must be one of {', '.join(ROWS)}; got {self.rows!r}")
        settled = self.method in ("scratch", "meta") and self.rows != "auto"
        require(not settled, f"rows must be 'auto' for method {self.method!r}; got {self.rows!r}")
        require(self.rank >= 1, f"rank must be at least 1; got {self.rank}")
        require(self.scale > 0, f"scale must be above 0; got {self.scale}")
        require(self.steps >= 0, f"steps must be at least 0; got {self.steps}")
        least = self.most_examples >= 1
        require(least, f"most_examples must be at least 1; got {self.most_examples}")

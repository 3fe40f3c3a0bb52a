"""Codecs by name, as settings and the command line have them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from scalerec.config import Config, require
from scalerec.errors import ConfigError
from scalerec.rounds.codec import Codec, chain_codecs, identity
from scalerec.rounds.codecs.half import bf16
from scalerec.rounds.codecs.rank import Mean, missed_of_matrices, power_sgd
from scalerec.rounds.codecs.top import missed_of_top, top_k

__all__ = ["CodecName"]

ALLOWED = "none, bf16, powersgd:RANK or topk:SHARE, of which the last two may end in +bf16"


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecName(Config):
    """How the dense part of an update travels.

    Args:
        kind: Which codec: see `bf16`, `power_sgd` and `top_k`.
        rank: Of `powersgd`, at least 1.
        share: Of `topk`, above 0 and at most 1.
        half: Whether the numbers that either of them sends travel as bfloat16.
    """

    kind: Literal["none", "bf16", "powersgd", "topk"] = "none"
    rank: int = 0
    share: float = 0.0
    half: bool = False

    def __post_init__(self) -> None:
        if self.kind == "powersgd":
            require(self.rank >= 1, f"the rank of powersgd must be at least 1; got {self.rank}")
        if self.kind == "topk":
            inside = 0 < self.share <= 1
            require(inside, f"the share of topk must be above 0 and at most 1; got {self.share}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `none`, `bf16`, `powersgd:4`, `topk:0.01`, `topk:0.01+bf16`, ...

        Raises:
            ConfigError: If it is none of these.

        Example:
            >>> CodecName.parse("topk:0.01+bf16")
            CodecName(kind='topk', rank=0, share=0.01, half=True)
        """
        first, plus, last = text.partition("+")
        kind, colon, setting = first.partition(":")
        wrong = ConfigError(f"codec must be {ALLOWED}; got {text!r}")
        if kind in ("none", "bf16"):
            if colon or plus:
                raise wrong
            return cls.from_dict({"kind": kind})
        if kind not in ("powersgd", "topk") or (plus and last != "bf16"):
            raise wrong
        try:
            value = {"rank": int(setting)} if kind == "powersgd" else {"share": float(setting)}
        except ValueError:
            raise wrong from None
        return cls.from_dict({"kind": kind, **value, "half": bool(plus)}, f"codec {text!r}")

    def build(self, shapes: Mapping[str, torch.Size], mean: Mean | None = None) -> Codec:
        """The codec.

        Args:
            shapes: Name to shape of every dense tensor.
            mean: Of `powersgd`; it halves what travels itself, if that was asked for.
        """
        if self.kind == "topk":
            return top_k(self.share, shapes, half=self.half)
        if self.kind == "powersgd":
            own = power_sgd(self.rank, mean)
            return chain_codecs(own, bf16()) if self.half and mean is None else own
        return bf16() if self.kind == "bf16" else identity()

    def missed(
        self, state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
    ) -> dict[str, Tensor]:
        """What the codec has not sent yet, by the dense tensors' names; those without are left out.

        Args:
            state: The codec's.
            shapes: As in `build`.
        """
        if self.kind == "topk":
            return missed_of_top(state, shapes)
        return missed_of_matrices(state, shapes) if self.kind == "powersgd" else {}

"""Numbers of a cohort in half the bytes: bfloat16."""

import torch
from torch import Tensor

from scalerec.rounds.codecs.half import SUFFIX
from scalerec.rounds.codecs.messages import CohortMessage, Part
from scalerec.rounds.codecs.steps import Step

__all__ = ["halved"]


def halved() -> Step:
    """Round every float32 tensor to bfloat16; what `bf16` does, for a cohort."""

    def encode(
        message: CohortMessage, _: CohortMessage, __: Tensor
    ) -> tuple[dict[str, Part], dict[str, Part]]:
        return {
            name + SUFFIX if _is_single(part) else name: part.like(part.values.bfloat16())
            if _is_single(part)
            else part
            for name, part in message.items()
        }, {}

    def decode(message: CohortMessage) -> dict[str, Part]:
        return {
            name.removesuffix(SUFFIX): part.like(part.values.float())
            if name.endswith(SUFFIX)
            else part
            for name, part in message.items()
        }

    return Step(encode, decode)


def _is_single(part: Part) -> bool:
    return part.values.dtype is torch.float32

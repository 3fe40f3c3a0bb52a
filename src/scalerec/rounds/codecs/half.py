"""Numbers in half the bytes: bfloat16."""

from collections.abc import Mapping

import torch
from torch import Tensor

from scalerec.rounds.codec import Codec, Encoded, Message

__all__ = ["bf16"]

SUFFIX = "/bf16"


def bf16() -> Codec:
    """Round every float32 tensor of a message to bfloat16; what arrives is float32 again.

    A number arrives within 2^-8 of itself, relatively (8 bits of it are kept, rounded to nearest,
    ties to even); nothing is remembered of what was rounded off.
    """

    def encode(message: Message, _: Mapping[str, Tensor], __: torch.Generator) -> Encoded:
        halved = {}
        for name, tensor in message.items():
            if tensor.dtype is torch.float32:
                halved[name + SUFFIX] = tensor.bfloat16()
            else:
                halved[name] = tensor
        return halved, {}

    def decode(message: Message) -> dict[str, Tensor]:
        return {
            name.removesuffix(SUFFIX): tensor.float() if name.endswith(SUFFIX) else tensor
            for name, tensor in message.items()
        }

    return Codec(dict, encode, decode)

"""Row numbers and places in few bits: the Rice code of the gaps between them.

Shapes: P parties, K numbers of all of them together.
"""

import numpy as np
import torch
from torch import Tensor

from scalerec.errors import RoundError
from scalerec.rounds.codecs.messages import PACKED, ROWS, TABLES, CohortMessage, Part, offsets_of
from scalerec.rounds.codecs.rice import rice_decode, rice_encode, rice_sizes
from scalerec.rounds.codecs.steps import Step

__all__ = ["packed_numbers"]

INDICES = "top/indices"


def packed_numbers() -> Step:
    """Write row numbers of tables, and the places that top-k sends, in few bits; nothing is lost.

    Numbers ascend, so the gaps between them say all. Of a gap the high part is written in ones, the
    low part in bits, and how many bits are low is chosen for each list: 1 bit a number for rows
    without gaps, 8 for one in a hundred, 11 for one in a thousand, about; a list costs one byte
    more. The numbers themselves would take 64, or 32.

    Paper: Some Practical Universal Noiseless Coding Techniques, Rice, 1979,
    https://ntrs.nasa.gov/citations/19790014634

    The messages' other tensors pass as they are.
    """

    def encode(
        message: CohortMessage, _: CohortMessage, __: Tensor
    ) -> tuple[dict[str, Part], dict[str, Part]]:
        return {
            PACKED + name if _is_list(name) else name: _pack(name, part) if _is_list(name) else part
            for name, part in message.items()
        }, {}

    def decode(message: CohortMessage) -> dict[str, Part]:
        return {
            name.removeprefix(PACKED): _unpack(name, part) if name.startswith(PACKED) else part
            for name, part in message.items()
        }

    return Step(encode, decode)


def _is_list(name: str) -> bool:
    return name == INDICES or (name.startswith(TABLES) and name.endswith(ROWS))


def _pack(name: str, part: Part) -> Part:
    numbers, lengths = part.values.flatten().numpy(), part.counts.numpy()
    low_bits, sizes = np.zeros(len(lengths), np.uint8), np.zeros(len(lengths), np.int64)
    if not rice_sizes(numbers, lengths, low_bits, sizes):
        raise RoundError(f"{name!r} must be sorted, each number once and at least 0")
    out = np.zeros(sizes.sum(), np.uint8)
    rice_encode(numbers, lengths, low_bits, sizes, out)
    return Part(values=torch.from_numpy(out), offsets=offsets_of(torch.from_numpy(sizes)))


def _unpack(name: str, part: Part) -> Part:
    own = name.removeprefix(PACKED)
    if part.values.dtype != torch.uint8 or part.values.ndim != 1:
        raise RoundError(
            f"{name!r} must be bytes; got {list(part.values.shape)} of {part.values.dtype}"
        )
    code, sizes = part.values.numpy(), part.lengths.numpy()
    lengths = np.zeros(len(sizes), np.int64)
    total = rice_decode(code, sizes, lengths, np.zeros(0, np.int64))
    if total < 0:
        raise RoundError(f"{name!r} does not hold packed numbers")
    numbers = np.zeros(total, np.int64)
    rice_decode(code, sizes, lengths, numbers)
    if own != INDICES:
        return Part(values=torch.from_numpy(numbers), offsets=offsets_of(torch.from_numpy(lengths)))
    if (lengths != lengths[0]).any() or (numbers >= 2**31).any():
        raise RoundError(f"{name!r} must hold as many numbers below 2^31 for each party")
    return Part(values=torch.from_numpy(numbers).int().view(len(lengths), -1))

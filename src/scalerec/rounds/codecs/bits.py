"""Numbers in 8, 4, 2 or 1 bits: rounded by chance, so that they are right on average, or signs.

Shapes: P parties, K entries of all of them together, N numbers of one party.
"""

import math
import zlib
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.rounds.codecs.messages import CohortMessage, Part, is_ragged, offsets_of
from scalerec.rounds.codecs.rounding import round_to_levels, round_to_signs, values_of_codes
from scalerec.rounds.codecs.steps import Step

__all__ = ["BITS", "Bucket", "quantised", "signs"]

BITS = (1, 2, 4, 8)
CODES, SCALES = "/codes:", "/scales"
LARGEST = 2**40
SPREAD = 0x9E3779B97F4A7C15
Bucket = int | Literal["row", "tensor"]
"""How many numbers share a scale: so many, those of a last dimension, or all of a tensor."""
Bytes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Scales = npt.NDArray[np.float32]
Fill = Callable[[str, Part, Tensor, Bytes, Counts, Scales], None]


class Layout(NamedTuple):
    """How numbers lie in a message."""

    bits: int
    bucket: Bucket

    def size(self, shape: torch.Size, counts: Tensor) -> int:
        """How many numbers share a scale, at least 1."""
        if self.bucket == "row":
            return max(shape[-1] if shape else 1, 1)
        # Another party's number makes no difference: each has one scale.
        most = int(counts.max()) if self.bucket == "tensor" and len(counts) else 1
        return max(most, 1) if self.bucket == "tensor" else self.bucket


def quantised(bits: int, bucket: Bucket = 256) -> Step:
    """Round every number up or down by chance to one of few levels; on average it arrives whole.

    A bucket of numbers has a scale s, its largest magnitude, as float32. With 8, 4 or 2 bits the
    levels are ``s * j / L`` for j from -L to L, L being 127, 7 or 1; with 1 bit they are -s and s.
    A number goes to either neighbour with the chance that makes its mean the number itself, so it
    misses by less than a step, and the expected squared error of a bucket of n numbers is at most
    ``n * s**2 / (4 * L**2)``, or ``n * s**2`` with 1 bit. Of a bucket with a number that is not
    finite, all arrive as NaN.

    Every float32 tensor but the weight travels as ``NAME/codes:SHAPE`` (uint8) and ``NAME/scales``;
    where lengths differ between parties, one byte before the codes counts what its last byte has to
    spare.

    Papers: QSGD, Alistarh et al., 2017, section 3.1, https://arxiv.org/abs/1610.02132, with the
    largest magnitude in place of the norm (there section 4); 1 bit: Distributed Mean Estimation
    with Limited Communication, Suresh et al., 2017, section 2.1, https://arxiv.org/abs/1611.00429,
    between -s and s, so that zeros stay zeros on average.

    Args:
        bits: One of `BITS`.
        bucket: How many numbers of one tensor share a scale, at least 1, or `row` or `tensor`.

    Raises:
        ConfigError: If the bits or the bucket are not allowed.
    """
    require(bits in BITS, f"bits must be one of 1, 2, 4, 8; got {bits}")
    layout = _layout(bits, bucket)

    def fill(
        name: str, part: Part, seeds: Tensor, codes: Bytes, starts: Counts, scales: Scales
    ) -> None:
        size = layout.size(part.shape, part.counts)
        own = _seeds(seeds, name)
        round_to_levels(*_flat(part), size, bits, own, codes, starts, scales)

    return Step(_encoder(layout, fill), _decoder(layout), is_random=True)


def signs(bucket: Bucket = 256) -> Step:
    """Send the signs of numbers, 1 bit each, and each bucket's mean magnitude.

    What arrives is not right on average: use it with `with_feedback`, which sends later what is
    missed. Of a bucket of Gaussian numbers it misses sqrt(1 - 2 / pi), 60% of the norm.

    Papers: signSGD, Bernstein et al., 2018, https://arxiv.org/abs/1802.04434; Error Feedback Fixes
    SignSGD, Karimireddy et al., 2019, algorithm 1, https://arxiv.org/abs/1901.09847

    Args:
        bucket: As in `quantised`.

    Raises:
        ConfigError: If the bucket is below 1.
    """
    layout = _layout(1, bucket)

    def fill(_: str, part: Part, __: Tensor, codes: Bytes, starts: Counts, scales: Scales) -> None:
        size = layout.size(part.shape, part.counts)
        round_to_signs(*_flat(part), size, codes, starts, scales)

    return Step(_encoder(layout, fill), _decoder(layout))


def _layout(bits: int, bucket: Bucket) -> Layout:
    allowed = bucket in ("row", "tensor") or (isinstance(bucket, int) and bucket >= 1)
    require(allowed, f"a bucket must be row, tensor, or at least 1 number; got {bucket!r}")
    return Layout(bits, bucket)


def _flat(part: Part) -> tuple[Scales, Counts]:
    return part.values.detach().contiguous().view(-1).numpy(), part.counts.numpy()


def _seeds(seeds: Tensor, name: str) -> npt.NDArray[np.uint64]:
    """A seed a party for one tensor, spread over all bits: no two draw in step (SplitMix64)."""
    tag = zlib.crc32(name.encode()) * SPREAD % 2**64
    x = seeds.numpy().astype(np.uint64) + np.uint64(tag)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _encoder(
    layout: Layout, fill: Fill
) -> Callable[[CohortMessage, CohortMessage, Tensor], tuple[dict[str, Part], dict[str, Part]]]:
    def encode(
        message: CohortMessage, _: CohortMessage, seeds: Tensor
    ) -> tuple[dict[str, Part], dict[str, Part]]:
        sent: dict[str, Part] = {}
        for name, part in message.items():
            if name == "weight" or not part.values.is_floating_point():
                sent[name] = part
                continue
            if part.values.dtype is not torch.float32:
                raise RoundError(f"{name!r} must be torch.float32; got {part.values.dtype}")
            sent |= _encoded(name, part, layout, fill, seeds)
        return sent, {}

    return encode


def _encoded(name: str, part: Part, layout: Layout, fill: Fill, seeds: Tensor) -> dict[str, Part]:
    counts, ragged = part.counts, is_ragged(name)
    sizes = _sizes(counts, layout.bits, ragged)
    offsets = offsets_of(sizes)
    num_scales = -(-counts // layout.size(part.shape, counts))
    codes = np.zeros(int(offsets[-1]), np.uint8)
    scales = np.zeros(int(num_scales.sum()), np.float32)
    starts = offsets[:-1].numpy()
    if ragged:
        held = sizes.numpy() > 0
        codes[starts[held]] = (-counts.numpy() % (8 // layout.bits))[held]
        starts = starts + 1
    fill(name, part, seeds, codes, starts, scales)
    words = "x".join(str(size) for size in part.shape)
    return {
        f"{name}{CODES}{words}": _part(codes, offsets, ragged),
        name + SCALES: _part(scales, offsets_of(num_scales), ragged),
    }


def _sizes(counts: Tensor, bits: int, ragged: bool) -> Tensor:
    """How many bytes the codes of each party take; none, if there is no number."""
    sizes = -(-counts * bits // 8)
    return torch.where(counts > 0, sizes + 1, 0) if ragged else sizes


def _part(values: npt.NDArray[np.generic], offsets: Tensor, ragged: bool) -> Part:
    tensor = torch.from_numpy(values)
    if ragged:
        return Part(values=tensor, offsets=offsets)
    return Part(values=tensor.view(len(offsets) - 1, -1))


def _decoder(layout: Layout) -> Callable[[CohortMessage], dict[str, Part]]:
    def decode(message: CohortMessage) -> dict[str, Part]:
        out: dict[str, Part] = {}
        for key, part in message.items():
            name, found, words = key.rpartition(CODES)
            if found:
                if name + SCALES not in message:
                    raise RoundError(f"{key!r} needs {name + SCALES!r} beside it; got none")
                out[name] = _restored(name, words, part, message[name + SCALES], layout)
            elif not key.endswith(SCALES):
                out[key] = part
        return out

    return decode


def _restored(name: str, words: str, codes: Part, scales: Part, layout: Layout) -> Part:
    shape, ragged = _shape(name, words), is_ragged(name)
    wrong = RoundError(
        f"{name!r} must hold the codes and scales of numbers in {layout.bits} bits, of shape "
        f"{list(shape)}; got {codes.counts.tolist()[:5]} of {codes.values.dtype} and "
        f"{scales.counts.tolist()[:5]} of {scales.values.dtype}"
    )
    if codes.values.dtype != torch.uint8 or scales.values.dtype != torch.float32:
        raise wrong
    starts, size = offsets_of(codes.counts)[:-1], max(shape.numel(), 1)
    if ragged:
        counts = _ragged_counts(codes, starts, layout.bits)
        starts = starts + 1
    else:
        counts = torch.full((codes.num_parties,), shape.numel())
    # Nothing is reserved before the bytes that arrived are known to be as many.
    fits = not bool((counts % size).any()) and bool((counts >= 0).all())
    fits = fits and torch.equal(_sizes(counts, layout.bits, ragged), codes.counts)
    bucket = layout.size(shape, counts)
    if not fits or not torch.equal(-(-counts // bucket), scales.counts):
        raise wrong
    values = np.zeros(int(counts.sum()), np.float32)
    flat_codes, flat_scales = (p.values.contiguous().view(-1).numpy() for p in (codes, scales))
    values_of_codes(
        flat_codes, starts.numpy(), counts.numpy(), bucket, layout.bits, flat_scales, values
    )
    offsets = offsets_of(counts // size) if ragged else None
    length = int(offsets[-1]) if offsets is not None else codes.num_parties
    return Part(values=torch.from_numpy(values).view(length, *shape), offsets=offsets)


def _ragged_counts(codes: Part, starts: Tensor, bits: int) -> Tensor:
    """How many numbers each party sent, as the first of its bytes says."""
    held = codes.counts > 0
    spare = torch.zeros_like(starts)
    spare[held] = codes.values.flatten()[starts[held]].long()
    return torch.where(held, (codes.counts - 1) * (8 // bits) - spare, 0)


def _shape(name: str, words: str) -> torch.Size:
    sizes = words.split("x") if words else []
    good = all(size.isascii() and size.isdigit() for size in sizes)
    if not good or math.prod(int(size) for size in sizes) > LARGEST:
        raise RoundError(f"the codes of {name!r} must name a shape as 3x4; got {words[:40]!r}")
    return torch.Size(int(size) for size in sizes)

"""The largest numbers and rows of an update.

Shapes: P parties, K rows of all of them together, W a table's width, N numbers of a dense part.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.errors import RoundError
from scalerec.rounds.codecs.messages import (
    ROWS,
    TABLES,
    VALUES,
    CohortMessage,
    Part,
    offsets_of,
)
from scalerec.rounds.codecs.steps import Step
from scalerec.rounds.codecs.top import INDICES
from scalerec.rounds.codecs.top import VALUES as TOP

__all__ = ["join_dense", "largest", "split_dense"]

Shapes = Mapping[str, torch.Size]
ENTRIES = "/entries:"


def largest(share: float, shapes: Shapes, *, entries: bool = False) -> Step:
    """Send the largest numbers of the dense part, and of each table the largest rows or numbers.

    All dense tensors are taken together. Of a table those rows go whole whose norm is largest, or,
    as `entries`, those numbers: more is kept of rows in which few numbers matter, for the price of
    a place for each number. Of n of either, ``ceil(share * n)`` go. A number that is not finite
    counts as the largest, so it arrives and is seen. Use it with `with_feedback`.

    Papers: as for `top_k`.

    Args:
        share: Above 0 and at most 1.
        shapes: Name to shape of every dense tensor, known to both sides; below 2^31 numbers in all.
        entries: Whether single numbers of tables are sent, not rows.

    Raises:
        ConfigError: If the share is outside its range, or there are too many numbers.
    """
    require(0 < share <= 1, f"the share of topk must be above 0 and at most 1; got {share}")
    total = sum(shape.numel() for shape in shapes.values())
    require(total < 2**31, f"top-k counts below {2**31} numbers; got {total}")
    num_sent = math.ceil(share * total)

    def encode(
        message: CohortMessage, _: CohortMessage, __: Tensor
    ) -> tuple[dict[str, Part], dict[str, Part]]:
        whole, rest = join_dense(message, shapes)
        sent = {name: part for name, part in rest.items() if not name.startswith(TABLES)}
        if total:
            indices = whole.abs().topk(num_sent, 1, sorted=False).indices.sort(1).values
            sent[INDICES] = Part(values=indices.int())
            sent[TOP] = Part(values=whole.gather(1, indices))
        for name in [n for n in rest if n.startswith(TABLES) and n.endswith(VALUES)]:
            table = name.removesuffix(VALUES)
            rows, values = rest[table + ROWS], rest[name]
            if entries:
                table, rows, values = _exploded(table, rows, values)
            keep = _largest_of_each(values, share)
            offsets = offsets_of(torch.bincount(rows.owners[keep], minlength=rows.num_parties))
            sent[table + ROWS] = Part(values=rows.values[keep], offsets=offsets)
            sent[table + VALUES] = Part(values=values.values[keep], offsets=offsets)
        return sent, {}

    def decode(message: CohortMessage) -> dict[str, Part]:
        out = {n: p for n, p in message.items() if n not in (INDICES, TOP) and ENTRIES not in n}
        if total:
            out |= split_dense(_scattered(message, num_sent, total), shapes)
        for name in [n for n in message if ENTRIES in n and n.endswith(VALUES)]:
            out |= _collapsed(name, message)
        return out

    return Step(encode, decode)


def join_dense(message: CohortMessage, shapes: Shapes) -> tuple[Tensor, dict[str, Part]]:
    """All dense tensors of each party as one, ``[P, N]``, and the rest of the message.

    Args:
        message: Of a cohort.
        shapes: Name to shape of every dense tensor, in their order in the result.

    Raises:
        RoundError: If the tensors are others.
    """
    own = {n.removeprefix("dense/"): p for n, p in message.items() if n.startswith("dense/")}
    if own.keys() != shapes.keys():
        raise RoundError(f"dense tensors must be {sorted(shapes)}; got {sorted(own)}")
    for name, part in own.items():
        if part.shape != shapes[name] or part.values.dtype is not torch.float32:
            raise RoundError(
                f"dense tensor {name!r} must be {list(shapes[name])} of torch.float32; "
                f"got {list(part.shape)} of {part.values.dtype}"
            )
    rest = {name: part for name, part in message.items() if not name.startswith("dense/")}
    num = next(iter(message.values())).num_parties
    flat = [own[name].values.reshape(num, -1) for name in shapes]
    return (torch.cat(flat, 1) if flat else torch.zeros(num, 0)), rest


def split_dense(whole: Tensor, shapes: Shapes) -> dict[str, Part]:
    """The dense tensors that `join_dense` made one.

    Args:
        whole: ``[P, N]``.
        shapes: As in `join_dense`.
    """
    parts = whole.split([shape.numel() for shape in shapes.values()], 1)
    return {
        f"dense/{name}": Part(values=part.reshape(len(whole), *shape))
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _largest_of_each(values: Part, share: float) -> Tensor:
    """Which of each party's rows to send, ``[K]`` bool."""
    sizes = values.values.double().square().sum(1)
    # By size, and then by party; both sorts leave ties as they are, so the first row goes first.
    order = sizes.argsort(descending=True, stable=True)
    owners = values.owners
    order = order[owners[order].argsort(stable=True)]
    lengths = values.lengths
    wanted = (share * lengths.double()).ceil().long()
    rank = torch.arange(len(sizes)) - torch.repeat_interleave(offsets_of(lengths)[:-1], lengths)
    keep = torch.zeros(len(sizes), dtype=torch.bool)
    keep[order] = rank < wanted[owners]
    return keep


def _scattered(message: CohortMessage, num_sent: int, total: int) -> Tensor:
    for name in (INDICES, TOP):
        if name not in message or message[name].shape != (num_sent,):
            found = list(message[name].shape) if name in message else "none"
            raise RoundError(f"a message of top-k needs {name} of [{num_sent}]; got {found}")
    indices, values = message[INDICES].values.long(), message[TOP].values
    if not bool(((indices >= 0) & (indices < total)).all()):
        raise RoundError(f"{INDICES} must be in [0, {total})")
    return torch.zeros(len(values), total).scatter(1, indices, values.float())


def _exploded(table: str, rows: Part, values: Part) -> tuple[str, Part, Part]:
    """A table as one of width 1, whose rows are the numbers."""
    (width,) = values.shape
    offsets = offsets_of(rows.lengths * width)
    numbers = (rows.values[:, None] * width + torch.arange(width)).flatten()
    return (
        f"{table}{ENTRIES}{width}",
        Part(values=numbers, offsets=offsets),
        Part(values=values.values.reshape(-1, 1), offsets=offsets),
    )


def _collapsed(name: str, message: CohortMessage) -> dict[str, Part]:
    table, _, words = name.removesuffix(VALUES).rpartition(ENTRIES)
    numbers = message.get(name.removesuffix(VALUES) + ROWS)
    values = message[name]
    good = words.isascii() and words.isdigit() and 0 < int(words) < 2**20
    if not good or numbers is None or numbers.values.shape != (len(values.values),):
        raise RoundError(f"{name!r} needs a width in its name, and places beside it")
    width, owners = int(words), numbers.owners
    rows = numbers.values // width
    # Places ascend, so the rows of a party lie together.
    is_first = torch.ones(len(rows), dtype=torch.bool)
    is_first[1:] = (rows[1:] != rows[:-1]) | (owners[1:] != owners[:-1])
    filled = torch.zeros(int(is_first.sum()), width, dtype=values.values.dtype)
    filled[is_first.cumsum(0) - 1, numbers.values % width] = values.values[:, 0]
    offsets = offsets_of(torch.bincount(owners[is_first], minlength=numbers.num_parties))
    return {
        table + ROWS: Part(values=rows[is_first], offsets=offsets),
        table + VALUES: Part(values=filled, offsets=offsets),
    }

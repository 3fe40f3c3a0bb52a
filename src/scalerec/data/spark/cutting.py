"""Where a file of separated values can be cut: at line ends that are outside quotes.

Whether a newline ends a record depends on every quote before it. So each task runs over its block
once from each state that the block may begin in, and what the blocks before it end in then tells
which of these runs was the right one; as in ParPaRaw: Massively Parallel Parsing of Delimiter-
Separated Raw Data (Stehle and Jacobsen, 2020, https://doi.org/10.14778/3377369.3377372), section 3.
The states are those of Arrow's reader, so both find the same records.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from scalerec.data.sources import CsvSource

__all__ = ["Block", "Scanned", "cuts_of", "first_state", "scan_block"]

LINE_START, AFTER_CR, FIELD_START, IN_FIELD, IN_QUOTES, AT_QUOTE = range(6)
STATES = 6
# A record ends with this character.
ENDS = 8
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Block:
    """Some bytes of a file.

    Args:
        path: The file.
        start: Its first byte.
        stop: The byte after the last one.
        marks: The delimiter and the quote; no quote if empty.
    """

    path: Path
    start: int
    stop: int
    marks: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a run over a block found, by the state it began in, ``[6]`` int64 each.

    Args:
        state: In which it ended.
        ends: How many records ended.
        first: Where the first line after a newline begins, in the block; -1 if none does.
        ends_before: How many records ended before that.
    """

    state: NDArray[np.int64]
    ends: NDArray[np.int64]
    first: NDArray[np.int64]
    ends_before: NDArray[np.int64]


def scan_block(block: Block) -> Scanned:
    """Run over a block from each state."""
    with block.path.open("rb") as file:
        file.seek(block.start)
        data = np.frombuffer(file.read(block.stop - block.start), np.uint8)
    found = np.zeros((4, STATES), np.int64)
    _scan(data, _table(*block.marks), found)
    return Scanned(*found)


def first_state(path: Path) -> int:
    """Where the text of a file begins: after a byte order mark."""
    with path.open("rb") as file:
        return len(BOM) if file.read(len(BOM)) == BOM else 0


def cuts_of(
    blocks: list[Block], scanned: list[Scanned], source: CsvSource
) -> list[tuple[int, int]]:
    """Where a file can be cut, the start included, and how many records come before each place.

    Args:
        blocks: Of the whole file, in order.
        scanned: What each run found.
        source: The file.
    """
    cuts, state, records = [(0, 0)], LINE_START, -int(source.marks[2])
    for number, (block, found) in enumerate(zip(blocks, scanned, strict=True)):
        first = int(found.first[state])
        if number and first >= 0 and block.start + first < blocks[-1].stop:
            cuts.append((block.start + first, records + int(found.ends_before[state])))
        records += int(found.ends[state])
        state = int(found.state[state])
    return cuts


@cache
def _table(delimiter: str, quote: str) -> NDArray[np.uint8]:
    """State and character to the next state, plus `ENDS` where a record ends, ``[6, 256]``."""
    table = np.full((STATES, 256), IN_FIELD, np.uint8)
    table[:, ord(delimiter)] = FIELD_START
    table[:, ord("\n")] = LINE_START + ENDS
    table[:, ord("\r")] = AFTER_CR + ENDS
    for state in (LINE_START, AFTER_CR):  # blank lines are no records
        table[state, [ord("\n"), ord("\r")]] = LINE_START, AFTER_CR
    table[IN_QUOTES] = IN_QUOTES
    if quote:
        table[[LINE_START, AFTER_CR, FIELD_START, AT_QUOTE], ord(quote)] = IN_QUOTES
        table[IN_QUOTES, ord(quote)] = AT_QUOTE
    return table


@njit(nogil=True, cache=True)
def _scan(data: Any, table: Any, found: Any) -> None:
    for began in range(6):
        state, ends, first, before = began, 0, -1, 0
        for place in range(len(data)):
            step = table[state, data[place]]
            state = step & 7
            ends += step >> 3
            if first < 0 and state == 0 and data[place] == 10:
                first, before = place + 1, ends
        found[0, began] = state
        found[1, began] = ends
        found[2, began] = first
        found[3, began] = before

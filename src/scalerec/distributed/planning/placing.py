"""Which process keeps which table, chosen from sizes and traffic.

Rows spread over all processes are the rule. A process asks for each distinct row once, so traffic
and memory balance by themselves, and small hot tables cost little. Three cases argue otherwise:

- `replicated`: all tables together are so small that to tell everybody every gradient costs less
  than the messages by which rows are fetched. A copy beside spread tables would add messages and
  save none, so it is all tables or none.
- `column`: rows are wide, and a step reads so few of them that some processes would serve many more
  than others. Again all tables or none.
- `table:N`: spread, each process would keep but a few rows of a table. It is put whole on the
  process that has the least traffic, if that leaves the traffic balanced; no message is added.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scalerec.config import require
from scalerec.errors import ConfigError

__all__ = ["Choice", "choose_placements", "explain_placements"]

# Fewer rows than this on each process are crumbs: a tensor, a file entry and a loop for little.
CRUMB_ROWS = 64
# A process may have so much more traffic than the mean.
MOST_UNEVEN = 1.1
# The smallest stretch of a row's columns worth keeping.
LEAST_COLUMNS = 16
# What a link of 10 Gbit/s carries while a message of no bytes is under way, 50 µs.
MESSAGE_BYTES = 62_500
# Copies that a process may keep.
MOST_COPIES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Where a table is kept, and why.

    Args:
        placement: `row`, `table:N`, `column` or `replicated`.
        why: In a few words.
    """

    placement: str
    why: str


def choose_placements(
    num_rows: Mapping[str, int], reads_per_step: Mapping[str, float], width: int, world: int
) -> dict[str, str]:
    """Choose where each table is kept.

    Args:
        num_rows: Table to its rows.
        reads_per_step: Table to the distinct rows of it that one process reads in a step.
        width: W, the columns of a row.
        world: P, the number of processes.

    Returns:
        Table to `row`, `table:N`, `column` or `replicated`, in the order of `num_rows`.

    Raises:
        ConfigError: If a table has no reads, or a size is not positive.

    Example:
        >>> choose_placements({"user": 10**9, "hour": 24}, {"user": 4000, "hour": 24}, 17, 8)
        {'user': 'row', 'hour': 'table:0'}
    """
    found = explain_placements(num_rows, reads_per_step, width, world)
    return {name: choice.placement for name, choice in found.items()}


def explain_placements(
    num_rows: Mapping[str, int], reads_per_step: Mapping[str, float], width: int, world: int
) -> dict[str, Choice]:
    """As `choose_placements`, with the reason for each choice."""
    _check(num_rows, reads_per_step, width, world)
    reads = {name: min(float(reads_per_step[name]), float(num_rows[name])) for name in num_rows}
    if world == 1:
        return {name: Choice(placement="row", why="one process keeps all") for name in num_rows}
    total = sum(reads.values())
    by_rows = total * (8 + 8 * width) * (world - 1) / world
    copied = total * (8 + 4 * width) * (world - 1)
    size = 4 * (width + 1) * sum(num_rows.values())
    if copied <= by_rows + MESSAGE_BYTES and size <= MOST_COPIES:
        why = f"a step reads {total:,.0f} rows of all tables: fewer bytes than a message is worth"
        return {name: Choice(placement="replicated", why=why) for name in num_rows}
    # Of so many rows thrown on P processes, the fullest one has about so many times the mean.
    uneven = 1 + math.sqrt(2 * math.log(world) * world / max(total, 1.0))
    by_columns = total * (8 * (world - 1) + 8 * width * (world - 1) / world)
    if width >= LEAST_COLUMNS * world and by_columns * MOST_UNEVEN < by_rows * uneven:
        why = f"{total:,.0f} wide rows a step: spread, one process serves {uneven:.1f} times more"
        return {name: Choice(placement="column", why=why) for name in num_rows}
    found = dict.fromkeys(num_rows, Choice(placement="row", why="spread evenly"))
    return found | _whole(num_rows, reads, world)


def _whole(
    num_rows: Mapping[str, int], reads: Mapping[str, float], world: int
) -> dict[str, Choice]:
    """The tables that one process each keeps whole."""
    small = [name for name in num_rows if num_rows[name] < CRUMB_ROWS * world]
    # The largest first, so that the small ones fill what they leave (Bounds on Multiprocessing
    # Timing Anomalies, Graham, 1969, https://doi.org/10.1137/0117039).
    small.sort(key=lambda name: (-reads[name], name))
    traffic = [0.0] * world
    mean = sum(reads.values()) / world
    even, found = mean, {}
    for name in small:
        # All processes ask for the same rows, so a keeper's traffic follows the reads of each.
        home = min(range(world), key=lambda process: (traffic[process], process))
        if traffic[home] + reads[name] + even - reads[name] / world <= MOST_UNEVEN * mean:
            traffic[home] += reads[name]
            even -= reads[name] / world
            why = f"{num_rows[name]:,} rows are too few to spread over {world} processes"
            found[name] = Choice(placement=f"table:{home}", why=why)
    return found


def _check(num_rows: Mapping[str, int], reads: Mapping[str, float], width: int, world: int) -> None:
    require(width >= 1, f"width must be at least 1; got {width}")
    require(world >= 1, f"world must be at least 1; got {world}")
    for name, rows in num_rows.items():
        require(rows >= 1, f"table {name!r} must have at least one row; got {rows}")
        if name not in reads:
            raise ConfigError(f"reads_per_step must name table {name!r}; got {', '.join(reads)}")
        require(reads[name] >= 0, f"reads of table {name!r} must be at least 0; got {reads[name]}")

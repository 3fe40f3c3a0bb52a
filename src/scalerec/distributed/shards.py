"""Which rows each process learns from: its part of every batch, or a shard of its own.

Every process finds all shards' sizes and its own rows from the data alone, so nothing is said. It
reads the column of users (and, to balance, the lengths of lists) in stretches, and keeps the
numbers of its own rows, 4 bytes each below 2^32 rows; a run of rows needs none.

Processes take equally many steps, as many as the one with the most rows needs. One that has run out
takes part with empty batches, which add nothing: every row is learned from once an epoch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalerec.config import require
from scalerec.data.dataset import Dataset, Events
from scalerec.data.loading import Loader
from scalerec.data.parts import EventsPart
from scalerec.distributed.config import DistributedConfig
from scalerec.rounds import Balanced, Hashed
from scalerec.train.config import TrainConfig

__all__ = ["Shard", "find_shard", "make_loader", "own_batch"]

# Rows whose users are looked at together.
CHUNK = 1 << 20

Numbers = NDArray[np.int64]
# The process of each of the rows `start` .. `stop`.
PartsOf = Callable[[int, int], Numbers]


@dataclass(frozen=True, slots=True)
class Shard:
    """What one process learns from.

    Args:
        rows: Numbers of its rows: a run, or an array in rising order.
        sizes: Rows of every process, by rank.
    """

    rows: range | NDArray[np.integer[Any]]
    sizes: tuple[int, ...]


def find_shard(dataset: Dataset, partition: str, rank: int, world: int) -> Shard:
    """The shard of one process; all of them together are the training rows, each once.

    Args:
        dataset: Its training rows are divided.
        partition: `contiguous`: a run of rows; `user`: whole users, by the hash of their number;
            `hashed`: rows, by the hash of their number; `balanced`: whole users, dealt out so that
            all have as much to do. A row costs 1, and 1 for each id that it looks up.
        rank: The process.
        world: P, the number of processes.

    Raises:
        ConfigError: If users are to be kept whole, and the schema names none.
    """
    events = dataset.split("train")
    size = len(events)
    if partition == "contiguous":
        bounds = [size * part // world for part in range(world + 1)]
        sizes = np.diff(bounds).tolist()
        return Shard(range(bounds[rank], bounds[rank + 1]), tuple(sizes))
    parts_of = _parts_of(dataset, events, partition, world)
    dtype = np.uint32 if size <= 2**32 else np.int64
    counts, own = np.zeros(world, np.int64), [np.zeros(0, dtype)]
    for start, stop in _chunks(size):
        parts = parts_of(start, stop)
        counts += np.bincount(parts, minlength=world)
        own.append((start + np.flatnonzero(parts == rank)).astype(dtype))
    return Shard(np.concatenate(own), tuple(counts.tolist()))


def _parts_of(dataset: Dataset, events: Events, partition: str, world: int) -> PartsOf:
    """How rows are told apart; what it must know of all users is found here."""
    hashed = Hashed(num_parts=world)
    if partition == "hashed":
        return lambda start, stop: hashed.parts_of(np.arange(start, stop))
    has_user = bool(dataset.schema.user)
    require(
        has_user,
        f"partition {partition!r} keeps users whole, but the schema names none; "
        "use batch, contiguous or hashed",
    )
    users = events.column("user")
    if partition == "user":
        return lambda start, stop: hashed.parts_of(np.asarray(users[start:stop]))
    costs = np.zeros(dataset.num_users, np.int64)
    for start, stop in _chunks(len(events)):
        np.add.at(costs, users[start:stop], 1 + events.num_ids(slice(start, stop)))
    home = Balanced(num_parts=world).deal(costs).astype(np.min_scalar_type(world))
    return lambda start, stop: home[users[start:stop]]


def _chunks(size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + CHUNK, size)) for start in range(0, size, CHUNK))


def own_batch(batch_size: int, rank: int, world: int) -> int:
    """Rows of a batch that a process takes from its shard; together they are the batch.

    Args:
        batch_size: Of all processes together.
        rank: The process.
        world: P, the number of processes.

    Raises:
        ConfigError: If there are more processes than rows.
    """
    require(
        batch_size >= world,
        f"batch_size must be at least the number of processes, {world}; got {batch_size}",
    )
    return batch_size // world + (rank < batch_size % world)


def make_loader(
    dataset: Dataset, config: TrainConfig, distributed: DistributedConfig, rank: int, world: int
) -> Loader:
    """The batches that one process learns from.

    Args:
        dataset: Its training rows.
        config: Batch size, seed and size of blocks.
        distributed: Says how rows are divided.
        rank: The process.
        world: P, the number of processes.

    Raises:
        ConfigError: As `find_shard` and `own_batch`.
    """
    events, partition = dataset.split("train"), distributed.partition
    if partition == "batch":
        share = (rank, world)
        return Loader(events, config.batch_size, config.seed, config.block_rows, share)
    shard = find_shard(dataset, partition, rank, world)
    batches = [own_batch(config.batch_size, process, world) for process in range(world)]
    return Loader(
        EventsPart(events, shard.rows),
        batches[rank],
        config.seed,
        config.block_rows,
        steps=max(-(-size // own) for size, own in zip(shard.sizes, batches, strict=True)),
        order=f"{partition}, {world} shards",
    )

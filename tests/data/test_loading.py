"""The order of training: every row once an epoch, the same for a seed, resumable anywhere."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.batches import Batch
from scalerec.data.frames import empty_batch
from scalerec.data.layout import Layout
from scalerec.data.loading import Loader, read_in_order, step_seed, take_positive
from scalerec.data.schema import Task
from scalerec.errors import ConfigError

LAYOUT = Layout(ids=(), tables={}, tasks=(Task(name="y"), Task(name="z")))


class Rows:
    """Events whose time is their number; remembers what was read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reads: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.size

    def read(self, start: int, stop: int) -> Batch:
        stop = min(stop, self.size)
        self.reads.append((start, stop))
        return replace(empty_batch(LAYOUT, stop - start), times=torch.arange(start, stop))


def loader(size: int, batch_size: int, block_rows: int, seed: int = 0) -> Loader:
    return Loader(Rows(size), batch_size, seed, block_rows)  # type: ignore[arg-type]


def epoch(loader: Loader, number: int, first_step: int = 0) -> list[list[int]]:
    return [batch.times.tolist() for batch in loader.epoch(number, first_step)]


SIZES = (st.integers(1, 60), st.integers(1, 12), st.integers(1, 30))


@given(*SIZES)
def test_every_row_comes_once_an_epoch(size: int, batch_size: int, block_rows: int) -> None:
    own = loader(size, batch_size, block_rows)
    for number in range(2):
        batches = epoch(own, number)
        assert sorted(row for batch in batches for row in batch) == list(range(size))
        assert len(batches) == own.steps_per_epoch == -(-size // batch_size)
        assert {len(batch) for batch in batches[:-1]} <= {batch_size}


@given(*SIZES, st.integers(0, 70))
def test_a_resumed_epoch_goes_on_where_it_was(
    size: int, batch_size: int, block_rows: int, step: int
) -> None:
    whole = epoch(loader(size, batch_size, block_rows), 3)
    assert epoch(loader(size, batch_size, block_rows), 3, step) == whole[step:]


def test_the_order_follows_seed_and_epoch() -> None:
    orders = [epoch(loader(50, 8, 16, seed), number) for seed in (0, 1) for number in (0, 1)]
    assert epoch(loader(50, 8, 16, 1), 1) == orders[3]
    assert len({str(order) for order in orders}) == 4
    # Neither seed 0 of epoch 1 nor seed 1 of epoch 0 repeats the other.
    assert orders[1] != orders[2]


def test_blocks_are_bounded_and_a_small_set_is_read_once() -> None:
    own = loader(50, 8, 20)
    epoch(own, 0)
    stretches = [(start, start + 8) for start in range(0, 48, 8)]
    assert sorted(own.events.reads) == [*stretches, (48, 50)]  # type: ignore[attr-defined]
    small = loader(50, 8, 64)
    epoch(small, 0)
    epoch(small, 1)
    assert small.events.reads == [(0, 50)]  # type: ignore[attr-defined]
    skipped = loader(64, 8, 16)
    epoch(skipped, 0, first_step=7)
    assert len(skipped.events.reads) == 2  # type: ignore[attr-defined]


def test_rows_are_mixed_within_a_block() -> None:
    first = epoch(loader(1000, 500, 1000), 0)[0]
    # Of 500 rows about half come from each half; the deviation is about 8.
    assert 200 < sum(row < 500 for row in first) < 300


def test_a_block_is_gathered_from_the_whole_file() -> None:
    """Of 100 stretches eight make a block, so a batch of it is seldom from one end of the file."""
    first = epoch(loader(10_000, 100, 800), 0)[0]
    assert len({row // 100 for row in first}) == 8
    assert max(first) - min(first) > 3000


def test_the_next_block_is_read_while_one_is_used() -> None:
    own = loader(64, 8, 16)
    batches = own.epoch(0)
    for _ in range(3):  # two batches of the first block, one of the second
        next(batches)
    assert own._reader is not None
    own._reader.shutdown()  # waits for what it has begun
    reads = own.events.reads  # type: ignore[attr-defined]
    assert len(reads) == 6  # two stretches of each of three blocks


def test_in_order() -> None:
    batches = [batch.times.tolist() for batch in read_in_order(Rows(5), 2)]  # type: ignore[arg-type]
    assert batches == [[0, 1], [2, 3], [4]]


def test_a_batch_has_rows() -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1; got 0"):
        loader(5, 0, 8)


def test_seeds_of_steps_differ() -> None:
    seeds = {step_seed(seed, step) for seed in range(30) for step in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(3, 4) == step_seed(3, 4)
    # Neighbours draw other noise; the first process draws what one alone would.
    assert step_seed(3, 4, 0) == step_seed(3, 4)
    assert len({step_seed(3, step, rank) for step in range(30) for rank in range(30)}) == 900


def test_positive_rows_are_known_and_positive() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [False, True], [True, True]])
    batch = replace(empty_batch(LAYOUT, 4), labels=labels, label_mask=mask)
    assert take_positive(batch).tolist() == [0]
    assert take_positive(batch, 1).tolist() == [1, 2]

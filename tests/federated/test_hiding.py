"""Rows that parties send beside those that they read: which, how many, and that nothing is lost."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scalerec.errors import ConfigError, RoundError
from scalerec.federated.hiding import Hider, Hiding, narrow, table_blocks
from scalerec.federated.strategies import TABLE
from scalerec.rounds.codecs import CodecChain
from scalerec.rounds.cohort import CohortRows, CohortUpdate
from scalerec.train.cohort.holdings import Holdings

# Two tables: rows 0 to 3, of which 0 is padding, and 4 to 99, of which 4 is padding and 5 is
# somebody's own.
STARTS, SIZES = {"small": 0, "large": 4}, {"small": 4, "large": 96}
SHARED = torch.ones(100, dtype=torch.bool)
SHARED[[0, 4, 5]] = False
BLOCKS = table_blocks(STARTS, SIZES, SHARED)
READ = [[1, 5, 10, 11, 12], [2, 3, 50], [0, 4]]
Numbers = NDArray[np.int64]


def holdings_of(read: list[list[int]]) -> Holdings:
    rows = torch.tensor([row for own in read for row in own], dtype=torch.int64)
    offsets = torch.tensor([0, *(len(own) for own in read)]).cumsum(0)
    none = np.zeros(len(read) + 1, np.int64)
    return Holdings(none[:0], none, rows, offsets, torch.isin(rows, torch.tensor([0, 4])))


def hider_of(text: str, seed: int = 3, read: list[list[int]] | None = None) -> Hider:
    return Hider(Hiding.parse(text), BLOCKS, holdings_of(READ if read is None else read), seed)


def update_of(read: list[list[int]], seed: int = 0) -> CohortUpdate:
    """What parties moved that read these rows: some of it, by chance, is zero."""
    shared = [[row for row in own if bool(SHARED[row])] for own in read]
    rows = torch.tensor([row for own in shared for row in own], dtype=torch.int64)
    generator = torch.Generator().manual_seed(seed)
    part = CohortRows(
        rows=rows,
        offsets=torch.tensor([0, *(len(own) for own in shared)]).cumsum(0),
        values=torch.randint(-1, 2, (len(rows), 2), generator=generator).float(),
    )
    return CohortUpdate(
        dense={"w": torch.ones(len(read), 2)},
        tables={TABLE: part},
        weights=torch.ones(len(read), dtype=torch.float64),
    )


def rows_sent(
    hider: Hider, read: list[list[int]], parties: list[int], number: int
) -> list[Numbers]:
    sent = hider.sent(update_of(read), np.array(parties), number)
    return [part.numpy() for part in sent.rows.split(sent.offsets.diff().tolist())]


def test_the_blocks_are_what_may_leave() -> None:
    found = {name: block.tolist() for name, block in BLOCKS.items()}
    assert found == {"small": [1, 2, 3], "large": list(range(6, 100))}
    assert hider_of("all").shared.tolist() == [1, 2, 3, *range(6, 100)]
    alone = table_blocks(STARTS, SIZES, torch.arange(100) > 3)
    assert {name: len(block) for name, block in alone.items()} == {"large": 96}


@pytest.mark.parametrize(
    ("text", "sizes"), [("touched+decoys", [2, 8]), ("touched+decoys:5", [3, 16])]
)
def test_decoys_fill_each_table_to_a_power_of_two(text: str, sizes: list[int]) -> None:
    # Party 0 reads 1 of 3 rows and 3 of 94 (its own row 5 is not counted).
    cover = hider_of(text).cover(0)
    assert {1, 10, 11, 12} <= set(cover.tolist())
    assert bool(SHARED[cover].all())
    assert [(cover < 4).sum(), (cover > 4).sum()] == sizes


def test_who_reads_nothing_of_a_table_looks_like_who_reads_one_row() -> None:
    hider = hider_of("touched+decoys")
    assert [len(hider.cover(party)) for party in (1, 2)] == [3 + 2, 2 + 2]


def test_decoys_follow_from_the_party_and_its_secret_and_never_from_the_round() -> None:
    hider = hider_of("touched+decoys:4")
    first = rows_sent(hider, READ, [0, 1, 2], 0)
    for number in range(1, 20):
        again = rows_sent(hider, READ[1:], [1, 2], number)
        assert all(np.array_equal(*pair) for pair in zip(again, first[1:], strict=True))
    # Another run of the same seed has no memory, and finds the same.
    fresh = rows_sent(hider_of("touched+decoys:4"), READ, [0, 1, 2], 7)
    assert all(np.array_equal(*pair) for pair in zip(fresh, first, strict=True))
    other = rows_sent(hider_of("touched+decoys:4", seed=4), READ, [0, 1, 2], 0)
    assert not np.array_equal(other[0], first[0])
    # Parties that read alike have decoys of their own.
    twins = hider_of("touched+decoys:4", read=[READ[0], READ[0]])
    assert not np.array_equal(twins.cover(0), twins.cover(1))


def test_rounds_that_are_laid_side_by_side_show_the_cover_alone() -> None:
    hider, seen, sizes = hider_of("touched+decoys"), [], set()
    numbers = np.random.default_rng(1)
    for number in range(40):
        drawn = numbers.choice(np.arange(20, 100), 5, replace=False)
        rows = rows_sent(hider, [sorted({*READ[0], *drawn.tolist()})], [0], number)[0]
        assert set(drawn.tolist()) <= set(rows.tolist())
        seen.append(set(rows.tolist()))
        sizes.add(int((rows > 4).sum()))
    assert set.intersection(*seen) == set(hider.cover(0).tolist())
    # 8 of the cover and up to 5 others.
    assert sizes == {16}


def test_all_is_the_same_list_for_everybody() -> None:
    lists = rows_sent(hider_of("all"), READ, [0, 1, 2], 0)
    assert all(rows.tolist() == [1, 2, 3, *range(6, 100)] for rows in lists)
    counts = hider_of("all").counts(update_of(READ), np.arange(3), 0)
    assert counts.tolist() == [97, 97, 97]


def test_touched_adds_nothing() -> None:
    update = update_of(READ)
    widened, held = hider_of("touched").widen(update, np.arange(3), 0)
    assert bool(held.all())
    assert torch.equal(widened.tables[TABLE].rows, update.tables[TABLE].rows)


@given(
    read=st.lists(
        st.lists(st.integers(0, 99), unique=True, max_size=40).map(sorted), min_size=1, max_size=4
    ),
    text=st.sampled_from(["touched", "touched+decoys", "touched+decoys:3", "all"]),
    number=st.integers(0, 5),
)
def test_what_was_added_is_left_out_again(read: list[list[int]], text: str, number: int) -> None:
    hider, parties, update = hider_of(text, read=read), np.arange(len(read)), update_of(read)
    widened, held = hider.widen(update, parties, number)
    part, before = widened.tables[TABLE], update.tables[TABLE]
    assert part.lengths.tolist() == hider.counts(update, parties, number).tolist()
    assert bool((part.values[~held] == 0).all())
    # A row that was held and did not move counts as held.
    assert int(held.sum()) == len(before.rows)
    after = narrow(widened, held).tables[TABLE]
    assert torch.equal(after.rows, before.rows)
    assert torch.equal(after.offsets, before.offsets)
    assert torch.equal(after.values, before.values)
    if text.startswith("touched+"):
        times = int(text.partition(":")[2] or 2)
        for place, rows in enumerate(part.rows.split(part.lengths.tolist())):
            own = before.part(place).rows
            for block in BLOCKS.values():
                num = int(np.isin(rows, block).sum())
                whole = num == len(block)
                assert whole or num.bit_count() == 1
                assert whole or num >= times * int(np.isin(own, block).sum())


def test_large_tables_draw_few_places() -> None:
    size = 100_000
    blocks = table_blocks({"t": 0}, {"t": size}, torch.ones(size, dtype=torch.bool))
    read = [list(range(0, 3000, 10)), list(range(0, 90_000, 3))]
    hider = Hider(Hiding.parse("touched+decoys"), blocks, holdings_of(read), 1)
    few, many = hider.cover(0), hider.cover(1)
    assert (len(few), len(many)) == (1024, 65_536)
    for rows, own in zip((few, many), read, strict=True):
        assert bool((np.diff(rows) > 0).all())
        assert set(own) <= set(rows.tolist())
    # Decoys are spread alike: 724 of them, half below the middle, with a deviation of 13.5.
    decoys = np.setdiff1d(few, read[0])
    assert abs(int((decoys < size // 2).sum()) - 362) < 5 * 13.5


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("touched", Hiding()),
        ("touched+decoys", Hiding(kind="decoys")),
        ("touched+decoys:8", Hiding(kind="decoys", times=8)),
        ("all", Hiding(kind="all")),
    ],
)
def test_ways_are_read(text: str, wanted: Hiding) -> None:
    assert Hiding.parse(text) == wanted


@pytest.mark.parametrize("text", ["", "decoys", "touched+decoys:", "touched+decoys:x", "all:2"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"hiding must be touched, touched\+decoys, .* got"):
        Hiding.parse(text)


def test_errors_say_why() -> None:
    with pytest.raises(ConfigError, match="times must be at least 2; got 1"):
        Hiding.parse("touched+decoys:1")
    with pytest.raises(
        ConfigError, match=r"codec topk picks or mixes rows .* hiding all goes with"
    ):
        Hiding.parse("all").check(CodecChain.parse("clip:1,topk:0.1,bits:4"))
    Hiding.parse("all").check(CodecChain.parse("clip:1,bits:4"))
    Hiding.parse("touched").check(CodecChain.parse("topk:0.1"))
    update = update_of(READ)
    odd = CohortRows(rows=torch.tensor([5]), offsets=torch.tensor([0, 1]), values=torch.ones(1, 2))
    private = CohortUpdate(dense={}, tables={TABLE: odd}, weights=update.weights[:1])
    for text in ("touched+decoys", "all"):
        with pytest.raises(RoundError, match="not shared"):
            hider_of(text).widen(private, np.arange(1), 0)

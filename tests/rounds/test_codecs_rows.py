"""What is chosen of tables, and their row numbers in few bits."""

import contextlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalerec.errors import ConfigError, RoundError
from scalerec.rounds import TableRows, Update, pack, unpack
from scalerec.rounds.codecs import codec_of_step, largest, packed_numbers, with_feedback
from scalerec.rounds.codecs.messages import (
    Part,
    gather_messages,
    is_ragged,
    pack_cohort,
    unpack_cohort,
)
from scalerec.rounds.cohort import CohortUpdate

ROWS, PACKED = "tables/t/rows", "packed/tables/t/rows"
row_numbers = st.lists(st.integers(0, 2**40), max_size=30, unique=True).map(sorted)


def packed(*lists: list[int]) -> Part:
    messages = [{ROWS: torch.tensor(rows, dtype=torch.int64)} for rows in lists]
    return packed_numbers().encode(gather_messages(messages), {}, torch.zeros(1))[0][PACKED]


def unpacked(*codes: list[int]) -> Part:
    messages = [{PACKED: torch.tensor(code, dtype=torch.uint8)} for code in codes]
    return packed_numbers().decode(gather_messages(messages))[ROWS]


def test_row_numbers_by_hand() -> None:
    # Without gaps: no low bits, a zero a row; then ones to the end of the byte.
    assert packed([0, 1, 2]).values.tolist() == [0, 0b11111000]
    # Five rows lie before row 5: with 1, 2 or 3 low bits that takes 4 bits, and the fewest win: two
    # ones, a zero, and the low bit, which is 1; the first bit is the lowest.
    assert packed([5]).values.tolist() == [1, 0b11111011]
    assert packed([]).values.tolist() == []


def test_row_numbers_are_short() -> None:
    """Every hundredth row: 8 bits each, where a row number has 64."""
    assert len(packed(list(range(0, 100_000, 100))).values) <= 1 + 1000 * 8 // 8
    # A row that 2^40 others come before: its 40 bits, and a few.
    assert len(packed([2**40]).values) <= 8


@given(st.lists(row_numbers, min_size=1, max_size=4))
def test_row_numbers_make_the_round_trip(lists: list[list[int]]) -> None:
    part = packed(*lists)
    found = unpacked(*[part.of(p).tolist() for p in range(len(lists))])
    assert [found.of(p).tolist() for p in range(len(lists))] == lists


@given(st.lists(st.integers(0, 255), max_size=12))
def test_any_bytes_are_rows_or_refused(code: list[int]) -> None:
    with contextlib.suppress(RoundError):
        rows = unpacked(code).values
        assert (rows[1:] > rows[:-1]).all()
        assert (rows >= 0).all()


@pytest.mark.parametrize("rows", [[3, 3], [4, 2], [-1, 2]])
def test_row_numbers_must_ascend(rows: list[int]) -> None:
    with pytest.raises(RoundError, match="'tables/t/rows' must be sorted, each number once"):
        packed(rows)


def test_wrong_packed_numbers_are_refused() -> None:
    with pytest.raises(RoundError, match="does not hold packed numbers"):
        unpacked([63, 0])
    with pytest.raises(RoundError, match=r"must be bytes; got \[2\] of torch.float32"):
        packed_numbers().decode(gather_messages([{PACKED: torch.ones(2)}]))
    places = {"packed/top/indices": torch.tensor([0, 0b11111000]).byte()}
    fewer = {"packed/top/indices": torch.tensor([0, 0b11111100]).byte()}
    found = packed_numbers().decode(gather_messages([places, places]))["top/indices"]
    assert found.values.tolist() == [[0, 1, 2], [0, 1, 2]]
    with pytest.raises(RoundError, match=r"must hold as many numbers below 2.31 for each party"):
        packed_numbers().decode(gather_messages([places, fewer]))


def table(rows: list[int], values: list[list[float]]) -> Update:
    part = TableRows(rows=torch.tensor(rows), values=torch.tensor(values))
    return Update(dense={}, tables={"t": part}, weight=1.0)


def test_the_largest_rows_by_hand() -> None:
    """Of four rows half go: norms 5, 1, 6 and 5, of which the first 5 wins."""
    codec = codec_of_step(with_feedback(largest(0.5, {})))
    update = table([1, 4, 6, 9], [[3.0, 4.0], [1.0, 0.0], [0.0, 6.0], [4.0, 3.0]])
    message, state = codec.encode(pack(update), {}, torch.Generator())
    arrived = unpack(codec.decode(message)).tables["t"]
    assert arrived.rows.tolist() == [1, 6]
    assert arrived.values.tolist() == [[3.0, 4.0], [0.0, 6.0]]
    assert state["tables/t/rows"].tolist() == [4, 9]
    # Row 9 comes again and is doubled; row 4 waits until the party touches it again.
    update = table([1, 9], [[3.0, 4.0], [4.0, 3.0]])
    message, state = codec.encode(pack(update), state, torch.Generator())
    arrived = unpack(codec.decode(message)).tables["t"]
    assert (arrived.rows.tolist(), arrived.values.tolist()) == ([9], [[8.0, 6.0]])
    assert state["tables/t/rows"].tolist() == [1, 4]
    assert state["tables/t/values"].tolist() == [[3.0, 4.0], [1.0, 0.0]]


def test_the_largest_entries_by_hand() -> None:
    """Of eight numbers a quarter: 6 and the first 4, each alone in its row."""
    codec = codec_of_step(with_feedback(largest(0.25, {}, entries=True)))
    update = table([1, 4, 6, 9], [[3.0, 4.0], [1.0, 0.0], [0.0, 6.0], [4.0, 3.0]])
    message, state = codec.encode(pack(update), {}, torch.Generator())
    # Place 1 * 2 + 1, and 6 * 2 + 1.
    assert message["tables/t/entries:2/rows"].tolist() == [3, 13]
    assert message["tables/t/entries:2/values"].tolist() == [[4.0], [6.0]]
    arrived = unpack(codec.decode(message)).tables["t"]
    assert arrived.rows.tolist() == [1, 6]
    assert arrived.values.tolist() == [[0.0, 4.0], [0.0, 6.0]]
    assert state["tables/t/rows"].tolist() == [1, 4, 9]
    assert state["tables/t/values"].tolist() == [[3.0, 0.0], [1.0, 0.0], [4.0, 3.0]]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.floats(0.01, 1.0), st.booleans())
def test_none_that_stays_is_larger_than_one_that_goes(
    num_rows: list[int], share: float, entries: bool
) -> None:
    generator = torch.Generator().manual_seed(sum(num_rows))
    whole = [
        TableRows(rows=torch.arange(n), values=torch.randn(n, 2, generator=generator))
        for n in num_rows
    ]
    message = pack_cohort(
        CohortUpdate.of([Update(dense={}, tables={"t": part}, weight=1) for part in whole])
    )
    step = largest(share, {}, entries=entries)
    arrived = unpack_cohort(step.decode(step.encode(message, {}, torch.zeros(1))[0]))
    for p, part in enumerate(whole):
        found = arrived.party(p).tables["t"]
        came = torch.zeros_like(part.values).index_copy(0, found.rows, found.values)
        sizes = part.values.abs() if entries else part.values.norm(dim=1)
        kept = came != 0 if entries else came.any(1)
        assert int(kept.sum()) == math.ceil(share * sizes.numel())
        if kept.any() and not kept.all():
            assert sizes[kept].min() >= sizes[~kept].max()


def places(width: str, rows: list[int], values: list[list[float]]) -> dict[str, Tensor]:
    return {
        f"tables/t/entries:{width}/rows": torch.tensor(rows),
        f"tables/t/entries:{width}/values": torch.tensor(values),
    }


@pytest.mark.parametrize(
    "message",
    [places("0", [1], [[1.0]]), places("x", [1], [[1.0]]), places("2", [1, 2], [[1.0]])],
)
def test_wrong_entries_are_refused(message: dict[str, Tensor]) -> None:
    with pytest.raises(RoundError, match="needs a width in its name, and places beside it"):
        largest(0.5, {}, entries=True).decode(gather_messages([message]))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="the share of topk must be above 0 and at most 1; got 0"):
        largest(0.0, {})
    with pytest.raises(ConfigError, match="top-k counts below 2147483648 numbers; got 4294967296"):
        largest(0.5, {"w": torch.Size([2**32])})
    step, shapes = largest(0.5, {"w": torch.Size([2])}), {"w": torch.Size([2])}
    with pytest.raises(
        RoundError, match=r"a message of top-k needs top/indices of \[1\]; got none"
    ):
        step.decode(gather_messages([{"weight": torch.ones(())}]))
    parts = {"top/indices": torch.tensor([2]).int(), "top/values": torch.ones(1)}
    with pytest.raises(RoundError, match=r"top/indices must be in \[0, 2\)"):
        step.decode(gather_messages([parts]))
    for wrong, words in (
        ({}, r"dense tensors must be \['w'\]; got \[\]"),
        ({"dense/w": torch.ones(3)}, r"'w' must be \[2\] of torch.float32; got \[3\]"),
    ):
        with pytest.raises(RoundError, match=words):
            largest(0.5, shapes).encode(
                gather_messages([{"weight": torch.ones(()), **wrong}]), {}, torch.zeros(1)
            )


def test_messages_of_a_cohort() -> None:
    assert is_ragged("tables/t/rows")
    assert not is_ragged("dense/tables/t")
    with pytest.raises(RoundError, match=r"'dense/w' must be \[2\] of torch.float32 for all"):
        gather_messages([{"dense/w": torch.ones(2)}, {"dense/w": torch.ones(3)}])
    one = gather_messages([{"weight": torch.ones(()), "tables/t/values": torch.ones(1, 2)}])
    with pytest.raises(RoundError, match="'tables/t/values' needs its row numbers beside it"):
        unpack_cohort(one)
    short = gather_messages(
        [{"weight": torch.ones(()), "tables/t/values": torch.ones(1, 2), ROWS: torch.arange(2)}]
    )
    with pytest.raises(RoundError, match="'tables/t/values' must have as many rows as there are"):
        unpack_cohort(short)
    with pytest.raises(RoundError, match=r"a message holds weight, .*; got code, weight"):
        unpack_cohort(gather_messages([{"weight": torch.ones(()), "code": torch.ones(())}]))
    with pytest.raises(RoundError, match=r"a message holds weight, .*; got tables/t/rows, weight"):
        unpack_cohort(gather_messages([{"weight": torch.ones(()), ROWS: torch.arange(2)}]))

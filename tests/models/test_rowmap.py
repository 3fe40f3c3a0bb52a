"""Row maps as bytes: what is packed comes back, and what is no map is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scalerec.errors import ConfigError
from scalerec.models.rowmap import pack_map, stored_map, unpack_map


def map_of(own: list[bool], *, unknown: bool) -> Tensor:
    """The map of a table whose first two ids have their own rows."""
    has_own = torch.tensor([True, True, *own])
    rows = has_own.long().cumsum(0) - 1
    rows[~has_own] = 1 if unknown else int(has_own.sum())
    return rows.to(torch.int32)


@given(own=st.lists(st.booleans(), max_size=70), unknown=st.booleans())
def test_a_map_of_own_rows_and_one_shared_comes_back(own: list[bool], unknown: bool) -> None:
    rows = map_of(own, unknown=unknown)

    packed = pack_map(rows)

    assert packed.dtype is torch.uint8
    assert len(packed) == 1 + -(-(len(rows) + 1) // 8)
    assert torch.equal(unpack_map(packed).long(), rows.long())


def test_bits_stand_after_the_kind_and_end_in_a_one() -> None:
    # Own, own, shared, own, shared: 11010, then the end: 1 1 0 1 0 1 0 0.
    rows = torch.tensor([0, 1, 3, 2, 3], dtype=torch.int16)

    assert pack_map(rows).tolist() == [1, 0b11010100]


@pytest.mark.parametrize(
    "rows",
    [
        torch.tensor([0, 1, 2, 3, 3]),  # live, as growth makes them
        torch.tensor([0, 1, 3, 2, 4], dtype=torch.int16),  # in another order
        torch.tensor([0, 1, 2, 2, 3, 3], dtype=torch.int16),  # two rows are shared
    ],
)
def test_other_maps_stay_as_they_are(rows: Tensor) -> None:
    assert pack_map(rows) is rows
    assert unpack_map(rows) is rows


def test_many_rows_need_wider_numbers() -> None:
    rows = map_of([True] * 40_000 + [False], unknown=False)

    assert unpack_map(pack_map(rows)).dtype is torch.int32
    assert unpack_map(pack_map(rows[:100])).dtype is torch.int16


@pytest.mark.parametrize("stored", [[], [1], [2, 128], [1, 128, 0]])
def test_bytes_that_are_no_map_are_refused(stored: list[int]) -> None:
    words = "a row map of bits must be uint8 .*, its first byte 0 or 1 and its last not 0; got"
    with pytest.raises(ConfigError, match=words):
        unpack_map(torch.tensor(stored, dtype=torch.uint8))


def test_a_table_without_a_map_has_none() -> None:
    packed = torch.tensor([1, 0b11010100], dtype=torch.uint8)

    assert stored_map({"tables.user.weight": torch.zeros(2, 2)}, "user") is None
    found = stored_map({"tables.user.rows": packed}, "user")
    assert found is not None
    assert found.tolist() == [0, 1, 3, 2, 3]

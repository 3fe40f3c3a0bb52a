"""Layouts and batches from which fields are left out."""

import pytest
import torch
from tests.models.toys import LAYOUTS, draw_batch

from scalerec.data.narrowing import Narrowing
from scalerec.errors import ConfigError

LAYOUT = LAYOUTS["mixed"]


def test_a_narrowed_layout_keeps_the_order_and_drops_what_nothing_reads() -> None:
    found = LAYOUT.without(["user", "price", "genres"])
    assert [field.name for field in found.fields] == ["item", "day", "age", "seen", "image"]
    # The history reads the items' table.
    assert list(found.tables) == ["item", "day"]
    assert LAYOUT.without(["item"]).tables == LAYOUT.tables
    assert found.tasks == LAYOUT.tasks
    assert LAYOUT.without([]) is LAYOUT


def test_a_batch_keeps_the_values_of_the_fields_that_are_left(generator: torch.Generator) -> None:
    batch = draw_batch(LAYOUT, 5, generator)
    narrow = Narrowing(LAYOUT, ["item", "age", "genres", "image"])
    found = narrow(batch)
    assert torch.equal(found.ids, batch.ids[[0, 2]])
    assert torch.equal(found.dense, batch.dense[:, 1:])
    assert found.bags == batch.bags[1:]
    assert found.vectors == ()
    assert found.labels is batch.labels
    assert narrow(found) is found


def test_names_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"must be one of user, item, day; got 'colour'"):
        LAYOUTS["ids"].without(["colour"])
    with pytest.raises(ConfigError, match=r"at least one field must be left"):
        LAYOUTS["ids"].without(["user", "day", "item"])

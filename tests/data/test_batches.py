"""Batches: taken, joined, paired, and written to tables and back."""

from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalerec.data.batches import Bag, Batch, Vectors, take_ragged
from scalerec.data.frames import batch_from_table, batch_to_table, empty_batch
from scalerec.data.layout import BagField, IdField, Layout, NumberField, VectorField
from scalerec.data.pairing import pair
from scalerec.data.schema import Role, Task
from scalerec.errors import DataError

USER, ITEM, CONTEXT = Role.USER, Role.ITEM, Role.CONTEXT
LAYOUT = Layout(
    ids=(
        IdField(name="u", role=USER, table="u"),
        IdField(name="i", role=ITEM, table="i"),
        IdField(name="c", role=CONTEXT, table="c"),
    ),
    numbers=(NumberField(name="p", role=ITEM), NumberField(name="n", role=CONTEXT)),
    bags=(
        BagField(name="h", role=USER, table="i", max_length=3, history=True),
        BagField(name="g", role=ITEM, table="g", max_length=3),
    ),
    vectors=(VectorField(name="v", role=ITEM, dim=2), VectorField(name="w", role=USER, dim=1)),
    tables={"u": 9, "i": 9, "c": 9, "g": 9},
    tasks=(Task(name="y"), Task(name="z")),
)
EMPTY = Layout(ids=(), tables={}, tasks=(Task(name="y"),))


def draw_batch(size: int, seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(0, 9, shape, generator=draw)

    def bag() -> Bag:
        lengths = torch.randint(0, 4, (size,), generator=draw)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        return Bag(ids(int(offsets[-1])), offsets)

    def floats(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    vectors = tuple(Vectors(floats(size, d), ids(size) > 4) for d in (2, 1))
    return Batch(
        ids=ids(3, size),
        dense=floats(size, 2),
        bags=(bag(), bag()),
        vectors=vectors,
        labels=floats(size, 2),
        label_mask=ids(size, 2) > 4,
        weights=floats(size).abs(),
        groups=ids(size),
        times=ids(size),
        users=ids(size),
        items=ids(size),
    )


def rows_of(batch: Batch) -> list[object]:
    """Each row as plain values: the slow reference."""
    rows: list[object] = []
    for row in range(len(batch)):
        lists = [b.values[b.offsets[row] : b.offsets[row + 1]].tolist() for b in batch.bags]
        vectors = [(v.values[row].tolist(), v.present[row].item()) for v in batch.vectors]
        per_row = ("dense", "labels", "label_mask", "weights", "groups", "times", "users", "items")
        plain = [getattr(batch, name)[row].tolist() for name in per_row]
        rows.append([batch.ids[:, row].tolist(), lists, vectors, plain])
    return rows


BATCHES = st.builds(draw_batch, st.integers(0, 6), st.integers(0, 99))


@given(BATCHES, st.data())
def test_take_is_a_choice_of_rows(batch: Batch, data: st.DataObject) -> None:
    index = data.draw(
        st.lists(st.integers(0, max(0, len(batch) - 1)), max_size=8 * bool(len(batch)))
    )
    rows = rows_of(batch)
    taken = batch.take(torch.tensor(index, dtype=torch.int64))
    assert rows_of(taken) == [rows[i] for i in index]
    for bag in taken.bags:
        assert bag.offsets[0] == 0
        assert bag.lengths.sum() == len(bag.values)
        assert bag.rows.bincount(minlength=len(index)).tolist() == bag.lengths.tolist()


@given(BATCHES, st.data())
def test_a_slice_is_a_choice_of_rows_in_order(batch: Batch, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(batch)))
    stop = data.draw(st.integers(start, len(batch)))
    own = batch.slice(start, stop)
    assert rows_of(own) == rows_of(batch)[start:stop]
    assert all(int(bag.offsets[0]) == 0 for bag in own.bags)


@given(st.lists(BATCHES, min_size=1, max_size=4))
def test_concat_puts_rows_after_each_other(batches: list[Batch]) -> None:
    whole = Batch.concat(batches)
    assert rows_of(whole) == [row for batch in batches for row in rows_of(batch)]
    back = whole.take(torch.arange(len(batches[0])))
    assert rows_of(back) == rows_of(batches[0])
    assert rows_of(whole.to("cpu")) == rows_of(whole)


def test_take_ragged_of_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    values, offsets = take_ragged(torch.tensor([1.0]), torch.tensor([0, 1]), none)
    assert (values.tolist(), offsets.tolist()) == ([], [0])


@given(BATCHES, st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
def test_pairs_have_the_items_part_of_the_item(
    left: Batch, num_items: int, width: int, seed: int
) -> None:
    items = draw_batch(num_items, seed)
    draw = torch.Generator().manual_seed(seed)
    index = torch.randint(0, num_items, (len(left), width), generator=draw)
    before = rows_of(left)
    paired = pair(LAYOUT, left, items, index)
    assert rows_of(left) == before
    assert len(paired) == len(left) * width
    for row in range(len(paired)):
        user = left.take(torch.tensor([row // width]))
        item = items.take(index.flatten()[row : row + 1])
        own = paired.take(torch.tensor([row]))
        assert own.ids[:, 0].tolist() == [user.ids[0, 0], item.ids[1, 0], user.ids[2, 0]]
        assert own.dense[0].tolist() == [item.dense[0, 0], user.dense[0, 1]]
        assert own.bags[0].values.tolist() == user.bags[0].values.tolist()
        assert own.bags[1].values.tolist() == item.bags[1].values.tolist()
        assert own.vectors[0].values.tolist() == item.vectors[0].values.tolist()
        assert own.vectors[1].values.tolist() == user.vectors[1].values.tolist()
        assert own.labels.tolist() == user.labels.tolist()
        assert own.users.tolist() == user.users.tolist()
        assert own.items.tolist() == [index.flatten()[row]]


@given(BATCHES)
def test_tables_keep_the_fields_of_a_role(batch: Batch) -> None:
    keys = pa.array([f"k{i}" for i in range(len(batch))], pa.string())
    table = batch_to_table(LAYOUT, batch, [ITEM], {"key": keys})
    assert table.column_names == [
        "key", "ids/i", "numbers/p", "bags/g", "vectors/v", "present/v",
    ]  # fmt: skip
    back = batch_from_table(LAYOUT, table)
    assert back.ids[1].tolist() == batch.ids[1].tolist()
    assert back.ids[[0, 2]].eq(0).all()
    assert back.bags[0].lengths.eq(0).all()
    assert not back.vectors[1].present.any()
    every = batch_from_table(LAYOUT, batch_to_table(LAYOUT, batch, list(Role), {}))
    assert every.ids.equal(batch.ids)
    assert every.dense.equal(batch.dense)
    for bag, other in zip(every.bags, batch.bags, strict=True):
        assert bag.values.equal(other.values)
        assert bag.offsets.equal(other.offsets)
    for vectors, other_vectors in zip(every.vectors, batch.vectors, strict=True):
        assert vectors.values.equal(other_vectors.values)
        assert vectors.present.equal(other_vectors.present)


def test_a_table_in_many_chunks_is_read_whole() -> None:
    batch = draw_batch(5, 0)
    table = batch_to_table(LAYOUT, batch, list(Role), {})
    pieces = pa.concat_tables([table.slice(i, 1) for i in range(5)])
    assert rows_of(batch_from_table(LAYOUT, pieces)) == rows_of(batch_from_table(LAYOUT, table))


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        ("ids/i", pa.array([0, 9]), "column ids/i must hold ids from 0 to 8; got 0 to 9"),
        ("ids/i", pa.array([-1, 0]), "column ids/i must hold ids from 0 to 8; got -1 to 0"),
        (
            "ids/i",
            pa.array([0, None]),
            "column ids/i must hold whole numbers, no nulls; got int64 with",
        ),
        (
            "ids/i",
            pa.array(["a", "b"]),
            "column ids/i must hold whole numbers, no nulls; got string",
        ),
        ("numbers/p", pa.array(["a", "b"]), "column numbers/p must hold floats"),
        ("bags/g", pa.array([1, 2]), "column bags/g must hold lists"),
        (
            "bags/g",
            pa.array([[1], [9]], pa.large_list(pa.int32())),
            "column bags/g must hold ids from 0 to 8; got 1 to 9",
        ),
        ("vectors/v", pa.array([[1.0], [2.0]]), "column vectors/v must hold lists of 2 floats"),
        (
            "vectors/v",
            pa.array([[1.0, 2.0], [2.0, 1.0]], pa.list_(pa.float32(), 2)),
            "column vectors/v must hold lists beside a column that tells which are present",
        ),
    ],
)
def test_a_wrong_table_is_refused(name: str, column: pa.Array, words: str) -> None:
    with pytest.raises(DataError) as caught:
        batch_from_table(LAYOUT, pa.table({name: column}))
    assert str(caught.value).startswith(words)


def test_an_empty_batch_owns_its_tensors() -> None:
    batch = empty_batch(LAYOUT, 3)
    assert len(batch) == 3
    batch.users[0] = 5
    assert batch.items.tolist() == batch.groups.tolist() == [-1, -1, -1]
    assert len(empty_batch(EMPTY, 4)) == 4
    assert (
        len(pair(EMPTY, empty_batch(EMPTY, 2), empty_batch(EMPTY, 3), torch.zeros(2, 2).long()))
        == 4
    )
    assert {field.name for field in fields(Batch)} >= {"ids", "dense", "labels"}


def test_a_layout_knows_its_parts() -> None:
    assert LAYOUT.num_fields == 9
    assert LAYOUT.fields_of(USER) == [0, 5, 8]
    assert LAYOUT.fields_of(ITEM, CONTEXT) == [1, 2, 3, 4, 6, 7]
    assert LAYOUT.targets_of(LAYOUT.bags[0]) == [1]
    assert LAYOUT.num_outputs == 2
    assert Layout.from_dict(LAYOUT.to_dict()) == LAYOUT
    assert np.all([field.name for field in LAYOUT.fields])

"""Batches from stored columns: events with what the side tables and the logs say of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.columns import Columns
from scalerec.data.encoding import stored_names
from scalerec.data.frames import empty_batch
from scalerec.data.layout import BagField, Layout, VectorField
from scalerec.data.schema import Schema, TableName

__all__ = ["Assembler"]

Array = NDArray[Any]
# What a batch holds beside the fields, and the column it is stored in.
BESIDE = {"weights": "weight", "times": "time", "users": "user", "items": "item"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Some rows of a store."""

    columns: Columns
    rows: slice | Array

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.columns[name][self.rows]))

    def bag(self, name: str) -> Bag:
        values, offsets = self.columns.lists(name, self.rows)
        return Bag(torch.from_numpy(values.astype(np.int64)), torch.from_numpy(offsets))

    def vectors(self, name: str, present: str) -> Vectors:
        return Vectors(self.tensor(name), self.tensor(present))


class Assembler:
    """Builds batches.

    Args:
        schema: The data set's.
        layout: The data set's.
        store: Gives the columns of a directory by its name.
    """

    def __init__(self, schema: Schema, layout: Layout, store: Callable[[str], Columns]) -> None:
        self._schema = schema
        self._layout = layout
        self._store = store
        # Where a field is read: its stored name to the table of its feature.
        self._table_of: dict[str, TableName] = {
            name: feature.table for feature in schema.features for name in stored_names(feature)
        }
        self._histories = {feature.name: feature for feature in schema.history}

    def events(self, split: str, start: int, stop: int) -> Batch:
        """The events `start` .. `stop` of a split."""
        return self.rows(split, slice(start, stop))

    def rows(self, split: str, rows: slice | Array) -> Batch:
        """Some events of a split, by a stretch or by their numbers."""
        places = self._places(split, rows)
        own = places["events"]
        batch = self._batch(len(own.columns["labels"][rows]), places, own)
        labels = own.tensor("labels")
        group = "group" if self._schema.group else "user"
        return replace(
            batch,
            labels=labels.nan_to_num(0.0),
            label_mask=~labels.isnan(),
            groups=own.tensor(group).long() if group in own.columns else batch.groups,
        )

    def num_ids(self, split: str, rows: slice | Array) -> NDArray[np.int64]:
        """How many ids each of some rows looks up, ``[n]``; none of them is read."""
        places = self._places(split, rows)
        own = places["events"]
        found = np.full(len(own.columns["labels"][rows]), len(self._layout.ids), np.int64)
        for field in self._layout.bags:
            if field.history:
                past = f"past/{self._histories[field.name].history}"
                if past in own.columns:
                    found += np.minimum(own.columns[past][rows], field.max_length)
                continue
            place = places.get(self._table_of[name := f"bags/{field.name}"])
            if place is not None and name in place.columns:
                found += place.columns.lengths(name, place.rows)
        return found

    def _places(self, split: str, rows: slice | Array) -> dict[TableName, _Place]:
        """The rows themselves, and those of the side tables that belong to them."""
        own = _Place(self._store(split), rows)
        places: dict[TableName, _Place] = {"events": own}
        if self._schema.user:
            places["users"] = _Place(self._store("users"), own.columns["user"][rows])
        if self._schema.item:
            places["items"] = _Place(self._store("items"), own.columns["item"][rows])
        return places

    def entities(self, table: TableName, size: int) -> Batch:
        """All users or items: their own fields are filled, the others empty."""
        own = _Place(self._store(table), slice(0, size))
        return self._batch(size, {"events": own, table: own}, own)

    def _batch(self, size: int, places: Mapping[TableName, _Place], own: _Place) -> Batch:
        """Fill the fields that the places hold; an event's own columns are in `own`."""
        layout, batch = self._layout, empty_batch(self._layout, size)

        def place_of(name: str) -> _Place | None:
            place = places.get(self._table_of[name])
            return place if place is not None and name in place.columns else None

        def bag_of(field: BagField, empty: Bag) -> Bag:
            if field.history:
                return self._history(field, own) or empty
            place = place_of(name := f"bags/{field.name}")
            return place.bag(name) if place else empty

        def vectors_of(field: VectorField, empty: Vectors) -> Vectors:
            place = place_of(name := f"vectors/{field.name}")
            return place.vectors(name, f"present/{field.name}") if place else empty

        for i, field in enumerate(layout.ids):
            if place := place_of(name := f"ids/{field.name}"):
                batch.ids[i] = place.tensor(name)
        for i, number in enumerate(layout.numbers):
            if place := place_of(name := f"numbers/{number.name}"):
                batch.dense[:, i] = place.tensor(name)
        beside = {
            name: own.tensor(column).to(getattr(batch, name).dtype)
            for name, column in BESIDE.items()
            if column in own.columns
        }
        return replace(
            batch,
            bags=tuple(map(bag_of, layout.bags, batch.bags)),
            vectors=tuple(map(vectors_of, layout.vectors, batch.vectors)),
            **beside,
        )

    def _history(self, field: BagField, own: _Place) -> Bag | None:
        """The last of the events that each row's user had before, as ids of the items' keys."""
        # What has no history does not wait for a compiler.
        from scalerec.data.stretches import copy_stretches

        kind = self._histories[field.name].history
        if f"past/{kind}" not in own.columns:
            return None
        users, past = (own.columns[name][own.rows] for name in ("user", f"past/{kind}"))
        log = self._store(f"log-{kind}")
        kept = np.minimum(past, field.max_length).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        starts = log["offsets"][users] + past - kept
        ids = copy_stretches(log["items"], self._item_ids, starts, kept)
        return Bag(torch.from_numpy(ids), torch.from_numpy(offsets))

    @cached_property
    def _item_ids(self) -> Array:
        """Item number to the id of the item's key."""
        key = self._schema.item_key
        assert key is not None, "the schema of a history has one"
        return np.asarray(self._store("items")[f"ids/{key.name}"])

"""A data set that goes on where a bundle stands: its users and items keep their numbers.

The rows are first written as any data set's, users and items numbered among themselves. Then they
are joined to those of the bundle: the bundle's come first and keep their numbers, new ones follow.
What the new rows or side tables say of a user or an item replaces what the bundle knew; a key is
encoded anew, since it may have got an id or lost it. A known user's log starts with the history
that the bundle holds, and the items that the user met before are kept beside.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.columns import Columns, ColumnWriter, Specs
from scalerec.data.encoding import Encoders, stored_names
from scalerec.data.growing import GrowConfig
from scalerec.data.keys import KeyIndex
from scalerec.data.schema import Feature, Role
from scalerec.data.splits import SPLITS
from scalerec.data.vocabulary import FIRST_ID
from scalerec.errors import DataError

__all__ = ["Base", "Fresh", "check_base", "continue_stores"]

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]
# All values, and where each list starts, the end included.
Lists = tuple[Array, Numbers]


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What a bundle knows, for a data set that continues it.

    Args:
        digest: The bundle's.
        encoders: The bundle's.
        items: The bundle's catalogue; none without items.
        users: The bundle's users; none without users, or where it holds none.
        grow: How the encoders grow.
        left: Which of `users` and `items` are left behind.
    """

    digest: str
    encoders: Encoders
    items: pa.Table | None
    users: pa.Table | None
    grow: GrowConfig = field(default_factory=GrowConfig)
    left: tuple[str, ...] = ()

    def settings(self) -> dict[str, object]:
        """What shapes the data set, beside its own settings."""
        left = {"left": list(self.left)} if self.left else {}
        return {"continues": self.digest, "grow": self.grow.to_dict(), **left}


def check_base(eval_negatives: int) -> None:
    """Refuse to continue what cannot be.

    Args:
        eval_negatives: How many negatives were asked for.

    Raises:
        DataError: If there were any.
    """
    if eval_negatives:
        raise DataError(
            "eval_negatives are drawn from what no user met in all of the data, and a bundle does "
            "not hold all of it; leave them out"
        )


@dataclass(frozen=True, slots=True)
class Fresh:
    """Users or items of the new rows, numbered among themselves.

    Args:
        table: Column `key`, and `title` of items.
        num_listed: How many a side table lists; they have the first numbers.
    """

    table: pa.Table
    num_listed: int


def continue_stores(
    out: Path,
    stores: Mapping[str, Specs],
    base: Base,
    encoders: Encoders,
    fresh: Mapping[str, Fresh],
) -> tuple[dict[str, Specs], dict[str, pa.Table]]:
    """Join the stores of new rows to what a bundle knows, in place.

    Args:
        out: The data set's directory.
        stores: Its columns, as they were written.
        base: The bundle's part.
        encoders: The grown ones, with which the stores were written.
        fresh: What the new rows brought, by `users` and `items`.

    Returns:
        The columns of all stores, and the tables of all users and items.
    """
    known = {"users": base.users, "items": base.items}
    joined = {name: _Joined(_or_none(known[name]), own) for name, own in fresh.items()}
    writer = _Continued(out, stores, base, encoders, joined)
    done = dict(stores)
    for name in joined:
        if name in stores:
            done[name] = writer.entities(name)
    for kind in writer.histories:
        done[f"log-{kind}"] = writer.log(kind)
    for split in SPLITS:
        if stores[split]:
            done[split] = writer.events(split)
    return done, {name: own.table() for name, own in joined.items()}


class _Joined:
    """The bundle's users or items and those of the new rows as one, numbered through.

    Args:
        before: What the bundle knows of them, ``[n]``.
        fresh: Those of the new rows, ``[m]``.
    """

    def __init__(self, before: pa.Table, fresh: Fresh) -> None:
        self.before = before
        self.fresh = fresh
        index = KeyIndex(_whole(before["key"]))
        self.places: Numbers = index.add(_whole(fresh.table["key"]))
        self.keys = index.to_arrow().cast(pa.string())

    def __len__(self) -> int:
        return len(self.keys)

    def values(self, name: str, fresh: Array, described: Mask) -> Array:
        """A column of all: new where new rows describe them, else the bundle's, else zero."""
        joined = np.zeros((len(self), *fresh.shape[1:]), fresh.dtype)
        if name in self.before.column_names:
            joined[: len(self.before)] = _plain(self.before[name], fresh.shape[1:])
        joined[self.places[described]] = fresh[described]
        return joined

    def lists(self, known: Lists, fresh: Lists, described: Mask) -> Lists:
        """As `values`, of lists."""
        # Each one's place among the bundle's, then the new ones', then an empty list.
        rows = np.full(len(self), len(self.before) + len(described))
        rows[: len(self.before)] = np.arange(len(self.before))
        rows[self.places[described]] = np.flatnonzero(described) + len(self.before)
        starts = np.concatenate([known[1][:-1], fresh[1][:-1] + len(known[0]), [0]])
        lengths = np.concatenate([np.diff(known[1]), np.diff(fresh[1]), [0]])
        return _gather(np.concatenate([known[0], fresh[0]]), starts[rows], lengths[rows])

    def table(self) -> pa.Table:
        """Keys, and titles where there are any: the new one, unless it is but the key."""
        if "title" not in self.fresh.table.column_names:
            return pa.table({"key": self.keys})
        titles = self.keys.to_pylist()
        if "title" in self.before.column_names:
            titles[: len(self.before)] = self.before["title"].to_pylist()
        for place, title in zip(
            self.places.tolist(), self.fresh.table["title"].to_pylist(), strict=True
        ):
            if title != self.keys[place].as_py():
                titles[place] = title
        return pa.table({"key": self.keys, "title": pa.array(titles, pa.string())})


class _Continued:
    """Writes the joined stores."""

    def __init__(
        self,
        out: Path,
        stores: Mapping[str, Specs],
        base: Base,
        encoders: Encoders,
        joined: Mapping[str, _Joined],
    ) -> None:
        self.out, self.base, self.encoders, self.joined = out, base, encoders, joined
        self.stores = stores
        self.fresh = {n: Columns(out / n, specs) for n, specs in stores.items() if specs}
        kinds = (name.removeprefix("log-") for name in stores if name.startswith("log-"))
        self.histories = {kind: self._history(kind) for kind in kinds}

    def entities(self, table: str) -> Specs:
        """Write the features of all users or items anew."""
        own, fresh = self.joined[table], self.fresh[table]
        role = Role.USER if table == "users" else Role.ITEM
        writer = ColumnWriter(self._aside(table))
        for feature in self.encoders.schema.features:
            if feature.role is role and feature not in self.encoders.schema.history:
                self._feature(writer, feature, table)
        everyone = np.ones(len(own.fresh.table), bool)
        counts = np.zeros(len(own), np.int64)
        if "count" in own.before.column_names:
            counts[: len(own.before)] = own.before["count"].to_numpy()
        np.add.at(counts, own.places, np.asarray(fresh["train_count"]))
        writer.append("train_count", counts)
        writer.append(table[:-1], np.arange(len(own), dtype=np.int32))
        if table == "users":
            for kind, history in self.histories.items():
                past = own.values("", fresh[f"past/{kind}"], everyone)
                past[: len(own.before)] += np.diff(history[1]).astype(past.dtype)
                writer.append(f"past/{kind}", past)
            met = _lists(own.before, "met", len(own))
            writer.append_lists("met", met[0].astype(np.int32), np.diff(met[1]))
        return self._replace(table, writer)

    def log(self, kind: str) -> Specs:
        """Write a log in which each known user's history comes first."""
        users, items = self.joined["users"], self.joined["items"]
        log, past = self.fresh[f"log-{kind}"], self.histories[kind]
        fresh = items.places[log["items"]], np.asarray(log["offsets"])
        num_past = np.zeros(len(users), np.int64)
        num_past[: len(users.before)] = np.diff(past[1])
        num_fresh = np.zeros(len(users), np.int64)
        num_fresh[users.places] = np.diff(fresh[1])
        offsets = np.concatenate([[0], np.cumsum(num_past + num_fresh)])
        joined = np.empty(offsets[-1], np.int32)
        joined[_spread(offsets[: len(users.before)], past[1])] = past[0]
        joined[_spread((offsets[:-1] + num_past)[users.places], fresh[1])] = fresh[0]
        writer = ColumnWriter(self._aside(f"log-{kind}"))
        writer.append("items", joined)
        writer.append("offsets", offsets)
        return self._replace(f"log-{kind}", writer)

    def events(self, split: str) -> Specs:
        """Replace the columns of events that tell numbers of users and items."""
        store, specs = self.fresh[split], {**self.stores[split]}
        writer = ColumnWriter(self._aside(split))
        if "item" in store:
            writer.append("item", self.joined["items"].places[store["item"]].astype(np.int32))
        if "user" in store:
            users = self.joined["users"].places[store["user"]]
            writer.append("user", users.astype(np.int32))
            for kind, history in self.histories.items():
                longer = np.append(np.diff(history[1]), 0)[np.minimum(users, len(history[1]) - 1)]
                writer.append(f"past/{kind}", (store[f"past/{kind}"] + longer).astype(np.int32))
        for name, spec in writer.close().items():
            file = specs[name]["file"]
            (self._aside(split) / spec["file"]).replace(self.out / split / file)
            specs[name] = {**spec, "file": file}
        shutil.rmtree(self._aside(split), ignore_errors=True)
        return specs

    def _feature(self, writer: ColumnWriter, feature: Feature, table: str) -> None:
        own, fresh = self.joined[table], self.fresh[table]
        if self.encoders.schema.is_key(feature):
            for column in self.encoders.encode(feature, own.keys):
                writer.append(column.name, column.values)
            return
        listed = np.arange(len(own.fresh.table)) < own.fresh.num_listed
        described = listed if feature.table == table else self._met[table]
        if feature.is_absent:
            # Nothing new is said of it, so what is known stays.
            described = np.zeros_like(described)
        for name in stored_names(feature):
            if name in self.stores[table]:
                writer.append(name, own.values(name, fresh[name], described))
                continue
            known = _lists(own.before, name, len(own.before))
            values, offsets = own.lists(known, fresh.lists(name, slice(None)), described)
            writer.append_lists(name, values.astype(np.int32), np.diff(offsets))

    @cached_property
    def _met(self) -> dict[str, Mask]:
        """Which users and items some new event describes."""
        found: dict[str, Mask] = {}
        for table, own in self.joined.items():
            mask = found[table] = np.zeros(len(own.fresh.table), bool)
            for split in SPLITS:
                if self.stores[split]:
                    mask[self.fresh[split][table[:-1]]] = True
        return found

    def _history(self, kind: str) -> Lists:
        """The items that each of the bundle's users had in mind, as numbers.

        An item that has no id of its own any more cannot be told from others, and is left out.
        """
        schema, users = self.encoders.schema, self.joined["users"].before
        longest = max((f for f in schema.history if f.history == kind), key=lambda f: f.max_length)
        ids, offsets = _lists(users, f"bags/{longest.name}", len(users))
        assert schema.item_key is not None
        items = self.joined["items"].before
        name = f"ids/{schema.item_key.name}"
        of_item = items[name].to_numpy() if name in items.column_names else np.zeros(0, np.int64)
        numbers = np.full(max([FIRST_ID, *of_item + 1, *ids + 1]), -1)
        numbers[of_item] = np.arange(len(of_item))
        numbers[:FIRST_ID] = -1
        found = numbers[ids]
        rows = np.repeat(np.arange(len(users)), np.diff(offsets))[found >= 0]
        lengths = np.bincount(rows, minlength=len(users))
        return found[found >= 0], np.concatenate([[0], np.cumsum(lengths)])

    def _aside(self, name: str) -> Path:
        return self.out / f".{name}"

    def _replace(self, name: str, writer: ColumnWriter) -> Specs:
        specs = writer.close()
        shutil.rmtree(self.out / name)
        self._aside(name).rename(self.out / name)
        return specs


def _or_none(table: pa.Table | None) -> pa.Table:
    return pa.table({"key": pa.array([], pa.string())}) if table is None else table


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def _plain(column: pa.ChunkedArray, shape: tuple[int, ...]) -> Array:
    """A column of a bundle's table as an array, ``[n, *shape]``."""
    whole = _whole(column)
    flat = whole.flatten() if shape else whole
    values: Array = flat.to_numpy(zero_copy_only=False).reshape(len(whole), *shape)
    return values


def _lists(table: pa.Table, name: str, size: int) -> Lists:
    """A column of lists of a bundle's table; empty ones for rows that it does not have."""
    if name not in table.column_names:
        return np.zeros(0, np.int32), np.zeros(size + 1, np.int64)
    column = _whole(table[name])
    offsets = np.zeros(size + 1, np.int64)
    lengths = np.diff(column.offsets.to_numpy())
    offsets[1 : len(lengths) + 1] = np.cumsum(lengths)
    offsets[len(lengths) + 1 :] = offsets[len(lengths)]
    return column.flatten().to_numpy(), offsets


def _spread(starts: Numbers, offsets: Numbers) -> Numbers:
    """The place of every value of lists that are to start at `starts`."""
    lengths = np.diff(offsets)
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])


def _gather(values: Array, starts: Numbers, lengths: Numbers) -> Lists:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return values[np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])], offsets

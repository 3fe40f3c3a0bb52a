"""A data set on disk: encoded columns, memory-mapped, with a manifest and a digest.

```text
DATA/manifest.json     format, splits, where it came from, what was left out, digests
DATA/encoders.arrow    schema, vocabularies and statistics, fitted on the training rows
DATA/users.arrow       keys of users by number        DATA/users/   their features
DATA/items.arrow       keys and titles of items       DATA/items/   their features
DATA/train/ valid/ test/                              events
DATA/log-all/ log-positive/                           each user's events, once, in time order
DATA/negatives-valid/ negatives-test/                 stored negatives, if asked for
```
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.assembly import Assembler
from scalerec.data.batches import Batch
from scalerec.data.columns import Columns, check_digest
from scalerec.data.encoding import Encoders
from scalerec.data.layout import Layout
from scalerec.data.manifest import FORMAT, read_arrow, read_manifest
from scalerec.data.schema import Schema
from scalerec.errors import DataError

__all__ = ["FORMAT", "Dataset", "Events"]


class Dataset:
    """An opened data set.

    Args:
        directory: Where `prepare` wrote it.

    Raises:
        DataError: If there is no data set there, it is of a later format, or a file is missing or
            cut.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest = read_manifest(self.directory)
        self._stores = {
            name: Columns(self.directory / name, specs)
            for name, specs in self.manifest["stores"].items()
        }
        self.encoders = Encoders.from_table(self._table("encoders.arrow"))
        self.schema: Schema = self.encoders.schema
        self.layout: Layout = self.encoders.layout()
        self.digest: str = self.manifest["digest"]
        self.assembler = Assembler(self.schema, self.layout, self.store)

    @property
    def name(self) -> str:
        """The data set's name."""
        return str(self.manifest["name"])

    def num_rows(self, split: str) -> int:
        """Number of events of `train`, `valid` or `test`."""
        return int(self.manifest["rows"][split])

    def split(self, name: str) -> "Events":
        """The events of `train`, `valid` or `test`.

        Raises:
            DataError: If there is no such split, or it has no rows.
        """
        rows = self.manifest["rows"]
        if not rows.get(name):
            there = ", ".join(f"{split} ({number} rows)" for split, number in rows.items())
            raise DataError(f"{self.directory}: no rows in split {name!r}; there is {there}")
        return Events(self, name)

    def store(self, name: str) -> Columns:
        """A directory's columns, memory-mapped."""
        return self._stores[name]

    @cached_property
    def item_table(self) -> pa.Table:
        """Columns `key` and `title`, one row an item."""
        return self._table("items.arrow")

    @cached_property
    def user_table(self) -> pa.Table:
        """Column `key`, one row a user."""
        return self._table("users.arrow")

    @property
    def num_items(self) -> int:
        """I, the size of the catalogue; 0 if the schema has no item."""
        return len(self.item_table) if self.schema.item else 0

    @property
    def num_users(self) -> int:
        """U; 0 if the schema has no user."""
        return len(self.user_table) if self.schema.user else 0

    @cached_property
    def items(self) -> Batch:
        """The catalogue: every item as a row whose item fields are filled, the others empty.

        Raises:
            DataError: If the schema has no item.
        """
        self._need("item")
        return self.assembler.entities("items", self.num_items)

    @cached_property
    def users(self) -> Batch:
        """Every user as a row whose user fields are filled, histories as at the end of training.

        Raises:
            DataError: If the schema has no user.
        """
        self._need("user")
        return self.assembler.entities("users", self.num_users)

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """How often each item was met in training rows, ``[I]``; a continued bundle's count too.

        Raises:
            DataError: If the schema has no item.
        """
        self._need("item")
        return np.asarray(self.store("items")["train_count"])

    @cached_property
    def own_item_counts(self) -> NDArray[np.int64]:
        """How often each item was met in this data set's own training rows, ``[I]``.

        Raises:
            DataError: If the schema has no item.
        """
        self._need("item")
        return np.bincount(self.split("train").column("item"), minlength=self.num_items)

    @cached_property
    def met_before(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Users, and an item that each of them met before this data set's rows, ``[n]`` each.

        There are some only where the data set continues a bundle.
        """
        none = np.zeros(0, np.int64)
        if not self.schema.user or "met" not in self.store("users"):
            return none, none
        items, offsets = self.store("users").lists("met", slice(None))
        users = np.repeat(np.arange(self.num_users), np.diff(offsets))
        return users, items.astype(np.int64)

    def negatives(self, split: str) -> NDArray[np.int32]:
        """The stored negatives of a split, ``[n, count]``.

        Raises:
            DataError: If none were drawn when the data set was made.
        """
        if f"negatives-{split}" not in self._stores:
            raise DataError(
                f"{self.directory}: no stored negatives of split {split!r}; "
                "prepare with --eval-negatives"
            )
        return np.asarray(self.store(f"negatives-{split}")["items"])

    def verify(self) -> None:
        """Check every file against its digest.

        Raises:
            DataError: If one was changed.
        """
        for name, sha256 in self.manifest["files"].items():
            check_digest(self.directory / name, sha256)
        for store in self._stores.values():
            store.verify()

    def _need(self, key: str) -> None:
        if not getattr(self.schema, key):
            raise DataError(f"{self.directory}: its schema names no {key}")

    def _table(self, file: str) -> pa.Table:
        return read_arrow(self.directory / file, self.manifest["files"].get(file, ""))


class Events:
    """The events of one split, in the order of their files.

    Args:
        dataset: The data set.
        split: A split that has rows.
    """

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.dataset = dataset
        self.name = split

    def __len__(self) -> int:
        return self.dataset.num_rows(self.name)

    def read(self, start: int, stop: int) -> Batch:
        """The events `start` .. `stop` as one batch, fewer where they end before."""
        return self.dataset.assembler.events(self.name, start, min(stop, len(self)))

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """Events by their numbers, in that order; no others are read."""
        return self.dataset.assembler.rows(self.name, rows)

    def num_ids(self, rows: slice | NDArray[np.int64]) -> NDArray[np.int64]:
        """How many ids each of some events looks up; none of them is read."""
        return self.dataset.assembler.num_ids(self.name, rows)

    def column(self, name: str) -> NDArray[Any]:
        """A stored column by its name, memory-mapped.

        Args:
            name: `labels` (NaN where unknown), `user`, `item`, `time`, `weight`, `group`.

        Raises:
            DataError: If the schema has no such column.
        """
        columns = self.dataset.store(self.name)
        if name not in columns:
            raise DataError(f"{self.dataset.directory}: the events have no column {name!r}")
        return columns[name]

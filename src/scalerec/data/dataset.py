"""A data set on disk: encoded columns, memory-mapped, with a manifest and a digest.

```text
DATA/manifest.json     format, schema, splits, where it came from, what was left out, digest
DATA/encoders.arrow    vocabularies and statistics, fitted on the training rows
DATA/users.arrow       keys of users by number        DATA/users/   their features
DATA/items.arrow       keys and titles of items       DATA/items/   their features
DATA/train/ valid/ test/                              events
DATA/log-all/ log-positive/                           each user's events, once, in time order
```
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.data.batches import Bag, Batch, Vectors
from scalerec.data.columns import Columns, ColumnWriter
from scalerec.data.encoding import Encoders
from scalerec.data.layout import Layout
from scalerec.data.schema import Feature, Schema, TableName
from scalerec.errors import DataError

__all__ = ["FORMAT", "Dataset", "Events", "write_manifest"]

FORMAT = 1
Array = NDArray[Any]


class Dataset:
    """An opened data set.

    Args:
        directory: Where `prepare` wrote it.

    Raises:
        DataError: If there is no data set there, it is of a later format, or a file is missing or cut.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.manifest = _read_manifest(self.directory)
        self.encoders = Encoders.from_table(_read_arrow(self.directory / "encoders.arrow"))
        self.schema: Schema = self.encoders.schema
        self.layout: Layout = self.encoders.layout()
        self.digest: str = self.manifest["digest"]
        self._stores: dict[str, Columns] = {}

    @property
    def name(self) -> str:
        """The data set's name."""
        return str(self.manifest["name"])

    def num_rows(self, split: str) -> int:
        """Number of events of a split."""
        return int(self.manifest["rows"][split])

    def split(self, name: str) -> "Events":
        """The events of `train`, `valid` or `test`.

        Raises:
            DataError: If there is no such split, or it has no rows.
        """
        if not self.manifest["rows"].get(name):
            there = ", ".join(f"{k} ({n} rows)" for k, n in self.manifest["rows"].items())
            raise DataError(f"{self.directory}: no rows in split {name!r}; there is {there}")
        return Events(self, name)

    def store(self, name: str) -> Columns:
        """A directory's columns, memory-mapped."""
        if name not in self._stores:
            specs = self.manifest["stores"].get(name, {})
            self._stores[name] = Columns(self.directory / name, specs)
        return self._stores[name]

    @cached_property
    def item_table(self) -> pa.Table:
        """Columns `key` and `title`, one row an item."""
        return _read_arrow(self.directory / "items.arrow")

    @cached_property
    def user_table(self) -> pa.Table:
        """Column `key`, one row a user."""
        return _read_arrow(self.directory / "users.arrow")

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
        """The catalogue: every item as a row whose item fields are filled, the others empty."""
        return _Assembler(self).entities("items", self.num_items)

    @cached_property
    def users(self) -> Batch:
        """Every user as a row whose user fields are filled, histories as at the end of training."""
        return _Assembler(self).entities("users", self.num_users)

    @cached_property
    def item_counts(self) -> NDArray[np.int64]:
        """How often each item was met in the training rows, ``[I]``."""
        return np.asarray(self.store("items")["train_count"])

    def negatives(self, split: str) -> NDArray[np.int32]:
        """The stored negatives of a split, ``[n, count]``.

        Raises:
            DataError: If none were drawn when the data set was made.
        """
        if f"negatives-{split}" not in self.manifest["stores"]:
            raise DataError(f"{self.directory}: no stored negatives; prepare with --eval-negatives")
        return np.asarray(self.store(f"negatives-{split}")["items"])


class Events:
    """The events of one split, in the order of their files."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        self.dataset = dataset
        self.name = split
        self._columns = dataset.store(split)
        self._assembler = _Assembler(dataset)

    def __len__(self) -> int:
        return self.dataset.num_rows(self.name)

    def read(self, start: int, stop: int) -> Batch:
        """The events `start` .. `stop` as one batch."""
        return self._assembler.events(self._columns, start, min(stop, len(self)))

    def column(self, name: str) -> Array:
        """A stored column by its name, memory-mapped: `labels`, `user`, `item`, `time`, `weight`."""
        return self._columns[name]


class _Assembler:
    """Builds batches from stores."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.layout = dataset.layout
        self.by_name = {feature.name: feature for feature in dataset.schema.features}

    def feature_of(self, field: str) -> Feature:
        """A field's feature; the parts of a timestamp are named `FEATURE.part`."""
        return self.by_name.get(field) or self.by_name[field.rpartition(".")[0]]

    def events(self, columns: Columns, start: int, stop: int) -> Batch:
        here = slice(start, stop)
        numbers = {
            table: columns[name][here] if name in columns else None
            for table, name in (("users", "user"), ("items", "item"))
        }
        size = stop - start
        parts = _Parts(self, size)

        def rows(feature: Feature, name: str) -> Array:
            if feature.table == "events":
                return columns[name][here]
            return self.dataset.store(feature.table)[name][numbers[feature.table]]

        def lists(feature: Feature, name: str) -> Bag:
            if feature in self.dataset.schema.history:
                users, past = numbers["users"], columns[f"past/{feature.history}"][here]  # type: ignore[union-attr]
                assert users is not None
                return self.histories(feature, users, past)
            if feature.table == "events":
                return _bag(*columns.ragged(name).slice(start, stop))
            ragged = self.dataset.store(feature.table).ragged(name)
            whole = _bag(ragged.values, ragged.offsets)
            index = numbers[feature.table]
            assert index is not None
            return whole.take(torch.from_numpy(index.astype(np.int64)))

        labels = torch.from_numpy(columns["labels"][here].copy())
        mask = ~labels.isnan()
        return Batch(
            ids=parts.ids(rows),
            dense=parts.dense(rows),
            bags=parts.bags(lists),
            vectors=parts.vectors(rows),
            labels=labels.nan_to_num_(0.0),
            label_mask=mask,
            weights=_optional(columns, "weight", here, size, 1.0, torch.float32),
            groups=_optional(columns, self._group_column(), here, size, -1, torch.int64),
            times=_optional(columns, "time", here, size, 0, torch.int64),
            users=_optional(columns, "user", here, size, -1, torch.int64),
            items=_optional(columns, "item", here, size, -1, torch.int64),
        )

    def _group_column(self) -> str:
        return "group" if self.dataset.schema.group else "user"

    def entities(self, table: TableName, size: int) -> Batch:
        columns = self.dataset.store(table)
        parts = _Parts(self, size)

        def rows(feature: Feature, name: str) -> Array | None:
            del feature
            return columns[name] if name in columns else None

        def lists(feature: Feature, name: str) -> Bag:
            if feature in self.dataset.schema.history and table == "users":
                seen = self.dataset.store(f"log-{feature.history}")["seen"]  # type: ignore[union-attr]
                return self.histories(feature, np.arange(size), seen)
            if name in columns:
                ragged = columns.ragged(name)
                return _bag(ragged.values, ragged.offsets)
            return Bag(torch.zeros(0, dtype=torch.int64), torch.zeros(size + 1, dtype=torch.int64))

        own = torch.arange(size)
        none = torch.full((size,), -1)
        num_tasks = len(self.layout.tasks)
        return Batch(
            ids=parts.ids(rows),
            dense=parts.dense(rows),
            bags=parts.bags(lists),
            vectors=parts.vectors(rows),
            labels=torch.zeros(size, num_tasks),
            label_mask=torch.zeros(size, num_tasks, dtype=torch.bool),
            weights=torch.ones(size),
            groups=none,
            times=torch.zeros(size, dtype=torch.int64),
            users=own if table == "users" else none,
            items=own if table == "items" else none,
        )

    def histories(self, feature: Feature, users: Array, past: Array) -> Bag:
        """The last `max_length` of the first `past` events of each user, as item ids."""
        log = self.dataset.store(f"log-{feature.history}")  # type: ignore[union-attr]
        kept = np.minimum(past, feature.max_length).astype(np.int64)  # type: ignore[union-attr]
        ends = log["offsets"][users] + past
        offsets = np.zeros(len(kept) + 1, np.int64)
        np.cumsum(kept, out=offsets[1:])
        places = np.repeat(ends - kept - offsets[:-1], kept) + np.arange(offsets[-1])
        return _bag(self.item_ids[log["items"][places]], offsets)

    @cached_property
    def item_ids(self) -> Array:
        """Item number to the id of the item's key."""
        history = next(bag for bag in self.layout.bags if bag.history)
        field = self.layout.ids[self.layout.targets_of(history)[0]]
        return np.asarray(self.dataset.store("items")[f"ids/{field.name}"])


class _Parts:
    """The four kinds of fields of a batch of `size` rows, each gathered by a given reader."""

    def __init__(self, assembler: _Assembler, size: int) -> None:
        self.assembler = assembler
        self.size = size

    def ids(self, rows: Any) -> Tensor:
        fields = self.assembler.layout.ids
        out = np.zeros((len(fields), self.size), np.int64)
        for i, field in enumerate(fields):
            values = rows(self.assembler.feature_of(field.name), f"ids/{field.name}")
            if values is not None:
                out[i] = values
        return torch.from_numpy(out)

    def dense(self, rows: Any) -> Tensor:
        fields = self.assembler.layout.numbers
        out = np.zeros((self.size, len(fields)), np.float32)
        for i, field in enumerate(fields):
            values = rows(self.assembler.feature_of(field.name), f"numbers/{field.name}")
            if values is not None:
                out[:, i] = values
        return torch.from_numpy(out)

    def bags(self, lists: Any) -> tuple[Bag, ...]:
        return tuple(
            lists(self.assembler.feature_of(field.name), f"bags/{field.name}")
            for field in self.assembler.layout.bags
        )

    def vectors(self, rows: Any) -> tuple[Vectors, ...]:
        made = []
        for field in self.assembler.layout.vectors:
            feature = self.assembler.feature_of(field.name)
            values = rows(feature, f"vectors/{field.name}")
            present = rows(feature, f"present/{field.name}")
            if values is None:
                values = np.zeros((self.size, field.dim), np.float32)
                present = np.zeros(self.size, bool)
            made.append(Vectors(torch.from_numpy(values.copy()), torch.from_numpy(present.copy())))
        return tuple(made)


def _bag(values: Array, offsets: Array) -> Bag:
    return Bag(
        torch.from_numpy(values.astype(np.int64)), torch.from_numpy(offsets.astype(np.int64))
    )


def _optional(
    columns: Columns, name: str, here: slice, size: int, default: float, dtype: torch.dtype
) -> Tensor:
    if name not in columns:
        return torch.full((size,), default, dtype=dtype)
    return torch.from_numpy(columns[name][here].copy()).to(dtype)


def write_manifest(
    out: Path,
    raw: Any,
    encoders: Encoders,
    stores: dict[str, dict[str, dict[str, Any]]],
    problems: Any,
    config: Mapping[str, Any],
    entities: tuple[list[str], list[str], list[str]],
    negatives: Mapping[str, Array],
) -> None:
    """Write everything of a data set but its columns, and last the manifest.

    Args:
        out: The data set's directory.
        raw: Where it came from.
        encoders: Fitted ones.
        stores: Directory to its columns' specs.
        problems: What was left out.
        config: The settings it was made with.
        entities: Keys of users, keys of items, titles of items.
        negatives: Stored negatives by split.
    """
    users, items, titles = entities
    _write_arrow(out / "encoders.arrow", encoders.to_table())
    _write_arrow(out / "users.arrow", pa.table({"key": pa.array(users, pa.string())}))
    keys = {"key": pa.array(items, pa.string()), "title": pa.array(titles, pa.string())}
    _write_arrow(out / "items.arrow", pa.table(keys))
    for split, drawn in negatives.items():
        writer = ColumnWriter(out / f"negatives-{split}")
        writer.append("items", drawn)
        stores[f"negatives-{split}"] = writer.close()
    rows = {
        split: stores[split]["labels"]["rows"] if stores[split] else 0
        for split in ("train", "valid", "test")
    }
    manifest = {
        "format": FORMAT,
        "name": raw.name,
        "notes": list(raw.notes),
        "config": dict(config),
        "rows": rows,
        "skipped": problems.num_skipped,
        "skipped_rows": [str(problem) for problem in problems.listed],
        "collisions": {
            name: vocabulary.collision_rate
            for name, vocabulary in encoders.vocabularies.items()
            if hasattr(vocabulary, "collision_rate")
        },
        "stores": stores,
    }
    manifest["digest"] = _digest(out, manifest)
    text = json.dumps(manifest, indent=1, sort_keys=True)
    (out / "manifest.json").write_text(text, "utf-8")


def _digest(out: Path, manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the columns' digests and the small files: equal data, equal digest."""
    digest = hashlib.sha256()
    for name in ("encoders.arrow", "users.arrow", "items.arrow"):
        digest.update((out / name).read_bytes())
    digest.update(json.dumps([manifest["rows"], manifest["stores"]], sort_keys=True).encode())
    return digest.hexdigest()


def _write_arrow(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _read_arrow(path: Path) -> pa.Table:
    try:
        with pa.OSFile(str(path), "rb") as file:
            return pa.ipc.open_file(file).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read: {error}; prepare the data set again") from None


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / "manifest.json"
    if not path.is_file():
        raise DataError(f"{directory}: no data set here (no manifest.json); make one with: prepare")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable: {error}; prepare the data set again") from None
    if manifest.get("format", 0) > FORMAT:
        raise DataError(
            f"{path}: format {manifest['format']}; this version reads up to {FORMAT}; "
            "upgrade scalerec or prepare the data set again"
        )
    return manifest  # type: ignore[no-any-return]

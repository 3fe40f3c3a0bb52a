"""Protocols of cold start: tasks that a model has never met, fixed queries, and the ceiling.

The keys of a data set (users, items, or what a column says) are divided into those that train and
those held out for validation and test. A held-out key is out-of-vocabulary for the model. Of each
held-out task a fixed number of rows, drawn by chance, is its query; a method adapts on some of the
others. The ceiling learns from the training rows and from all rows of held-out tasks but queries.

Histories are left out of the features: they would tell a model what no example told.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.data.dataset import Dataset
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.problems import Problems
from scalerec.data.raw import RawData
from scalerec.data.schema import Schema
from scalerec.data.sources import Source, TableSource
from scalerec.data.splits import SPLITS, SplitConfig, assign_splits
from scalerec.errors import DataError
from scalerec.meta.tasks import Episode, TaskSet

__all__ = ["Protocol", "ProtocolConfig", "hold_out_keys", "without_features"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolConfig(Config):
    """How tasks are held out and judged.

    Args:
        by: `user`, `item`, or a column of the events or the items table, such as a domain.
        valid: Share of keys that are held out for choosing settings.
        test: Share of keys that are held out for the figures.
        warm: Share of the training rows that are kept aside, by which the price is judged that
            known keys pay.
        least_rows: Keys with fewer rows are never held out; they train.
        most_rows: Keys with more rows are left out altogether; 0 for no limit.
        num_query: Query rows of each held-out task, below `least_rows`.
        seed: Of keys, warm rows and queries.
    """

    by: str = "user"
    valid: float = 0.1
    test: float = 0.2
    warm: float = 0.05
    least_rows: int = 40
    most_rows: int = 0
    num_query: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        SplitConfig(valid=self.valid, test=self.test)
        require(0 <= self.warm < 1, f"warm must be in [0, 1); got {self.warm}")
        good = 1 <= self.num_query < self.least_rows
        require(good, f"num_query must be from 1 to least_rows - 1; got {self.num_query}")
        require(self.most_rows >= 0, f"most_rows must be at least 0; got {self.most_rows}")


@dataclass(frozen=True, slots=True)
class Protocol:
    """A data set whose later parts are tasks that are new to a model.

    Args:
        config: How it was made.
        dataset: `train`: rows of training keys; `valid` and `test`: those of held-out keys.
        warm: The same training rows and encoders; `valid`: the training keys' rows kept aside.
        raw: The raw data, its events by split.
        tables: The events of each split of `dataset`, in its order.
    """

    config: ProtocolConfig
    dataset: Dataset
    warm: Dataset
    raw: RawData
    tables: Mapping[str, pa.Table]

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split; those of `train` with at least two rows."""
        least = 2 if split == "train" else self.config.least_rows
        events = self.dataset.split(split)
        if self.config.by in ("user", "item"):
            return TaskSet(events, self.config.by, least_rows=least)
        keys = _codes(_keys(self.raw, self.tables[split], self.config.by))
        return TaskSet(events, self.config.by, least_rows=least, keys=torch.from_numpy(keys))

    def episode(self, split: str) -> Episode:
        """All held-out tasks of a split: the fixed queries, and all other rows as support.

        Supports are in an order of chance: `Episode.first` gives the first few.
        """
        tasks = self.tasks(split)
        generator = torch.Generator().manual_seed(self.config.seed)
        return tasks.episode(torch.arange(len(tasks)), None, self.config.num_query, generator)

    def ceiling(self, split: str, folder: Path, group: int = 0, num_groups: int = 1) -> Dataset:
        """The data of a ceiling: training rows, and supports of some held-out tasks.

        A ceiling also learns from other tasks of its group, which no adapting method may: with 30%
        of MovieLens 100K's users in one group, half of the distance to the ceiling was theirs. More
        groups give a fairer ceiling, and cost a training each.

        Args:
            split: Whose tasks.
            folder: Where it is written; it must not be there.
            group: Which tasks of the episode, from 0: those whose place leaves it as remainder.
            num_groups: Of how many.

        Returns:
            `train`: the training rows and the group's supports; `valid`: the group's queries, in
            the order of `episode(split).take(tasks).query.rows`.
        """
        require(0 <= group < num_groups, f"group must be below {num_groups}; got {group}")
        episode = self.episode(split)
        episode = episode.take(torch.arange(group, len(episode), num_groups))
        table = self.tables[split]
        learned = [self.tables["train"], table.take(episode.support.rows.numpy())]
        queries = table.take(episode.query.rows.numpy())
        return _prepare(self.raw, {"train": pa.concat_tables(learned), "valid": queries}, folder)


def hold_out_keys(raw: RawData, config: ProtocolConfig, folder: Path) -> Protocol:
    """Hold keys out of a data set.

    Args:
        raw: One table of events, still to be split; it is read whole.
        config: How.
        folder: Where data sets are written; it must not be there.

    Raises:
        DataError: If the events are split already, or there is no such key.
    """
    if raw.splits.keys() != {"all"}:
        raise DataError(f"{raw.name}: a protocol divides events itself; they are split already")
    raw = replace(raw, schema=_without_history(raw.schema))
    table = _read(raw.splits["all"])
    codes = _codes(_keys(raw, table, config.by))
    splits = _splits(raw, codes, config)
    parts = {name: table.filter(splits == place) for place, name in enumerate(SPLITS)}
    aside = np.random.default_rng(config.seed).random(parts["train"].num_rows) < config.warm
    warm, parts["train"] = parts["train"].filter(aside), parts["train"].filter(~aside)
    parts = {name: part for name, part in parts.items() if part.num_rows}
    dataset = _prepare(raw, parts, folder / "cold")
    beside = {"train": parts["train"], **({"valid": warm} if warm.num_rows else {})}
    return Protocol(config, dataset, _prepare(raw, beside, folder / "warm"), raw, parts)


def without_features(raw: RawData, *names: str) -> RawData:
    """The raw data with some features left out of the schema.

    Args:
        raw: The tables.
        names: Of features that are there.

    Raises:
        DataError: If one is not there.
    """
    known = [feature.name for feature in raw.schema.features]
    for name in names:
        if name not in known:
            raise DataError(f"{raw.name}: no feature {name!r}; there is {', '.join(known)}")
    left = [f.to_dict() for f in raw.schema.features if f.name not in names]
    return replace(raw, schema=raw.schema.replace(features=left))


def _splits(raw: RawData, codes: NDArray[np.int64], config: ProtocolConfig) -> NDArray[np.int8]:
    """0 train, 1 valid, 2 test, -1 left out, ``[rows]``."""
    counts = np.bincount(codes)
    most = config.most_rows or int(counts.max())
    wanted = np.flatnonzero((counts >= config.least_rows) & (counts <= most))
    if not len(wanted):
        raise DataError(f"{raw.name}: no {config.by} has {config.least_rows} to {most} rows")
    of_key = np.where(counts <= most, 0, -1).astype(np.int8)
    split = SplitConfig(by="user", valid=config.valid, test=config.test, seed=config.seed)
    of_key[wanted] = assign_splits(split, len(wanted), None, np.arange(len(wanted)))
    return of_key[codes]


def _without_history(schema: Schema) -> Schema:
    left = [feature.to_dict() for feature in schema.features if feature not in schema.history]
    return schema.replace(features=left)


def _prepare(raw: RawData, parts: Mapping[str, pa.Table], folder: Path) -> Dataset:
    sources = {name: TableSource(part, f"{raw.name}, {name}") for name, part in parts.items()}
    # No part is cut from the training rows where there is none to validate on.
    config = PrepareConfig(split=SplitConfig(valid=0.0, test=0.0))
    return prepare(replace(raw, splits=sources), folder, config)


def _read(source: Source) -> pa.Table:
    problems = Problems("fail")
    chunks = [chunk.table for chunk in source.chunks(tuple(source.columns), problems)]
    return pa.Table.from_batches(chunks) if chunks else pa.table({})


def _keys(raw: RawData, events: pa.Table, by: str) -> pa.Array:
    """What each event's task is called, ``[rows]``."""
    column = {"user": raw.schema.user, "item": raw.schema.item}.get(by, by)
    if column and column in events.column_names:
        return events.column(column).combine_chunks()
    if raw.items is not None and by in raw.items.columns:
        items = _read(raw.items)
        key = raw.schema.key_of("items")
        places = pc.index_in(
            events.column(raw.schema.item).cast(pa.string()), items.column(key).cast(pa.string())
        )
        return items.column(by).combine_chunks().take(places.combine_chunks())
    raise DataError(f"{raw.name}: no column {by!r} in the events or the items")


def _codes(keys: pa.Array) -> NDArray[np.int64]:
    """A number for each key, in the order in which they come."""
    codes: NDArray[np.int64] = keys.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes.astype(np.int64)

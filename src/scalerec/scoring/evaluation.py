"""Evaluation over a whole split: metrics of every task, and full-catalogue ranking."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import Config, require
from scalerec.data.batches import Bag, Batch
from scalerec.data.dataset import Dataset, Events
from scalerec.data.loading import read_in_order
from scalerec.data.schema import Role, Task, TaskKind
from scalerec.data.splits import SPLITS
from scalerec.metrics import (
    BinaryMetrics,
    MulticlassMetrics,
    RankingMetrics,
    RegressionMetrics,
    catalogue_coverage,
    intra_list_diversity,
    novelty,
)
from scalerec.models.recommender import Recommender
from scalerec.scoring.ranking import catalogue_scores, top_items
from scalerec.scoring.scores import SCORE_BATCH, predict, score_all, task_slices

__all__ = ["EvaluateConfig", "Evaluation", "Queries", "evaluate", "queries_of", "rank_metrics"]

Metrics = dict[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(Config):
    """What is measured.

    Args:
        split: `test` or `valid`, or `train`.
        ranking: Whether items are ranked: `auto` does where the schema has users and items, the first
            task has positives, and a full ranking needs at most `max_pairs` scores.
        ks: Lengths of the lists.
        max_pairs: Users times items up to which `auto` ranks.
    """

    split: str = "test"
    ranking: str = "auto"
    ks: tuple[int, ...] = (5, 10, 20)
    max_pairs: int = 20_000_000

    def __post_init__(self) -> None:
        require(self.split in SPLITS, f"split must be one of {SPLITS}; got {self.split!r}")
        words = ("auto", "yes", "no")
        require(self.ranking in words, f"ranking must be one of {words}; got {self.ranking!r}")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Args:
        rows: Number of events.
        metrics: By name; a task's name comes before a dot where there are several tasks. None where a
            metric is undefined.
        counts: What the metrics were computed over, and what was left out as undefined.
    """

    rows: int
    metrics: Metrics
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Queries:
    """Users of a split, as they were at their first event in it.

    Args:
        users: Their rows, ``[U]``.
        relevant: Numbers of the items they then chose and had not met before.
        met: Numbers of the items they had met in earlier splits, which no list may hold.
    """

    users: Batch
    relevant: Bag
    met: Bag


def evaluate(
    recommender: Recommender, dataset: Dataset, config: EvaluateConfig | None = None
) -> Evaluation:
    """Measure a model on a split of a data set.

    Raises:
        DataError: If the split has no rows.
    """
    config = config or EvaluateConfig()
    events = dataset.split(config.split)
    metrics, counts = _task_metrics(recommender, events)
    if _shall_rank(config, dataset, events):
        ranked, ranked_counts = _ranking(recommender, dataset, config)
        metrics.update(ranked)
        counts.update(ranked_counts)
    return Evaluation(len(events), metrics, counts)


def _task_metrics(recommender: Recommender, events: Events) -> tuple[Metrics, dict[str, int]]:
    layout = recommender.layout
    meters = [_meter(task) for task in layout.tasks]
    device = recommender.tables.matrix.device
    for batch, logits in score_all(recommender, read_in_order(events, SCORE_BATCH), device):
        predictions = predict(layout, torch.from_numpy(logits)).double().numpy()
        for i, (meter, columns) in enumerate(zip(meters, task_slices(layout), strict=True)):
            if meter is not None:
                _update(meter, layout.tasks[i], batch, i, predictions[:, columns])
    metrics: Metrics = {}
    counts: dict[str, int] = {}
    for task, meter in zip(layout.tasks, meters, strict=True):
        if meter is not None:
            head = f"{task.name}." if len(layout.tasks) > 1 else ""
            metrics.update({f"{head}{name}": value for name, value in meter.compute().items()})
            counts.update({f"{head}{name}": value for name, value in meter.counts().items()})
    return metrics, counts


def _meter(task: Task) -> Any:
    if task.kind is TaskKind.BINARY:
        return BinaryMetrics()
    if task.kind is TaskKind.MULTICLASS:
        return MulticlassMetrics()
    return RegressionMetrics() if task.kind is TaskKind.REGRESSION else None


def _update(
    meter: Any, task: Task, batch: Batch, column: int, predictions: NDArray[np.float64]
) -> None:
    known = batch.label_mask[:, column].numpy()
    labels = batch.labels[:, column].numpy()[known]
    weights = batch.weights.numpy()[known]
    own = predictions[known]
    if task.kind is TaskKind.BINARY:
        groups = batch.groups.numpy()
        has_groups = bool((groups >= 0).all()) and len(groups) > 0
        meter.update(
            labels, own[:, 0], weights=weights, groups=groups[known] if has_groups else None
        )
    elif task.kind is TaskKind.MULTICLASS:
        meter.update(labels.astype(np.int64), own, weights=weights)
    else:
        meter.update(labels, own[:, 0], weights=weights)


def _shall_rank(config: EvaluateConfig, dataset: Dataset, events: Events) -> bool:
    schema = dataset.schema
    can = bool(schema.user and schema.item) and schema.tasks[0].kind in (
        TaskKind.BINARY,
        TaskKind.RETRIEVAL,
    )
    require(can or config.ranking != "yes", "ranking needs a user, an item and a binary first task")
    if config.ranking != "auto":
        return config.ranking == "yes"
    if not can:
        return False
    num_users = len(np.unique(events.column("user")))
    return num_users * dataset.num_items <= config.max_pairs


def queries_of(dataset: Dataset, split: str) -> Queries:
    """The users of a split that chose something in it, ready to be ranked for."""
    events = dataset.split(split)
    users = np.asarray(events.column("user")).astype(np.int64)
    items = np.asarray(events.column("item")).astype(np.int64)
    labels = np.nan_to_num(np.asarray(events.column("labels"))[:, 0])
    retrieval = dataset.schema.tasks[0].kind is TaskKind.RETRIEVAL
    positive = np.ones(len(users), bool) if retrieval else labels > 0
    times = np.asarray(events.column("time")) if dataset.schema.timestamp else np.arange(len(users))
    order = np.lexsort((np.arange(len(users)), times, users))
    distinct, first = np.unique(users[order], return_index=True)
    chosen = np.isin(distinct, users[positive])
    distinct, rows = distinct[chosen], order[first[chosen]]
    at_first = _rows(events, rows)
    met = _met_before(dataset, split, distinct)
    relevant = _without(_items_of(distinct, users[positive], items[positive]), met)
    return Queries(at_first, relevant, met)


def _rows(events: Events, rows: NDArray[np.int64]) -> Batch:
    ordered = np.sort(rows)
    parts = []
    for start in range(0, len(events), SCORE_BATCH):
        own = ordered[(ordered >= start) & (ordered < start + SCORE_BATCH)]
        if len(own):
            block = events.read(start, start + SCORE_BATCH)
            parts.append(block.take(torch.from_numpy(own - start)))
    back = torch.from_numpy(np.searchsorted(ordered, rows))
    return Batch.concat(parts).take(back)


def _items_of(wanted: NDArray[np.int64], users: NDArray[np.int64], items: NDArray[np.int64]) -> Bag:
    """Distinct items of each wanted user; `wanted` is in order."""
    own = np.isin(users, wanted)
    pairs = np.unique(np.stack([np.searchsorted(wanted, users[own]), items[own]]), axis=1)
    offsets = np.zeros(len(wanted) + 1, np.int64)
    np.cumsum(np.bincount(pairs[0], minlength=len(wanted)), out=offsets[1:])
    return Bag(torch.from_numpy(pairs[1].copy()), torch.from_numpy(offsets))


def _met_before(dataset: Dataset, split: str, users: NDArray[np.int64]) -> Bag:
    earlier = [s for s in SPLITS[: SPLITS.index(split)] if dataset.num_rows(s)]
    stores = [dataset.split(name) for name in earlier]
    none = np.zeros(0, np.int64)
    who = np.concatenate([none, *(np.asarray(s.column("user")) for s in stores)])
    what = np.concatenate([none, *(np.asarray(s.column("item")) for s in stores)])
    return _items_of(users, who, what)


def _ranking(
    recommender: Recommender, dataset: Dataset, config: EvaluateConfig
) -> tuple[Metrics, dict[str, int]]:
    queries = queries_of(dataset, config.split)
    if not len(queries.users):
        return {}, {"ranked_users": 0}
    scores = catalogue_scores(recommender, queries.users, dataset.items)
    return rank_metrics(scores, queries, dataset, config.ks)


def rank_metrics(
    scores_ui: Tensor, queries: Queries, dataset: Dataset, ks: tuple[int, ...] = (5, 10, 20)
) -> tuple[Metrics, dict[str, int]]:
    """Metrics of a full ranking, whoever made the scores ``[U, I]``."""
    longest = max(ks)
    lists, _ = top_items(scores_ui, longest, queries.met)
    meter = RankingMetrics(ks=ks)
    meter.update(lists, queries.relevant.values.numpy(), queries.relevant.offsets.numpy())
    metrics: Metrics = meter.compute()
    features = _item_features(dataset)
    for k in ks:
        metrics[f"coverage@{k}"] = catalogue_coverage(lists, dataset.num_items, k)
        metrics[f"novelty@{k}"] = novelty(lists, dataset.item_counts, k).value
        if features is not None:
            metrics[f"diversity@{k}"] = intra_list_diversity(lists, features, k).value
    return metrics, {"ranked_users": len(lists), "ranked_items": dataset.num_items}


def _without(bag: Bag, other: Bag) -> Bag:
    """The values of each row of `bag` that the same row of `other` does not hold."""
    if not len(bag.values) or not len(other.values):
        return bag
    width = int(max(bag.values.max(), other.values.max())) + 1
    kept = ~torch.isin(bag.rows * width + bag.values, other.rows * width + other.values)
    lengths = torch.bincount(bag.rows[kept], minlength=len(bag.offsets) - 1)
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return Bag(bag.values[kept], offsets)


def _item_features(dataset: Dataset) -> NDArray[np.float64] | None:
    """What makes two items alike: their bags (genres, words) as 0/1, and their vectors."""
    layout, items, parts = dataset.layout, dataset.items, []
    for bag, field in zip(items.bags, layout.bags, strict=True):
        if field.role is Role.ITEM and layout.tables[field.table] <= 2_000:
            hot = np.zeros((len(items), layout.tables[field.table]))
            hot[bag.rows.numpy(), bag.values.numpy()] = 1.0
            parts.append(hot)
    for vectors, vector_field in zip(items.vectors, layout.vectors, strict=True):
        if vector_field.role is Role.ITEM:
            parts.append(vectors.values.double().numpy())
    return np.concatenate(parts, 1) if parts else None

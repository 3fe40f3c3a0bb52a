"""Evaluation over a whole split: metrics of every task, and full-catalogue ranking."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalerec.config import Config, require
from scalerec.data.dataset import Dataset, Events
from scalerec.data.layout import Layout
from scalerec.data.schema import Role, Task, TaskKind
from scalerec.data.splits import SPLITS
from scalerec.errors import TrainError
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
from scalerec.scoring.crew import Alone, Crew, together
from scalerec.scoring.queries import Queries, queries_of
from scalerec.scoring.ranking import CatalogueScorer, top_items
from scalerec.scoring.scores import Scored, check_scores, predict, score_events, task_slices

__all__ = ["EvaluateConfig", "Evaluation", "evaluate", "measure", "rank_metrics"]

# A table with more ids is left out of what makes items alike.
MOST_IDS = 2_000

Metrics = dict[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig(Config):
    """What is measured.

    Args:
        split: `test`, `valid` or `train`.
        ranking: Whether items are ranked: `auto` does where the schema has users and items, the
            first task is binary or retrieval, and a full ranking needs at most `max_pairs` scores.
        ks: Lengths of the lists, at least one, each at least 1.
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
        require(bool(self.ks), "ks must hold at least one length of list")
        require(all(k >= 1 for k in self.ks), f"ks must be at least 1 each; got {self.ks}")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Args:
        rows: Number of events.
        metrics: By name; a task's name comes before a dot where there are several tasks. None where
            a metric is undefined.
        counts: What the metrics were computed over, and what was left out as undefined.
        calibration: For each binary task, the bins of its calibration error; see
            `BinaryMetrics.calibration`.
    """

    rows: int
    metrics: Metrics
    counts: dict[str, int]
    calibration: dict[str, list[dict[str, float | None]]]


def evaluate(
    recommender: Recommender,
    dataset: Dataset,
    config: EvaluateConfig | None = None,
    crew: Crew | None = None,
) -> Evaluation:
    """Measure a model on a split of a data set.

    Args:
        recommender: In any mode, on any device.
        dataset: Encoded as what the model was trained on.
        config: What is measured; the test part by default.
        crew: The processes that share the work; this one alone by default. Each is told the whole
            evaluation, which is that of one process. Process 0 alone keeps what metrics need: 25
            bytes a row of a binary task, five times that while it sorts; the others wait for it.

    Raises:
        ConfigError: If a ranking is asked for that the schema does not allow.
        DataError: If the split has no rows.
        TrainError: If a score is not finite.
    """
    config, crew = config or EvaluateConfig(), crew or Alone()
    events = dataset.split(config.split)
    # Process 0 alone holds what the metrics need of all rows, and tells the others what it found.
    meters = _meters(recommender, events, crew)
    shall_rank = _shall_rank(config, dataset, events)
    lists = _lists(recommender, dataset, config, crew) if shall_rank else None
    found = crew.agree(_found(meters, lists, dataset, config) if crew.rank == 0 else {})
    return Evaluation(len(events), found["metrics"], found["counts"], found["bins"])


def _found(
    meters: dict[str, Any],
    ranked: tuple[NDArray[np.int64], Queries] | None,
    dataset: Dataset,
    config: EvaluateConfig,
) -> dict[str, Any]:
    """The metrics of what was scored, what they count, and bins of calibration."""
    metrics, counts = _task_metrics(meters)
    if ranked is not None:
        own, own_counts = _list_metrics(*ranked, dataset, config.ks)
        metrics.update(own)
        counts.update(own_counts)
    bins = {
        name: meter.calibration()
        for name, meter in meters.items()
        if isinstance(meter, BinaryMetrics)
    }
    return {"metrics": metrics, "counts": counts, "bins": bins}


def measure(layout: Layout, parts: Iterable[Scored]) -> Metrics:
    """Every task's metrics over rows that were scored somewhere else.

    Args:
        layout: Names the tasks.
        parts: The rows.

    Raises:
        TrainError: If a score is not finite.
    """
    meters = [_meter(task) for task in layout.tasks]
    for rows in parts:
        _add(meters, layout, rows, check_scores(rows.logits))
    return _task_metrics(_named(meters, layout))[0]


def _meters(recommender: Recommender, events: Events, crew: Crew) -> dict[str, Any]:
    """Every task's meter, by the task's name; on process 0 it has seen all events."""
    layout, fault = recommender.layout, ""
    meters = [_meter(task) for task in layout.tasks]
    for rows in score_events(recommender, events, crew):
        try:
            logits = check_scores(rows.logits)
        except TrainError as error:
            # The others go on; all stop together after the last row.
            fault = str(error)
            continue
        _add(meters, layout, rows, logits)
    if fault := crew.agree({"fault": fault})["fault"]:
        raise TrainError(fault)
    return _named(meters, layout)


def _named(meters: list[Any], layout: Layout) -> dict[str, Any]:
    return {task.name: meter for task, meter in zip(layout.tasks, meters, strict=True)}


def _add(meters: list[Any], layout: Layout, rows: Scored, logits: Tensor) -> None:
    predictions = predict(layout, logits).double().numpy()
    for i, (meter, columns) in enumerate(zip(meters, task_slices(layout), strict=True)):
        if meter is not None:
            _update(meter, layout.tasks[i], rows, i, predictions[:, columns])


def _task_metrics(meters: dict[str, Any]) -> tuple[Metrics, dict[str, int]]:
    metrics: Metrics = {}
    counts: dict[str, int] = {}
    for task, meter in meters.items():
        if meter is not None:
            head = f"{task}." if len(meters) > 1 else ""
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
    meter: Any, task: Task, rows: Scored, column: int, predictions: NDArray[np.float64]
) -> None:
    known = rows.label_mask[:, column].numpy()
    labels = rows.labels[:, column].numpy()[known]
    weights = rows.weights.numpy()[known]
    own = predictions[known]
    if task.kind is TaskKind.BINARY:
        groups = rows.groups.numpy()
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
    require(
        can or config.ranking != "yes",
        "ranking needs a user, an item and a first task that is binary or retrieval",
    )
    if config.ranking != "auto":
        return config.ranking == "yes"
    if not can:
        return False
    num_users = len(np.unique(events.column("user")))
    return num_users * dataset.num_items <= config.max_pairs


def _lists(
    recommender: Recommender, dataset: Dataset, config: EvaluateConfig, crew: Crew
) -> tuple[NDArray[np.int64], Queries]:
    """The best items of every user, ``[U, K]``, on process 0; and whom they are for.

    Users go in portions that are the same in however many processes, so their scores are too.
    """
    queries = queries_of(dataset, config.split)
    size, longest = len(queries.users), max(config.ks)
    scorer = CatalogueScorer(recommender, dataset.items)
    lists = [np.zeros((0, longest), np.int64)]
    step = scorer.users_at_a_time
    for portions, start in together(range(0, size, step), crew):
        some = torch.arange(start, min(start + step, size))
        own = top_items(scorer(queries.users.take(some)), longest, queries.met.take(some))[0]
        parts = crew.gather_first(torch.from_numpy(own), "lists")
        lists += [part.numpy() for part in parts[: len(portions)]]
    return np.concatenate(lists), queries


def rank_metrics(
    scores_ui: Tensor, queries: Queries, dataset: Dataset, ks: tuple[int, ...] = (5, 10, 20)
) -> tuple[Metrics, dict[str, int]]:
    """Metrics of a full ranking, whoever made the scores.

    Args:
        scores_ui: Of every item for the user of every query, ``[U, I]``.
        queries: Whom to rank for.
        dataset: Gives the catalogue, and how often its items were met in training.
        ks: Lengths of the lists.

    Returns:
        Metrics by name, and how many users and items there were.
    """
    lists, _ = top_items(scores_ui, max(ks), queries.met)
    return _list_metrics(lists, queries, dataset, ks)


def _list_metrics(
    lists: NDArray[np.int64], queries: Queries, dataset: Dataset, ks: tuple[int, ...]
) -> tuple[Metrics, dict[str, int]]:
    meter = RankingMetrics(ks=ks)
    meter.update(lists, queries.relevant.values.numpy(), queries.relevant.offsets.numpy())
    metrics: Metrics = meter.compute()
    features = _item_features(dataset)
    for k in ks:
        metrics[f"coverage@{k}"] = catalogue_coverage(lists, dataset.num_items, k)
        metrics[f"novelty@{k}"] = novelty(lists, dataset.item_counts, k).value
        if features is not None:
            metrics[f"diversity@{k}"] = intra_list_diversity(lists, features, k).value
    counts = meter.counts()
    ranked = {
        "ranked_users": counts["users"] - counts["undefined_users"],
        "undefined_users": counts["undefined_users"],
        "ranked_items": dataset.num_items,
    }
    return metrics, ranked


def _item_features(dataset: Dataset) -> NDArray[np.float64] | None:
    """What makes two items alike: their bags (genres, words) as 0/1, and their vectors."""
    layout, items, parts = dataset.layout, dataset.items, []
    for bag, field in zip(items.bags, layout.bags, strict=True):
        if field.role is Role.ITEM and layout.tables[field.table] <= MOST_IDS:
            hot = np.zeros((len(items), layout.tables[field.table]))
            hot[bag.rows.numpy(), bag.values.numpy()] = 1.0
            parts.append(hot)
    for vectors, vector_field in zip(items.vectors, layout.vectors, strict=True):
        if vector_field.role is Role.ITEM:
            parts.append(vectors.values.double().numpy())
    return np.concatenate(parts, 1) if parts else None

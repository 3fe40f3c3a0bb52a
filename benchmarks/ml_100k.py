"""Full ranking on MovieLens 100K: a net of the zoo beside popularity, ItemKNN and implicit's ALS.

Data: Harper and Konstan, 2015, https://doi.org/10.1145/2827872. The last tenth of all ratings is
the test part: each user who likes a film in it is asked once, as of the first rating there, and
every film not met before is ranked. Half of these users have no rating before, so nobody knows
their taste.

All methods get the same information and the same protocol, but not the same search (see below):

- Settings are chosen on four validation parts, each the tenth after a cut at 50, 60, 70 or 80% of
  the ratings; none of them reaches into the test part. The mean NDCG@10 over the four decides.
- Then each method learns anew from all ratings before the test part; its lists are judged once.
- Taste at large moves fast, so popularity counts liked ratings by a half-life, which is tuned.
  ItemKNN and ALS may weigh ratings by a half-life too. ItemKNN, ALS and our nets, each scaled to
  0..1 for a user, are mixed with that popularity (or its logarithm) by a tuned weight, 0 included;
  ItemKNN and ALS give users without history popularity alone.

Our data set is the prepared one but for its schema: history, gender, occupation and postal area are
left out, and a column of sample weights counts liked ratings by a half-life of 60 days and others
not at all. Unmet films, drawn by popularity or in batch, are the negatives.

The search was not of one size. Ours: features, sample weights, negatives and nets were tried by
hand in several dozen settings on the same four parts, and the two nets listed are what is left.
ItemKNN and ALS: the grids below, with ItemKNN's shrinkage and ALS's iterations fixed. Of ours,
FM of 16 and 32 dimensions and DeepFM were lower, FM of 128 a little higher (.2839 to .2829).
Training with the history hurt users without one, because an empty history looks like an early
session.

Usage: python benchmarks/ml_100k.py [--seeds 5] [--threads 2] [--quick]
"""

import argparse
import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from common import Claim, summarise, write_result
from scalerec.data.dataset import Dataset
from scalerec.data.opening import open_raw
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.raw import RawData
from scalerec.data.sources import MappedSource, Source
from scalerec.data.splits import SplitConfig, assign_splits
from scalerec.errors import DataError
from scalerec.models.recommender import ModelSpec
from scalerec.scoring import Queries, catalogue_scores, queries_of, rank_metrics, top_items
from scalerec.train import TrainConfig, train

Scores = NDArray[np.float64]
DAY = 86_400
FOLDS = (0.1, 0.2, 0.3, 0.4)  # what comes after each validation part
FEATURES = ("user_id", "age", "item_id", "genres", "release_year")
HALF_LIVES = (None, 120, 60, 30, 20, 14, 10, 7, 5)
MIXES = [("linear", 0.0), *itertools.product(("linear", "log"), (0.25, 0.5, 1.0, 2.0, 4.0, 8.0))]
KNN = list(itertools.product(("cosine", "tfidf", "bm25"), (10, 20, 50, 100, 200), (None, 60)))
ALS = list(itertools.product((8, 16, 32, 64), (0.01, 0.1, 1.0, 10.0), (1.0, 5.0), (None, 60, 30)))
BY_POPULARITY = {"batch_size": 2048, "negatives": 8, "negatives_by": "popularity"}
# Name to model, its settings, the kind of task, epochs, L2 of the tables, other training settings.
OURS: dict[str, tuple[str, dict[str, Any], str, int, float, dict[str, Any]]] = {
    "fm 64": ("fm", {"dim": 64}, "binary", 15, 1e-4, BY_POPULARITY),
    "two-tower": (
        "two-tower",
        {"dim": 32, "hidden": [], "vector_dim": 32, "embedding_dropout": 0.3},
        "retrieval",
        10,
        1e-4,
        {"batch_size": 1024},
    ),
}


@dataclass(frozen=True, slots=True)
class Part:
    """Ratings up to a moment, and the users to be asked after it.

    Args:
        datasets: The prepared data by the task's kind.
        queries: Whom to rank for.
        users: Number of each training rating's user, ``[N]``.
        items: Of its film.
        liked: Whether it is at least 4.
        age: Days before the last training rating.
    """

    datasets: dict[str, Dataset]
    queries: Queries
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    liked: NDArray[np.bool_]
    age: NDArray[np.float64]

    @property
    def dataset(self) -> Dataset:
        """The data with the binary task."""
        return self.datasets["binary"]

    @property
    def asked(self) -> NDArray[np.int64]:
        """Numbers of the asked users, ``[U]``."""
        return self.queries.users.users.numpy()

    def decay(self, half_life: float | None) -> NDArray[np.float64]:
        """What each training rating counts, ``[N]``."""
        return np.ones(len(self.age)) if half_life is None else 0.5 ** (self.age / half_life)

    def popularity(self, half_life: float | None) -> NDArray[np.float64]:
        """Liked ratings of each film, ``[I]``."""
        weights = self.decay(half_life) * self.liked
        counts = np.bincount(self.items, weights, minlength=self.dataset.num_items)
        return counts.astype(np.float64)


def weighted(source: Source, last: int) -> Source:
    """The events with a column of sample weights, as of the moment `last`."""
    names = (*source.columns, "weight")

    def convert(table: pa.RecordBatch) -> pa.RecordBatch:
        times = np.array([int(text) for text in table.column("timestamp").to_pylist()])
        ratings = np.array([float(text) for text in table.column("rating").to_pylist()])
        weights = 0.5 ** (np.maximum(0, last - times) / DAY / 60) * (ratings >= 4)
        columns = [table.column(name) for name in source.columns]
        text = pa.array([repr(float(weight)) for weight in weights])
        return pa.RecordBatch.from_arrays([*columns, text], names=list(names))

    return MappedSource(source, names, convert)


def our_raw(raw: RawData, last: int, kind: str) -> RawData:
    """The raw data with our choice of features, a sample weight and the task's kind."""
    features = [f.to_dict() for f in raw.schema.features if f.name in FEATURES]
    tasks = [{**raw.schema.tasks[0].to_dict(), "kind": kind}]
    schema = raw.schema.replace(features=features, tasks=tasks, weight="weight")
    return replace(raw, schema=schema, splits={"all": weighted(raw.splits["all"], last)})


def make_part(raw: RawData, plain: Dataset, split: SplitConfig, asked: str, folder: Path) -> Part:
    """Prepare the data of one part; `plain` is only read for its times."""
    stores = [plain.split(name) for name in ("train", "valid", "test")]
    times = np.concatenate([np.asarray(store.column("time")) for store in stores])
    last = int(times[assign_splits(split, len(times), times, None) == 0].max())
    datasets = {
        kind: prepare(our_raw(raw, last, kind), folder / kind, PrepareConfig(split=split))
        for kind in ("binary", "retrieval")
    }
    events = datasets["binary"].split("train")
    return Part(
        datasets,
        queries_of(datasets["binary"], asked),
        np.asarray(events.column("user")).astype(np.int64),
        np.asarray(events.column("item")).astype(np.int64),
        np.asarray(events.column("labels"))[:, 0] > 0,
        (last - np.asarray(events.column("time"))) / DAY,
    )


def knn(part: Part, settings: Sequence[Any], seed: int) -> Scores:
    """ItemKNN on liked films: its similarity, neighbours, and the half-life of ratings."""
    from implicit import nearest_neighbours as models

    del seed
    similarity, neighbours, half_life = settings
    kinds = {
        "cosine": models.CosineRecommender,
        "tfidf": models.TFIDFRecommender,
        "bm25": models.BM25Recommender,
    }
    matrix = liked_matrix(part, half_life)
    model = kinds[similarity](neighbours)
    model.fit(matrix, show_progress=False)
    return np.asarray((matrix[part.asked] @ model.similarity).todense())


def als(part: Part, settings: Sequence[Any], seed: int) -> Scores:
    """ALS on liked films, each asked user folded in: factors, L2, alpha, half-life of ratings."""
    from implicit.cpu.als import AlternatingLeastSquares

    factors, l2, alpha, half_life = settings
    matrix = liked_matrix(part, half_life)
    model = AlternatingLeastSquares(
        factors=factors, regularization=l2, alpha=alpha, iterations=15, random_state=seed
    )
    model.fit(matrix, show_progress=False)
    users = model.recalculate_user(np.arange(len(part.asked)), matrix[part.asked])
    return np.asarray(users @ model.item_factors.T, np.float64)


def liked_matrix(part: Part, half_life: float | None) -> Any:
    """Liked ratings, users by films, as scipy's sparse matrix."""
    from scipy.sparse import csr_matrix

    places = (part.users[part.liked], part.items[part.liked])
    values = part.decay(half_life)[part.liked].astype(np.float32)
    return csr_matrix((values, places), (part.dataset.num_users, part.dataset.num_items))


def ours(part: Part, name: str, seed: int) -> Scores:
    """A model of the zoo."""
    model, net, kind, epochs, l2, more = OURS[name]
    settings = {"seed": seed, "epochs": epochs, "patience": -1, "metric": "ndcg@10", "ema": 0.99}
    settings |= {"dense": {"lr": 2e-3}, "tables": {"lr": 5e-3, "l2": l2}, "precision": "fp32"}
    dataset = part.datasets[kind]
    config = TrainConfig.from_dict(settings | more)
    trained = train(dataset, ModelSpec(model=model, settings=net), config)
    scores = catalogue_scores(trained.recommender, part.queries.users, dataset.items)
    return scores.double().numpy()


def mix(scores: Scores, popular: NDArray[np.float64], how: tuple[str, float]) -> Scores:
    """Add popularity to scores, both scaled to 0..1; a user without scores gets popularity."""
    form, weight = how
    if form == "log":
        popular = np.log(popular + 0.05)
    popular = (popular - popular.min()) / np.ptp(popular)
    low, span = scores.min(1, keepdims=True), np.ptp(scores, axis=1, keepdims=True)
    mixed = (scores - low) / np.maximum(span, 1e-12) + weight * popular
    return np.where(span > 0, mixed, popular)


def ndcg_by_user(part: Part, scores: Scores) -> NDArray[np.float64]:
    """NDCG@10 of each asked user, ``[U]``; the reported figures come from `rank_metrics`."""
    lists, _ = top_items(torch.from_numpy(scores).float(), 10, part.queries.met)
    relevant, num_items = part.queries.relevant, part.dataset.num_items
    codes = (relevant.rows * num_items + relevant.values).numpy()
    hits = np.isin(np.arange(len(lists))[:, None] * num_items + lists, codes)
    discounts = 1 / np.log2(np.arange(2, 12))
    best = np.concatenate([[0.0], discounts.cumsum()])
    gains: Scores = (hits * discounts).sum(1)
    return gains / best[np.minimum(relevant.lengths.numpy(), 10)]


def mean_ndcg(folds: Sequence[Part], scores: Iterable[Scores]) -> float:
    """The mean over folds of NDCG@10."""
    found = [ndcg_by_user(part, own).mean() for part, own in zip(folds, scores, strict=True)]
    return float(np.mean(found))


Make = Callable[[Part, Any, int], Scores]


@dataclass(frozen=True, slots=True)
class Choice:
    """A method as it was tuned."""

    make: Make
    settings: Any
    how: tuple[str, float]
    valid: float


def tune(
    label: str,
    make: Make,
    candidates: Iterable[Any],
    folds: Sequence[Part],
    half_life: float | None,
) -> Choice:
    """Choose a method's settings and its mix with popularity."""
    popular, best = [part.popularity(half_life) for part in folds], None
    for settings in candidates:
        scores = [make(part, settings, 1) for part in folds]
        for how in MIXES:
            mixed = (mix(*own, how) for own in zip(scores, popular, strict=True))
            valid = mean_ndcg(folds, mixed)
            if best is None or valid > best.valid:
                best = Choice(make, settings, how, valid)
                print(f"{label}: {settings} {how} {valid:.4f}", file=sys.stderr, flush=True)
    assert best is not None
    return best


def tune_popularity(folds: Sequence[Part]) -> tuple[float | None, float]:
    """Choose the half-life of popularity."""
    found = {}
    for half_life in HALF_LIVES:
        scores = [np.tile(part.popularity(half_life), (len(part.asked), 1)) for part in folds]
        found[half_life] = mean_ndcg(folds, scores)
    best = max(found, key=lambda half_life: found[half_life])
    return best, found[best]


class Report:
    """The figures, and the NDCG@10 of each user by method."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.figures: dict[str, Any] = {}
        self.notes: list[str] = []
        self.half_life: float | None = None
        self.by_user: dict[str, NDArray[np.float64]] = {}

    def add(self, label: str, runs: Sequence[Scores]) -> None:
        """Judge a method's scores, one a seed."""
        part = self.part
        found = [
            rank_metrics(torch.from_numpy(scores).float(), part.queries, part.dataset)[0]
            for scores in runs
        ]
        for name in ("ndcg@10", "recall@10", "mrr@10", "coverage@10", "novelty@10"):
            values = [value for metrics in found if (value := metrics[name]) is not None]
            self.figures[f"{label}, test {name}"] = summarise(values)
        self.by_user[label] = np.mean([ndcg_by_user(part, scores) for scores in runs], 0)
        print(label, self.figures[f"{label}, test ndcg@10"], flush=True)

    def add_difference(self, label: str) -> None:
        """The gain over another method, with its 95% bootstrap interval over users."""
        gain = self.by_user["scalerec"] - self.by_user[label]
        generator = np.random.default_rng(1)
        draws = gain[generator.integers(len(gain), size=(10_000, len(gain)))].mean(1)
        low, high = np.quantile(draws, (0.025, 0.975))
        name = f"scalerec above {label}, test ndcg@10"
        self.figures[name] = float(gain.mean())
        self.figures[f"{name}, 95% from"], self.figures[f"{name}, 95% to"] = float(low), float(high)


def tune_all(report: Report, folds: Sequence[Part], quick: bool) -> dict[str, Choice]:
    """Choose the settings of all methods on the folds."""
    half_life, valid = tune_popularity(folds)
    report.half_life = half_life
    report.figures["popularity, half-life in days"] = half_life or 0
    report.figures["popularity, validation ndcg@10"] = valid
    grids: list[tuple[str, Make, list[Any]]] = [
        ("ItemKNN", knn, KNN),
        ("ALS", als, ALS),
        ("scalerec", ours, list(OURS)),
    ]
    choices = {}
    for label, make, candidates in grids:
        start = time.perf_counter()
        some = candidates[:2] if quick else candidates
        choice = choices[label] = tune(label, make, some, folds, half_life)
        report.figures[f"{label}, validation ndcg@10"] = choice.valid
        report.figures[f"{label}, tuning, seconds"] = time.perf_counter() - start
        form, weight = choice.how
        report.notes.append(f"{label}: {choice.settings}, popularity {form}, weight {weight:g}")
    return choices


def judge(report: Report, choices: dict[str, Choice], seeds: Sequence[int]) -> None:
    """Let all methods learn anew, and judge them on the last part."""
    part = report.part
    popular = part.popularity(report.half_life)
    for label, days in (("popularity", report.half_life), ("popularity of all time", None)):
        report.add(label, [np.tile(part.popularity(days), (len(part.asked), 1))])
    for label, choice in choices.items():
        start = time.perf_counter()
        runs = [choice.make(part, choice.settings, seed) for seed in seeds]
        report.figures[f"{label}, one run, seconds"] = (time.perf_counter() - start) / len(seeds)
        for name, how in ((label, choice.how), (f"{label} unmixed", ("linear", 0.0))):
            report.add(name, [mix(run, popular, how) for run in runs])
    for label in ("popularity", "ItemKNN", "ALS"):
        report.add_difference(label)
    report.figures["asked users"] = len(part.asked)
    report.figures["asked users without history"] = int((part.queries.met.lengths == 0).sum())


def claims(figures: dict[str, Any]) -> list[Claim]:
    """What the figures must show."""
    value = {
        label: figures[f"{label}, test ndcg@10"]["mean"]
        for label in ("scalerec", "popularity", "ItemKNN", "ALS")
    }
    return [
        Claim(f"NDCG@10 above {label}, mean over seeds", value["scalerec"], bar, at_least=True)
        for label, bar in value.items()
        if label != "scalerec"
    ]


def main() -> int:
    """Prepare, tune, judge, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="few settings, judged on validation; no result"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", module="implicit")
    seeds = list(range(1, 2 if options.quick else options.seeds + 1))
    with tempfile.TemporaryDirectory() as folder:
        try:
            raw = open_raw("ml-100k")
        except DataError as error:
            print(f"MovieLens 100K cannot be had: {error}", file=sys.stderr)
            return 1
        root = Path(folder)
        plain = prepare(raw, root / "plain")
        folds = [
            make_part(raw, plain, SplitConfig(valid=0.1, test=after), "valid", root / f"{after}")
            for after in (FOLDS[:1] if options.quick else FOLDS)
        ]
        whole = SplitConfig(valid=0.0, test=0.1)
        # The test part is for a full run alone.
        last = folds[0] if options.quick else make_part(raw, plain, whole, "test", root / "last")
        report = Report(last)
        judge(report, tune_all(report, folds, options.quick), seeds)
    if not options.quick:
        found = claims(report.figures)
        notes = [*raw.notes, *report.notes]
        packages = ("implicit", "scipy")
        write_result("ml_100k", report.figures, found, seeds=seeds, notes=notes, packages=packages)
    return 0


if __name__ == "__main__":
    sys.exit(main())

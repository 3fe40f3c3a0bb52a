"""The methods of `cold_start.py`: what each makes of a world, and the settings it may choose from.

A method is a function from a `Bench` and settings to a function that scores an episode's queries
after adapting on its supports. To add one, write that function and a row of `METHODS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cold_start_worlds import World
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.loading import Loader
from scalerec.data.schema import TaskKind
from scalerec.data.vocabulary import OOV
from scalerec.meta.adapting import adapt
from scalerec.meta.config import MetaConfig
from scalerec.meta.episodes import Reader
from scalerec.meta.learning import MetaTrained, meta_train
from scalerec.meta.measuring import measure
from scalerec.meta.outer import first_rates
from scalerec.meta.parts import choose_parts, own_field
from scalerec.meta.personal import PersonalModel
from scalerec.meta.protocols import Protocol, hold_out_keys
from scalerec.meta.tasks import Episode, TaskSet
from scalerec.meta.warm_up import WarmScore, WarmUpConfig, learn_warm_up
from scalerec.metrics import auc
from scalerec.models.recommender import Recommender, build_recommender
from scalerec.train import Learner, OneProcess, TrainConfig

__all__ = ["METHODS", "Bench", "Made", "Method", "learned_start", "score"]

UNKNOWN = 0.2
"""Share of training rows whose own key is read as one never seen, so that its row is trained."""
EPOCHS, PATIENCE, BATCH, GROUPS = 40, 6, 1024, 4
# Of weights: on films it raised the AUC of known users by .005, and cost new ones nothing.
EMA = 0.99
SMOOTHING = 10.0
Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    """A method that is ready.

    Args:
        score: Split and episode to the queries' scores ``[N]``.
        start: The model that known keys are served with, if the method has one of its own.
        gap: What tasks that were learned from have before held-out ones, in what decides.
    """

    score: Callable[[str, Episode], Tensor]
    start: Recommender | None = None
    gap: float | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """A method.

    Args:
        make: From a world and settings.
        choices: Settings that may be chosen.
        adapts: Whether it looks at examples; if not, its curve is flat.
        fits: Whether it can be run in a world.
    """

    make: Callable[["Bench", Settings], Made]
    choices: Sequence[Settings] = ({},)
    adapts: bool = True
    fits: Callable[[World], bool] = lambda _: True


class Bench:
    """A world of one seed, and the models that several methods start from.

    Args:
        world: The world.
        seed: Of its division and of all training.
        folder: For its data sets.
    """

    def __init__(self, world: World, seed: int, folder: Path) -> None:
        self.world, self.seed, self.folder = world, seed, folder
        self.protocol: Protocol = hold_out_keys(
            world.raw(seed), world.config.replace(seed=seed), folder / "protocol"
        )
        self.dataset = self.protocol.dataset
        by = world.config.by
        self.field = own_field(self.dataset.schema, self.dataset.layout, by)
        self.episodes = {split: self.protocol.episode(split) for split in ("valid", "test")}
        self.queries = {split: self.query(split) for split in self.episodes}

    def query(self, split: str) -> Batch:
        """The query rows of a split, in the episode's order."""
        return self.dataset.split(split).take(self.episodes[split].query.rows.numpy())

    def relevant(self, split: str) -> Tensor:
        """Which query rows are relevant, ``[N]`` bool."""
        return self.world.relevant(self.queries[split].labels[:, 0], self.episodes[split].query)

    @cached_property
    def warm(self) -> Batch | None:
        """Rows of known keys that no model has learned from."""
        if not self.protocol.warm.manifest["rows"].get("valid"):
            return None
        events = self.protocol.warm.split("valid")
        return events.read(0, len(events))

    def price(self, recommender: Recommender) -> float:
        """AUC of the rows of known keys."""
        assert self.warm is not None, "rows were kept aside"
        found = auc(self.warm.labels[:, 0].numpy() > 0, score(recommender, self.warm).numpy())
        return float("nan") if found is None else found

    def paid(self, start: Recommender) -> float:
        """What known keys lose of AUC if they are served by another start than the base."""
        return self.price(self.base) - self.price(start)

    @cached_property
    def base(self) -> Recommender:
        """The model that methods start from: stopped where known keys are served best."""
        return self._fitted[0]

    @property
    def base_epochs(self) -> int:
        """Epochs that the base took."""
        return self._fitted[1]

    @cached_property
    def _fitted(self) -> tuple[Recommender, int]:
        return self.fit(self.dataset, UNKNOWN, self._warm_value)

    @cached_property
    def unadapted(self) -> Recommender:
        """The best model without examples: stopped on validation tasks."""
        return self.fit(self.dataset, UNKNOWN, self._value_of)[0]

    def ceiling(self, split: str) -> Tensor:
        """Scores of a split's query rows by models that know all other rows of their tasks.

        Tasks are divided into groups, so that a ceiling learns little from other held-out tasks.
        Each takes as many epochs as the base did.
        """
        episode = self.episodes[split]
        scores = torch.empty(len(episode.query.rows))
        for group in range(GROUPS):
            folder = self.folder / f"ceiling-{split}-{group}"
            data = self.protocol.ceiling(split, folder, group, GROUPS)
            recommender, _ = self.fit(data, 0.0, None, self.base_epochs)
            own = data.split("valid").read(0, data.num_rows("valid"))
            scores[episode.query.tasks % GROUPS == group] = score(recommender, own)
        return scores

    def _value_of(self, recommender: Recommender) -> float:
        """What validation queries say: NDCG and AUC; one alone of few tasks stops by chance."""
        scores = score(recommender, self.queries["valid"])
        query = self.episodes["valid"].query
        found = measure(scores, self.relevant("valid"), query, k=self.world.k)
        return found.ndcg + found.auc

    def _warm_value(self, recommender: Recommender) -> float:
        return self._value_of(recommender) if self.warm is None else self.price(recommender)

    def fit(
        self,
        dataset: Dataset,
        unknown: float,
        value: Callable[[Recommender], float] | None,
        epochs: int = EPOCHS,
    ) -> tuple[Recommender, int]:
        """Train until `value` has not risen for some epochs, or to the end without one.

        Returns:
            The model with its best weights, and the epochs that they took.
        """
        training, seed = self.world.training, self.seed + 1
        recommender = build_recommender(dataset.layout, self.world.spec, seed)
        config = TrainConfig.from_dict(
            {
                "batch_size": BATCH, "seed": seed, "precision": "fp32", "ema": EMA,
                "dense": {"lr": training["dense_lr"]},
                "tables": {"lr": training["lr"], "l2": training["l2"], "engine": "dense"},
            }
        )  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        best, kept, num = -np.inf, {}, 0
        with torch.random.fork_rng(devices=[]):
            learner = Learner(recommender, dataset, config, OneProcess())
            loader = Loader(dataset.split("train"), BATCH, seed)
            for epoch in range(epochs):
                recommender.train()
                for batch in loader.epoch(epoch):
                    learner.step(self._hidden(batch, unknown, generator), 1.0)
                learner.swap_average()
                found = epoch if value is None else value(recommender.eval())
                if found > best:
                    best, num = found, epoch + 1
                    kept = {name: t.clone() for name, t in recommender.to_tensors().items()}
                learner.swap_average()
                if epoch + 1 - num > PATIENCE:
                    break
        recommender.load_tensors(kept)
        return recommender.eval(), num

    def _hidden(self, batch: Batch, share: float, generator: torch.Generator) -> Batch:
        """The batch with some rows' own keys read as never seen."""
        if not share or self.field is None:
            return batch
        ids = batch.ids.clone()
        ids[self.field, torch.rand(len(batch), generator=generator) < share] = OOV
        return replace(batch, ids=ids)

    def copy_of_base(self) -> Recommender:
        """The base, to be changed."""
        own = build_recommender(self.dataset.layout, self.world.spec, self.seed)
        own.load_tensors(self.base.to_tensors())
        return own.eval()


@torch.no_grad()
def score(recommender: Recommender, batch: Batch) -> Tensor:
    """The first task's logits, ``[B]``."""
    logits: Tensor = recommender.eval()(batch)
    return logits[:, 0]


def popularity(bench: Bench, settings: Settings) -> Made:  # noqa: ARG001
    """The smoothed mean label of what is known of a row: its item, or its user for new items."""
    train = bench.dataset.split("train")
    key = "user" if bench.world.config.by == "item" else "item"
    place, labels = np.asarray(train.column(key)), np.asarray(train.column("labels")[:, 0])
    size = bench.dataset.num_users if key == "user" else bench.dataset.num_items
    counts = np.bincount(place, minlength=size)
    sums = np.bincount(place, labels.astype(np.float64), minlength=size)
    mean: Tensor = torch.from_numpy((sums + SMOOTHING * labels.mean()) / (counts + SMOOTHING))

    def own(split: str, _: Episode) -> Tensor:
        batch = bench.queries[split]
        return mean[batch.users if key == "user" else batch.items]

    return Made(own)


def unadapted(bench: Bench, settings: Settings) -> Made:  # noqa: ARG001
    """The model without examples."""
    return Made(lambda split, _: score(bench.unadapted, bench.queries[split]))


def ceiling(bench: Bench, settings: Settings) -> Made:  # noqa: ARG001
    """The model trained with all other rows of held-out keys."""
    return Made(lambda split, _: bench.ceiling(split))


def fine_tuning(bench: Bench, settings: Settings) -> Made:
    """Some steps of gradient descent from the base, as it is."""
    config = MetaConfig.from_dict({"rates": "fixed", **settings})
    model = PersonalModel(bench.base, choose_parts(bench.base, config.parts, bench.field))
    return _adapting(bench, model, config, first_rates(model, config))


def learned_start(bench: Bench, name: str, settings: Settings) -> tuple[MetaTrained, MetaConfig]:
    """What an algorithm learns from the base, and how."""
    binary = bench.dataset.layout.tasks[0].kind is TaskKind.BINARY
    config = MetaConfig.from_dict(
        {
            "algorithm": name, "seed": bench.seed, "checkpoint_every": 0,
            "metric": "auc" if binary else "loss", **settings,
        }
    )  # fmt: skip
    train = bench.dataset.split("train")
    tasks = TaskSet(train, bench.world.config.by, least_rows=12)
    return meta_train(bench.copy_of_base(), tasks, config), config


def algorithm(name: str) -> Callable[[Bench, Settings], Made]:
    """One of `scalerec.meta.algorithms`, from the base."""

    def make(bench: Bench, settings: Settings) -> Made:
        found, config = learned_start(bench, name, settings)
        made = _adapting(bench, found.model, config, found.rates)
        last = next(seen for seen in found.curve if seen["step"] == found.updates)
        return replace(made, start=found.recommender, gap=last["gap"])

    return make


def _adapting(
    bench: Bench, model: PersonalModel, config: MetaConfig, rates: Mapping[str, Tensor]
) -> Made:
    shared = model.shared()

    def own(split: str, episode: Episode) -> Tensor:
        opened = Reader(model, bench.dataset.split(split), bench.field).read(episode)
        fast = adapt(model, shared, opened.support, rates, config.steps, prior=config.prior)
        with torch.no_grad():
            logits = model.open(shared, opened.query, remember=False).logits(fast)
        return logits[opened.counted, 0]

    return Made(own)


def warm_up(bench: Bench, settings: Settings) -> Made:
    """Rows from features, refined by examples; all else is the unadapted model's."""
    config = WarmUpConfig.from_dict({
        "entity": bench.world.config.by, "seed": bench.seed, **settings,
    })  # fmt: skip
    learned = learn_warm_up(bench.unadapted, bench.dataset, config)

    def warmed(split: str, episode: Episode) -> Tensor:
        return WarmScore(learned.recommender, learned.key, bench.dataset, split)(episode)

    return Made(warmed)


def own_protocol(world: World) -> bool:
    """Whether a world has our protocol; where a peer's figure alone counts, few methods do."""
    return not world.beaten


# What rows of new keys adapt by, in variances of known keys' rows, and nets in plain rates. A start
# moves for new keys alone, or with its net and all rows; what costs known keys too much is not
# chosen.
COMMON = {"prior": 10.0, "steps": 5, "num_support": 20, "tasks": 64, "updates": 200,
          "most_tasks": 200, "evaluate_every": 25, "patience": 3, "lr": 3e-4,
          "rows_lr": 3e-4}  # fmt: skip
ROW = {"adapt": "own", "scaled": True}
NEW = {"moves": "own", "rows_lr": 1e-3}
SLOW = {"lr": 1e-4, "rows_lr": 1e-4}
LEARNED: tuple[dict[str, Any], ...] = (
    {**COMMON, **ROW, **NEW, "rate": 3.0},
    {**COMMON, **ROW, **NEW, "rate": 10.0},
    {**COMMON, **ROW, "rate": 3.0},
    {**COMMON, **NEW, "adapt": "own,decision", "rate": 0.01},
    {**COMMON, **SLOW, "adapt": "own,decision", "rate": 0.01},
)
FINE = (
    *({**ROW, "rate": r, "prior": p} for r in (1.0, 3.0, 10.0, 30.0) for p in (3.0, 10.0)),
    *(
        {"adapt": "own,decision", "rate": r, "prior": p}
        for r in (0.003, 0.01, 0.03)
        for p in (0.0, 10.0)
    ),
    *({"adapt": "head", "rate": r, "prior": 10.0} for r in (0.03, 0.1)),
)
HEAD = (
    *({**COMMON, **NEW, "adapt": "own,head", "rate": rate} for rate in (0.01, 0.03, 0.1)),
    *({**COMMON, **SLOW, "adapt": "own,head", "rate": rate} for rate in (0.01, 0.03)),
)
# The second: the start stays as it is, and only its rates are learned.
NUMBERS = tuple(
    {**given, "rates_lr": given["rate"] / 100}
    for given in (LEARNED[0], {**LEARNED[0], "rows_lr": 0.0}, *LEARNED[1:])
)
WARM = tuple(
    {"method": name, "steps": num, "episodes": True}
    for name in ("meta-embedding", "mwuf")
    for num in (1, 3)
)
METHODS: dict[str, Method] = {
    "popularity": Method(popularity, adapts=False),
    "unadapted": Method(unadapted, adapts=False),
    "fine-tuning": Method(fine_tuning, FINE),
    "maml": Method(algorithm("maml"), LEARNED, fits=own_protocol),
    "fomaml": Method(algorithm("fomaml"), LEARNED),
    "anil": Method(algorithm("anil"), HEAD, fits=own_protocol),
    "reptile": Method(algorithm("reptile"), LEARNED),
    "meta-sgd": Method(algorithm("meta-sgd"), NUMBERS),
    "warm-up": Method(warm_up, WARM, fits=lambda w: w.described and own_protocol(w)),
    "ceiling": Method(ceiling, adapts=False, fits=own_protocol),
}

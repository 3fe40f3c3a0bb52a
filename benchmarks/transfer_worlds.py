"""The worlds of `transfer.py`: domains, a source that knows most of them, targets of few rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from scalerec.bundle import read_bundle
from scalerec.bundle.growing import base_of
from scalerec.bundle.recommenders import write_recommender
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.growing import GrowConfig
from scalerec.data.loading import Loader
from scalerec.data.opening import open_raw
from scalerec.data.prepare import PrepareConfig, prepare
from scalerec.data.problems import Problems
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Role
from scalerec.data.simulate import SimulatorConfig, simulate
from scalerec.data.sources import Source, TableSource
from scalerec.data.vocabulary import FIRST_ID, OOV
from scalerec.meta.config import MetaConfig
from scalerec.meta.learning import meta_train
from scalerec.meta.measuring import Measured, measure
from scalerec.meta.protocols import without_features
from scalerec.meta.tasks import Ragged, TaskSet
from scalerec.meta.transfer import Source as TransferSource
from scalerec.meta.transfer import open_transfer
from scalerec.meta.writing import write_meta
from scalerec.metrics import auc
from scalerec.models.recommender import ModelSpec, Recommender, build_recommender
from scalerec.train import Learner, OneProcess, TrainConfig

__all__ = ["WORLDS", "Bench", "Target", "World", "score"]

UNKNOWN = 0.2
"""Share of training rows whose item, domain and category are read as never seen, as a target's
are."""
EPOCHS, PATIENCE, BATCH = 10, 2, 2048
LEARNING: dict[str, Any] = {
    "algorithm": "fomaml", "num_support": 100, "least_support": 20, "num_query": 100, "steps": 3,
    "tasks": 4, "updates": 60, "evaluate_every": 20, "held_out": 0.3, "checkpoint_every": 0,
    "metric": "auc",
}  # fmt: skip
"""How sources are taught to adapt."""
TEST_SHARE, LEAST_IN_USER = 0.4, 5
HIDDEN = ("item_id", "domain", "category")


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A world.

    Args:
        raw: Opens or draws the data, by seed; the items table has a column `domain`.
        valid: Domains by which settings are chosen.
        test: Domains that the figures are of.
        spec: The model of all methods.
        training: Of the source: `lr`, and `l2` of the tables.
    """

    raw: Callable[[int], RawData]
    valid: tuple[str, ...]
    test: tuple[str, ...]
    spec: ModelSpec
    training: dict[str, float]


def simulated(seed: int) -> RawData:
    """Ten domains of sixty items each, whose texts tell of their tastes; a thousand users."""
    config = SimulatorConfig(
        seed=seed, num_users=1_000, num_items=600, num_events=80_000, num_domains=10,
        latent_dim=4, taste=3.0, popularity=0.5, click_rate=0.3, drift=0.0, cold_users=0.0,
        cold_items=0.0, image_dim=0, text_dim=16, missing_vectors=0.0, vector_noise=1.5,
    )  # fmt: skip
    raw = simulate(config).raw()
    clicks = raw.schema.replace(tasks=[raw.schema.tasks[0].to_dict()])
    return without_features(replace(raw, schema=clicks), "history")


def films(_: int) -> RawData:
    """MovieLens 100K; a film's domain is the rarest of its genres among all films."""
    raw = open_raw("ml-100k")
    assert raw.items is not None, "it has films"
    items = read_whole(raw.items)
    genres = [text.split("|") if text else ["unknown"] for text in items["genres"].to_pylist()]
    counts: dict[str, int] = {}
    for own in genres:
        for name in own:
            counts[name] = counts.get(name, 0) + 1
    domain = [min(own, key=lambda name: (counts[name], name)) for own in genres]
    items = items.append_column("domain", pa.array(domain))
    features = [f.to_dict() for f in raw.schema.features if f.name != "history"]
    own_domain = Categorical(name="domain", role=Role.ITEM, table="items").to_dict()
    schema = raw.schema.replace(features=[*features, own_domain])
    return replace(raw, schema=schema, items=TableSource(items, "films"))


def read_whole(source: Source) -> pa.Table:
    """All of a source as a table."""
    problems = Problems("fail")
    return pa.Table.from_batches(c.table for c in source.chunks(tuple(source.columns), problems))


NET: dict[str, Any] = {"dim": 8, "hidden": [64, 64]}
WORLDS = {
    "simulated": World(
        raw=simulated, valid=("domain 6", "domain 7"), test=("domain 8", "domain 9"),
        spec=ModelSpec(model="deepfm", settings=NET), training={"lr": 5e-3, "l2": 1e-4},
    ),
    "films": World(
        raw=films, valid=("Sci-Fi", "Mystery"), test=("Horror", "Musical"),
        spec=ModelSpec(model="deepfm", settings=NET), training={"lr": 5e-3, "l2": 1e-3},
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A domain that the source has not met.

    Args:
        pool: Its training rows, in an order of chance.
        test: Its test rows.
    """

    pool: pa.Table
    test: pa.Table


class Bench:
    """A world of one seed: its source, and targets with any number of examples.

    Args:
        world: The world.
        seed: Of the division of rows and of all training.
        folder: For data sets and bundles.
    """

    def __init__(self, world: World, seed: int, folder: Path) -> None:
        self.world, self.seed, self.folder = world, seed, folder
        self.raw = world.raw(seed)
        events = read_whole(self.raw.splits["all"])
        assert self.raw.items is not None, "items have domains"
        items = read_whole(self.raw.items)
        text = pa.string()
        places = pc.index_in(events["item_id"].cast(text), items["item_id"].cast(text))
        domains = items["domain"].combine_chunks().take(places.combine_chunks())
        numbers = np.random.default_rng(seed)
        self.targets: dict[str, Target] = {}
        for name in (*world.valid, *world.test):
            own = events.filter(pc.equal(domains, name))
            own = own.take(numbers.permutation(own.num_rows))
            num = round(TEST_SHARE * own.num_rows)
            self.targets[name] = Target(own.slice(num), own.slice(0, num))
        away = pa.array([*world.valid, *world.test])
        rest = events.filter(pc.invert(pc.is_in(domains, away)))
        rest = rest.take(numbers.permutation(rest.num_rows))
        self._rest = rest.slice(0, rest.num_rows * 19 // 20), rest.slice(rest.num_rows * 19 // 20)
        self._data: dict[tuple[str, int], Dataset] = {}

    def _prepare(self, name: str, parts: Mapping[str, pa.Table], base: Path | None) -> Dataset:
        sources = {split: TableSource(part, split) for split, part in parts.items()}
        config = PrepareConfig.from_dict({"split": {"valid": 0.0, "test": 0.0}})
        known = None if base is None else base_of(read_bundle(base))
        return prepare(replace(self.raw, splits=sources), self.folder / name, config, base=known)

    @cached_property
    def source_data(self) -> Dataset:
        """The rows of all other domains; a twentieth validates."""
        train, valid = self._rest
        return self._prepare("source-data", {"train": train, "valid": valid}, None)

    @cached_property
    def source(self) -> Path:
        """The bundle that was trained on them."""
        found, self.source_epochs = self._fit(self.source_data, UNKNOWN)
        return write_recommender(self.folder / "source", found, self.source_data, ()).path

    def meta_source(self, settings: Mapping[str, Any]) -> Path:
        """The source, taught to adapt to domains by some parts at some rate."""
        path = self.folder / f"meta-{settings['adapt'].replace(',', '+')}-{settings['rate']}"
        if not path.exists():
            config = MetaConfig.from_dict({**LEARNING, **settings, "seed": self.seed})
            recommender = build_recommender(self.source_data.layout, self.world.spec, self.seed)
            recommender.load_tensors(read_bundle(self.source).tensors())
            tasks = TaskSet(self.hidden_data.split("train"), "domain", least_rows=500)
            found = meta_train(recommender, tasks, config)
            write_meta(path, found, self.source_data, "domain", config, ())
        return path

    @cached_property
    def hidden_data(self) -> Dataset:
        """The source's training rows with items and categories that it does not know.

        So its domains are tasks such as a target is.
        """
        raw = self.raw
        assert raw.items is not None, "items have domains"
        items, events = read_whole(raw.items), self._rest[0]
        for name in ("item_id", "category"):
            items = with_prefix(items, name)
            events = with_prefix(events, name)
        hidden = replace(
            raw,
            splits={"train": TableSource(events, "hidden")},
            items=TableSource(items, "hidden items"),
        )
        config = PrepareConfig.from_dict({"split": {"valid": 0.0, "test": 0.0}})
        base = base_of(read_bundle(self.source), GrowConfig(admit=10**9))
        return prepare(hidden, self.folder / "hidden", config, base=base)

    def target_data(self, domain: str, num: int) -> Dataset:
        """So many training rows of a target, and its test rows, to go on from the source."""
        key = (domain, num)
        if key not in self._data:
            own = self.targets[domain]
            parts = {"train": own.pool.slice(0, num), "test": own.test}
            self._data[key] = self._prepare(f"{domain}-{num}", parts, self.source)
        return self._data[key]

    def open(self, domain: str, num: int, bundle: Path | None = None) -> TransferSource:
        """The source, or what else was made of it, grown to a target."""
        return open_transfer(bundle or self.source, self.target_data(domain, num))

    def ceiling(self, domain: str) -> Measured:
        """A model of the source's rows and all training rows of the target together."""
        own = self.targets[domain]
        cut = own.pool.num_rows // 10
        train = pa.concat_tables([self._rest[0], own.pool.slice(cut)])
        parts = {"train": train, "valid": own.pool.slice(0, cut), "test": own.test}
        dataset = self._prepare(f"ceiling-{domain}", parts, None)
        found, _ = self._fit(dataset, 0.0)
        return judge(found, dataset)

    def _fit(self, dataset: Dataset, unknown: float) -> tuple[Recommender, int]:
        """Train until the validation rows' AUC has not risen for some epochs."""
        own, seed = self.world.training, self.seed
        config = TrainConfig.from_dict(
            {
                "batch_size": BATCH, "seed": seed, "precision": "fp32", "dense": {"lr": own["lr"]},
                "tables": {"lr": own["lr"], "l2": own["l2"]},
            }
        )  # fmt: skip
        recommender = build_recommender(dataset.layout, self.world.spec, seed)
        names = [field.name for field in dataset.layout.ids]
        hidden = [names.index(name) for name in HIDDEN if name in names]
        generator = torch.Generator().manual_seed(seed)
        valid = dataset.split("valid").read(0, dataset.num_rows("valid"))
        best, kept, num = 0.0, {}, 0
        with torch.random.fork_rng(devices=[]):
            learner = Learner(recommender, dataset, config, OneProcess())
            loader = Loader(dataset.split("train"), BATCH, seed)
            for epoch in range(EPOCHS):
                recommender.train()
                for batch in loader.epoch(epoch):
                    learner.step(hide(batch, hidden, unknown, generator), 1.0)
                found = auc(valid.labels[:, 0].numpy() > 0, score(recommender, valid).numpy())
                if found is not None and found > best:
                    best, num = found, epoch + 1
                    kept = {name: t.clone() for name, t in recommender.to_tensors().items()}
                if epoch + 1 - num >= PATIENCE:
                    break
        recommender.load_tensors(kept)
        return recommender.eval(), num


def with_prefix(table: pa.Table, name: str) -> pa.Table:
    """The table with other keys in a column, if it has it."""
    if name not in table.column_names:
        return table
    keys = table[name].cast(pa.string())
    other = pc.binary_join_element_wise("hidden", keys, " ")
    return table.set_column(table.column_names.index(name), name, other)


def hide(batch: Batch, fields: list[int], share: float, generator: torch.Generator) -> Batch:
    """The batch with some rows' item, domain and category read as never seen."""
    if not share:
        return batch
    ids = batch.ids.clone()
    rows = torch.rand(len(batch), generator=generator) < share
    for place in fields:
        known = ids[place] >= FIRST_ID
        ids[place, rows & known] = OOV
    return replace(batch, ids=ids)


@torch.no_grad()
def score(recommender: Recommender, batch: Batch) -> Tensor:
    """The first task's logits, ``[B]``."""
    logits: Tensor = recommender.eval()(batch)
    return logits[:, 0]


def judge(recommender: Recommender, dataset: Dataset) -> Measured:
    """AUC of all test rows, and NDCG@10 within each user who has at least five of them."""
    batch = dataset.split("test").read(0, dataset.num_rows("test"))
    scores, positive = score(recommender, batch), batch.labels[:, 0] > 0
    order = torch.argsort(batch.users, stable=True)
    _, counts = torch.unique_consecutive(batch.users[order], return_counts=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    rows = Ragged(order, offsets)
    few = rows.take(torch.nonzero(counts >= LEAST_IN_USER).flatten())
    ranked = measure(scores[few.rows], positive[few.rows], few)
    whole = auc(positive.numpy(), scores.double().numpy())
    assert whole is not None, "a target has both classes"
    return replace(ranked, auc=whole)

"""The worlds of `cold_start.py`: which data, what is held out, and which model learns them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from scalerec.data.opening import open_raw
from scalerec.data.raw import RawData
from scalerec.data.simulate import SimulatorConfig, simulate
from scalerec.meta.measuring import top_rated
from scalerec.meta.protocols import ProtocolConfig, without_features
from scalerec.meta.tasks import Ragged
from scalerec.models.recommender import ModelSpec

__all__ = ["WORLDS", "World"]

# Tastes of two dimensions, seen in nothing but ids; half of what is shown is liked.
SMALL_TASTE = {
    "latent_dim": 2, "click_rate": 0.5, "drift": 0.0, "cold_users": 0.0, "cold_items": 0.0,
    "image_dim": 0, "text_dim": 0,
}  # fmt: skip
FILMS_NET = ModelSpec(model="deepfm", settings={"dim": 16, "hidden": [64, 64], "dropout": 0.3})
SMALL_NET = ModelSpec(model="deepfm", settings={"dim": 8, "hidden": [64, 64]})
FILMS_TRAINING = {"lr": 2e-3, "dense_lr": 5e-4, "l2": 1e-3}
SMALL_TRAINING = {"lr": 2e-3, "dense_lr": 2e-3, "l2": 1e-4}


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A world.

    Args:
        raw: Opens or draws the data, by seed.
        config: What is held out.
        spec: The model of all methods.
        training: `lr` and `l2` of the tables, `dense_lr` of the net.
        k: Length of the lists that NDCG looks at.
        relevant: Which query rows are relevant, ``[N]`` bool, from labels ``[N]``.
        metrics: Are reported.
        bar: Share of the distance that 5 examples are to recover; 0 for none.
        numbers: Of examples; None for all.
        described: Whether features other than ids tell of the held-out keys.
    """

    raw: Callable[[int], RawData]
    config: ProtocolConfig
    spec: ModelSpec
    training: dict[str, Any]
    k: int = 10
    relevant: Callable[[Tensor, Ragged], Tensor] = lambda labels, _: labels > 0
    metrics: tuple[str, ...] = ("ndcg", "auc", "task_auc")
    bar: float = 0.0
    numbers: tuple[int | None, ...] = (0, 1, 3, 5, 10, 20)
    beaten: dict[str, float] = field(default_factory=dict)
    described: bool = True


def films(_: int) -> RawData:
    """MovieLens 100K; the seed divides it later."""
    return open_raw("ml-100k")


def rated_films(seed: int) -> RawData:
    """The same with the rating itself as label."""
    raw = films(seed)
    tasks = [{"name": "rating", "kind": "regression"}]
    return replace(raw, schema=raw.schema.replace(tasks=tasks))


def films_and_stars(seed: int) -> RawData:
    """The same with the rating as a second task: examples tell how much somebody liked a film."""
    raw = films(seed)
    tasks = [raw.schema.tasks[0].to_dict(), {"name": "rating", "kind": "regression"}]
    return replace(raw, schema=raw.schema.replace(tasks=tasks))


def simulated(seed: int, config: dict[str, Any], *unseen: str) -> RawData:
    """A simulated world with clicks alone, some features unseen."""
    raw = simulate(SimulatorConfig.from_dict({"seed": seed, **SMALL_TASTE, **config})).raw()
    clicks = raw.schema.replace(tasks=[raw.schema.tasks[0].to_dict()])
    return without_features(replace(raw, schema=clicks), "history", *unseen)


def simulated_users(seed: int) -> RawData:
    """Three thousand users of three domains."""
    config = {"num_users": 3_000, "num_items": 500, "num_events": 200_000, "taste": 3.0}
    return simulated(seed, {**config, "popularity": 0.5}, "segment", "country", "age")


def simulated_domains(seed: int) -> RawData:
    """Three hundred small domains, whose items are shown about twice each."""
    config = {"num_users": 500, "num_items": 150_000, "num_events": 300_000, "num_domains": 300}
    own = {**config, "popularity": 0.0, "taste": 8.0, "latent_dim": 1}
    return simulated(seed, own, "item_id", "category", "price", "segment", "country", "age")


def liked_above_least(labels: Tensor, query: Ragged) -> Tensor:
    """RecBole-MetaRec's click: liked, unless all of a task's query rows are, then none."""
    liked = labels > 0
    all_liked = liked.long().new_zeros(len(query)).index_add_(0, query.tasks, liked.long())
    return liked & (all_liked < query.lengths)[query.tasks]


META_REC = ProtocolConfig(
    by="user", valid=0.1, test=0.1, warm=0.0, least_rows=13, most_rows=100, num_query=10
)
WORLDS = {
    "users": World(
        raw=films_and_stars, config=ProtocolConfig(by="user"), spec=FILMS_NET,
        training=FILMS_TRAINING, bar=0.3,
    ),
    "items": World(
        raw=films_and_stars, config=ProtocolConfig(by="item"), spec=FILMS_NET,
        training=FILMS_TRAINING, bar=0.3,
    ),
    "simulated users": World(
        raw=simulated_users, config=ProtocolConfig(by="user"), spec=SMALL_NET,
        training=SMALL_TRAINING, bar=0.6, described=False,
    ),
    "simulated domains": World(
        raw=simulated_domains, spec=SMALL_NET,
        config=ProtocolConfig(by="domain", least_rows=400, num_query=200),
        training=SMALL_TRAINING, bar=0.6, described=False,
    ),
    "meta-rec rating": World(
        raw=rated_films, config=META_REC, spec=FILMS_NET, training=FILMS_TRAINING, k=5,
        relevant=lambda labels, query: top_rated(labels, query, 5), metrics=("ndcg",),
        numbers=(0, 5, None), beaten={"TaNP": 0.599},
    ),
    "meta-rec click": World(
        raw=films, config=META_REC, spec=FILMS_NET, training=FILMS_TRAINING, k=5,
        relevant=liked_above_least, metrics=("ndcg",), numbers=(0, 5, None),
        beaten={"MWUF": 0.714},
    ),
}  # fmt: skip

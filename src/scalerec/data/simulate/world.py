"""The simulated world: its settings, its users and items, and what can be seen of them."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.config import Config, require

__all__ = ["Floats", "Ints", "SimulatorConfig", "World", "items_table", "make_world", "users_table"]

DOMAINS = ("books", "films", "music", "games", "travel", "food")
COUNTRIES = np.array(["DE", "FR", "GB", "IN", "JP", "US"])
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatorConfig(Config):
    """The simulated world.

    Args:
        seed: The same seed gives the same world and events.
        num_users: At least 2.
        num_items: At least two a domain.
        num_events: At least 1.
        num_domains: Kinds of items, at least 1.
        latent_dim: Rank of the tastes.
        taste: Weight of the taste in the logit of a click; 0 for none.
        popularity: Exponent of Zipf's law; 0 shows all items of a domain equally often.
        drift: How far tastes move over the whole period: 0 not at all, 1 to unrelated ones.
        position_bias: Weight of log(1 + position) against a click.
        num_positions: Positions of a page, 0 the best.
        click_rate: Mean probability of a click, in (0, 1).
        conversion_rate: Mean probability of a conversion given a click, in (0, 1).
        task_overlap: Correlation of the tastes of the two tasks, in [0, 1].
        image_dim: Size of an item's image vector; 0 for none.
        text_dim: Size of an item's text vector; 0 for none.
        vector_noise: Standard deviation of the noise in vectors whose signal has one of about 1.
        missing_vectors: Share of items without an image, and without a text, in [0, 1].
        cold_users: Share of users that come late, in [0, 1).
        cold_items: Share of items that come late, in [0, 1).
        cold_after: When they come, as a part of the period, in (0, 1).
        start: Unix seconds at which the period starts.
        days: Length of the period.
    """

    seed: int = 0
    num_users: int = 2_000
    num_items: int = 1_000
    num_events: int = 100_000
    num_domains: int = 3
    latent_dim: int = 8
    taste: float = 2.0
    popularity: float = 1.0
    drift: float = 0.3
    position_bias: float = 0.7
    num_positions: int = 10
    click_rate: float = 0.2
    conversion_rate: float = 0.3
    task_overlap: float = 0.6
    image_dim: int = 16
    text_dim: int = 16
    vector_noise: float = 0.5
    missing_vectors: float = 0.1
    cold_users: float = 0.1
    cold_items: float = 0.1
    cold_after: float = 0.7
    start: int = 1_700_000_000
    days: int = 30

    def __post_init__(self) -> None:
        for name, least in (("num_users", 2), ("num_events", 1), ("num_domains", 1), ("days", 1)):
            self._at_least(name, least)
        for name, least in (("latent_dim", 1), ("num_positions", 1), ("seed", 0)):
            self._at_least(name, least)
        for name in ("taste", "popularity", "position_bias", "vector_noise", "image_dim"):
            self._at_least(name, 0)
        self._at_least("text_dim", 0)
        self._at_least("num_items", 2 * self.num_domains)
        for name in ("click_rate", "conversion_rate", "cold_after"):
            value = getattr(self, name)
            require(0 < value < 1, f"{name} must be in (0, 1); got {value}")
        for name in ("drift", "task_overlap", "missing_vectors"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{name} must be in [0, 1]; got {value}")
        for name in ("cold_users", "cold_items"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} must be in [0, 1); got {value}")

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        require(value >= least, f"{name} must be at least {least}; got {value}")


@dataclass(frozen=True, slots=True)
class World:
    """Latent tastes and fixed properties: U users, I items, d latent dimensions."""

    first: Floats  # [U, d] tastes at the start
    last: Floats  # [U, d] what they turn towards
    liking: Floats  # [U, domains] probability of each domain
    activity: Floats  # [U] weight
    items: Floats  # [I, d]
    items_converting: Floats  # [I, d]
    quality: Floats  # [I]
    weight: Floats  # [I] popularity
    domain: Ints  # [I]
    cold_users: NDArray[np.bool_]  # [U]
    cold_items: NDArray[np.bool_]  # [I]


def make_world(config: SimulatorConfig, generator: np.random.Generator) -> World:
    """Draw the users and items of a world."""
    users, items, dim = config.num_users, config.num_items, config.latent_dim
    domain = np.arange(items) % config.num_domains
    # Items of one domain resemble each other: a third of their variance is the domain's.
    centre = generator.normal(size=(config.num_domains, dim))
    tastes = math.sqrt(1 / 3) * centre[domain] + math.sqrt(2 / 3) * generator.normal(
        size=(items, dim)
    )
    own = generator.normal(size=(items, dim))
    overlap = config.task_overlap
    rank = generator.permutation(items) + 1
    cold_items = generator.random(items) < config.cold_items
    cold_items[: config.num_domains] = False  # every domain has an item from the start
    cold_users = generator.random(users) < config.cold_users
    cold_users[0] = False
    return World(
        first=generator.normal(size=(users, dim)),
        last=generator.normal(size=(users, dim)),
        liking=generator.dirichlet(np.ones(config.num_domains), size=users),
        activity=generator.lognormal(size=users),
        items=tastes,
        items_converting=overlap * tastes + math.sqrt(1 - overlap**2) * own,
        quality=0.5 * generator.normal(size=items),
        weight=rank.astype(np.float64) ** -config.popularity,
        domain=domain,
        cold_users=cold_users,
        cold_items=cold_items,
    )


def users_table(world: World, generator: np.random.Generator) -> pa.Table:
    """What can be seen of the users: segment and age follow from tastes, the country does not."""
    users = len(world.first)
    age = 40 + 12 * world.first[:, 0] + 4 * generator.normal(size=users)
    segment = np.argmax(world.first[:, :4], axis=1)
    return pa.table(
        {
            "user_id": np.arange(1, users + 1),
            "segment": pa.array([f"segment {k}" for k in segment]),
            "age": np.clip(age, 16, 90).round().astype(np.int64),
            "country": pa.array(COUNTRIES[generator.integers(len(COUNTRIES), size=users)]),
        }
    )


def items_table(config: SimulatorConfig, world: World, generator: np.random.Generator) -> pa.Table:
    """What can be seen of the items: titles, categories, prices, and noisy views of tastes."""
    items = len(world.items)
    names = [*DOMAINS, *(f"domain {k}" for k in range(len(DOMAINS), config.num_domains))]
    domain = [names[k] for k in world.domain]
    category = np.argmax(world.items[:, :6], axis=1)
    price = np.exp(2 + 0.5 * world.items_converting[:, -1] + 0.3 * generator.normal(size=items))
    columns = {
        "item_id": pa.array(np.arange(1, items + 1)),
        "title": pa.array([f"Item {i + 1} of domain {name}" for i, name in enumerate(domain)]),
        "domain": pa.array(domain),
        "category": pa.array([f"{n} {k}" for n, k in zip(domain, category, strict=True)]),
        "price": pa.array(price.round(2)),
    }
    for name, dim in (("image", config.image_dim), ("text", config.text_dim)):
        if dim:
            columns[name] = _views(config, world, dim, generator)
    return pa.table(columns)


def _views(
    config: SimulatorConfig, world: World, dim: int, generator: np.random.Generator
) -> pa.Array:
    """Noisy linear views of the items' tastes, some of them null: a list of `dim` floats each."""
    items, latent = world.items.shape
    view = world.items @ (generator.normal(size=(latent, dim)) / math.sqrt(latent))
    view += config.vector_noise * generator.normal(size=view.shape)
    missing = generator.random(items) < config.missing_vectors
    values = pa.array(view.astype(np.float32).ravel())
    offsets = pa.array(np.arange(items + 1, dtype=np.int32) * dim)
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(missing))

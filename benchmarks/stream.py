"""A simulated stream of days: users and items come and go, and every click has a true chance.

```text
click ~ Bernoulli(sigmoid(b + taste <u(t), v> / sqrt(dim) + quality))
```

A user and an item are there from their first day on and for some days; the tastes of users turn
slowly. What is shown depends on activity and popularity, not on the taste.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.raw import RawData
from scalerec.data.schema import Schema
from scalerec.data.sources import TableSource

__all__ = ["SCHEMA", "StreamConfig", "days_of", "raw_of"]

DAY_S = 86_400
START = 1_700_006_400  # midnight
Floats = NDArray[np.float64]
SCHEMA = Schema.from_dict(
    {
        "user": "user",
        "item": "item",
        "timestamp": "time",
        "features": [
            {"name": "user", "kind": "categorical", "role": "user"},
            {"name": "segment", "kind": "categorical", "role": "user"},
            {"name": "item", "kind": "categorical", "role": "item"},
            {"name": "category", "kind": "categorical", "role": "item"},
            {"name": "hour", "kind": "timestamp", "column": "time", "parts": ["hour"]},
        ],
        "tasks": [{"name": "click"}],
        "tables": {},
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """The stream.

    Args:
        seed: The same seed gives the same days.
        days: Their number.
        rows: Events a day.
        users: Users there at a time; items likewise.
        items: See `users`.
        stay: Days that a user or an item is there, so that a part of 1 / `stay` is new each day.
        dim: Rank of the tastes.
        taste: Weight of the taste.
        drift: How far tastes turn in a day, as a part of a right angle.
    """

    seed: int = 0
    days: int = 8
    rows: int = 50_000
    users: int = 2_000
    items: int = 1_000
    stay: int = 10
    dim: int = 4
    taste: float = 2.5
    drift: float = 0.01


@dataclass(frozen=True, slots=True)
class _Side:
    """Users or items: when each comes, what it likes or is, and how often it is seen."""

    first: NDArray[np.int64]
    taste: Floats
    group: NDArray[np.int64]
    weight: Floats

    @classmethod
    def draw(cls, size: int, config: StreamConfig, draw: np.random.Generator) -> "_Side":
        # Those who leave make room for as many who come.
        total = size + -(-size * config.days // config.stay)
        first = (np.arange(total) - size) * config.stay // size
        taste = draw.normal(size=(total, config.dim))
        group = np.argmax(taste @ draw.normal(size=(config.dim, 8)), axis=1)
        return cls(first, taste, group, draw.lognormal(sigma=1.0, size=total))

    def shown(self, day: int, config: StreamConfig, draw: np.random.Generator) -> NDArray[np.int64]:
        there = np.flatnonzero((self.first < day + 1) & (self.first >= day + 1 - config.stay))
        share = self.weight[there] / self.weight[there].sum()
        chosen: NDArray[np.int64] = draw.choice(there, config.rows, p=share)
        return chosen


def days_of(config: StreamConfig) -> list[tuple[pa.Table, Floats]]:
    """Every day's events in the order of time, and the true chance of each click."""
    draw = np.random.default_rng(config.seed)
    users = _Side.draw(config.users, config, draw)
    items = _Side.draw(config.items, config, draw)
    turned = draw.normal(size=users.taste.shape)
    quality = draw.normal(size=len(items.first)) * 0.5
    days = []
    for day in range(config.days):
        user, item = users.shown(day, config, draw), items.shown(day, config, draw)
        angle = config.drift * day * np.pi / 2
        liking = np.cos(angle) * users.taste[user] + np.sin(angle) * turned[user]
        match = (liking * items.taste[item]).sum(1) / np.sqrt(config.dim)
        chance = 1 / (1 + np.exp(1.0 - config.taste * match - quality[item]))
        columns = {
            "user": [f"u{number}" for number in user],
            "segment": users.group[user],
            "item": [f"i{number}" for number in item],
            "category": items.group[item],
            "time": START + day * DAY_S + np.sort(draw.integers(DAY_S, size=config.rows)),
            "click": (draw.random(config.rows) < chance).astype(np.int8),
        }
        days.append((pa.table(columns), chance))
    return days


def raw_of(*days: pa.Table, name: str = "stream") -> RawData:
    """Some days' events as a data set that can be prepared."""
    table = pa.concat_tables(days)
    return RawData(name=name, schema=SCHEMA, splits={"all": TableSource(table, name)})

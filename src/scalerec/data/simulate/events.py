"""A simulator with known truth: every event has a true probability, so metrics have a ceiling.

Users and items have latent tastes of low rank. An event is one item, shown to one user at one
position of a page at one moment:

```text
u(t)         = cos(drift t pi/2) u0 + sin(drift t pi/2) u1,   t in [0, 1)
s            = <u(t), v> / sqrt(latent_dim)
click        ~ Bernoulli(sigmoid(b + taste s + quality - position_bias log(1 + position)))
conversion   ~ click x Bernoulli(sigmoid(b' + taste s')),   s' from tastes that overlap with v
```

`b` and `b'` are set so that the rates come out as asked. Which item is shown depends on the user's
liking for domains and on the item's popularity (Zipf), not on the taste, so the logs have no
confounding by an earlier recommender. Cold users and items come into being late in the period.
Images and texts are noisy linear views of an item's latent taste.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from scalerec.data.simulate.result import Simulated, simulated_schema
from scalerec.data.simulate.world import (
    Floats,
    Ints,
    SimulatorConfig,
    World,
    items_table,
    make_world,
    users_table,
)

__all__ = ["simulate"]


@dataclass(frozen=True, slots=True)
class _Shown:
    """Each event's user, item, position and moment (as a part of the period), ``[events]``."""

    user: Ints
    item: Ints
    position: Ints
    share: Floats


def simulate(config: SimulatorConfig) -> Simulated:
    """Simulate users, items and events.

    Args:
        config: The world; the same config gives the same result.

    Returns:
        The tables and the truth. Ids count from 1.

    Example:
        >>> simulated = simulate(SimulatorConfig(num_events=100))
        >>> simulated.events.num_rows, simulated.items.column("title")[0].as_py()
        (100, 'Item 1 of domain books')
    """
    generator = np.random.default_rng(config.seed)
    world = make_world(config, generator)
    share = np.sort(generator.random(config.num_events))
    user, item = _draw_pairs(world, share >= config.cold_after, generator)
    position = generator.integers(config.num_positions, size=config.num_events)
    shown = _Shown(user, item, position, share)
    click, converting = _probabilities(config, world, shown)
    clicked = generator.random(config.num_events) < click
    converted = clicked & (generator.random(config.num_events) < converting)
    columns = {
        "user_id": user + 1,
        "item_id": item + 1,
        "time": config.start + (share * config.days * 86_400).astype(np.int64),
        "position": position,
        "click": clicked.astype(np.int8),
        "conversion": converted.astype(np.int8),
    }
    return Simulated(
        events=pa.table(columns),
        users=users_table(world, generator),
        items=items_table(config, world, generator),
        schema=simulated_schema(config.image_dim, config.text_dim),
        probabilities={
            "click": click,
            "conversion": click * converting,
            "conversion_given_click": converting,
        },
        cold_users=np.flatnonzero(world.cold_users) + 1,
        cold_items=np.flatnonzero(world.cold_items) + 1,
    )


def _draw_pairs(
    world: World, late: NDArray[np.bool_], generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """Draw each event's user and item, ``[events]`` each; cold ones only where `late`."""
    user = np.empty(len(late), dtype=np.int64)
    item = np.empty(len(late), dtype=np.int64)
    for phase in (False, True):
        events = np.flatnonzero(late == phase)
        there = np.flatnonzero(~world.cold_users | phase)
        user[events] = _choose(there, world.activity[there], len(events), generator)
    steps = np.cumsum(world.liking, axis=1)[:, :-1]
    domain = (generator.random((len(late), 1)) > steps[user]).sum(axis=1)
    for phase in (False, True):
        for kind in range(world.liking.shape[1]):
            events = np.flatnonzero((late == phase) & (domain == kind))
            there = np.flatnonzero((world.domain == kind) & (~world.cold_items | phase))
            item[events] = _choose(there, world.weight[there], len(events), generator)
    return user, item


def _choose(values: Ints, weights: Floats, count: int, generator: np.random.Generator) -> Ints:
    """Draw `count` of `values` with replacement, in proportion to the weights."""
    steps = np.cumsum(weights)
    places = np.searchsorted(steps, generator.random(count) * steps[-1], side="right")
    chosen: Ints = values[np.minimum(places, len(values) - 1)]
    return chosen


def _probabilities(config: SimulatorConfig, world: World, shown: _Shown) -> tuple[Floats, Floats]:
    """Probability of a click, and of a conversion given a click, ``[events]`` each."""
    user, item = shown.user, shown.item
    angle = (config.drift * math.pi / 2 * shown.share)[:, None]
    taste = np.cos(angle) * world.first[user] + np.sin(angle) * world.last[user]
    scale = config.taste / math.sqrt(config.latent_dim)
    logit = scale * np.einsum("ed,ed->e", taste, world.items[item]) + world.quality[item]
    logit -= config.position_bias * np.log1p(shown.position)
    click = _with_mean(logit, np.ones_like(logit), config.click_rate)
    converting = scale * np.einsum("ed,ed->e", taste, world.items_converting[item])
    return click, _with_mean(converting, click, config.conversion_rate)


def _with_mean(logit: Floats, weight: Floats, mean: float) -> Floats:
    """Shift the logits so that the weighted mean of the probabilities is `mean`."""
    low, high = -60.0 - logit.max(), 60.0 - logit.min()
    step = max(1, len(logit) // 100_000)  # a sample finds the shift well enough
    for _ in range(60):
        middle = (low + high) / 2
        found = np.average(_sigmoid(logit[::step] + middle), weights=weight[::step])
        low, high = (middle, high) if found < mean else (low, middle)
    return _sigmoid(logit + (low + high) / 2)


def _sigmoid(logit: Floats) -> Floats:
    return 0.5 + 0.5 * np.tanh(0.5 * logit)

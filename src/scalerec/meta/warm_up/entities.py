"""The users or the items of a recommender: which field is their key, and what describes them.

Shapes: N users or items, K numbers that describe one (its embedded fields side by side), W columns
of a row, D embedding.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.features import Role
from scalerec.data.schema import Schema
from scalerec.data.vocabulary import FIRST_ID
from scalerec.errors import ConfigError
from scalerec.models.recommender import Recommender
from scalerec.models.warming import WarmUp
from scalerec.scoring.scores import evaluating

__all__ = ["Entities", "EntityKind", "check_table", "describe", "entities_of", "known_rows"]

EntityKind = Literal["user", "item"]
CHUNK = 4_096


@dataclass(frozen=True, slots=True)
class Entities:
    """The users or the items that a recommender scores.

    Args:
        kind: Which of both.
        key: The id field of their key.
        features: Their other fields, histories left out: an event's history grows, and a new user
            has none.
        partner: The id field of the other kind's key; empty if there is none.
    """

    kind: EntityKind
    key: str
    features: tuple[str, ...]
    partner: str

    def numbers(self, batch: Batch) -> Tensor:
        """Numbers of the rows' users or items, ``[B]``."""
        return batch.items if self.kind == "item" else batch.users

    def partners(self, batch: Batch) -> Tensor:
        """Numbers of the other kind, ``[B]``."""
        return batch.users if self.kind == "item" else batch.items


def entities_of(recommender: Recommender, schema: Schema, kind: EntityKind) -> Entities:
    """Find the key and the features of a recommender's users or items.

    Args:
        recommender: The model.
        schema: Of its data.
        kind: `user` or `item`.

    Raises:
        ConfigError: If the schema has no such key among the model's fields, or nothing else
            describes one.
    """
    layout = recommender.narrow.layout
    if kind not in ("user", "item"):
        raise ConfigError(f"what is warmed up must be one of user, item; got {kind!r}")
    keys = {"user": schema.user_key, "item": schema.item_key}
    own, other = keys[kind], keys["item" if kind == "user" else "user"]
    names = [field.name for field in layout.ids]
    there = own is not None and own.name in names
    require(there, f"the model reads no key of {kind}s as a feature, so no {kind} has a row")
    assert own is not None
    role = Role.ITEM if kind == "item" else Role.USER
    histories = [field.name for field in layout.bags if field.history]
    features = tuple(
        field.name
        for field in layout.fields
        if field.role is role and field.name != own.name and field.name not in histories
    )
    whom = "an item" if kind == "item" else "a user"
    require(bool(features), f"nothing but its key describes {whom}: no row can be generated")
    partner = other.name if other is not None and other.name in names else ""
    return Entities(kind, own.name, features, partner)


def check_table(recommender: Recommender, schema: Schema, key: str) -> None:
    """Refuse a key whose ids have no rows of their own that could be written.

    Raises:
        ConfigError: If its table has another form, or its ids are hashed.
    """
    layout = recommender.layout
    table = next(field.table for field in layout.ids if field.name == key)
    formed = table in recommender.spec.forms.tables
    require(not formed, f"table {table!r} has another form, so no rows can be written to it")
    feature = next(f for f in schema.features if f.name == key)
    hashed = getattr(feature, "buckets", None) is not None
    require(not hashed, f"ids of {key!r} are hashed: a new one shares its row with known ones")


@torch.no_grad()
def describe(recommender: Recommender, warm_up: WarmUp, batch: Batch) -> Tensor:
    """The features of users or items as a warmer reads them, ``[N, K]``.

    Args:
        recommender: Its embedder is used as it is.
        warm_up: Names the features.
        batch: The users or items, one a row; other fields may be empty.
    """
    places = warm_up.places(recommender.narrow.layout)
    parts = [torch.zeros(0, len(places) * recommender.spec.net_config().dim)]
    with evaluating(recommender):
        for start in range(0, len(batch), CHUNK):
            fields_bfd = recommender.read(batch.slice(start, start + CHUNK)).fields
            parts.append(fields_bfd[:, places].flatten(1).float())
    return torch.cat(parts)


@torch.no_grad()
def known_rows(recommender: Recommender, warm_up: WarmUp, batch: Batch) -> Tensor:
    """The rows of those users or items that the model knows, ``[N, W]``.

    Args:
        recommender: The model.
        warm_up: Names the key.
        batch: The users or items, one a row.

    Raises:
        ConfigError: If it knows none.
    """
    tables, layout = recommender.tables, recommender.narrow.layout
    place = warm_up.field(layout)
    ids = recommender.narrow(batch).ids[place]
    ids = ids[ids >= FIRST_ID].unique()
    require(len(ids) > 0, f"the model knows no {warm_up.key!r}: nothing can be learned from")
    return tables.read(tables.addresses(layout.ids[place].table, ids)[0])

"""Encoders that grow: yesterday's rows bring new keys, and old ids keep their meaning.

- A known key keeps its id for ever.
- A new key waits until it was seen `admit` times, counted over updates; then it gets the next id,
  the commonest first, ties in the order of their text. Until then it is out-of-vocabulary.
- A key that was not seen for long, or has no room, is retired: its id stays empty and is never
  given to another key. If the key comes back, it is a new one. So ids never collide, and whatever
  was encoded earlier still means what it meant; only the row of a retired id goes to another
  (`scalerec.models.growing`).
- Statistics of numbers and hashed ids stay as they are.

All keys that an update saw count as seen at its latest training row.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from scalerec.config import Config, require
from scalerec.data.encoding import Encoders
from scalerec.data.extending import fault_of_extension
from scalerec.data.growth import Growth, no_waiting
from scalerec.data.schema import Categorical, Schema, Sequence, Text
from scalerec.data.vocabulary import FIRST_ID, OOV, HashVocabulary, Vocabulary
from scalerec.errors import DataError

__all__ = ["GrowConfig", "GrowRule", "Update", "fault_of_growth", "grow_encoders", "live_ids"]

DAY_S = 86_400
MOST_IDS = 2**31 - 1  # ids are stored as int32
Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowRule(Config):
    """How one table grows.

    Args:
        admit: A new key gets an id when it was seen so often; 0 for the schema's `min_count`.
        max_ids: Most keys that may have an id at a time; 0 for no limit.
        evict_after: A key that was not seen for so long is retired: days where the schema has a
            timestamp, else updates; 0 for never.
        evict_first: Who goes where there is no room: `old`, those not seen for longest (of these
            the rarest), or `rare`, the rarest (of these those not seen for longest).
    """

    admit: int = 0
    max_ids: int = 0
    evict_after: float = 0.0
    evict_first: Literal["old", "rare"] = "old"

    def __post_init__(self) -> None:
        for name in ("admit", "max_ids", "evict_after"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must be at least 0; got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class GrowConfig(Config):
    """How tables grow.

    Args:
        admit: As for `GrowRule`, of all tables; so are the next three.
        max_ids: See `GrowRule`.
        evict_after: See `GrowRule`.
        evict_first: See `GrowRule`.
        max_waiting: Keys of a table that may wait for their id; the commonest stay, of these those
            seen last.
        tables: Settings of a `GrowRule` for single tables.
    """

    admit: int = 0
    max_ids: int = 0
    evict_after: float = 0.0
    evict_first: Literal["old", "rare"] = "old"
    max_waiting: int = 1_000_000
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.max_waiting >= 0, f"max_waiting must be at least 0; got {self.max_waiting}")
        for name in ("", *self.tables):
            self.rule(name)

    def rule(self, table: str) -> GrowRule:
        """The rule of one table."""
        shared = {name: getattr(self, name) for name in GrowRule.__slots__}
        own = self.tables.get(table, {})
        return GrowRule.from_dict({**shared, **own}, f"tables.{table}" if own else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """When an update was, on the clock of the data.

    Args:
        first: Moment of the earliest training row; a key whose last moment is not known counts as
            seen then.
        last: Moment of the latest.
        unit: What `evict_after` counts in.
    """

    first: int
    last: int
    unit: int

    @classmethod
    def of(cls, times: Numbers | None, encoders: Encoders) -> Self:
        """The update that training rows make.

        Args:
            times: Their times in Unix seconds, ``[n]``; none if there is no timestamp, so that
                updates are counted.
            encoders: Those that are to grow.
        """
        if times is not None:
            return cls(first=int(times.min()), last=int(times.max()), unit=DAY_S)
        grown = (v.growth for v in encoders.vocabularies.values() if isinstance(v, Vocabulary))
        number = max((growth.updates for growth in grown if growth), default=0)
        return cls(first=number, last=number + 1, unit=1)


def grow_encoders(
    encoders: Encoders, seen: Mapping[str, pa.Table], config: GrowConfig, update: Update
) -> Encoders:
    """Give encoders that know what new training rows brought.

    Args:
        encoders: The earlier ones; they stay as they are.
        seen: By vocabulary the distinct keys of the new training rows: columns `key` and `count`.
        config: The settings.
        update: When it is.

    Raises:
        DataError: If a setting is for a table that does not exist or cannot grow, or there is no
            id left.
    """
    schema, grown = encoders.schema, dict(encoders.vocabularies)
    able = [name for name, own in grown.items() if isinstance(own, Vocabulary)]
    for name in config.tables:
        if name not in able:
            raise DataError(
                f"table {name!r} cannot grow; these can: {', '.join(able) or 'none'} (hashed ids, "
                "buckets of numbers and parts of times have as many rows as they will ever have)"
            )
    for name in able:
        rule = config.rule(name)
        rule = rule.replace(admit=rule.admit or _min_count(schema, name))
        own = grown[name]
        assert isinstance(own, Vocabulary)
        grown[name] = _grow(own, seen[name], rule, update, config.max_waiting)
        if grown[name].size > MOST_IDS:
            raise DataError(f"table {name!r} has more ids than there can be: {grown[name].size}")
    return Encoders(schema, grown, encoders.numbers)


def live_ids(vocabulary: Vocabulary | HashVocabulary) -> Mask:
    """Which ids are not retired, ``[size]``; padding and out-of-vocabulary never are."""
    live = np.ones(vocabulary.size, dtype=bool)
    if isinstance(vocabulary, Vocabulary) and vocabulary.keys.null_count:
        live[FIRST_ID:] = vocabulary.keys.is_valid().to_numpy(zero_copy_only=False)
    return live


def fault_of_growth(later: Encoders, earlier: Encoders) -> str:
    """Tell why `later` did not grow from `earlier`, or are not those; empty where they did.

    If they did, every id of the earlier ones still belongs to the same key, or to none; later ones
    may know more features.
    """
    if fault := fault_of_extension(later.schema, earlier.schema):
        return f"the schemas differ: {fault}"
    if not later.vocabularies.keys() >= earlier.vocabularies.keys():
        return "the vocabularies differ"
    for name, old in earlier.vocabularies.items():
        new = later.vocabularies[name]
        if isinstance(old, HashVocabulary) or isinstance(new, HashVocabulary):
            sizes = old.size, new.size
            if type(old) is not type(new) or sizes[0] != sizes[1]:
                return f"the hashed ids of {name!r} differ"
        elif not _extends(new.keys, old.keys):
            return f"an id of {name!r} belongs to another key"
    for name, stats in earlier.numbers.items():
        if later.numbers.get(name) != stats:
            return f"the statistics of {name!r} differ"
    return ""


def _extends(later: pa.Array, earlier: pa.Array) -> bool:
    if len(later) < len(earlier):
        return False
    same = later[: len(earlier)]
    kept = pc.or_(same.is_null(), pc.fill_null(pc.equal(same, earlier), False))
    return bool(pc.all(kept, min_count=0).as_py())


def _min_count(schema: Schema, table: str) -> int:
    for feature in schema.features:
        has_keys = isinstance(feature, Categorical | Sequence | Text)
        if has_keys and feature not in schema.history and table in schema.tables_of(feature):
            assert isinstance(feature, Categorical | Sequence | Text)
            return feature.min_count
    return 1


@dataclass(frozen=True, slots=True)
class _Keys:
    """Keys, how often each was seen, when last, and how often in this update."""

    key: pa.Array
    count: Numbers
    last: Numbers
    now: Numbers

    def __len__(self) -> int:
        return len(self.count)

    def take(self, rows: Mask | Numbers) -> "_Keys":
        mask = pa.array(np.flatnonzero(rows) if rows.dtype == bool else rows)
        return _Keys(self.key.take(mask), self.count[rows], self.last[rows], self.now[rows])


def _grow(
    old: Vocabulary, seen: pa.Table, rule: GrowRule, update: Update, most_waiting: int
) -> Vocabulary:
    known, waiting = _count(old, seen, update)
    if rule.evict_after:
        oldest = update.last - rule.evict_after * update.unit
        waiting = waiting.take(waiting.last >= oldest)
        stays = live_ids(old)[FIRST_ID:] & (known.last >= oldest)
    else:
        stays = live_ids(old)[FIRST_ID:]
    ready = waiting.count >= rule.admit
    if rule.max_ids:
        _make_room(known, stays, waiting, ready, rule)
    new, rest = waiting.take(ready), waiting.take(~ready)
    head = np.array([0, old.counts[OOV] + rest.now.sum()])
    updates = old.growth.updates + 1 if old.growth else 1
    return Vocabulary(
        pa.concat_arrays([_only(known.key, stays), new.key]),
        np.concatenate([head, known.count * stays, new.count]),
        Growth(
            np.concatenate([[0, 0], known.last * stays, new.last]),
            _commonest(rest, most_waiting),
            updates,
        ),
    )


def _count(old: Vocabulary, seen: pa.Table, update: Update) -> tuple[_Keys, _Keys]:
    """All ids' keys, and all keys without an id in the order in which they are admitted."""
    growth = old.growth
    keys, now = _whole(seen["key"]), seen["count"].to_numpy()
    ids = old.encode(keys)
    is_known = ids >= FIRST_ID
    of_id = np.zeros(old.size, np.int64)
    of_id[ids[is_known]] = now[is_known]
    last = np.full(old.size, update.first) if growth is None else growth.last
    last = np.where(of_id > 0, np.maximum(last, update.last), last)
    known = _Keys(old.keys, (old.counts + of_id)[FIRST_ID:], last[FIRST_ID:], of_id[FIRST_ID:])
    before = no_waiting() if growth is None else growth.waiting
    fresh = {
        "key": keys.filter(pa.array(~is_known)),
        "count": now[~is_known],
        "last": np.full(int((~is_known).sum()), update.last),
    }
    parts = [
        before.append_column("now", pa.array(np.zeros(len(before), np.int64))),
        pa.table({**fresh, "now": now[~is_known]}),
    ]
    sums = [("count", "sum"), ("last", "max"), ("now", "sum")]
    merged = pa.concat_tables(parts).group_by("key").aggregate(sums)
    merged = merged.sort_by([("count_sum", "descending"), ("key", "ascending")])
    numbers = (merged[f"{name}_{how}"].to_numpy() for name, how in sums)
    return known, _Keys(_whole(merged["key"]), *numbers)


def _make_room(known: _Keys, stays: Mask, waiting: _Keys, ready: Mask, rule: GrowRule) -> None:
    """Take from `stays` and `ready`, in place, who finds no room."""
    old, new = np.flatnonzero(stays), np.flatnonzero(ready)
    excess = len(old) + len(new) - rule.max_ids
    if excess <= 0:
        return
    count = np.concatenate([known.count[old], waiting.count[new]])
    last = np.concatenate([known.last[old], waiting.last[new]])
    # Who came first stays among equals.
    place = -np.arange(len(count))
    order = (place, count, last) if rule.evict_first == "old" else (place, last, count)
    out = np.lexsort(order)[:excess]
    stays[old[out[out < len(old)]]] = False
    ready[new[out[out >= len(old)] - len(old)]] = False


def _commonest(waiting: _Keys, most: int) -> pa.Table:
    """The keys that go on waiting; they come in order, so equals are taken by their text."""
    chosen = np.lexsort((np.arange(len(waiting)), -waiting.last, -waiting.count))[:most]
    kept = waiting.take(chosen)
    return pa.table({"key": kept.key, "count": kept.count, "last": kept.last})


def _only(keys: pa.Array, stays: Mask) -> pa.Array:
    """The keys of ids that stay, null for the others."""
    if stays.all():
        return keys
    return pc.if_else(pa.array(stays), keys, pa.scalar(None, pa.large_string()))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)

"""New ids in a bundle: those that data brought, and those that a catalogue lists without an id.

Shapes: T users or items, W columns of a row.
"""

import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from scalerec.bundle import Bundle, Changes, RowChange, Step, write_delta
from scalerec.bundle.recommenders import OpenRecommender
from scalerec.config import require
from scalerec.data.batches import Batch
from scalerec.data.dataset import Dataset
from scalerec.data.encoding import Encoders
from scalerec.data.growing import live_ids
from scalerec.data.vocabulary import OOV, Vocabulary
from scalerec.errors import DataError
from scalerec.meta.tasks import TaskSet
from scalerec.meta.warm_up.entities import Entities, EntityKind, check_table, entities_of
from scalerec.meta.warm_up.warming import warm_rows, warm_up_of
from scalerec.models.growing import GrownRows, grow_recommender
from scalerec.models.recommender import Recommender

__all__ = ["adopt", "warm_grown"]


@torch.no_grad()
def warm_grown(
    recommender: Recommender,
    grown: GrownRows,
    dataset: Dataset,
    kind: EntityKind,
    *,
    most_examples: int = 20,
) -> int:
    """Give warm rows to the new ids of a recommender that has grown to a data set.

    Args:
        recommender: As `grow_bundle` gives it; its rows are changed. It holds a warmer for the key.
        grown: How its tables grew.
        dataset: To which they grew; new ids are refined by its training rows.
        kind: `item` or `user`.
        most_examples: How many of an id's rows it is refined by, the first ones, at least 0.

    Returns:
        How many ids were warmed up.

    Raises:
        ConfigError: If the recommender has no warmer for the key, or a setting is out of range.
    """
    require(most_examples >= 0, f"most_examples must be at least 0; got {most_examples}")
    own = entities_of(recommender, dataset.schema, kind)
    warm_up_of(recommender, own.key)
    whole = dataset.items if kind == "item" else dataset.users
    table, ids = _ids_of(recommender, own, whole)
    rows = recommender.tables.addresses(table, ids)[0]
    fresh = grown.plans[table].fresh + recommender.tables.start[table]
    new = torch.isin(rows, fresh).nonzero().flatten()
    support, tasks_b = _examples(dataset, kind, new, most_examples)
    with torch.enable_grad():
        warm_tw = warm_rows(recommender, own.key, whole.take(new), support, tasks_b)
    recommender.tables.write(rows[new], warm_tw)
    return len(new)


@torch.no_grad()
def adopt(
    path: str | os.PathLike[str],
    base: OpenRecommender,
    kind: EntityKind,
    *,
    support: Batch | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Give ids and rows to the users or items that a bundle lists and has no id for.

    They were read as out-of-vocabulary so far. Nothing else of the bundle changes.

    Args:
        path: The delta bundle to make.
        base: It holds a warmer for the key.
        kind: `item` or `user`.
        support: Events of theirs that rows are refined by; those of others are passed over.
        overwrite: Whether a bundle at `path` may be replaced.

    Returns:
        The delta, opened.

    Raises:
        BundleError: If `path` exists or cannot be written.
        ConfigError: If the bundle has no warmer for the key, or its ids are hashed.
        DataError: If every one has an id already.
    """
    old, schema = base.recommender, base.encoders.schema
    own = entities_of(old, schema, kind)
    check_table(old, schema, own.key)
    whole, keys = (base.items, base.item_keys) if kind == "item" else (base.users, base.user_keys)
    table, ids = _ids_of(old, own, whole)
    new = (ids == OOV).nonzero().flatten()
    if not len(new):
        raise DataError(f"{base.bundle.path}: every {kind} has an id; there is nothing to adopt")
    examples = (None, None) if support is None else _of(support, own.numbers(support), new)
    with torch.enable_grad():
        warm_tw = warm_rows(old, own.key, whole.take(new), *examples)
    encoders = _with_keys(base.encoders, table, [keys[number] for number in new.tolist()])
    recommender, grown = _grown(base, encoders)
    plan, tables = grown.plans[table], recommender.tables
    new_ids = torch.arange(len(new)) + base.layout.tables[table]
    rows = tables.addresses(table, new_ids)[0]
    tables.write(rows, warm_tw)
    after = recommender.to_tensors()
    name, mapped = f"tables.{table}.weight", f"tables.{table}.rows"
    listed = _with_ids(base, own, new, new_ids)
    step = Step(
        verb="warm-up",
        settings={"kind": kind, "adopted": len(new), "examples": _count(examples[1])},
        parents=(base.bundle.digest,),
    )
    changes = Changes(
        step=step,
        rows={name: RowChange(rows=plan.fresh, values=after[name][plan.fresh].clone())},
        tensors={mapped: after[mapped]} if mapped in after else {},
        layout=recommender.layout.to_dict(),
        encoders=encoders.to_table(),
        catalogue=listed if kind == "item" else None,
        users=listed if kind == "user" else None,
    )
    return write_delta(path, base.bundle, changes, overwrite=overwrite)


def _ids_of(recommender: Recommender, own: Entities, whole: Batch) -> tuple[str, Tensor]:
    """The table of a key, and the ids that users or items have in it."""
    fields = recommender.layout.ids
    place = next(i for i, field in enumerate(fields) if field.name == own.key)
    return fields[place].table, whole.ids[place]


def _examples(dataset: Dataset, kind: EntityKind, new: Tensor, most: int) -> tuple[Batch, Tensor]:
    """The first training rows of each new one, and whose each is."""
    events = dataset.split("train")
    tasks = TaskSet(events, kind)
    rows = tasks.rows.take(torch.isin(tasks.keys, new).nonzero().flatten()).first(most)
    batch = events.take(rows.rows.numpy())
    return _of(batch, batch.items if kind == "item" else batch.users, new)


def _of(support: Batch, numbers: Tensor, new: Tensor) -> tuple[Batch, Tensor]:
    """The events of new ones, and whose each is."""
    most = max(int(own.max()) if len(own) else 0 for own in (numbers, new))
    place = numbers.new_full((most + 1,), -1)
    place[new] = torch.arange(len(new))
    tasks = torch.where(numbers >= 0, place[numbers.clamp(min=0)], -1)
    there = (tasks >= 0).nonzero().flatten()
    return support.take(there), tasks[there]


def _count(tasks_b: Tensor | None) -> int:
    return 0 if tasks_b is None else len(tasks_b)


def _with_keys(encoders: Encoders, table: str, keys: list[str]) -> Encoders:
    """Encoders in which keys that were unknown have the next ids."""
    old = encoders.vocabularies[table]
    assert isinstance(old, Vocabulary), "hashed ids were refused"
    more = pa.array(keys, old.keys.type)
    growth = old.growth
    if growth is not None:
        waits = pc.invert(pc.is_in(growth.waiting["key"], value_set=more))
        last = np.concatenate([growth.last, np.zeros(len(keys), np.int64)])
        growth = replace(growth, last=last, waiting=growth.waiting.filter(waits))
    counts = np.concatenate([old.counts, np.zeros(len(keys), np.int64)])
    own = Vocabulary(pa.concat_arrays([old.keys, more]), counts, growth)
    return replace(encoders, vocabularies={**encoders.vocabularies, table: own})


def _grown(base: OpenRecommender, encoders: Encoders) -> tuple[Recommender, GrownRows]:
    """The bundle's model with rows for the new ids, which start as the unknown one."""
    layout = base.layout.replace(tables=encoders.layout().tables)
    live = {
        name: torch.from_numpy(live_ids(vocabulary))
        for name, vocabulary in encoders.vocabularies.items()
    }
    known = dict(base.layout.tables)
    return grow_recommender(
        base.recommender.spec, layout, base.recommender.to_tensors(), live, known=known
    )


def _with_ids(base: OpenRecommender, own: Entities, new: Tensor, new_ids: Tensor) -> pa.Table:
    """The bundle's table of users or items with the new ids."""
    listed = base.bundle.catalogue if own.kind == "item" else base.bundle.users
    assert listed is not None, "some without an id are listed"
    name = f"ids/{own.key}"
    ids = listed[name].to_numpy().copy()
    ids[new.numpy()] = new_ids.numpy()
    return listed.set_column(listed.column_names.index(name), name, pa.array(ids))
